"""Prefill latency at batch 1: which samples, in which order, and what the timings say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
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


def unsteady(summary: dict[str, dict[str, float | int | None]]) -> str | None:
    """Warning where the quartiles of the prefill lie more than a quarter of the median apart."""
    prefill = summary["prefill_ms"]
    assert prefill["p75"] is not None and prefill["p25"] is not None and prefill["median"]
    spread = (prefill["p75"] - prefill["p25"]) / prefill["median"]
    if spread <= 0.25:
        return None
    return f"prefill times spread over {spread:.0%} of their median: was the machine busy?"
