"""What timings of prefills say, and how well they are known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vtexp.measure.timings import LatencyRow
from vtexp.stages import SUMMARISED
from vtexp.stats import times

#: Fewest timings for a percentile: below, it is one of the handful of slowest (MLPerf's early
#: stopping, github.com/mlcommons/endpoints #417).
LEAST_FOR_P90, LEAST_FOR_P99 = 64, 662
#: Fewest timings for an interval of their median.
LEAST_FOR_INTERVAL = 6
#: Draws of a bootstrap.
DRAWS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSummary:
    """Milliseconds of a stage over `n` timings: median, its 95 % interval, and percentiles.

    None where there are too few timings: p90 below 64, p99 below 662.
    """

    median: float
    low: float | None
    high: float | None
    p25: float
    p75: float
    p90: float | None
    p99: float | None
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BetweenProcesses:
    """Geometric mean of `n` processes' median prefills in ms, with two 95 % intervals.

    `low`, `high`: of the mean of ever more processes; `next_low`, `next_high`: of a new process.
    """

    n: int
    mean: float
    low: float
    high: float
    next_low: float
    next_high: float


def summarise_times(rows: Sequence[LatencyRow]) -> dict[str, StageSummary]:
    """The summary of each stage that was timed."""
    summary: dict[str, StageSummary] = {}
    for stage in SUMMARISED:
        if getattr(rows[0], stage) is None:
            continue
        values = np.array([getattr(row, stage) for row in rows])
        p25, median, p75, p90, p99 = (float(v) for v in np.percentile(values, [25, 50, 75, 90, 99]))
        low, high = median_interval(rows, stage) or (None, None)
        summary[stage] = StageSummary(
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


def median_interval(
    rows: Sequence[LatencyRow], stage: str = "prefill_ms"
) -> tuple[float, float] | None:
    """95 % bootstrap interval of the median time of a fixed list of images; None below 6 timings.

    Timings are taken for those of their number of crops, times a noise of 1 whose distribution is
    the same for all numbers of crops: ratios to the median of the own number are drawn from all
    together. With one number of crops that is the plain bootstrap. Which images were drawn is no
    part of it.
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
    ratio = ratio[~np.isnan(ratio)]
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


def between_processes(rows: Sequence[LatencyRow]) -> BetweenProcesses | None:
    """How median prefills in ms differ between a run's processes; None for one process.

    The first rank's: each of the others has another device. On the logarithm: never below 0.
    """
    own = [row for row in rows if row.rank == 0]
    medians = list(_medians_by(own, "process").values())
    if len(medians) < 2:
        return None
    found = times.between_processes(np.array(medians))
    return BetweenProcesses(
        n=found.processes,
        mean=found.mean,
        low=found.low,
        high=found.high,
        next_low=found.next_low,
        next_high=found.next_high,
    )


def median_by_rank(rows: Sequence[LatencyRow]) -> list[float]:
    """Median prefill in ms of each process of a run, by its rank: each has its own device."""
    medians = _medians_by(rows, "rank")
    return [medians[rank] for rank in sorted(medians)]


def _medians_by(rows: Sequence[LatencyRow], key: str) -> dict[Any, float]:
    found: dict[Any, list[float]] = defaultdict(list)
    for row in rows:
        found[getattr(row, key)].append(row.prefill_ms)
    return {value: float(np.median(own)) for value, own in found.items()}


def execution(rows: Sequence[LatencyRow], abouts: Sequence[dict[str, Any]]) -> str:
    """How the model was run: eagerly or from CUDA graphs, and whether compiled."""
    replayed = sum(row.cuda_graph for row in rows)
    how = "CUDA graphs" if replayed == len(rows) else "partly CUDA graphs" if replayed else "eager"
    return f"{how}, compiled" if abouts[0].get("compiled") else how
