"""FLOPs of reduced prefills against torch's own counter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.cost.test_arithmetic import counter
from vtexp.budget.geometry import MOLMO, Tiling
from vtexp.budget.knobs import CropSetting
from vtexp.budget.reduction import Reduction
from vtexp.config.schema import HardwareConfig
from vtexp.cost.architectures import model_arithmetic
from vtexp.cost.flops import PromptCounts
from vtexp.data.sample import Sample
from vtexp.models.checkpoints import find_checkpoint
from vtexp.models.molmo.runner import MolmoRunner

Draw = Callable[[list[tuple[int, int]]], list[Sample]]


@pytest.mark.parametrize("structure", ["keep", "drop"])
@pytest.mark.parametrize(
    ("method", "merge"),
    [
        ("stride", False),
        ("pool", False),
        ("max_min", False),
        ("cls_attention", False),
        ("cls_attention", True),
        ("conditional", False),
    ],
)
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
