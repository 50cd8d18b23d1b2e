"""What timings of prefills say, and how well they are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from vtexp.measure.timings import LatencyRow
from vtexp.stages import SUMMARISED
from vtexp.stats import times
from vtexp.utils.grouping import grouped
from vtexp.utils.typed import known

#: Fewest timings for a percentile: below, it is one of the handful of slowest (MLPerf's early
#: stopping, github.com/mlcommons/endpoints #417).
LEAST_FOR_P90, LEAST_FOR_P99 = 64, 662
#: Fewest timings for an interval of their median.
LEAST_FOR_INTERVAL = 6
#: Draws of a bootstrap.
DRAWS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSummary:
    """Milliseconds of a stage over `n` timings: its cost, and how the timings are spread.

    `mean` is over the images as they come, with its 95 % interval: between processes where several
    timed, else within the one (`stats.times`). `median` has an interval within one process.
    None where there are too few timings: p90 below 64, p99 below 662.
    """

    mean: float
    mean_low: float | None
    mean_high: float | None
    median: float
    low: float | None
    high: float | None
    p25: float
    p75: float
    p90: float | None
    p99: float | None
    n: int


def summarise_times(rows: Sequence[LatencyRow]) -> dict[str, StageSummary]:
    """The summary of each stage that was timed."""
    summary: dict[str, StageSummary] = {}
    for stage in SUMMARISED:
        if getattr(rows[0], stage) is None:
            continue
        values = np.array([getattr(row, stage) for row in rows])
        p25, median, p75, p90, p99 = (float(v) for v in np.percentile(values, [25, 50, 75, 90, 99]))
        low, high = median_interval(rows, stage) or (None, None)
        cost = cost_of(rows, stage)
        summary[stage] = StageSummary(
            mean=cost.value,
            mean_low=known(cost.low),
            mean_high=known(cost.high),
            median=median,
            low=low,
            high=high,
            p25=p25,
            p75=p75,
            p90=p90 if len(values) >= LEAST_FOR_P90 else None,
            p99=p99 if len(values) >= LEAST_FOR_P99 else None,
            n=len(values),
        )
    return summary


def cost_of(rows: Sequence[LatencyRow], stage: str) -> times.Estimate:
    """Mean time of a stage over the images as they come; between processes where there are some.

    Without an interval where the stage takes no time, or nothing was repeated.
    """
    questions = list(dict.fromkeys(row.sample_id for row in rows))
    (found,) = time_blocks([rows], questions, stage)
    mean = float(np.nanmean(found, axis=1).mean())
    return times.mean_time(found) if mean > 0 else times.Estimate(mean, np.nan, np.nan)


def shared_processes(runs: Sequence[Sequence[LatencyRow]]) -> list[int]:
    """Numbers of the processes (`measure.repeats`) that timed all runs; never empty."""
    common = set.intersection(*({row.process for row in rows} for rows in runs))
    return sorted(common) or [0]


def time_blocks(
    runs: Sequence[Sequence[LatencyRow]], questions: Sequence[str], stage: str = "prefill_ms"
) -> list[np.ndarray]:
    """Times of a stage in several runs, of the same questions: (questions, rounds) of each run.

    Rounds that runs share stand in the same column, NaN where a question was not timed in one.
    Where all runs were timed in several processes, those of the same numbers, a column is the mean
    of one process instead: see `times.by_process`.
    """
    place = {question: i for i, question in enumerate(questions)}
    by_process = [_blocks_by_process(rows, place, runs, stage) for rows in runs]
    common = shared_processes(runs)
    if len(common) > 1:
        return [times.by_process([own[number] for number in common]) for own in by_process]
    return [own.get(common[0], own[min(own)]) for own in by_process]


def _blocks_by_process(
    rows: Sequence[LatencyRow],
    place: dict[str, int],
    runs: Sequence[Sequence[LatencyRow]],
    stage: str,
) -> dict[int, np.ndarray]:
    """(questions, rounds) of each process; a round is one of any of the `runs`, of any rank."""
    keys = sorted({(row.repeat, row.rank) for own in runs for row in own})
    column = {key: i for i, key in enumerate(keys)}
    found: dict[int, np.ndarray] = {}
    for row in rows:
        if row.sample_id in place:
            block = found.setdefault(row.process, np.full((len(place), len(keys)), np.nan))
            block[place[row.sample_id], column[row.repeat, row.rank]] = getattr(row, stage)
    return {number: _without_empty_end(block) for number, block in found.items()}


def _without_empty_end(block: np.ndarray) -> np.ndarray:
    """Without the last rounds if this run does not have them."""
    return block[:, : 1 + int(np.flatnonzero(~np.isnan(block).all(axis=0)).max())]


def median_interval(
    rows: Sequence[LatencyRow], stage: str = "prefill_ms"
) -> tuple[float, float] | None:
    """95 % bootstrap interval of the median time of a fixed list of images; None below 6 timings.

    Timings are taken for those of their number of crops, times a noise of 1 whose distribution is
    the same for all numbers of crops: ratios to the median of the own number are drawn from all
    together. With one number of crops that is the plain bootstrap. The choice of images is not part
    of it.
    """
    if len(rows) < LEAST_FOR_INTERVAL:
        return None
    crops = np.array([row.num_crops for row in rows])
    values = np.array([getattr(row, stage) for row in rows], dtype=float)
    centre, ratio = np.empty_like(values), np.empty_like(values)
    for number in np.unique(crops):
        own = crops == number
        n, middle = own.sum(), np.median(values[own])
        centre[own] = middle
        # A median is nearer to its own timings than to new ones; to a single one it is equal.
        widen = np.sqrt(n / (n - 1)) if n > 1 else np.nan
        ratio[own] = 1 + (values[own] / middle - 1) * widen if middle > 0 else 1.0
    ratio = np.clip(ratio[~np.isnan(ratio)], 0.0, None)  # widened, one of a few may be below 0
    if len(ratio) < LEAST_FOR_INTERVAL:
        return None
    rng = np.random.default_rng(0)
    medians = np.median(centre * rng.choice(ratio, (DRAWS, len(values))), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return float(low), float(high)


def half_width(rows: Sequence[LatencyRow]) -> float | None:
    """Half the width of the median prefill's interval over the median; None without an interval."""
    interval = median_interval(rows)
    if interval is None:
        return None
    low, high = interval
    return (high - low) / 2 / float(np.median([row.prefill_ms for row in rows]))


def between_processes(rows: Sequence[LatencyRow]) -> times.BetweenProcesses | None:
    """How mean prefills in ms differ between a run's processes; None for one process.

    The first rank's: each of the others has another device. On the logarithm: never below 0.
    """
    by_process = grouped((row for row in rows if row.rank == 0), lambda row: row.process)
    if len(by_process) < 2:
        return None
    means = [fmean(row.prefill_ms for row in own) for own in by_process.values()]
    return times.between_processes(np.array(means))


def median_by_rank(rows: Sequence[LatencyRow]) -> list[float]:
    """Median prefill in ms of each process of a run, by its rank: each has its own device."""
    by_rank = sorted(grouped(rows, lambda row: row.rank).items())
    return [float(np.median([row.prefill_ms for row in own])) for _, own in by_rank]


def execution(rows: Sequence[LatencyRow], abouts: Sequence[dict[str, Any]]) -> str:
    """How the model was run: eagerly or from CUDA graphs, and whether compiled."""
    replayed = sum(row.cuda_graph for row in rows)
    how = "CUDA graphs" if replayed == len(rows) else "partly CUDA graphs" if replayed else "eager"
    return f"{how}, compiled" if abouts[0].get("compiled") else how
