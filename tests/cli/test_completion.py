"""Completion in real shells: what a user types and presses Tab behind."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vtexp.cli import complete, main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where `vtexp` is a command, and one sweep is there."""
    script = tmp_path / "bin" / "vtexp"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m vtexp "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "outputs" / "my-sweep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_and_shell_is_completed() -> None:
    parser = main._parser()
    listed = next(action.choices for action in parser._actions if action.choices)
    assert set(main.COMMANDS) == set(listed)
    assert set(main.SHELLS) == set(complete.SCRIPTS)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("vtexp la", ["launch"]),
        ("vtexp ", main.COMMANDS),
        ("vtexp report my", ["my-sweep"]),
        ("vtexp wait ", ["my-sweep"]),
        ("vtexp datasets ", ["show"]),
        ("vtexp datasets show small", ["small_print"]),
        ("vtexp launch dataset=small", ["dataset=small_print"]),
        ("vtexp launch -m dataset=small_print measure.late",
         ["measure.latency_repeats=", "measure.latency_samples="]),
        ("vtexp launch --config-dir x hardware=cp", ["hardware=cpu"]),
    ],
)  # fmt: skip
def test_candidates(path: Path, line: str, found: list[str]) -> None:
    made = subprocess.run(["vtexp", "complete", line], capture_output=True, text=True)
    assert made.stdout.split() == found, made.stderr


def need(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")


@pytest.mark.slow
def test_bash(path: Path) -> None:
    script = """
eval "$(vtexp completion bash)"
COMP_LINE='vtexp launch dataset=small' COMP_POINT=26
COMP_WORDS=(vtexp launch dataset = small) COMP_CWORD=4
_vtexp; echo "${COMPREPLY[@]}"
COMP_LINE='vtexp rep' COMP_POINT=9 COMP_WORDS=(vtexp rep) COMP_CWORD=1
_vtexp; echo "${COMPREPLY[@]}"
"""
    made = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert made.stdout.split() == ["small_print", "report"]


@pytest.mark.slow
def test_fish(path: Path) -> None:
    need("fish")
    script = "vtexp completion fish | source; complete -C 'vtexp launch dataset=small'"
    made = subprocess.run(["fish", "-c", script], capture_output=True, text=True)
    assert made.stdout.split() == ["dataset=small_print"], made.stderr


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_tab_is_pressed(path: Path, shell: str) -> None:
    need(shell)
    quiet = ["bash", "--norc", "-i"] if shell == "bash" else ["zsh", "-f", "-i"]
    process, terminal = pty.fork()
    if process == 0:
        os.environ["TERM"] = "dumb"
        os.execvp(quiet[0], quiet)
    os.write(terminal, f'eval "$(vtexp completion {shell})"; echo re""ady\n'.encode())
    seen = until(terminal, "ready\r\n")
    os.write(terminal, b"vtexp launch dataset=small_pr\t")
    seen += until(terminal, "small_print")
    os.close(terminal)
    os.waitpid(process, 0)
    assert "dataset=small_print" in seen


def until(terminal: int, wanted: str, seconds: float = 90) -> str:
    """What a terminal shows until some text."""
    seen, began = "", time.monotonic()
    while wanted not in seen and time.monotonic() - began < seconds:
        seen += os.read(terminal, 4096).decode(errors="replace")
    return seen
