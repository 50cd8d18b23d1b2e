"""Products in float8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vtexp.budget.knobs import CropSetting
from vtexp.config.choices import Dtype
from vtexp.config.schema import HardwareConfig
from vtexp.data.sample import Sample
from vtexp.errors import ConfigError
from vtexp.models.checkpoints import find_checkpoint
from vtexp.models.devices import require_float8
from vtexp.models.molmo.float8 import LARGEST, Float8Linear, to_float8
from vtexp.models.molmo.runner import MolmoRunner

SETTING = CropSetting(12)


def test_float8_rows_are_off_by_half_a_step_of_the_type() -> None:
    rows = torch.randn(64, 256, generator=torch.Generator().manual_seed(0)) * torch.logspace(
        -6, 6, 64
    ).unsqueeze(1)
    rounded, scale = to_float8(rows)
    assert rounded.dtype == torch.float8_e4m3fn and scale.shape == (64, 1)
    back = rounded.float() * scale
    largest = rows.abs().amax(dim=1, keepdim=True)
    # Three bits behind the point: half a step is 1/16 of a value, and 2^-10 of the scale below it.
    bound = np.maximum(rows.abs() / 16, largest / LARGEST * 2**-10) * (1 + 1e-5)
    assert bool(((back - rows).abs() <= bound).all())
    zeros, scale = to_float8(torch.zeros(2, 16))
    assert bool((zeros.float() * scale == 0).all())


def test_float8_answers_have_caches_of_the_activations_type(
    small_checkpoint: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    def multiplied(layer: Float8Linear, x: torch.Tensor) -> torch.Tensor:
        rounded, scale = to_float8(x.flatten(0, -2))
        weight = layer.weight.float() * layer.scale.view(-1, 1)
        out = (rounded.float() * scale) @ weight.t()
        out = out if layer.bias is None else out + layer.bias.float()
        return out.to(x.dtype).view(*x.shape[:-1], -1)

    checkpoint = find_checkpoint(str(small_checkpoint))
    hardware = HardwareConfig(dtype=Dtype.bfloat16)
    float8 = MolmoRunner.load(checkpoint, checkpoint.family.geometry, hardware)
    float8.use_float8()
    monkeypatch.setattr(Float8Linear, "forward", multiplied)
    prepared = [float8.prepare(sample, SETTING, "easy_vqa") for sample in samples]
    answers = float8.answer(prepared, 4)
    assert len(answers) == len(samples) and all(answers)
    cache = next(iter(float8._answering._steps.values()))._cache
    assert {buffer.dtype for buffer in (*cache.keys, *cache.values)} == {torch.bfloat16}
    float8.forget_answers()
    assert not float8._answering._steps


def test_float8_is_refused_on_other_devices() -> None:
    for device in ("cpu", "cuda"):
        if device == "cpu" or not torch.cuda.is_available():
            with pytest.raises(ConfigError, match="Hopper"):
                require_float8(device)
