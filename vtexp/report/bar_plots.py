"""Plots of bars, a bar for each run: the stages of its time, and the crops of its images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from vtexp.analysis.rows import ComparedRun
from vtexp.report.answers import RunAnswers
from vtexp.report.format import budget_name
from vtexp.report.plot import Plot, PlotSeries, Tick
from vtexp.stages import STAGE_NAMES

#: Bars are parted into so many numbers of crops at most; more are put together in ranges.
MOST_PARTS = 8

#: Finished runs by the label of their line.
Curves = Mapping[str, Sequence[ComparedRun]]


def stages_plot(curves: Curves) -> Plot | None:
    """Means of the stages of the time to first token, stacked, by knob value."""
    own = timed(curves)
    if not own:
        return None
    bars = _bars(own)
    parts = [_part(name, bars, partial(_mean, stage)) for stage, name in STAGE_NAMES.items()]
    return Plot(
        name="stages",
        title="Where the time to first token goes",
        caption="Mean of each stage over the images as they come, at batch 1."
        f"{doubtful_note(own, '*')}",
        x_label="budget",
        y_label="time, ms",
        kind="bars",
        series=[part for part in parts if any(y is not None for y in part.y)],
        ticks=_ticks(own, marked=True),
    )


def _mean(stage: str, run: ComparedRun) -> float | None:
    return run.found.mean(stage)


def _bars(curves: Curves) -> list[tuple[float, ComparedRun]]:
    """The runs of all lines with the places of their bars; a heading stands above each line."""
    found, place = [], 0
    for label, runs in curves.items():
        place += bool(label)
        for run in runs:
            found.append((float(place), run))
            place += 1
    return found


def _ticks(curves: Curves, *, marked: bool = False) -> list[Tick]:
    """Names of bars, under headings where there are several lines.

    `marked`: with a `*` where a run's times are doubtful.
    """
    found: list[Tick] = []
    for label, runs in curves.items():
        if label:
            found.append(Tick(place=float(len(found)), text=label, heading=True))
        for run in runs:
            mark = "*" if marked and run.timing_warnings else ""
            text = f"{run_name(run)}{mark}, {run.found.measured_vision_tokens:.0f} tokens"
            found.append(Tick(place=float(len(found)), text=text))
    return found


def _part(
    label: str,
    bars: Sequence[tuple[float, ComparedRun]],
    value: Callable[[ComparedRun], float | None],
) -> PlotSeries:
    """One part of each bar."""
    return PlotSeries(
        label=label,
        x=[place for place, _ in bars],
        y=[value(run) for _, run in bars],
        names=[run_name(run) for _, run in bars],
    )


def crops_plot(curves: Curves, counted: Mapping[str, RunAnswers]) -> Plot | None:
    """How many crops the images had, in % of the images, stacked, by knob value."""
    own = those(curves, lambda run: str(run.folder) in counted)
    bars = _bars(own)
    parts = _ranges({crops for _, run in bars for crops in counted[str(run.folder)].crops})
    if not parts:
        return None

    def share(part: range, run: ComparedRun) -> float | None:
        crops = counted[str(run.folder)].crops
        found = sum(images for number, images in crops.items() if number in part)
        return 100 * found / crops.total() if found else None

    return Plot(
        name="crops",
        title="Crops per image",
        caption="Share of the images by the number of their crops, the global crop not counted.",
        x_label="budget",
        y_label="images, %",
        kind="bars",
        series=[_part(_range_name(part), bars, partial(share, part)) for part in parts],
        ticks=_ticks(own),
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


def run_name(run: ComparedRun) -> str:
    """What a run is called in a plot."""
    return budget_name(run.asked.knob, run.asked.value_label)


def doubtful_note(curves: Curves, mark: str) -> str:
    """What the mark of runs with doubtful times means; empty where no run has one."""
    marked = any(run.timing_warnings for runs in curves.values() for run in runs)
    return f" {mark}: the timings are doubtful." if marked else ""


def timed(curves: Curves) -> Curves:
    """The runs whose prefill was timed."""
    return those(curves, lambda run: "prefill_ms" in run.found.latency)


def those(curves: Curves, wanted: Callable[[ComparedRun], bool]) -> Curves:
    """Lines of the runs that are wanted; those without any are left out."""
    found = {label: [run for run in runs if wanted(run)] for label, runs in curves.items()}
    return {label: runs for label, runs in found.items() if runs}
