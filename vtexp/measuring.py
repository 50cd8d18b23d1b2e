"""Prefill latency at batch 1: which samples, in which order, and what the timings say."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from vtexp.config import MeasureConfig
from vtexp.data.base import Sample
from vtexp.knobs import CropSetting
from vtexp.models.runner import Runner
from vtexp.probe import Counts

#: Fewest timings for a 90th percentile: below, it is one of the handful of slowest timings.
LEAST_FOR_P90 = 64
#: Medians of ranks may differ by so much before it is told.
RANK_SPREAD = 0.1
STAGES = (
    "preprocess_ms",
    "transfer_ms",
    "vision_ms",
    "llm_prefill_ms",
    "prefill_ms",
    "first_token_ms",
    "ttft_ms",
)


def time_prefills(
    runner: Runner,
    samples: Sequence[Sample],
    setting: CropSetting,
    style: str,
    measure: MeasureConfig,
    check: Callable[[int, Counts, int], None],
) -> Iterator[dict[str, Any]]:
    """Yield one row of counts and stage times per timed prefill, each sample once per round.

    Rounds over all samples, not repeats of one: a slow spell of the machine then touches every
    sample. Before the first, each sample makes an untimed prefill in which hooks count what it
    reads, given to `check` with the sample's index and prompt length, and each shape (crops, prompt
    length) `warmup_repeats` more without hooks.
    """
    counted: list[dict[str, Any]] = []
    with runner.probe() as probe:
        for index, sample in enumerate(samples):
            runner.timed_prefill(sample, setting, style)
            (counts,) = probe.take()
            length = len(runner.prepare(sample, setting, style).input_ids)
            check(index, counts, length)
            counted.append(
                {
                    "tiling": None if counts.tiling is None else str(counts.tiling),
                    "num_crops": counts.num_crops,
                    "vision_tokens": counts.vision_tokens,
                    "sequence_length": length,
                }
            )
    warm: set[tuple[int, int]] = set()
    for sample, row in zip(samples, counted, strict=True):
        shape = (row["num_crops"], row["sequence_length"])
        if shape not in warm:
            warm.add(shape)
            for _ in range(measure.warmup_repeats):
                runner.timed_prefill(sample, setting, style)
    for repeat in range(measure.latency_repeats):
        for sample, row in zip(samples, counted, strict=True):
            times = runner.timed_prefill(sample, setting, style)
            yield {"sample_id": sample.sample_id, "repeat": repeat, **row, **asdict(times)}


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float | int | None]]:
    """Per stage in ms: median, p90 (None below 64 timings), quartiles and n."""
    summary: dict[str, dict[str, float | int | None]] = {}
    for stage in STAGES:
        values = np.array([row[stage] for row in rows])
        p25, median, p75, p90 = (float(v) for v in np.percentile(values, [25, 50, 75, 90]))
        summary[stage] = {
            "median": median,
            "p90": p90 if len(values) >= LEAST_FOR_P90 else None,
            "p25": p25,
            "p75": p75,
            "n": len(values),
        }
    return summary


def median_by_rank(rows: Sequence[dict[str, Any]]) -> list[float]:
    """Median prefill in ms of each process of a run, by its rank: each has its own device."""
    by_rank: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        by_rank[row["rank"]].append(row["prefill_ms"])
    return [float(np.median(by_rank[rank])) for rank in sorted(by_rank)]


def doubts(
    rows: Sequence[dict[str, Any]], all_vision_tokens: float, other_cores: float | None
) -> list[str]:
    """What makes the timings doubtful, in words.

    A wide spread of the repeats of a sample, ranks that differ, timed samples unlike all samples
    (whose mean vision tokens are given), or other processes that took cores.
    """
    found = []
    by_sample: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        by_sample[row["sample_id"]].append(row["prefill_ms"])
    quartiles = [np.percentile(times, [25, 50, 75]) for times in by_sample.values()]
    spread = float(np.median([(p75 - p25) / median for p25, median, p75 in quartiles]))
    if spread > 0.25:
        found.append(
            f"the middle half of a question's prefill times spreads over {spread:.0%} of its median"
        )
    by_rank = median_by_rank(rows)
    if max(by_rank) > (1 + RANK_SPREAD) * min(by_rank):
        found.append(
            f"median prefill differs between ranks: {min(by_rank):.4g} to {max(by_rank):.4g} ms"
        )
    timed = fmean(row["vision_tokens"] for row in rows)
    if abs(timed - all_vision_tokens) > 0.02 * all_vision_tokens:
        found.append(
            f"the timed questions have {timed:.0f} vision tokens on average, all questions "
            f"{all_vision_tokens:.0f}: prefill is that of the timed ones (prefill_vision_tokens)"
        )
    cores = os.cpu_count() or 1
    if other_cores is not None and other_cores > 0.2 * cores:
        found.append(
            f"other processes kept {other_cores:.1f} of {cores} cores busy while prefill was timed"
        )
    return found


class OtherLoad:
    """Cores that other processes of this machine keep busy between start and `cores()`.

    Unknown (None) where this process may use only some cores, as in a SLURM job: the kernel's
    count is of the whole machine. The GPU is not looked at.
    """

    def __init__(self) -> None:
        self._start = self._now()

    def cores(self) -> float | None:
        """Mean number of cores since the start; None where /proc/stat cannot be read."""
        now = self._now()
        if self._start is None or now is None:
            return None
        wall_s, busy_s, own_s = (b - a for a, b in zip(self._start, now, strict=True))
        return max(0.0, (busy_s - own_s) / wall_s) if wall_s > 0 else None

    @staticmethod
    def _now() -> tuple[float, float, float] | None:
        """Seconds of wall clock, of all cores busy, and of this process's cores busy."""
        if len(os.sched_getaffinity(0)) != os.cpu_count():
            return None
        try:
            fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
        except OSError:
            return None
        user, nice, system, _, _, irq, softirq, *_ = map(int, fields)
        busy_s = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
        return time.monotonic(), busy_s, time.process_time()
