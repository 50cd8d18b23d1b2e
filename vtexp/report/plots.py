"""The plots of a report as data: one description that the page and the figures both draw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from vtexp.analysis import findings
from vtexp.analysis.rows import series_of
from vtexp.report.answers import RunAnswers

#: Stages of the time to first token, in the order in which they happen, and their names.
STAGE_LABELS = {
    "image_decode_ms": "image decoding",
    "preprocess_ms": "preprocess",
    "transfer_ms": "transfer",
    "vision_encoder_ms": "vision encoder",
    "connector_ms": "connector",
    "llm_prefill_ms": "LLM prefill",
    "first_token_ms": "first token",
}
#: A plot by group has so many lines at most: those of the largest groups.
MOST_GROUPS = 8
#: Bars are parted into so many numbers of crops at most; more are put together in ranges.
MOST_PARTS = 8

Row = dict[str, Any]
Lines = Mapping[str, Sequence[Row]]


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
    found: findings.Analysis, rows: Sequence[Row], counted: Mapping[str, RunAnswers]
) -> list[Plot]:
    """The plots of a comparison in the order in which they are shown; those without data left out.

    `rows` with what analysis found of them, and the answers of their runs, by the runs' folders.
    """
    lines = series_of(rows)
    fronts = [[run.folder for run in series.runs if run.on_front] for series in found.series]
    plots = (
        accuracy_plot(lines),
        time_plot(lines, "prefill_ms", "prefill", "Prefill over vision tokens"),
        stages_plot(lines),
        pareto_plot(lines, fronts),
        *group_plots(found.series),
        crops_plot(lines, counted),
        tokens_plot(lines, counted),
    )
    return [plot for plot in plots if plot is not None]


def value_name(row: Row) -> str:
    """What a point is called, such as `560x336`; with `,full` where all tokens are kept."""
    return str(row["knob_value"]) + (",full" if row["force_full_tokens"] else "")


def accuracy_plot(lines: Lines) -> Plot | None:
    """Accuracy over measured vision tokens; None where nothing was answered."""
    scored = _with(lines, "accuracy", "measured_vision_tokens")
    if not scored:
        return None
    return Plot(
        name="accuracy",
        title="Accuracy over vision tokens",
        caption="Mean score; bars: 95 % interval, clustered by image.",
        x_label="measured vision tokens per image (mean)",
        y_label=f"accuracy, % ({_metric(scored)})",
        kind="lines",
        series=[_accuracy_series(label, rows) for label, rows in scored.items()],
    )


def _accuracy_series(label: str, rows: Sequence[Row]) -> PlotSeries:
    return PlotSeries(
        label=label,
        x=[row["measured_vision_tokens"] for row in rows],
        y=[100 * row["accuracy"] for row in rows],
        low=[_percent(row.get("accuracy_low")) for row in rows],
        high=[_percent(row.get("accuracy_high")) for row in rows],
        names=[value_name(row) for row in rows],
    )


def time_plot(lines: Lines, stage: str, name: str, title: str) -> Plot | None:
    """The median of a stage in ms over the vision tokens of the timed images."""
    timed = _with(lines, f"{stage}_median", "prefill_vision_tokens")
    if not timed:
        return None
    return Plot(
        name=name,
        title=title,
        caption="Median at batch 1; bars: its 95 % interval, or the quartiles of old runs. "
        "Hollow: the timings were disturbed.",
        x_label="measured vision tokens per timed image (mean)",
        y_label=f"{name} at batch 1, ms",
        kind="lines",
        series=[_time_series(label, rows, stage) for label, rows in timed.items()],
        named=True,
    )


def _time_series(label: str, rows: Sequence[Row], stage: str) -> PlotSeries:
    return PlotSeries(
        label=label,
        x=[row["prefill_vision_tokens"] for row in rows],
        y=[row[f"{stage}_median"] for row in rows],
        low=[_low(row, stage) for row in rows],
        high=[_high(row, stage) for row in rows],
        names=[value_name(row) for row in rows],
        marked=[is_disturbed(row) for row in rows],
    )


def stages_plot(lines: Lines) -> Plot | None:
    """Medians of the stages of the time to first token, stacked, by knob value."""
    timed = _with(lines, "ttft_ms_median")
    rows = [(label, row) for label, points in timed.items() for row in points]
    if not rows:
        return None
    return Plot(
        name="stages",
        title="Where the time to first token goes",
        caption="Median of each stage, at batch 1. Medians of parts need not add up to the median "
        "of the whole. *: the timings were disturbed.",
        x_label="knob value and measured vision tokens",
        y_label="time, ms",
        kind="bars",
        series=[
            PlotSeries(
                label=name,
                x=[_marked_name(row, label) for label, row in rows],
                y=[row.get(f"{stage}_median") for _, row in rows],
            )
            for stage, name in STAGE_LABELS.items()
        ],
    )


def pareto_plot(lines: Lines, fronts: Sequence[Sequence[str]]) -> Plot | None:
    """Accuracy over prefill time; `fronts`: the folders of the runs on each series' front."""
    both = _with(lines, "accuracy", "prefill_ms_median")
    if not both:
        return None
    return Plot(
        name="pareto",
        title="Accuracy over prefill time",
        caption="Dashed: the Pareto front, the runs that no other of the same series beats in "
        "both by these estimates. Bars: 95 % intervals. Hollow: the timings were disturbed.",
        x_label="prefill at batch 1, ms (median)",
        y_label=f"accuracy, % ({_metric(both)})",
        kind="points",
        series=[
            PlotSeries(
                label=label,
                x=[row["prefill_ms_median"] for row in rows],
                y=[100 * row["accuracy"] for row in rows],
                low=[_percent(row.get("accuracy_low")) for row in rows],
                high=[_percent(row.get("accuracy_high")) for row in rows],
                names=[value_name(row) for row in rows],
                marked=[is_disturbed(row) for row in rows],
            )
            for label, rows in both.items()
        ],
        steps=[_front_line(both, front) for front in fronts],
        named=True,
    )


def _front_line(lines: Lines, front: Sequence[str]) -> tuple[list[float], list[float]]:
    points = sorted(
        (row["prefill_ms_median"], 100 * row["accuracy"])
        for rows in lines.values()
        for row in rows
        if row["folder"] in front
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


def crops_plot(lines: Lines, counted: Mapping[str, RunAnswers]) -> Plot | None:
    """How many crops the images had, in % of the images, stacked, by knob value."""
    rows = [(label, row) for label, points in lines.items() for row in points]
    rows = [(label, row) for label, row in rows if row["folder"] in counted]
    parts = _ranges({crops for _, row in rows for crops in counted[row["folder"]].crops})
    if not parts:
        return None

    def share(row: Row, part: range) -> float | None:
        crops = counted[row["folder"]].crops
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
                x=[_bar_name(row, label) for label, row in rows],
                y=[share(row, part) for _, row in rows],
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


def tokens_plot(lines: Lines, counted: Mapping[str, RunAnswers]) -> Plot | None:
    """Measured over theoretical vision tokens of every kind of image."""
    series = []
    for label, rows in lines.items():
        pairs: Counter[tuple[int, int]] = Counter()
        for row in rows:
            if row["folder"] in counted:
                pairs += counted[row["folder"]].tokens
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


def is_disturbed(row: Row) -> bool:
    """Whether there are doubts about a run's timings."""
    return bool(row.get("disturbed"))


def _bar_name(row: Row, label: str, mark: str = "") -> str:
    """What a bar is called: knob value, tokens, and the line it belongs to if there are several."""
    tokens = f"{row['measured_vision_tokens']:.0f} tokens"
    return "\n".join(part for part in (value_name(row) + mark, tokens, label) if part)


def _marked_name(row: Row, label: str) -> str:
    return _bar_name(row, label, "*" if is_disturbed(row) else "")


def _with(lines: Lines, *keys: str) -> dict[str, list[Row]]:
    """Lines of the rows that have all these numbers."""
    found = {
        label: [row for row in rows if all(row.get(key) is not None for key in keys)]
        for label, rows in lines.items()
    }
    return {label: rows for label, rows in found.items() if rows}


def _metric(lines: Lines) -> str:
    return " or ".join(sorted({row["metric"] for rows in lines.values() for row in rows}))


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _low(row: Row, stage: str) -> float | None:
    return row.get(f"{stage}_low", row.get(f"{stage}_p25"))


def _high(row: Row, stage: str) -> float | None:
    return row.get(f"{stage}_high", row.get(f"{stage}_p75"))
