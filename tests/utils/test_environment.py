"""Locks, and which process is which."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vtexp.errors import VtexpError
from vtexp.utils.environment import process_started
from vtexp.utils.files import locked


def _count(folder: str) -> None:
    """Add one to a number in a file, slowly."""
    path = Path(folder) / "number"
    for _ in range(5):
        with locked(Path(folder) / "jobs" / ".lock"):
            number = int(path.read_text())
            time.sleep(0.01)
            path.write_text(str(number + 1))


def test_one_process_at_a_time_holds_a_lock(tmp_path: Path) -> None:
    (tmp_path / "number").write_text("0")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_count, args=(str(tmp_path),)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "number").read_text() == "15"


def test_a_lock_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path / "lock"):
        raise KeyError
    with locked(tmp_path / "lock"):
        pass


def test_a_lock_that_cannot_be_had_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(VtexpError, match="cannot be written") as caught,
        locked(tmp_path / "file" / "lock"),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_a_process_is_known_by_its_start() -> None:
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    mine, its = process_started(os.getpid()), process_started(other.pid)
    assert mine is not None and its is not None and mine != its
    # As the kernel counts it, asked for from another process.
    asked = "from vtexp.utils.environment import process_started as p; print(p({}))"
    said = subprocess.run(
        [sys.executable, "-c", asked.format(other.pid)], capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == its
    other.kill()
    while process_started(other.pid) is not None:  # dead, but not yet collected
        time.sleep(0.01)
    other.wait()
    assert process_started(other.pid) is None
