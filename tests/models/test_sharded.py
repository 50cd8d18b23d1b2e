"""Models in parts: on several GPUs, and on one that holds all of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vtexp.data.sample import Sample
from vtexp.errors import CheckpointError
from vtexp.models import loading
from vtexp.models.checkpoints import find_checkpoint
from vtexp.models.molmo.modeling import MolmoForCausalLM


@pytest.mark.slow
def test_all_passes_go_from_device_to_device(
    small_checkpoint: Path, draw_noise: Callable[[list[tuple[int, int]]], list[Sample]]
) -> None:
    (sample,) = draw_noise([(300, 500)])
    command = ["-m", "tests.helpers.two_devices", str(small_checkpoint), str(sample.image.path)]  # type: ignore[union-attr]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) > 8 and set(found.values()) == {""}, found


def test_weights_on_the_host_are_refused(small_checkpoint: Path) -> None:
    """Without a GPU, accelerate leaves all of them there."""
    checkpoint = find_checkpoint(str(small_checkpoint))
    if torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    with pytest.raises(CheckpointError, match="visible GPUs cannot hold the weights"):
        loading.load_model(checkpoint, MolmoForCausalLM, "cpu", "float32", sharded=True)
