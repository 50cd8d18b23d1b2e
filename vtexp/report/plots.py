"""The plots of a report as data: one description that the page and the figures both draw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from vtexp.analysis import findings
from vtexp.analysis.rows import ComparedRun, curves_of
from vtexp.analysis.times import scope
from vtexp.report.answers import RunAnswers
from vtexp.stages import STAGE_NAMES

#: A plot by group has so many lines at most: those of the largest groups.
MOST_GROUPS = 8
#: Bars are parted into so many numbers of crops at most; more are put together in ranges.
MOST_PARTS = 8

#: Finished runs by the label of their line.
Curves = Mapping[str, Sequence[ComparedRun]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotSeries:
    """Points of one line, or one part of each bar.

    `low`, `high`: ends of the interval around `y`. `names`: what a point is called. `marked`:
    points that are drawn hollow (doubtful timings).
    """

    label: str
    x: list[float] | list[str]
    y: list[float | None]
    low: list[float | None] | None = None
    high: list[float | None] | None = None
    names: list[str] | None = None
    marked: list[bool] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """One plot. `name` is also that of its figure's file.

    `kind`: lines through points, stacked bars, or points alone. `steps`: lines (x, y) that join the
    points of a Pareto front each. `diagonal`: a line of x = y behind. `named`: names are drawn
    beside the points.
    """

    name: str
    title: str
    caption: str
    x_label: str
    y_label: str
    kind: Literal["lines", "bars", "points"]
    series: list[PlotSeries]
    steps: list[tuple[list[float], list[float]]] = field(default_factory=list)
    diagonal: bool = False
    named: bool = False

    @property
    def percent(self) -> bool:
        """Whether the y axis is best from 0 to 100: shares of which none is above."""
        values = [y for series in self.series for y in series.y if y is not None]
        return "%" in self.y_label and max(values, default=0) <= 100 + 1e-6


def all_plots(
    found: findings.Analysis, runs: Sequence[ComparedRun], counted: Mapping[str, RunAnswers]
) -> list[Plot]:
    """The plots of a comparison in the order in which they are shown; those without data left out.

    `runs` with what analysis found of them, and the answers of their runs, by the runs' folders.
    """
    curves = curves_of(runs)
    fronts = [[run.folder for run in series.runs if run.on_front] for series in found.series]
    plots = (
        accuracy_plot(curves),
        prefill_plot(curves),
        stages_plot(curves),
        pareto_plot(curves, fronts),
        *group_plots(found.series),
        crops_plot(curves, counted),
        tokens_plot(curves, counted),
    )
    return [plot for plot in plots if plot is not None]


def accuracy_plot(curves: Curves) -> Plot | None:
    """Accuracy over measured vision tokens; None where nothing was answered."""
    scored = _scored(curves)
    if not scored:
        return None
    return Plot(
        name="accuracy",
        title="Accuracy over vision tokens",
        caption="Mean score; bars: 95 % interval, clustered by image.",
        x_label="measured vision tokens per image (mean)",
        y_label=f"accuracy, % ({_metric(scored)})",
        kind="lines",
        series=[
            _accuracy_series(label, runs, [run.found.measured_vision_tokens for run in runs])
            for label, runs in scored.items()
        ],
    )


def _accuracy_series(label: str, runs: Sequence[ComparedRun], x: list[float]) -> PlotSeries:
    return PlotSeries(
        label=label,
        x=x,
        y=[_percent(run.found.accuracy) for run in runs],
        low=[_percent(run.found.accuracy_low) for run in runs],
        high=[_percent(run.found.accuracy_high) for run in runs],
        names=[run.asked.value_label for run in runs],
    )


def prefill_plot(curves: Curves) -> Plot | None:
    """Mean prefill in ms over the vision tokens of the timed images, both means of the same."""
    timed = _timed(curves)
    if not timed:
        return None
    return Plot(
        name="prefill",
        title="Prefill over vision tokens",
        caption=f"Mean over the images as they come, at batch 1; bars: its 95 % interval "
        f"{_scope(timed)}. Hollow: the timings are doubtful.",
        x_label="measured vision tokens per timed image (mean)",
        y_label="prefill at batch 1, ms",
        kind="lines",
        series=[_prefill_series(label, runs) for label, runs in timed.items()],
        named=True,
    )


def _prefill_series(label: str, runs: Sequence[ComparedRun]) -> PlotSeries:
    times = [run.found.latency["prefill_ms"] for run in runs]
    return PlotSeries(
        label=label,
        x=[run.found.prefill_vision_tokens for run in runs],
        y=[own.mean for own in times],
        low=[own.mean_low for own in times],
        high=[own.mean_high for own in times],
        names=[run.asked.value_label for run in runs],
        marked=[bool(run.timing_warnings) for run in runs],
    )


def stages_plot(curves: Curves) -> Plot | None:
    """Means of the stages of the time to first token, stacked, by knob value."""
    runs = [(label, run) for label, own in _timed(curves).items() for run in own]
    if not runs:
        return None
    return Plot(
        name="stages",
        title="Where the time to first token goes",
        caption="Mean of each stage over the images as they come, at batch 1. *: the timings are "
        "doubtful.",
        x_label="knob value and measured vision tokens",
        y_label="time, ms",
        kind="bars",
        series=[
            PlotSeries(
                label=name,
                x=[_bar_name(run, label, marked=True) for label, run in runs],
                y=[run.found.mean(stage) for _, run in runs],
            )
            for stage, name in STAGE_NAMES.items()
            if any(run.found.mean(stage) is not None for _, run in runs)
        ],
    )


def pareto_plot(curves: Curves, fronts: Sequence[Sequence[str]]) -> Plot | None:
    """Accuracy over prefill time; `fronts`: the folders of the runs on each series' front."""
    both = _timed(_scored(curves))
    if not both:
        return None
    return Plot(
        name="pareto",
        title="Accuracy over prefill time",
        caption="Dashed: the Pareto front, the runs that no other of the same series beats in "
        "both by these estimates. Bars: 95 % intervals. Hollow: the timings are doubtful.",
        x_label="prefill at batch 1, ms (mean)",
        y_label=f"accuracy, % ({_metric(both)})",
        kind="points",
        series=[
            replace(
                _accuracy_series(label, runs, [_prefill_ms(run) for run in runs]),
                marked=[bool(run.timing_warnings) for run in runs],
            )
            for label, runs in both.items()
        ],
        steps=[_front_line(both, front) for front in fronts],
        named=True,
    )


def _front_line(curves: Curves, front: Sequence[str]) -> tuple[list[float], list[float]]:
    points = sorted(
        (_prefill_ms(run), 100 * (run.found.accuracy or 0.0))
        for runs in curves.values()
        for run in runs
        if str(run.folder) in front
    )
    return [x for x, _ in points], [y for _, y in points]


def group_plots(series: Sequence[findings.Series]) -> list[Plot]:
    """Accuracy by group over measured vision tokens: a plot of each grouping of each series."""
    plots = []
    for number, one in enumerate(series, 1):
        suffix = f"_{number}" if len(series) > 1 else ""
        of = f" ({one.name})" if len(series) > 1 else ""
        plots += [_group_plot(one, grouping, suffix, of) for grouping in one.groupings]
    return plots


def _group_plot(series: findings.Series, grouping: findings.Grouping, suffix: str, of: str) -> Plot:
    largest = sorted(grouping.groups, key=lambda group: -group.num_samples)[:MOST_GROUPS]
    shown = [group for group in grouping.groups if group in largest]
    name = grouping.name.replace("_", " ")
    left = len(grouping.groups) - len(shown)
    more = f" {left} smaller groups are not drawn." if left else ""
    return Plot(
        name=f"by_{grouping.name}{suffix}",
        title=f"Accuracy by {name}{of}",
        caption=f"Mean score of the questions of each group; bars: 95 % interval.{more}",
        x_label="measured vision tokens per image (mean)",
        y_label=f"accuracy, % ({series.metric})",
        kind="lines",
        series=[_group_series(series, group) for group in shown],
    )


def _group_series(series: findings.Series, group: findings.Group) -> PlotSeries:
    runs = {run.run: run for run in series.runs}
    return PlotSeries(
        label=f"{group.value} (n={group.num_samples})",
        x=[runs[cell.run].vision_tokens for cell in group.cells],
        y=[100 * cell.accuracy for cell in group.cells],
        low=[_percent(cell.low) for cell in group.cells],
        high=[_percent(cell.high) for cell in group.cells],
        names=[runs[cell.run].knob_value for cell in group.cells],
    )


def crops_plot(curves: Curves, counted: Mapping[str, RunAnswers]) -> Plot | None:
    """How many crops the images had, in % of the images, stacked, by knob value."""
    runs = [(label, run) for label, own in curves.items() for run in own]
    runs = [(label, run) for label, run in runs if str(run.folder) in counted]
    parts = _ranges({crops for _, run in runs for crops in counted[str(run.folder)].crops})
    if not parts:
        return None

    def share(run: ComparedRun, part: range) -> float | None:
        crops = counted[str(run.folder)].crops
        found = sum(images for number, images in crops.items() if number in part)
        return 100 * found / crops.total() if found else None

    return Plot(
        name="crops",
        title="Crops per image",
        caption="Share of the images by the number of their crops, the global crop not counted.",
        x_label="knob value and measured vision tokens",
        y_label="images, %",
        kind="bars",
        series=[
            PlotSeries(
                label=_range_name(part),
                x=[_bar_name(run, label) for label, run in runs],
                y=[share(run, part) for _, run in runs],
            )
            for part in parts
        ],
    )


def _ranges(numbers: set[int]) -> list[range]:
    """The numbers each by itself, or in at most `MOST_PARTS` ranges of about as many of them."""
    ordered = sorted(numbers)
    step = -(-len(ordered) // MOST_PARTS) or 1
    groups = [ordered[i : i + step] for i in range(0, len(ordered), step)]
    return [range(group[0], group[-1] + 1) for group in groups]


def _range_name(part: range) -> str:
    if len(part) == 1:
        return f"{part[0]} crop{'s' * (part[0] > 1)}"
    return f"{part[0]}-{part[-1]} crops"


def tokens_plot(curves: Curves, counted: Mapping[str, RunAnswers]) -> Plot | None:
    """Measured over theoretical vision tokens of every kind of image."""
    series = []
    for label, runs in curves.items():
        pairs: Counter[tuple[int, int]] = Counter()
        for run in runs:
            if str(run.folder) in counted:
                pairs += counted[str(run.folder)].tokens
        if pairs:
            found = sorted(pairs.items())
            series.append(
                PlotSeries(
                    label=label,
                    x=[float(theoretical) for (theoretical, _), _ in found],
                    y=[float(measured) for (_, measured), _ in found],
                    names=[f"{images} image{'s' * (images > 1)}" for _, images in found],
                )
            )
    if not series:
        return None
    return Plot(
        name="tokens",
        title="Measured over theoretical tokens",
        caption="Each point: all images with these counts. Below the line x = y: tokens that were "
        "dropped where crops overlap.",
        x_label="theoretical vision tokens of an image",
        y_label="measured vision tokens of it",
        kind="points",
        series=series,
        diagonal=True,
    )


def _bar_name(run: ComparedRun, label: str, *, marked: bool = False) -> str:
    """What a bar is called: knob value, tokens, and the line it belongs to if there are several.

    `marked`: with a `*` where the run's times are doubtful.
    """
    mark = "*" if marked and run.timing_warnings else ""
    tokens = f"{run.found.measured_vision_tokens:.0f} tokens"
    return "\n".join(part for part in (run.asked.value_label + mark, tokens, label) if part)


def _scored(curves: Curves) -> Curves:
    return _those(curves, lambda run: run.found.accuracy is not None)


def _timed(curves: Curves) -> Curves:
    return _those(curves, lambda run: "prefill_ms" in run.found.latency)


def _those(curves: Curves, wanted: Callable[[ComparedRun], bool]) -> Curves:
    """Lines of the runs that are wanted; those without any are left out."""
    found = {label: [run for run in runs if wanted(run)] for label, runs in curves.items()}
    return {label: runs for label, runs in found.items() if runs}


def _prefill_ms(run: ComparedRun) -> float:
    return run.found.latency["prefill_ms"].mean


def _scope(curves: Curves) -> str:
    """What intervals of times are of: within one process, or between several."""
    counts = {run.found.num_processes for runs in curves.values() for run in runs}
    return scope(counts.pop()) if len(counts) == 1 else "within one or between several processes"


def _metric(curves: Curves) -> str:
    return " or ".join(sorted({run.asked.metric for runs in curves.values() for run in runs}))


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share
