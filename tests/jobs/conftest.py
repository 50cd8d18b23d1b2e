"""Fixtures of the tests of jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.damage import note
from tests.helpers.made_sweeps import make_run, unfinish


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A made-up sweep: a finished run `a`, a failed one `b`, and a note of the job of both."""
    folder = tmp_path / "sweep"
    first = make_run(folder, "a", 288, [1.0, 0.0, 1.0, 1.0])
    second = make_run(folder, "b", 400, [1.0, 0.0, 1.0, 1.0])
    unfinish(second, "no memory")
    note(folder, [first.name, second.name])
    return folder
