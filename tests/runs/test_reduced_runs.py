"""Runs with a token reduction: planned as they are measured, recorded, and refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.helpers.sweeps import run_without_report
from vtexp.analysis.rows import collect
from vtexp.config.schema import Config
from vtexp.cost.architectures import model_arithmetic
from vtexp.errors import ConfigError, VtexpError
from vtexp.models.molmo import early
from vtexp.runs.frozen import thaw
from vtexp.runs.plan import make_plan
from vtexp.runs.records import read_samples
from vtexp.utils import files

MakeConfig = Callable[..., Config]
KNOB = ("knob=kept_tokens", "knob.max_crops=[4]")


@pytest.mark.parametrize(
    ("asked", "tokens"),
    [("knob.kept=[100,40]", [40, 100]), ("knob.keep_ratio=[0.25]", [72])],
)
def test_a_run_keeps_what_was_planned(
    make_config: MakeConfig, tmp_path: Path, asked: str, tokens: list[int]
) -> None:
    config = make_config(*KNOB, "reduction=stride", "reduction.structure_tokens=drop", asked)
    plan = make_plan(config)
    run_without_report(config)
    runs = collect(tmp_path / "sweep")
    assert [run.found.measured_vision_tokens for run in runs] == tokens
    planned = {run.label: run for run in plan.runs}
    for run in runs:
        own, found = planned[run.label], run.found
        assert found.reduction == "stride" and found.latency["reduction_ms"].mean > 0
        assert found.sequence_length == pytest.approx(sum(own.prompt_lengths) / 6)
        arithmetic = model_arithmetic(plan.checkpoint.config, plan.geometry)
        assert arithmetic is not None and found.flops is not None
        (counts, *_) = own.prompts
        assert counts.connected == 288 and counts.vision_tokens == run.vision_tokens
        assert found.flops["connector"] == arithmetic.connector.flops(288)
        assert thaw([run.folder]).knob_values[0] == own.value


def test_early_and_late_blocks_are_counted_apart(make_config: MakeConfig, tmp_path: Path) -> None:
    """Two blocks, of which the first reads all: 288 tokens, then as many as are asked for."""
    config = make_config(*KNOB, "reduction=early_layer", "reduction.layer=1", "knob.kept=[40,400]")
    plan = make_plan(config)
    run_without_report(config)
    kept, whole = collect(tmp_path / "sweep")
    assert whole.found.measured_vision_tokens == 288
    assert whole.found.measured_early_vision_tokens == 288
    assert whole.found.measured_late_vision_tokens == 288
    found, (own,) = kept.found, [run for run in plan.runs if run.label == kept.label]
    assert found.measured_vision_tokens == found.actual_vision_tokens == (288 + 40) / 2
    assert (found.measured_early_vision_tokens, found.measured_late_vision_tokens) == (288, 40)
    assert own.predicted_vision_tokens == found.measured_vision_tokens
    assert found.target_vision_tokens == 40 and found.reduction_layer == 1
    for row in read_samples(kept.folder / files.SAMPLES):
        counts = row.measured_early_vision_tokens, row.measured_late_vision_tokens
        assert counts == (288, 40) and row.measured_vision_tokens == 164
    assert found.latency["reduction_ms"].mean > 0
    assert found.sequence_length == whole.found.sequence_length  # of the first block
    arithmetic = model_arithmetic(plan.checkpoint.config, plan.geometry)
    assert arithmetic is not None and found.flops is not None and own.memory is not None
    (counts, *_) = own.prompts
    assert counts.late_length == counts.sequence_length - 248
    assert found.flops["reduction"] > 0
    assert found.flops["llm_prefill"] < (whole.found.flops or {})["llm_prefill"]
    bytes_saved = 4 * 248 * arithmetic.llm.cache_values // 2
    (other,) = [run.memory for run in plan.runs if run is not own]
    assert other is not None and other.cache - own.memory.cache == bytes_saved
    assert thaw([kept.folder]).knob_values[0] == own.value


def test_a_count_in_a_late_block_that_was_not_asked_for_fails(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early, "early_layer", lambda scores, k: torch.arange(k + 1))
    config = make_config(*KNOB, "reduction=early_layer", "reduction.layer=1", "knob.kept=[40]")
    with pytest.raises(VtexpError, match="41"):
        run_without_report(config)


def test_blocks_that_read_all_are_some_but_not_all(make_config: MakeConfig) -> None:
    for layer in (2, 3):  # of two blocks
        with pytest.raises(ConfigError, match=r"reduction\.layer") as caught:
            make_plan(make_config(*KNOB, "reduction=early_layer", f"reduction.layer={layer}"))
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_series_are_named_by_what_is_no_default(make_config: MakeConfig, tmp_path: Path) -> None:
    early_layer = ("reduction=early_layer", "knob.kept=[40]")
    for own in (
        ("reduction=resize", "knob.kept=[288]"),
        (*early_layer, "reduction.layer=1"),
        (*early_layer, "reduction.layer=1", "reduction.positions=renumber"),
    ):
        run_without_report(make_config(*KNOB, *own))
    names = [run.settings for run in collect(tmp_path / "sweep")]
    assert names == [
        "reduction=early_layer, reduction.layer=1",
        "reduction=early_layer, reduction.layer=1, reduction.positions=renumber",
        "reduction=resize",
    ]


def test_resizing_is_no_stage(make_config: MakeConfig, tmp_path: Path) -> None:
    run_without_report(make_config(*KNOB, "reduction=resize", "knob.kept=[288]"))
    (run,) = collect(tmp_path / "sweep")
    assert run.found.measured_vision_tokens == 288 and "reduction_ms" not in run.found.latency


def test_all_kept_has_the_inputs_of_the_plain_run(make_config: MakeConfig) -> None:
    reduced = make_plan(make_config(*KNOB, "reduction=max_min", "knob.kept=[288,1000,64]")).runs
    (plain,) = make_plan(make_config("knob=max_crops", "knob.max_crops=[4]")).runs
    prints = [run.inputs_fingerprint for run in reduced]
    assert prints[0] == prints[1] == plain.inputs_fingerprint != prints[2]


def test_methods_and_their_settings_are_runs_of_their_own(make_config: MakeConfig) -> None:
    asked = [
        ("reduction=max_min",), ("reduction=random",), ("reduction=random", "reduction.seed=1"),
        ("reduction=cls_attention",), ("reduction=cls_attention", "reduction.merge=true"),
        ("reduction=stride", "reduction.positions=keep"), ("reduction=stride",),
        ("reduction=stride", "knob.max_crops=[5]"),
        ("reduction=early_layer",), ("reduction=early_layer", "reduction.layer=3"),
    ]  # fmt: skip
    configs = [make_config(*KNOB, "knob.kept=[64]", *own) for own in asked]
    ids = [config.run_id(config.knob_values[0], "weights") for config in configs]
    assert len(set(ids)) == len(ids)
    seeded = make_config(*KNOB, "knob.kept=[64]", "reduction=stride", "reduction.seed=1")
    assert seeded.run_id(seeded.knob_values[0], "weights") == ids[6]  # stride draws nothing


def test_ids_are_those_of_before_early_layer(make_config: MakeConfig) -> None:
    """The key `layer` came later: it stands in no other method's identity."""
    config = make_config(*KNOB, "reduction=pool", "knob.kept=[32]")
    (value,) = config.knob_values
    assert value.reduction is not None and "layer" not in value.reduction.plain()
    early = make_config(*KNOB, "reduction=early_layer", "knob.kept=[32]").knob_values[0]
    deeper = make_config(*KNOB, "reduction=early_layer", "knob.kept=[32]", "reduction.layer=1")
    assert early.reduction is not None and early.reduction.plain()["layer"] == 2
    ids = {config.run_id(own, "w") for own in (value, early, deeper.knob_values[0])}
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("knob=kept_tokens",), "max_min"),
        (("reduction=pool",), "knob=kept_tokens"),
        (("knob=kept_tokens", "reduction=python"), "module:function"),
        (("knob=kept_tokens", "reduction=pool", "knob.max_crops=[1,2]"), "one cap"),
        ((*KNOB, "reduction=resize", "force_full_tokens=true"), "force_full_tokens"),
        ((*KNOB, "reduction=pool", "knob.kept=[0]"), "knob.kept"),
    ],
)
def test_what_does_not_fit_is_one_line(
    make_config: MakeConfig, overrides: tuple[str, ...], says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        make_config(*overrides)
    assert "\n" not in str(caught.value)
