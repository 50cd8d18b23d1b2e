"""Prefill latency at batch 1: which samples, in which order, and what the timings say."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from vtexp.config import MeasureConfig
from vtexp.data.base import Sample
from vtexp.knobs import CropSetting
from vtexp.models.runner import MolmoRunner

#: Fewest timings for a 90th percentile: below, it is one of the handful of slowest timings.
LEAST_FOR_P90 = 64
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
    runner: MolmoRunner,
    samples: Sequence[Sample],
    setting: CropSetting,
    style: str,
    measure: MeasureConfig,
) -> Iterator[dict[str, Any]]:
    """Yield one row of stage times per timed prefill, each sample once per round.

    Rounds over all samples, not repeats of one: a slow spell of the machine then touches every
    sample. The first prefills of each shape (crops, prompt length) are made and not yielded.
    """
    chosen = samples[: measure.latency_samples]
    shapes = {}
    for sample in chosen:
        prepared = runner.prepare(sample, setting, style)
        shapes[sample.sample_id] = (prepared.image.tiling, len(prepared.input_ids))
    warm: set[tuple[int, int]] = set()
    for sample in chosen:
        tiling, length = shapes[sample.sample_id]
        if (tiling.num_crops, length) not in warm:
            warm.add((tiling.num_crops, length))
            for _ in range(measure.warmup_repeats):
                runner.timed_prefill(sample, setting, style)
    for repeat in range(measure.latency_repeats):
        for sample in chosen:
            tiling, length = shapes[sample.sample_id]
            times = runner.timed_prefill(sample, setting, style)
            yield {
                "sample_id": sample.sample_id,
                "repeat": repeat,
                "tiling": str(tiling),
                "num_crops": tiling.num_crops,
                "sequence_length": length,
                **asdict(times),
            }


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


def doubts(
    summary: dict[str, dict[str, float | int | None]], other_cores: float | None
) -> list[str]:
    """What makes the timings doubtful: a wide spread, or other processes that took cores."""
    found = []
    prefill = summary["prefill_ms"]
    assert prefill["p75"] is not None and prefill["p25"] is not None and prefill["median"]
    spread = (prefill["p75"] - prefill["p25"]) / prefill["median"]
    if spread > 0.25:
        found.append(
            f"the middle half of the prefill times spreads over {spread:.0%} of the median"
        )
    cores = os.cpu_count() or 1
    if other_cores is not None and other_cores > 0.2 * cores:
        found.append(
            f"other processes kept {other_cores:.1f} of {cores} cores busy while prefill was timed"
        )
    return found


class OtherLoad:
    """Cores that other processes of this machine keep busy between start and `cores()`."""

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
        try:
            fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
        except OSError:
            return None
        user, nice, system, _, _, irq, softirq, *_ = map(int, fields)
        busy_s = (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
        return time.monotonic(), busy_s, time.process_time()
