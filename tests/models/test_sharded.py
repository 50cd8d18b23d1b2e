"""Models in parts: on several GPUs, and on one that holds all of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import infer_auto_device_map

from tests.cost.test_arithmetic import save_small
from vtexp.data.sample import ImageFile, Sample
from vtexp.errors import CheckpointError
from vtexp.models import loading
from vtexp.models.checkpoints import find_checkpoint
from vtexp.models.molmo.configuration import MolmoConfig
from vtexp.models.molmo.modeling import MolmoForCausalLM


@pytest.mark.slow
@pytest.mark.parametrize("family", ["molmo", "molmoe", "molmo2", "internvl", "qwen2_5_vl"])
def test_all_passes_go_from_device_to_device(
    family: str,
    small_checkpoint: Path,
    tmp_path: Path,
    draw_noise: Callable[[list[tuple[int, int]]], list[Sample]],
) -> None:
    """And give what the model on one device gives."""
    (sample,) = draw_noise([(300, 500)])
    assert isinstance(sample.image, ImageFile)
    folder = tmp_path / family
    save_small(family, small_checkpoint, folder, num_hidden_layers=4)
    command = ["-m", "tests.helpers.two_devices", family, str(folder), str(sample.image.path)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) >= 20  # ten passes or more, each a prefill and answers
    assert {name: said for name, said in found.items() if said} == {}


@pytest.mark.parametrize("share", [0.5, 0.6, 0.7, 0.8, 0.9])
def test_the_vision_backbone_is_on_one_gpu(small_checkpoint: Path, share: float) -> None:
    """By accelerate's own map, however little the first GPU holds."""
    config = MolmoConfig.from_pretrained(small_checkpoint)
    config.num_hidden_layers = 12
    config.vision_backbone |= {"image_num_layers": 4}
    with torch.device("meta"):
        model = MolmoForCausalLM(config)
    size = sum(own.numel() * own.element_size() for own in model.parameters())
    memory = {0: int(share * size), 1: 2 * size}
    placed = infer_auto_device_map(model, memory, list(model._no_split_modules))
    assert set(placed.values()) == {0, 1}
    assert len({gpu for part, gpu in placed.items() if "vision_backbone" in part}) == 1


def test_weights_on_the_host_are_refused(small_checkpoint: Path) -> None:
    """Without a GPU, accelerate leaves all of them there."""
    checkpoint = find_checkpoint(str(small_checkpoint))
    if torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    with pytest.raises(CheckpointError, match="visible GPUs cannot hold the weights"):
        loading.load_model(checkpoint, MolmoForCausalLM, "cpu", "float32", sharded=True)
