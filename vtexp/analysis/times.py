"""Times of the runs of a series: means over the same images, speed-ups, and the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vtexp.analysis.findings import AnalysedRun, Ratio
from vtexp.analysis.rows import ComparedRun
from vtexp.measure.summary import shared_processes, time_blocks
from vtexp.measure.timings import LatencyRow
from vtexp.runs.records import read_environment, read_latency
from vtexp.stats.paired import on_front
from vtexp.stats.times import drawn_mean_times, mean_time, speed_up
from vtexp.utils import files
from vtexp.utils.typed import known


@dataclass(frozen=True)
class Timed:
    """Prefills in ms of runs on the questions that all of them timed.

    blocks: of each run (questions, rounds), or (questions, processes) where several processes timed
    all runs.
    """

    runs: Sequence[ComparedRun]
    blocks: Sequence[np.ndarray]
    processes: int

    def place(self, name: str) -> int | None:
        """Which of the runs has this name."""
        return next((i for i, run in enumerate(self.runs) if run.name == name), None)


def read_times(folder: Path) -> list[LatencyRow]:
    """The timed prefills of a run; none where it has no `latency.jsonl`."""
    path = folder / files.LATENCY
    return list(read_latency(path)) if path.exists() else []


def timed_together(runs: Sequence[ComparedRun]) -> Timed | None:
    """The times of those runs that have some; None where no two questions were timed in all."""
    rows = {run.name: read_times(run.folder) for run in runs}
    timed = [run for run in runs if rows[run.name]]
    if not timed:
        return None
    own = [rows[run.name] for run in timed]
    others = [{row.sample_id for row in other} for other in own]
    asked = dict.fromkeys(row.sample_id for row in own[0])
    common = [question for question in asked if all(question in other for other in others)]
    if len(common) < 2:
        return None
    return Timed(timed, time_blocks(own, common), len(shared_processes(own)))


def with_times(
    runs: Sequence[AnalysedRun],
    timed: Timed,
    base: int,
    fronts: Sequence[tuple[bool, float]] | None,
) -> list[AnalysedRun]:
    """The runs with mean prefills and speed-ups over the timed run of index `base`.

    `fronts`: of each timed run whether it is on the Pareto front, and in what share of the draws.
    """
    found = []
    for run in runs:
        if (i := timed.place(run.run)) is None:
            found.append(run)
            continue
        cost = mean_time(timed.blocks[i])
        ratio = _ratio(timed, base, i)
        found.append(
            replace(
                run,
                prefill_ms=cost.value,
                prefill_low=known(cost.low),
                prefill_high=known(cost.high),
                processes=timed.processes,
                on_front=None if fronts is None else fronts[i][0],
                front_share=None if fronts is None else fronts[i][1],
                speed_up=None if i == base else ratio,
            )
        )
    return found


def _ratio(timed: Timed, base: int, i: int) -> Ratio:
    fast = speed_up(timed.blocks[base], timed.blocks[i])
    return Ratio(
        run=timed.runs[i].name,
        baseline=timed.runs[base].name,
        ratio=fast.value,
        low=known(fast.low),
        high=known(fast.high),
        n=len(timed.blocks[i]),
        processes=timed.processes,
        side_by_side=side_by_side(timed.runs[base], timed.runs[i]),
    )


def side_by_side(one: ComparedRun, other: ComparedRun) -> bool:
    """Whether one process timed two runs in turns: then its reference prefills are theirs both.

    True, too, where that is not known of one of them.
    """
    references = _reference(one), _reference(other)
    return None in references or references[0] == references[1]


def _reference(run: ComparedRun) -> Any:
    """The reference's prefills of the first process that timed a run; None where unknown."""
    path = run.folder / files.ENVIRONMENT
    timed = read_environment(run.folder).processes if path.is_file() else ()
    return next((p.timing.get("reference") for p in timed if p.rank == p.process == 0), None)


def front(accuracies: np.ndarray, drawn: np.ndarray, timed: Timed) -> list[tuple[bool, float]]:
    """Whether each timed run is on the Pareto front, and in what share of the draws.

    accuracies (k,) and their draws (draws, k) in the order of the timed runs.
    """
    drawn_times = drawn_mean_times(timed.blocks)
    means = np.array([mean_time(own).value for own in timed.blocks])
    share = on_front(drawn[: len(drawn_times)], drawn_times).mean(axis=0)
    seen = on_front(accuracies, means)
    return [(bool(on), float(own)) for on, own in zip(seen, share, strict=True)]


def scope(processes: int, *, side_by_side: bool = True) -> str:
    """What an interval of times is of, in words; of a ratio, whether one process timed both."""
    if processes > 1:
        return f"between {processes} processes"
    return "within one process" if side_by_side else "within one process each"
