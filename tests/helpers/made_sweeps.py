"""Sweeps whose answers and times are made up, written as runs leave them; nothing is run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.helpers.made_records import environment, latency_row, sample_row, summary, write_samples
from vtexp.runs import records
from vtexp.runs.records import Planned, Result, extended
from vtexp.stats import comparison
from vtexp.utils import files

STAGES = ("preprocess_ms", "transfer_ms", "vision_ms", "llm_prefill_ms", "prefill_ms", "ttft_ms")


def make_run(
    sweep: Path,
    value: str,
    tokens: int,
    scores: Sequence[float | None],
    *,
    images: Sequence[str] | None = None,
    prefill_ms: float = 10.0,
    attributes: Mapping[str, Sequence[Any]] | None = None,
    questions: Sequence[str] | None = None,
    result: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    surroundings: Mapping[str, Any] | None = None,
    knob: str = "image_size",
    timed: int = 16,
) -> Path:
    """One finished run; `result` and `surroundings` replace fields of its records."""
    settings = dict(settings or {})
    count = len(scores)
    images = images or [f"image-{i}" for i in range(count)]
    questions = questions or [f"question-{i}" for i in range(count)]
    identity = yaml.safe_dump([knob, value, tokens, settings, str(sorted((result or {}).items()))])
    run_id = hashlib.sha256(identity.encode()).hexdigest()[:12]
    folder = sweep / f"{knob}-{value}_{run_id[:8]}"
    planned = planned_run(sweep, folder, run_id, knob, value, tokens)
    records.write(folder / files.PLANNED, planned)
    files.write_text(folder / files.CONFIG, yaml.safe_dump(config(knob, value, timed, settings)))
    rows = [
        sample_row(
            sample_id=questions[i], image_id=images[i], question=f"{questions[i]}?", score=score,
            attributes={name: values[i] for name, values in (attributes or {}).items()},
        )
        for i, score in enumerate(scores)
    ]  # fmt: skip
    write_samples(folder / files.SAMPLES, rows)
    rng = np.random.default_rng(tokens)
    times = prefill_ms * rng.lognormal(0, 0.05, size=(timed, 4))
    latency = [
        latency_row(
            float(times[i, repeat]), sample_id=questions[i], repeat=repeat, vision_tokens=tokens
        )
        for repeat in range(4)
        for i in range(min(timed, count))
    ]
    records.write_latency(folder / files.LATENCY, latency)
    records.write(folder / files.ENVIRONMENT, environment(**surroundings or {}))
    median = float(np.median(times[:count]))
    found = {
        **counts(tokens), **accuracy(scores, images),
        "num_samples": count, "num_images": len(set(images)), "accuracy_by_question_type": {},
        "sequence_length": 100.0, "prefill_vision_tokens": tokens, "execution": "eager",
        "latency": {stage: summary(median, 4 * timed) for stage in STAGES},
        "samples_fingerprint": hashlib.sha256("".join(questions).encode()).hexdigest()[:16],
        "inputs_fingerprint": f"{knob}{value}{tokens}", "device": "a CPU", "limit": "recommended",
    }  # fmt: skip
    records.write(folder / files.RESULT, extended(Result, planned, **found | dict(result or {})))
    return folder


def config(knob: str, value: str, timed: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """As much of a run's config as a report reads."""
    found: dict[str, Any] = {
        "model": {"name": "m", "path": "m", "weights": "pretrained"},
        "dataset": {"name": "d", "split": "test", "limit": None},
        "hardware": {"name": "cpu", "dtype": "float32"},
        "measure": {"latency_samples": timed},
        "run": {"name": knob, "value": value, "fit": "stretch" if knob == "image_size" else None},
        "report": {"margin": 1.0},
    }
    for key, setting in settings.items():
        group, _, name = key.partition(".")
        found[group][name] = setting
    return found


def counts(tokens: float, crops: float = 1.0, tiling: str = "1x1") -> dict[str, Any]:
    """Measured and actual counts of a result."""
    own = {"num_crops": crops, "vision_tokens": tokens, "tiling": tiling}
    found = {f"{kind}_{name}": own[name] for kind in ("measured", "actual") for name in own}
    return found | {"actual_overridden": False}


def accuracy(scores: Sequence[float | None], images: Sequence[str]) -> dict[str, Any]:
    """Accuracy of a result; all None where some question has no score."""
    names = ("accuracy", "accuracy_standard_error", "accuracy_low", "accuracy_high")
    if None in scores:
        return dict.fromkeys(names)
    found = comparison.accuracy(scores, images)  # type: ignore[arg-type]
    values = (found.mean, found.standard_error, found.low, found.high)
    return dict(zip(names, values, strict=True))


def planned_run(
    sweep: Path, folder: Path, run_id: str, knob: str, value: str, tokens: int
) -> Planned:
    """What is known of a run before it is made."""
    return Planned(
        run_id=run_id, run=folder.name, sweep=sweep.name, knob=knob, knob_value=value, tiling="1x1",
        num_crops=1, target_vision_tokens=tokens, theoretical_num_crops=1.0,
        theoretical_vision_tokens=tokens, force_full_tokens=False, fit="stretch", model="m",
        weights="pretrained", dataset="d", split="test", hardware="cpu", metric="exact_match",
    )  # fmt: skip


def unfinish(folder: Path, error: str | None) -> None:
    """Make a run one that failed, or one without a result."""
    (folder / files.RESULT).unlink()
    if error is not None:
        failed = extended(records.Failure, records.read_planned(folder), error=error)
        records.write(folder / files.FAILURE, failed)


def steady_scores(
    accuracies: Sequence[float], images: int, per_image: int, seed: int = 0
) -> tuple[np.ndarray, list[str]]:
    """0/1 scores (n, k) of questions that are the harder the less likely, and their images."""
    rng = np.random.default_rng(seed)
    of_image = 0.4 * rng.random((images, 1)).repeat(per_image, 0)
    level = of_image + rng.random((images * per_image, 1))
    ranks = level.ravel().argsort().argsort() / len(level)
    names = [f"image-{i // per_image}" for i in range(images * per_image)]
    return (ranks[:, None] < np.asarray(accuracies)).astype(float), names
