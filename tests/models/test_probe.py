"""Hooks against closed forms, on images of different shapes in one batch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import dispatch_model
from PIL import Image

from tests.helpers.closeness import assert_close_to_spread
from vtexp.budget.geometry import MOLMO, Size, Tiling, image_tiling, theoretical_tokens
from vtexp.budget.knobs import CropSetting, KnobValue
from vtexp.config.schema import HardwareConfig
from vtexp.data.sample import ImageFile, Sample
from vtexp.errors import CountMismatchError, DataError, VtexpError
from vtexp.models.checkpoints import find_checkpoint
from vtexp.models.molmo import vision
from vtexp.models.molmo.runner import MolmoRunner
from vtexp.models.probe import Probe

SHAPES = [(300, 300), (300, 900), (700, 400), (1000, 1000)]


@pytest.fixture(scope="module")
def runner(small_checkpoint: Path) -> MolmoRunner:
    return MolmoRunner.load(find_checkpoint(str(small_checkpoint)), MOLMO, HardwareConfig())


@pytest.fixture(scope="module")
def samples(draw_noise: Callable[[list[tuple[int, int]]], list[Sample]]) -> list[Sample]:
    return draw_noise(SHAPES)


def measured(probe: Probe, runner: MolmoRunner, batch: list[Sample], setting: CropSetting):
    prepared = [runner.prepare(sample, setting, "easy_vqa") for sample in batch]
    return runner.answer(prepared, 3), probe.take()


@pytest.mark.parametrize("full", [False, True])
def test_mixed_tilings_in_one_batch(runner: MolmoRunner, samples: list[Sample], full: bool) -> None:
    setting = KnobValue("max_crops", "12", force_full_tokens=full).crop_setting(MOLMO)
    with runner.probe() as probe:
        together, counts = measured(probe, runner, samples, setting)
        alone = [measured(probe, runner, [sample], setting) for sample in samples]
    tilings = [image_tiling(Size(*shape), 12) for shape in SHAPES]
    assert len(set(tilings)) == len(SHAPES)  # else the test shows less than it says
    for count, tiling in zip(counts, tilings, strict=True):
        rows, cols = 8 * tiling.rows + 4, 8 * tiling.cols + 4
        tokens = theoretical_tokens(tiling.num_crops) if full else 144 + rows * cols
        assert count[:3] == (tiling.num_crops, tokens, tiling)
    assert counts == [count for _, (count,) in alone]
    assert together == [answer for (answer,), _ in alone]


def test_hooks_are_gone_afterwards(runner: MolmoRunner) -> None:
    with runner.probe():
        pass
    assert not any(module._forward_hooks for module in runner.model.modules())


def test_encoding_more_crops_than_used_is_noticed(
    runner: MolmoRunner, samples: list[Sample]
) -> None:
    setting = CropSetting(1)
    with runner.probe() as probe:
        prepared = runner.prepare(samples[0], setting, "easy_vqa")
        runner.model.encode_images(prepared.image.patches, prepared.image.padding_mask)
        runner.answer([prepared], 1)
        with pytest.raises(CountMismatchError, match="read 4 crops, but 2 gave vision tokens"):
            probe.take()
        with pytest.raises(CountMismatchError, match="no image"):
            probe.take()


def test_tiling_is_read_from_the_prompt(runner: MolmoRunner, samples: list[Sample]) -> None:
    """2x3 and 3x2 have equally many crops and tokens: only rows and columns tell them apart."""
    seen = []
    for size in ("560x784", "784x560"):
        setting = KnobValue("image_size", size, "stretch").crop_setting(MOLMO)
        with runner.probe() as probe:
            seen.append(measured(probe, runner, samples[:1], setting)[1][0])
    assert [count.tiling for count in seen] == [Tiling(2, 3), Tiling(3, 2)]
    assert seen[0].vision_tokens == seen[1].vision_tokens


def test_timed_prefill_gives_the_first_token_of_the_answer(
    runner: MolmoRunner, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timed path computes what the answering path computes."""
    setting = CropSetting(6)
    logits: list[torch.Tensor] = []
    handle = runner.model.register_forward_hook(lambda *args: logits.append(args[2].logits))
    runner.timed_prefill(samples[1], setting, "easy_vqa")
    handle.remove()
    answer = runner.answer([runner.prepare(samples[1], setting, "easy_vqa")], 1)
    assert len(logits) == 1
    assert int(logits[0][0, -1].argmax()) == answer[0][0]


@pytest.mark.slow
def test_compiled_blocks_compute_the_same_and_are_shared(
    small_checkpoint: Path, tmp_path: Path, samples: list[Sample]
) -> None:
    """Through the product's path, with more layers than a function may be compiled times: code of
    its own for each layer would be refused."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    folder = tmp_path / "deep"
    shutil.copytree(small_checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    config["num_hidden_layers"] = 16 + 2
    (folder / "config.json").write_text(json.dumps(config))
    checkpoint = find_checkpoint(str(folder), random=True)
    eager, compiled = (
        MolmoRunner.load(checkpoint, MOLMO, HardwareConfig(compile=chosen))
        for chosen in (False, True)
    )
    assert torch._dynamo.config.fail_on_recompile_limit_hit
    assert torch._dynamo.config.recompile_limit < config["num_hidden_layers"]
    setting = KnobValue("max_crops", "4").crop_setting(MOLMO)
    with eager.probe() as eager_probe:
        expected = measured(eager_probe, eager, samples, setting)
    with compiled.probe() as probe:
        assert measured(probe, compiled, samples, setting) == expected
        for sample in samples:
            compiled.timed_prefill(sample, setting, "easy_vqa")
        # All kinds of shapes that a run has: one prompt, equal ones, padded ones.
        for batch in ([0, 1], [0, 0], [0], [2], [1, 2, 3], [1, 1, 1]):
            prepared = [compiled.prepare(samples[i], setting, "easy_vqa") for i in batch]
            assert compiled.answer(prepared, 4) == eager.answer(prepared, 4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


def test_a_model_in_parts_computes_the_same(
    runner: MolmoRunner, small_checkpoint: Path, samples: list[Sample]
) -> None:
    """accelerate's hooks around each part, as with `hardware.sharded`; all parts on the CPU."""
    spread = MolmoRunner.load(find_checkpoint(str(small_checkpoint)), MOLMO, HardwareConfig())
    parts = [
        *(f"model.transformer.{name}" for name in ("wte", "blocks", "ln_f", "ff_out")),
        "model.vision_backbone",
    ]
    dispatch_model(spread.model, dict.fromkeys(parts, "cpu"), main_device="cpu", force_hooks=True)
    setting = KnobValue("max_crops", "4").crop_setting(MOLMO)
    with runner.probe() as probe:
        expected = measured(probe, runner, samples, setting)
    with spread.probe() as probe:
        assert measured(probe, spread, samples, setting) == expected
        spread.timed_prefill(samples[0], setting, "easy_vqa")
        assert probe.take() == expected[1][:1]


def test_published_generation_settings_are_not_used(
    runner: MolmoRunner, small_checkpoint: Path, tmp_path: Path, samples: list[Sample]
) -> None:
    folder = tmp_path / "other"
    shutil.copytree(small_checkpoint, folder)
    setting = CropSetting(2)
    prepared = [runner.prepare(sample, setting, "easy_vqa") for sample in samples]
    answers = runner.answer(prepared, 3)
    unwanted = {"suppress_tokens": [answers[0][0]], "repetition_penalty": 9.0, "num_beams": 3}
    (folder / "generation_config.json").write_text(json.dumps(unwanted))
    other = MolmoRunner.load(find_checkpoint(str(folder)), MOLMO, HardwareConfig())
    assert other.answer(prepared, 3) == answers


def test_numbers_that_are_none_are_not_measured(
    small_checkpoint: Path, samples: list[Sample]
) -> None:
    broken = MolmoRunner.load(find_checkpoint(str(small_checkpoint)), MOLMO, HardwareConfig())
    broken.model.model.transformer.ln_f.weight.fill_(torch.inf)
    with pytest.raises(VtexpError, match=r"as torch\.float32"):
        broken.timed_prefill(samples[0], CropSetting(1), "easy_vqa")


def test_pooling_in_parts_is_pooling(
    runner: MolmoRunner, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for more crops than CUDA's kernels take at once."""
    image = runner.prepare(samples[3], CropSetting(4), "easy_vqa").image
    whole = runner.model.encode_images(image.patches, image.padding_mask)
    monkeypatch.setattr(vision, "MOST_POOLED", 100)
    parts = runner.model.encode_images(image.patches, image.padding_mask)
    assert_close_to_spread(parts, whole)


def test_damaged_image_names_its_file(runner: MolmoRunner, tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    Image.fromarray(np.zeros((100, 100, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:60])
    sample = Sample("s", "i", ImageFile(path), "q", ("a",), "t")
    with pytest.raises(DataError, match=r"cut\.png: the image"):
        runner.prepare(sample, CropSetting(1), "easy_vqa")
    with pytest.raises(DataError, match=r"gone\.png: no such"):
        Sample("s", "i", ImageFile(tmp_path / "gone.png"), "q", ("a",), "t").image_size()
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match=r"text\.png: not a"):
        Sample("s", "i", ImageFile(tmp_path / "text.png"), "q", ("a",), "t").image_size()
