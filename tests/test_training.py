"""The committed training script: seeded, resumable, writes a checkpoint that loads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vtexp.geometry import MOLMO
from vtexp.models.runner import MolmoRunner
from vtexp.train.__main__ import STAGES, stage_at


def train(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vtexp.train", "--out", str(out), "--steps", "4", *arguments]
    # One thread: sums in another order would make equal runs differ.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_resumed_training_is_the_same_training(tmp_path: Path) -> None:
    assert train(tmp_path / "whole").returncode == 0
    # Saved after step 3 and killed before the end: the state is on disk, the weights are not.
    code = (
        "import sys; sys.argv[1:] = sys.argv[1:]\n"
        "import vtexp.train.__main__ as t\n"
        "t.save_checkpoint = lambda *a: sys.exit(9)\n"
        "t.main()"
    )
    out = tmp_path / "resumed"
    arguments = ["--out", str(out), "--steps", "4", "--save-every", "3"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", code, *arguments], env=environment)
    assert killed.returncode == 9
    assert not (out / "model.safetensors").exists()
    assert train(out).returncode == 0

    whole, resumed = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "resumed"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not (out / "training_state.pt").exists()
    runner = MolmoRunner.load(out, MOLMO, "cpu", "float32")
    assert 1e6 < sum(p.numel() for p in runner.model.parameters()) < 5e6


def test_stages_cover_all_steps() -> None:
    names = [stage_at(step, 100)[0].name for step in range(100)]
    assert list(dict.fromkeys(names)) == [stage.name for stage in STAGES]
    assert names.count("see") == 30
    assert all(0 < stage_at(step, 100)[1] <= 1 for step in range(100))
