"""Grids of knobs: crops, experts per token and blocks set together. Which settings are worth their
cost, and do the knobs add up?

A grid is made by Hydra's `-m`: `knob=max_crops model.moe_top_k=4,8 model.active_blocks=12,16`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from vtexp.analysis.answer import points, points_interval
from vtexp.analysis.findings import Grid, GridAxis, GridPoint, Interaction
from vtexp.analysis.limits import memory_gb
from vtexp.analysis.paired import paired_runs
from vtexp.analysis.rows import ComparedRun
from vtexp.analysis.samples import SampleColumns
from vtexp.analysis.times import timed_together
from vtexp.metrics import metric
from vtexp.stats.comparison import Scores, differences, paired_scores
from vtexp.stats.paired import on_front
from vtexp.stats.permutation import PairTest, pair_tests
from vtexp.stats.times import mean_time
from vtexp.utils.grouping import grouped
from vtexp.utils.text import LEVEL, p_equals
from vtexp.utils.typed import known

#: Knobs whose values say how many experts or blocks work, not how the image is cut.
_OF_LLM = ("moe_top_k", "transformer_blocks")
#: Settings that are an axis of a grid, and so do not tell grids apart.
_AXES = re.compile(r"(moe_top_k|active_blocks)=(\d+|None)")


def _crops(run: ComparedRun) -> str:
    asked = run.asked
    return f"max_crops={asked.num_crops}" if asked.knob in _OF_LLM else run.label


#: Name of each axis, and a run's place on it.
_VALUES: dict[str, Callable[[ComparedRun], str]] = {
    "crops": _crops,
    "experts per token": lambda run: str(run.asked.moe_top_k),
    "blocks": lambda run: str(run.asked.active_blocks),
}


def grids(runs: Sequence[ComparedRun], read: Mapping[Path, SampleColumns]) -> tuple[Grid, ...]:
    """The grids among finished runs: those in which two knobs or more take several values."""
    done = [run for run in runs if run.result is not None and not run.same_inputs_as]
    found = []
    for own in grouped(done, _key).values():
        axes = _axes(own)
        if axes:
            name = ", ".join([f"{own[0].asked.model} on {own[0].asked.dataset}", *_rest(own[0])])
            found.append(_grid(name, axes, own, read))
    return tuple(found)


def _key(run: ComparedRun) -> tuple[str, ...]:
    own = run.series_key._replace(settings=", ".join(_rest(run)))
    return (*own, run.found.samples_fingerprint)


def _rest(run: ComparedRun) -> list[str]:
    """Settings in which runs differ beside those of the axes.

    Blocks given as a list are one: their number alone is not what was set.
    """
    parts = [part for part in run.settings.split(", ") if part and not _AXES.fullmatch(part)]
    of_llm = run.asked.knob in _OF_LLM  # there the cap is the axis of crops
    return [part for part in parts if not (of_llm and part.startswith("knob.max_crops="))]


def _axes(runs: Sequence[ComparedRun]) -> tuple[GridAxis, ...]:
    """The axes with several values, from the cheapest to the most expensive; none if no grid."""
    found = []
    for name, value in _VALUES.items():
        cost: dict[str, float] = {}
        if any(value(run) == "None" for run in runs):  # no experts, or results of older versions
            continue
        for run in runs:
            own = value(run)
            number = run.vision_tokens if name == "crops" else float(own)
            cost[own] = min(number, cost.get(own, number))
        if len(cost) > 1:
            found.append(GridAxis(name, tuple(sorted(cost, key=lambda own: cost[own]))))
    # Settings of which no two share a value are a line, not a grid.
    several = {_place(found, run) for run in runs}
    is_grid = len(found) > 1 and len(several) > max(len(axis.values) for axis in found)
    return tuple(found) if is_grid and len(several) == len(runs) else ()


def _grid(
    name: str,
    axes: tuple[GridAxis, ...],
    runs: Sequence[ComparedRun],
    read: Mapping[Path, SampleColumns],
) -> Grid:
    placed = {_place(axes, run): run for run in runs}
    memory, kind = _memory(runs)
    timed = timed_together(runs)
    times = {}
    if timed is not None:
        of_runs = zip(timed.runs, timed.blocks, strict=True)
        times = {run.name: mean_time(block).value for run, block in of_runs}
    front = _front(runs, times, memory)
    return Grid(
        name=name,
        axes=axes,
        points=tuple(
            GridPoint(
                run=run.name,
                values=place,
                vision_tokens=run.vision_tokens,
                accuracy=run.found.accuracy,
                prefill_ms=times.get(run.name),
                memory_gb=memory.get(run.name),
                on_front=None if front is None else run.name in front,
                doubtful=bool(run.timing_warnings),
            )
            for place, run in sorted(placed.items(), key=lambda item: _order(axes, item[0]))
        ),
        memory=kind,
        metric=runs[0].asked.metric,
        interactions=_interactions(axes, placed, read),
    )


def _place(axes: Sequence[GridAxis], run: ComparedRun) -> tuple[str, ...]:
    return tuple(_VALUES[axis.name](run) for axis in axes)


def _order(axes: Sequence[GridAxis], place: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(axis.values.index(value) for axis, value in zip(axes, place, strict=True))


def _memory(runs: Sequence[ComparedRun]) -> tuple[dict[str, float], str]:
    """Memory of each run in GB, and whether it was `measured` on a GPU or `predicted`.

    A process's own memory only grows from run to run: of runs on a CPU it says nothing.
    """
    if all("reserved" in run.found.memory_peak_mib for run in runs):
        return {run.name: memory_gb(run) or 0.0 for run in runs}, "measured"
    predicted = {run.name: run.asked.predicted_memory_gb for run in runs}
    return {name: gb for name, gb in predicted.items() if gb is not None}, "predicted"


def _front(
    runs: Sequence[ComparedRun], times: Mapping[str, float], memory: Mapping[str, float]
) -> set[str] | None:
    """Names of the runs that none beats in accuracy, prefill and memory together; None where one
    of them is not known of all runs."""
    names = [run.name for run in runs]
    accuracy = [run.found.accuracy for run in runs if run.found.accuracy is not None]
    if not len(names) == len(accuracy) == len(times) == len(memory):
        return None
    costs = ([own[name] for name in names] for own in (times, memory))
    on = on_front(np.array(accuracy), *map(np.array, costs))
    return {name for name, own in zip(names, on, strict=True) if own}


# --- do the knobs add up? -----------------------------------------------------------------------


def _interactions(
    axes: Sequence[GridAxis],
    placed: Mapping[tuple[str, ...], ComparedRun],
    read: Mapping[Path, SampleColumns],
) -> tuple[Interaction, ...]:
    """For each two knobs, what lowering both costs beyond the sum of what lowering each costs.

    A contrast of four scores of each question, tested as the difference of two sums. p-values are
    Holm's over all pairs of knobs.
    """
    tested = []
    for one, other in combinations(range(len(axes)), 2):
        corners = _corners(axes, (one, other), placed)
        paired = None if corners is None else paired_runs(corners, read)
        if paired is not None and paired.several_images:
            low, one_high, other_high, high = paired.scores.T
            # Both sums are of two scores: from 0 to twice the highest.
            sums = np.column_stack([low + high, one_high + other_high])
            contrast = paired_scores(sums, paired.images, (0.0, 2 * paired.highest))
            tested.append((axes[one], axes[other], paired.means.tolist(), contrast))
    tests = pair_tests([contrast.sums for *_, contrast in tested])
    return tuple(_interaction(*own, test) for own, test in zip(tested, tests, strict=True))


def _interaction(
    one: GridAxis, other: GridAxis, accuracy: Sequence[float], contrast: Scores, test: PairTest
) -> Interaction:
    """accuracy: of the corners; contrast: sums of their scores (`_interactions`)."""
    found = differences(contrast)
    return Interaction(
        knobs=(one.name, other.name),
        lowest=(one.values[0], other.values[0]),
        highest=(one.values[-1], other.values[-1]),
        loss_at_highest=accuracy[3] - accuracy[1],
        loss_at_lowest=accuracy[2] - accuracy[0],
        difference=-float(found.difference[0, 1]),
        low=known(-found.high[0, 1]),
        high=known(-found.low[0, 1]),
        p_holm=test.holm,
        p_at_floor=test.at_floor,
    )


def _corners(
    axes: Sequence[GridAxis], pair: tuple[int, int], placed: Mapping[tuple[str, ...], ComparedRun]
) -> list[ComparedRun] | None:
    """Four runs with both knobs at their ends, all others at their largest value: low and low, low
    and high, high and low, high and high. None where one was not measured."""
    runs = []
    for ends in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        place = [axis.values[-1] for axis in axes]
        for axis, end in zip(pair, ends, strict=True):
            place[axis] = axes[axis].values[end]
        if (run := placed.get(tuple(place))) is None:
            return None
        runs.append(run)
    return runs


def grid_sentences(grid: Grid) -> list[str]:
    """What a reader must know of a grid: how many settings are worth it, and what adds up."""
    front = sum(bool(point.on_front) for point in grid.points)
    knobs = " x ".join(axis.name for axis in grid.axes)
    score = "accuracy" if metric(grid.metric).highest == 1 else grid.metric
    said = []
    if front:
        said.append(
            f"{grid.name}, {knobs}: {front} of {len(grid.points)} settings are on the Pareto front "
            f"of {score}, prefill and {grid.memory} memory"
        )
    return said + [f"{grid.name}: {_sentence(own)}" for own in grid.interactions]


def _sentence(own: Interaction) -> str:
    one, other = own.knobs
    step = f"from {_named(one, own.highest[0])} to {_named(one, own.lowest[0])}"
    costs = (
        f"{step} costs {points(own.loss_at_highest)} points at {_named(other, own.highest[1])} and "
        f"{points(own.loss_at_lowest)} at {_named(other, own.lowest[1])}"
    )
    tested = p_equals(own.p_holm, own.p_at_floor)
    if own.low is not None and own.high is not None:
        tested = f"{points_interval(own.low, own.high, signed=True)}, {tested}"
    difference = f"{points(own.difference, signed=True)} points ({tested})"
    if own.p_holm >= LEVEL or own.low is None or own.low <= 0 <= (own.high or 0.0):
        return f"no interaction of {one} and {other} is shown: {costs}: {difference}"
    more = "more" if own.difference > 0 else "less"
    sum_of = f"lose {more} than the sum of what each loses alone"
    return f"{one} and {other} together {sum_of}: {costs}: {difference}"


def _named(knob: str, value: str) -> str:
    return value if knob == "crops" else f"{value} {knob}"
