"""FLOPs of reduced prefills against torch's own counter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.cost.test_arithmetic import arithmetic_of, counter, save_small
from tests.models.test_families import SMALL
from vtexp.budget.geometry import MOLMO, Tiling, token_layout
from vtexp.budget.knobs import CropSetting
from vtexp.budget.reduction import Reduction
from vtexp.config.schema import HardwareConfig
from vtexp.cost.architectures import model_arithmetic
from vtexp.cost.prompts import PromptCounts
from vtexp.data.sample import Sample
from vtexp.models.checkpoints import find_checkpoint
from vtexp.models.molmo.runner import MolmoRunner
from vtexp.models.runner import Runner
from vtexp.models.runners import runner_class

Draw = Callable[[list[tuple[int, int]]], list[Sample]]


METHODS = [
    ("stride", False),
    ("pool", False),
    ("max_min", False),
    ("cls_attention", False),
    ("cls_attention", True),
    ("conditional", False),
]


@pytest.mark.parametrize("structure", ["keep", "drop"])
@pytest.mark.parametrize(("method", "merge"), METHODS)
@torch.inference_mode()
def test_flops_are_those_that_torch_counts(
    small_checkpoint: Path, draw_noise: Draw, method: str, merge: bool, structure: str
) -> None:
    checkpoint = find_checkpoint(str(small_checkpoint))
    runner = MolmoRunner.load(checkpoint, MOLMO, HardwareConfig())
    asked = Reduction(method, kept=70, merge=merge, structure_tokens=structure)
    prepared = runner.prepare(
        draw_noise([(300, 500)])[0], CropSetting(2, reduction=asked), "easy_vqa"
    )
    inputs = runner.inputs([prepared])
    connected = runner.encode(inputs)
    with counter() as scoring:
        reduced = runner.reduce(inputs, connected)
    with counter() as llm:
        runner.prefill(inputs, reduced)
    arithmetic = model_arithmetic(checkpoint.config, MOLMO)
    assert arithmetic is not None
    counts = PromptCounts(2, 70, prepared.sequence_length, Tiling(1, 2), 384, asked)
    found = arithmetic.flops(counts)
    assert found["reduction"] == scoring.get_total_flops()
    assert found["llm_prefill"] == llm.get_total_flops()


@pytest.fixture(scope="module", params=SMALL)
def native(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """InternVL, Qwen2.5-VL and Molmo2, small."""
    folder = tmp_path_factory.mktemp("checkpoints") / request.param
    save_small(request.param, folder, folder)
    checkpoint = find_checkpoint(str(folder))
    geometry = checkpoint.family.geometry_of(checkpoint.config)
    return runner_class(checkpoint.family).load(checkpoint, geometry, HardwareConfig())


@pytest.mark.parametrize(("method", "merge"), METHODS)
@torch.inference_mode()
def test_flops_of_other_families_are_those_that_torch_counts(
    native: Runner, draw_noise: Draw, method: str, merge: bool
) -> None:
    structure = "drop" if method == "stride" else "keep"
    asked = Reduction(method, kept=70, merge=merge, structure_tokens=structure)
    (sample,) = draw_noise([(300, 600)])
    qwen = native.geometry.tiling_rule == "pixels"
    setting = CropSetting(300 if qwen else 2, fit="stretch", reduction=asked)
    tiling = setting.tiling(sample.image_size(), native.geometry)
    prepared = native.prepare(sample, setting, "easy_vqa")
    inputs = native.inputs([prepared])
    with counter() as vision:
        encoded = native.encode(inputs)
    with counter() as scoring:
        reduced = native.reduce(inputs, encoded)
    with counter() as llm:
        native.prefill(inputs, reduced)
    layout = token_layout(tiling, native.geometry)
    counts = PromptCounts(
        tiling.num_crops, 70, prepared.sequence_length, tiling, layout.vision_tokens, asked
    )
    found = arithmetic_of(native).flops(counts)
    assert found["reduction"] == scoring.get_total_flops()
    assert found["llm_prefill"] == llm.get_total_flops()
    assert found["vision_encoder"] + found["connector"] == vision.get_total_flops()


@pytest.mark.parametrize("structure", ["keep", "drop"])
@pytest.mark.parametrize("variant", ["molmo_d", "molmo_o", "molmoe"])
@torch.inference_mode()
def test_flops_of_tokens_that_leave_within_the_language_model(
    small_checkpoint: Path, draw_noise: Draw, tmp_path: Path, variant: str, structure: str
) -> None:
    save_small(variant, small_checkpoint, tmp_path / variant, num_hidden_layers=4)
    checkpoint = find_checkpoint(str(tmp_path / variant))
    runner = MolmoRunner.load(checkpoint, MOLMO, HardwareConfig())
    asked = Reduction("early_layer", kept=70, structure_tokens=structure, layer=3)
    prepared = runner.prepare(
        draw_noise([(300, 500)])[0], CropSetting(2, reduction=asked), "easy_vqa"
    )
    inputs = runner.inputs([prepared])
    connected = runner.encode(inputs)
    with counter() as llm:
        early = runner.read_early(inputs, connected)
    with counter() as scoring:
        late = runner.reduce(inputs, early)
    with counter() as rest:
        runner.prefill(inputs, late)
    arithmetic = model_arithmetic(checkpoint.config, MOLMO)
    assert arithmetic is not None
    whole = len(prepared.input_ids)
    counts = PromptCounts(
        2, (3 * 384 + 70) / 4, whole, Tiling(1, 2), 384, asked, whole - prepared.dropped
    )
    found = arithmetic.flops(counts)
    assert found["reduction"] == scoring.get_total_flops()
    assert found["llm_prefill"] == llm.get_total_flops() + rest.get_total_flops()
    kept = early.cache.kept
    values = sum(part.numel() for pair in kept for part in pair)
    memory, more = arithmetic.memory(counts, "float32"), arithmetic.memory(counts, "float32", 1, 5)
    assert memory.cache == 4 * values
    assert more.cache - memory.cache == 4 * 5 * arithmetic.llm.cache_values
