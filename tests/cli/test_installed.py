"""The installed package from a folder that is not the checkout, as users start it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import vtexp

CHECKOUT = Path(vtexp.__file__).parents[1]


@pytest.mark.parametrize("installed", ["by the installer", "by PYTHONPATH"])
def test_the_sweeper_is_found_from_any_folder(installed: str, tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if installed == "by PYTHONPATH":
        env["PYTHONPATH"] = str(CHECKOUT)
    code = (
        "import vtexp; print(vtexp.count_tokens('molmo_7b_d', max_crops=12, size=(900, 1200))"
        ".num_crops)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    if "No module named 'vtexp'" in found.stderr:
        pytest.skip("vtexp is not installed here")
    assert (found.returncode, found.stdout) == (0, "12\n"), found.stderr[-500:]


def test_a_launch_from_any_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vtexp", "launch", "-m", "knob.sizes=[336x336]"]
    env = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    found = subprocess.run(
        [*command, "plan=true", "tracking=none"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr[-500:]
    assert "336x336" in found.stdout
