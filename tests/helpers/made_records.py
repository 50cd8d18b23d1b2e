"""Records as runs leave them, of which a test says only what it is about."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from vtexp.measure.summary import StageSummary
from vtexp.measure.timings import LatencyRow
from vtexp.runs import records
from vtexp.runs.records import Device, Environment, GitState, SampleRow
from vtexp.stages import STAGES, StageTimes
from vtexp.utils import files


def stage_times(ms: float, **other: Any) -> StageTimes:
    """A prefill of so many ms, half of them vision; all else takes no time."""
    parts = dict.fromkeys(STAGES, 0.0) | {
        "vision_encoder_ms": ms / 2, "llm_prefill_ms": ms / 2, "vision_ms": ms / 2,
        "prefill_ms": ms, "ttft_without_preprocess_ms": ms, "ttft_ms": ms,
    }  # fmt: skip
    return StageTimes(**parts | other)


def latency_row(ms: float = 50.0, **other: Any) -> LatencyRow:
    """A timed prefill of so many ms."""
    asked = {
        "sample_id": "a", "tiling": "1x1", "num_crops": 1, "vision_tokens": 288,
        "sequence_length": 300,
    }  # fmt: skip
    return LatencyRow(**asked | vars_of(stage_times(ms)) | other)


def vars_of(times: StageTimes) -> dict[str, float]:
    """The fields of times."""
    return {name: getattr(times, name) for name in times.__dataclass_fields__}


def sample_row(**other: Any) -> SampleRow:
    """A question about an image of one crop, answered right."""
    counts = {
        f"{kind}_{name}": value
        for kind in ("theoretical", "measured", "actual")
        for name, value in (("tiling", "1x1"), ("num_crops", 1), ("vision_tokens", 288))
    }
    row = {
        "sample_id": "a", "image_id": "a", "question_type": "one", "question": "?",
        "style": None, "message": "?", "references": ("yes",), "prediction": "yes", "score": 1.0,
        "actual_overridden": False, "sequence_length": 300, "answer_tokens": 1,
    }  # fmt: skip
    return SampleRow(**counts | row | other)


def environment(**other: Any) -> Environment:
    """A processor that is called `a CPU`, on a machine that is called `here`."""
    found = {
        "vtexp": "1.0", "git": GitState(commit="0" * 40, changed=False), "source": "0" * 16,
        "started": "now",
        "host": "here", "platform": "Linux", "python": "3.11", "packages": {"torch": "2.13.0"},
        "device": Device(type="cpu", name="a CPU"), "cpu_count": 2, "torch_threads": 2,
        "load_average_1min": 0.0,
    }  # fmt: skip
    return Environment(**found | other)


def summary(median: float, n: int = 16, **other: Any) -> StageSummary:
    """What timings of a stage say that are all alike."""
    plain = {"mean": median, "mean_low": None, "mean_high": None}
    plain |= {"low": None, "high": None, "p25": median, "p75": median, "p90": None, "p99": None}
    return StageSummary(median=median, n=n, **plain | other)


def write_samples(path: Path, rows: list[SampleRow]) -> None:
    """Write a `samples.jsonl`."""
    files.write_jsonl(path, map(records.sample_to_json, rows))


def change_result(folder: Path, **fields: Any) -> None:
    """Give the result of a run other values."""
    found = replace(records.read_result(folder), **fields)
    records.write(folder / files.RESULT, found)
