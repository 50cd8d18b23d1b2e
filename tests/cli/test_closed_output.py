"""`vtexp COMMAND | head -1`: a reader that leaves early is no error; a full disk is one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.made_sweeps import make_run
from tests.helpers.sweeps import ROOT
from vtexp.cli.main import COMMANDS

#: Arguments of each command, and of what argparse and Hydra print by themselves.
TYPED = {
    **{name: [name, "made"] for name in ("status", "wait", "cancel", "resume", "report")},
    "status --json": ["status", "--json", "made"],
    "status --all": ["status", "--all", "made"],
    "sweeps": ["sweeps", "."],
    "sweeps --json": ["sweeps", ".", "--json"],
    "datasets": ["datasets"],
    "completion": ["completion", "bash"],
    "--help": ["--help"],
    "--version": ["--version"],
    "launch": ["launch", "plan=true", "dataset=easy_vqa"],
    "launch --help": ["launch", "--help"],
    "launch --cfg": ["launch", "--cfg", "job"],
    "importance --help": ["importance", "--help"],
}


def typed(arguments: list[str], folder: Path, output: int) -> subprocess.CompletedProcess[str]:
    """A command of vtexp in a folder, with a file descriptor as its standard output."""
    return subprocess.run(
        [sys.executable, "-m", "vtexp", *arguments],
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def test_every_command_is_tried() -> None:
    # One needs an account, the other answers questions for minutes.
    assert set(COMMANDS) - {"publish", "importance"} <= set(TYPED)


@pytest.mark.slow  # a process for each
@pytest.mark.parametrize("name", TYPED)
def test_a_closed_pipe_ends_a_command_without_a_word(name: str, tmp_path: Path) -> None:
    make_run(tmp_path / "made", "2", 288, [1.0], knob="max_crops")
    read, write = os.pipe()
    os.close(read)
    done = typed(TYPED[name], tmp_path, write)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["status --json", "sweeps"])
def test_output_that_is_cut_by_a_full_disk_is_an_error(name: str, tmp_path: Path) -> None:
    make_run(tmp_path / "made", "2", 288, [1.0], knob="max_crops")
    with Path("/dev/full").open("w") as full:
        done = typed(TYPED[name], tmp_path, full.fileno())
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1 and "No space left" in done.stderr
