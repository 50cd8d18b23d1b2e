"""Sweeps with real plans, configs and images, whose answers and times are made up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vtexp.config.compose import compose_config
from vtexp.runs.frozen import freeze
from vtexp.runs.plan import Plan, PlannedRun, make_plan
from vtexp.stats.paired import clustered_mean
from vtexp.utils import files

STAGES = {
    "preprocess_ms": 3.0, "transfer_ms": 0.5, "vision_encoder_ms": 20.0, "connector_ms": 2.0,
    "llm_prefill_ms": 15.0, "first_token_ms": 0.1, "prefill_ms": 37.0, "ttft_ms": 40.6,
}  # fmt: skip


def answered_sweep(
    folder: Path, *overrides: str, hostile: Sequence[str] = (), share: float = 0.5
) -> Plan:
    """A finished sweep in a folder; the more tokens, the more is right.

    Of some questions and all predictions, texts are `hostile` ones in turn. `share`: of the
    questions, how many are right with the fewest tokens.
    """
    own = (f"sweep.folder='{folder.parent}'", f"sweep.name='{folder.name}'", "tracking=none")
    plan = make_plan(compose_config([*own, *overrides]))
    freeze(plan)
    difficulty = np.random.default_rng(0).random(len(plan.samples))
    for place, run in enumerate(plan.runs):
        right = difficulty < share + (1 - share) * place / len(plan.runs)
        _answer(plan, run, right, hostile)
    return plan


def _answer(plan: Plan, run: PlannedRun, right: np.ndarray, hostile: Sequence[str]) -> None:
    rows = [_row(plan, run, i, bool(right[i]), hostile) for i in range(len(right))]
    files.write_jsonl(run.folder / files.SAMPLES, rows)
    tokens = run.predicted_vision_tokens
    times = {stage: ms * tokens / 288 for stage, ms in STAGES.items()}
    latency = [
        {"sample_id": row["sample_id"], "repeat": repeat, "rank": 0, "vision_tokens": tokens}
        | {stage: ms * (1 + 0.01 * repeat) for stage, ms in times.items()}
        for row in rows[:8]
        for repeat in range(4)
    ]
    files.write_jsonl(run.folder / files.LATENCY, latency)
    environment = {"host": "here", "device": {"type": "cpu", "name": "a CPU"}, "git": None}
    files.write_json(run.folder / files.ENVIRONMENT, environment)
    files.write_json(run.folder / files.RESULT, _result(plan, run, rows, times))


def _row(
    plan: Plan, run: PlannedRun, i: int, right: bool, hostile: Sequence[str]
) -> dict[str, Any]:
    sample, tiling = plan.samples[i], run.tilings[i]
    question, said = sample.question, sample.references[0] if right else "nothing"
    kind = sample.question_type
    if hostile:
        said = f"{said} {hostile[i % len(hostile)]}"
        if i % 3 == 0:
            kind = question = hostile[i % len(hostile)]
    counts = {
        "tiling": str(tiling),
        "num_crops": tiling.num_crops,
        "vision_tokens": run.predicted_tokens(tiling),
    }
    return {
        "sample_id": sample.sample_id, "image_id": sample.image_id, "question_type": kind,
        **sample.attributes, "question": question, "options": list(sample.options),
        "references": list(sample.references), "prediction": said, "score": float(right),
        "theoretical_vision_tokens": 144 * (tiling.num_crops + 1),
        **{f"measured_{name}": value for name, value in counts.items()},
    }  # fmt: skip


def _result(
    plan: Plan, run: PlannedRun, rows: Sequence[dict[str, Any]], times: dict[str, float]
) -> dict[str, Any]:
    mean = clustered_mean([row["score"] for row in rows], [row["image_id"] for row in rows])
    low, high = mean.interval or (None, None)
    tokens = run.predicted_vision_tokens
    counts = {
        f"{kind}_{name}": value
        for kind in ("measured", "actual")
        for name, value in (("num_crops", run.theoretical_num_crops), ("vision_tokens", tokens))
    }
    return {
        "status": "done", **run.columns(plan.config), **counts, "actual_overridden": False,
        "accuracy": mean.mean, "accuracy_low": low, "accuracy_high": high,
        "accuracy_by_question_type": {}, "num_samples": mean.n, "num_images": mean.images,
        "prefill_vision_tokens": tokens, "samples_fingerprint": "same",
        "inputs_fingerprint": run.inputs_fingerprint, "device": "a CPU", "warnings": [],
        "memory_peak_mib": {"resident": 812.0}, "mfu": 0.31, "energy_j_per_prefill": None,
        "latency": {
            stage: {"median": ms, "low": 0.95 * ms, "high": 1.05 * ms, "n": 32}
            for stage, ms in times.items()
        },
    }  # fmt: skip
