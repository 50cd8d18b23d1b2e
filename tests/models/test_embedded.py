"""The embedded default: what ships is small, in the published format, and has learned its task."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.helpers.sweeps import HARDLY_TIMED, run_without_report
from vtexp.config.schema import Config
from vtexp.data.builtin import easy_vqa
from vtexp.models.checkpoints import ASSETS, read_model_config
from vtexp.utils import files

MakeConfig = Callable[..., Config]


def test_data_set_is_the_published_one() -> None:
    samples = {split: easy_vqa.load(split) for split in easy_vqa.SPLITS}
    assert {split: len(found) for split, found in samples.items()} == {"train": 38575, "test": 9673}
    images = {split: {str(s.image) for s in found} for split, found in samples.items()}
    assert {split: len(found) for split, found in images.items()} == {"train": 4000, "test": 1000}
    assert not images["train"] & images["test"]
    assert {s.image_size() for s in samples["test"][:50]} == {(64, 64)}


def test_checkpoint_is_small_and_in_the_published_layout() -> None:
    folder = ASSETS / "molmo_tiny"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10e6
    config = read_model_config(folder / "config.json")
    assert config["qkv_bias"] and not config["norm_after"]  # the flags of 7B-D
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        shapes = {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
        types = {weights.get_slice(name).get_dtype() for name in shapes}
    assert types == {"F16"}
    parameters = sum(math.prod(shape) for shape in shapes.values())
    assert 1e6 < parameters < 5e6
    assert "model.transformer.blocks.0.att_proj.weight" in shapes
    assert "model.vision_backbone.image_vit.transformer.resblocks.0.attention.wq.weight" in shapes


@pytest.mark.slow
def test_held_out_accuracy(make_config: MakeConfig, tmp_path: Path) -> None:
    """Measured by the framework; more questions are in the model card."""
    run_without_report(
        make_config(
            "model.path=embedded:molmo_tiny", "knob.sizes=[336x336,784x784]", "dataset.limit=40",
            *HARDLY_TIMED,
        )
    )  # fmt: skip
    results = [files.read_json(path) for path in (tmp_path / "sweep").glob("*/result.json")]
    assert {result["knob_value"] for result in results} == {"336x336", "784x784"}
    for result in results:
        assert result["accuracy"] >= 0.95
        assert set(result["accuracy_by_question_type"]) == {"color", "shape", "yes/no"}


@pytest.mark.slow
def test_more_crops_read_more_print(make_config: MakeConfig, tmp_path: Path) -> None:
    """What the embedded default is for; 1 200 questions are in the model card."""
    run_without_report(
        make_config(
            "model.path=embedded:molmo_tiny", "dataset=small_print", "dataset.limit=48",
            "knob=max_crops", "knob.max_crops=[1,4,9]", *HARDLY_TIMED,
        )
    )  # fmt: skip
    results = [files.read_json(path) for path in (tmp_path / "sweep").glob("*/result.json")]
    accuracy = {result["knob_value"]: result["accuracy"] for result in results}
    assert accuracy["4"] - accuracy["1"] > 0.1
    assert accuracy["9"] - accuracy["4"] > 0.05
    folder = next((tmp_path / "sweep").glob("max_crops-1_*"))
    rows = files.read_jsonl(folder / files.SAMPLES)
    large, small = (
        [row["score"] for row in rows if (row["print_px"] > 18) == is_large]
        for is_large in (True, False)
    )
    assert sum(large) / len(large) > sum(small) / len(small) + 0.2
