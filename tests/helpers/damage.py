"""What happens to a sweep's files, and made-up notes of its jobs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vtexp.config.choices import Launcher
from vtexp.runs.ledger import JOBS, SubmittedJob, note_submitted
from vtexp.utils import environment

Damage = Callable[[Path], object]


def half(path: Path) -> None:
    """Cut a file short."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def other_bytes(path: Path) -> None:
    """Put bytes into a file that no text has."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + b"\xff\0\xfe" + data[len(data) // 2 :])


def pipe(path: Path) -> None:
    """Put a pipe in place of a file: who opens it waits for its writer."""
    path.unlink()
    os.mkfifo(path)


def note(sweep: Path, runs: Sequence[str], host: str | None = None) -> Path:
    """Note an ended local job of these runs; its file."""
    job = SubmittedJob(tuple(runs), Launcher.local, "17", host=host or environment.host())
    note_submitted(sweep, [job])
    return max((sweep / JOBS).glob("*.json"))


def run_of(sweep: Path, value: str) -> Path:
    """The folder of a run by its knob's value."""
    return next(sweep.glob(f"image_size-{value}_*"))


def change(path: Path, **values: Any) -> None:
    """Put other values into a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
