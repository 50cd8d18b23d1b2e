"""From answers and times that are known to result.json and comparison.csv.

A stand-in for the model answers and takes time as it is told; everything around it is real.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.sweeps import run_without_report
from vtexp.analysis.fairness import caveats
from vtexp.analysis.rows import collect
from vtexp.config.schema import Config
from vtexp.errors import ConfigError, DataError, RunFailedError, VtexpError
from vtexp.jobs import prepare
from vtexp.jobs.here import run_job
from vtexp.measure.protocol import Timing
from vtexp.models.molmo.modeling import MolmoForCausalLM
from vtexp.models.molmo.runner import MolmoRunner
from vtexp.models.runner import PreparedSample
from vtexp.runs import job
from vtexp.runs.plan import make_plan
from vtexp.stages import StageTimes
from vtexp.utils import files

MakeConfig = Callable[..., Config]


class KnownRunner(MolmoRunner):
    """Answers every third question wrongly; prefill i takes 10, 20, 30, ... ms."""

    def answer(
        self, batch: Sequence[PreparedSample], max_new_tokens: int, clock: Any = None
    ) -> list[list[int]]:
        super().answer(batch, 1, clock)  # the hooks see the real prompt
        return [self.tokenizer.encode(" " + self._say(prepared)) for prepared in batch]

    def _say(self, prepared: PreparedSample) -> str:
        text = self.tokenizer.decode(
            [i for i in prepared.input_ids.tolist() if i not in self.tokenizer.image_ids][1:]
        )
        return SCRIPT[text]

    def timed_prefill(self, sample, setting, style):
        super().timed_prefill(sample, setting, style)
        CALLS.append(sample.sample_id)
        ms = 10.0 * len(CALLS)
        return StageTimes(
            image_decode_ms=0.0,
            preprocess_ms=1.0,
            transfer_ms=2.0,
            vision_encoder_ms=0.2 * ms,
            connector_ms=0.05 * ms,
            llm_prefill_ms=0.75 * ms,
            first_token_ms=3.0,
            vision_ms=0.25 * ms,
            prefill_ms=ms,
            ttft_without_preprocess_ms=ms + 5.0,
            ttft_ms=ms + 6.0,
        )

    def eager_prefill(self, sample, setting, style):
        self.timed_prefill(sample, setting, style)


SCRIPT: dict[str, str] = {}
CALLS: list[str] = []


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    SCRIPT.clear()
    CALLS.clear()
    real = MolmoRunner.load.__func__
    monkeypatch.setattr(MolmoRunner, "load", lambda *args: real(KnownRunner, *args))
    monkeypatch.setattr(job, "_loaded", {})
    monkeypatch.setattr(Timing, "_warm", False)


def test_known_answers_and_times_reach_the_files(
    make_config: MakeConfig, tmp_path: Path, known: None, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config("knob.sizes=[560x336]", "dataset.limit=32", "measure.latency_samples=32",
                         "measure.latency_repeats=2", "measure.warmup_repeats=0")  # fmt: skip
    plan = make_plan(config)
    scores = {}
    for i, sample in enumerate(plan.samples):
        text = f"User: easy_vqa: {sample.question} Assistant:"
        SCRIPT.setdefault(text, "nothing" if i % 3 == 0 else sample.references[0])
        scores[sample.sample_id] = float(SCRIPT[text] == sample.references[0])
    assert 0 < sum(scores.values()) < 32
    run_job(config)

    folder = next((tmp_path / "sweep").glob("*560x336*"))
    rows = files.read_jsonl(folder / "samples.jsonl")
    for row, sample in zip(rows, plan.samples, strict=True):
        assert row["prediction"] == SCRIPT[f"User: easy_vqa: {sample.question} Assistant:"]
        assert row["score"] == scores[sample.sample_id]
    result = files.read_json(folder / "result.json")
    assert result["accuracy"] == pytest.approx(np.mean(list(scores.values())))
    for kind, found in result["accuracy_by_question_type"].items():
        chosen = [scores[s.sample_id] for s in plan.samples if s.question_type == kind]
        assert (found["n"], found["accuracy"]) == (len(chosen), pytest.approx(np.mean(chosen)))
    table = capsys.readouterr().out.partition("by question type")[2]
    for kind, found in result["accuracy_by_question_type"].items():
        row = rf"{kind} +{found['n']} +{100 * found['accuracy']:.1f}"
        assert re.search(row, table)

    # The cold one, 32 counted ones, then two rounds of 32 that are timed, the reference in between.
    ids = [sample.sample_id for sample in plan.samples[:32]]
    assert [ids[0], *ids] == CALLS[:33]
    rows = files.read_jsonl(folder / "latency.jsonl")
    assert [row["sample_id"] for row in rows] == ids * 2
    timing = files.read_json(folder / "environment.json")["processes"][0]["timing"]
    reference = [row["prefill_ms"] for row in timing["reference"]]
    assert len(reference) == 64 / 4
    times = np.array(sorted(set(10.0 * np.arange(34, 34 + 64 + 16)) - set(reference)))
    assert [row["prefill_ms"] for row in rows] == times.tolist()
    latency = result["latency"]
    assert latency["prefill_ms"]["n"] == 64
    shares = {"vision_ms": 0.25, "vision_encoder_ms": 0.2, "connector_ms": 0.05}
    for stage, share in (shares | {"llm_prefill_ms": 0.75, "prefill_ms": 1.0}).items():
        found = latency[stage]
        for name, percent in (("p25", 25), ("median", 50), ("p75", 75), ("p90", 90)):
            assert found[name] == pytest.approx(share * np.percentile(times, percent))
    assert latency["ttft_ms"]["median"] == pytest.approx(np.median(times) + 6)
    assert latency["prefill_ms"]["p99"] is None
    assert result["cold_ttft_ms"] == 10.0 + 6
    # Every pass takes longer than the last: that is no machine to measure on.
    assert any("became" in reason and "slower" in reason for reason in result["timing_warnings"])
    with (tmp_path / "sweep" / "comparison.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["accuracy"]) == pytest.approx(result["accuracy"])
    assert float(row["prefill_ms_median"]) == pytest.approx(np.median(times))
    assert float(row["vision_ms_median"]) == pytest.approx(0.25 * np.median(times))
    assert (row["measured_vision_tokens"], row["prefill_vision_tokens"]) == ("384.0", "384.0")


def test_the_model_that_lost_a_token_fails_the_run(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hooks count what enters the model, not what preprocessing intended."""
    real = MolmoRunner.inputs

    def lossy(self, batch):
        inputs = real(self, batch)
        inputs["image_input_idx"][:, 1, 5] = -1
        return inputs

    monkeypatch.setattr(MolmoRunner, "inputs", lossy)
    with pytest.raises(RunFailedError, match=r"384 vision tokens.*model read .*383"):
        run_without_report(make_config("knob.sizes=[560x336]"))
    # Forced, the theoretical count is reported, and what was read is kept beside it.
    run_without_report(make_config("knob.sizes=[560x336]", "force_full_tokens=true"))
    (found,) = (run.result for run in collect(tmp_path / "sweep") if run.result is not None)
    assert (found.measured_vision_tokens, found.actual_vision_tokens) == (431, 432)
    assert found.actual_overridden
    assert any("measured_* what was read" in warning for warning in found.warnings)


def test_the_timed_path_is_counted_by_itself(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token lost only where prefill is timed (features given) fails the run as well."""
    real = MolmoForCausalLM.embed

    def lossy(self, input_ids, images, image_masks, image_input_idx, image_features):
        if image_input_idx is not None and image_features is not None:
            image_input_idx = image_input_idx.clone()
            image_input_idx[:, 1, 5] = -1
            image_features = image_features[1:]
        return real(self, input_ids, images, image_masks, image_input_idx, image_features)

    monkeypatch.setattr(MolmoForCausalLM, "embed", lossy)
    with pytest.raises(RunFailedError, match=r"384 vision tokens.*model read .*383"):
        run_without_report(make_config("knob.sizes=[560x336]"))


@pytest.mark.slow
def test_settings_that_differ_are_in_the_comparison(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    for change in ("hardware.dtype=float32", "hardware.dtype=bfloat16", "knob.fit=letterbox"):
        run_without_report(make_config("knob.sizes=[336x336]", change))
    runs = collect(tmp_path / "sweep")
    assert sorted(run.settings for run in runs) == [
        "hardware.dtype=bfloat16, knob.fit=stretch",
        "hardware.dtype=float32, knob.fit=letterbox",
        "hardware.dtype=float32, knob.fit=stretch",
    ]
    assert not any(run.same_inputs_as for run in runs)
    run_without_report(make_config("knob.sizes=[336x336]", "dataset.limit=5"))
    assert any("answered different questions" in n for n in caveats(collect(tmp_path / "sweep")))


def test_dtype_is_that_of_the_weights(make_config: MakeConfig) -> None:
    plan = make_plan(make_config("hardware.dtype=bfloat16"))
    runner = job.load_runner(plan)
    assert {p.dtype for p in runner.model.parameters()} == {torch.bfloat16}


@pytest.mark.slow
@pytest.mark.parametrize("change", ["hardware.compile=true", "hardware.dtype=bfloat16"])
def test_a_model_made_otherwise_is_another_model(make_config: MakeConfig, change: str) -> None:
    first = job.load_runner(make_plan(make_config()))
    assert job.load_runner(make_plan(make_config())) is first
    assert job.load_runner(make_plan(make_config(change))) is not first


@pytest.mark.slow
def test_a_damaged_result_is_one_line_and_one_cut_short_is_made_again(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config("knob.sizes=[336x336]")
    run_job(config)
    path = next((tmp_path / "sweep").glob("*/result.json"))
    whole = files.read_json(path)
    path.write_text("{}")
    with pytest.raises(DataError, match="python -m vtexp resume"):
        run_job(config)
    for text in ("{", "[]"):
        path.write_text(text)
        run_job(config)
        made = files.read_json(path)
        assert (made["accuracy"], made["samples_fingerprint"]) == (
            whole["accuracy"], whole["samples_fingerprint"]
        )  # fmt: skip


def test_two_jobs_may_not_make_one_run(make_config: MakeConfig) -> None:
    config = make_config("knob.sizes=[336x336]")
    with pytest.raises(ConfigError, match="the same run"):
        prepare.prepare_jobs([["tracking=none"], ["tracking=wandb"]], lambda _: config, named=True)


def test_a_disk_that_takes_nothing_is_one_line(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(VtexpError, match=r"file/sweep/.* cannot be written"):
        run_without_report(make_config(f"sweep.folder={tmp_path}/file"))
