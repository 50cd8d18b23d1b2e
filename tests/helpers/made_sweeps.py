"""Sweeps whose answers and times are made up, written as runs leave them; nothing is run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from vtexp.stats.paired import clustered_mean
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
    """One finished run; `result` and `surroundings` replace parts of its files."""
    settings = dict(settings or {})
    count = len(scores)
    images = images or [f"image-{i}" for i in range(count)]
    questions = questions or [f"question-{i}" for i in range(count)]
    identity = yaml.safe_dump([knob, value, tokens, settings, sorted((result or {}).items())])
    run_id = hashlib.sha256(identity.encode()).hexdigest()[:12]
    folder = sweep / f"{knob}-{value}_{run_id[:8]}"
    columns = planned_columns(sweep, folder, run_id, knob, value, tokens)
    files.write_json(folder / files.PLANNED, columns)
    config = {
        "model": {"name": "m", "path": "m", "weights": "pretrained"},
        "dataset": {"name": "d", "split": "test", "limit": None},
        "hardware": {"name": "cpu", "dtype": "float32"},
        "measure": {"latency_samples": timed},
        "run": {"name": knob, "value": value, "fit": "stretch" if knob == "image_size" else None},
        "report": {"margin": 1.0},
    }
    for key, setting in settings.items():
        group, _, name = key.partition(".")
        config[group][name] = setting
    files.write_text(folder / files.CONFIG, yaml.safe_dump(config))
    rows = []
    for i, score in enumerate(scores):
        own = {name: values[i] for name, values in (attributes or {}).items()}
        rows.append(
            {"sample_id": questions[i], "image_id": images[i], "question_type": "one"} | own
            | {"question": f"{questions[i]}?", "options": [], "references": ["yes"],
               "prediction": "yes", "score": score}
        )  # fmt: skip
    files.write_jsonl(folder / files.SAMPLES, rows)
    rng = np.random.default_rng(tokens)
    times = prefill_ms * rng.lognormal(0, 0.05, size=(timed, 4))
    latency = [
        {"rank": 0, "sample_id": questions[i], "repeat": repeat, "vision_tokens": tokens,
         "prefill_ms": float(times[i, repeat])}
        for repeat in range(4) for i in range(min(timed, count))
    ]  # fmt: skip
    files.write_jsonl(folder / files.LATENCY, latency)
    files.write_json(
        folder / files.ENVIRONMENT,
        {
            "host": "here", "torch_threads": 2, "device": {"type": "cpu", "name": "a CPU"},
            "git": {"commit": "0" * 40, "changed": False}, "packages": {"torch": "2.13.0"},
        }
        | dict(surroundings or {}),
    )  # fmt: skip
    accuracy: dict[str, Any] = dict.fromkeys(
        ("accuracy", "accuracy_standard_error", "accuracy_low", "accuracy_high")
    )
    if None not in scores:
        mean = clustered_mean(scores, images)
        low, high = mean.interval or (None, None)
        accuracy = {
            "accuracy": mean.mean, "accuracy_standard_error": mean.standard_error,
            "accuracy_low": low, "accuracy_high": high,
        }  # fmt: skip
    median = float(np.median(times[:count]))
    stages = {stage: {"median": median, "p25": median, "p75": median, "p90": None, "n": 4 * timed}
              for stage in STAGES}  # fmt: skip
    counted = {"num_crops": 1.0, "vision_tokens": tokens, "tiling": "1x1"}
    counts = {
        f"{kind}_{name}": counted[name] for kind in ("measured", "actual") for name in counted
    }
    fingerprint = hashlib.sha256("".join(questions).encode()).hexdigest()[:16]
    whole = {
        **{"status": "done"}, **columns, **counts, **accuracy, "actual_overridden": False,
        "num_samples": count, "num_images": len(set(images)), "accuracy_by_question_type": {},
        "sequence_length": 100.0, "prefill_vision_tokens": tokens, "latency": stages,
        "samples_fingerprint": fingerprint, "inputs_fingerprint": f"{knob}{value}{tokens}",
        "warnings": [], "device": "a CPU",
    }  # fmt: skip
    files.write_json(folder / files.RESULT, whole | dict(result or {}))
    return folder


def planned_columns(
    sweep: Path, folder: Path, run_id: str, knob: str, value: str, tokens: int
) -> dict[str, Any]:
    """What is known of a run before it is made."""
    return {
        "run_id": run_id, "run": folder.name, "sweep": sweep.name, "knob": knob,
        "knob_value": value, "tiling": "1x1", "num_crops": 1, "target_vision_tokens": tokens,
        "theoretical_num_crops": 1.0, "theoretical_vision_tokens": tokens,
        "force_full_tokens": False, "fit": "stretch", "model": "m", "weights": "pretrained",
        "dataset": "d", "split": "test", "hardware": "cpu", "metric": "exact_match",
        "num_failed": 0, "failed_samples": [],
    }  # fmt: skip


def unfinish(folder: Path, error: str | None) -> None:
    """Make a run one that failed, or one without a result."""
    (folder / files.RESULT).unlink()
    if error is not None:
        planned = files.read_json(folder / files.PLANNED)
        row = {"status": "failed", **planned, "error": error, "traceback": []}
        files.write_json(folder / files.FAILURE, row)


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
