"""`vtexp sweeps`: lists the sweeps, newest first, with the state of each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from vtexp.errors import ConfigError, DataError
from vtexp.jobs.status import RunStatus, look_at
from vtexp.jobs.watch import summary
from vtexp.runs.folder import asked_of, frozen_at, is_sweep, run_folders
from vtexp.runs.ledger import read_submitted
from vtexp.utils.console import console, print_whole
from vtexp.utils.text import listed


@dataclass(frozen=True)
class SweepSummary:
    """A sweep in a list: when it was first submitted, and its runs.

    `error`: why nothing is known of its runs, where it or its notes of jobs cannot be read.
    """

    folder: Path
    began: datetime
    statuses: list[RunStatus]
    error: str | None = None

    @property
    def state(self) -> str:
        """What the sweep needs: nothing (done), time (running, queued), or its user."""
        if self.error is not None:
            return "unreadable"
        states = {status.state for status in self.statuses}
        order = ("running", "queued", "waiting", "unknown", "lost", "failed", "missing", "done")
        return next(state for state in order if state in states)

    def values(self, key: str) -> list[str]:
        """What its runs have of a key of `planned.json`, each once."""
        asked = [asked_of(status.folder) for status in self.statuses]
        return sorted({str(getattr(own, key)) for own in asked if own is not None})

    def plain(self) -> dict[str, Any]:
        """As JSON takes it."""
        states = [status.state for status in self.statuses]
        counts = {state: states.count(state) for state in dict.fromkeys(states)}
        return {
            "sweep": self.folder.name,
            "folder": str(self.folder),
            "began": self.began.isoformat(timespec="seconds"),
            "state": self.state,
            "runs": counts,
            "error": self.error,
            "models": self.values("model"),
            "datasets": self.values("dataset"),
        }


def show_sweeps(folder: Path, *, as_json: bool = False) -> None:
    """Print the sweeps of a folder, newest first. Raises ConfigError if it is not a folder."""
    found = find_sweeps(folder)
    if as_json:
        print(json.dumps([sweep.plain() for sweep in found], indent=2))
        return
    if not found:
        console.print(f"{folder}: no sweeps")
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("sweep", "began", "state", "runs", "models", "data sets"):
        table.add_column(name, overflow="fold")
    for sweep in found:
        began = f"{sweep.began:%Y-%m-%d %H:%M}"
        runs = sweep.error or summary(sweep.statuses)
        groups = (listed(sweep.values(key)) for key in ("model", "dataset"))
        table.add_row(sweep.folder.name, began, sweep.state, runs, *groups)
    print_whole(console, table)


def find_sweeps(folder: Path) -> list[SweepSummary]:
    """The sweeps in a folder, the newest first; their jobs are asked for all at once.

    One that cannot be read, or whose notes of jobs are damaged, is listed with the error.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; name the one that sweep.folder gave")
    errors = {path.absolute(): _error(path) for path in folder.iterdir()}
    sweeps = {path: error for path, error in errors.items() if error is not None}
    whole = look_at([path for path, error in sweeps.items() if not error])
    found = [
        SweepSummary(path, _began(path), whole.get(path, []), error or None)
        for path, error in sweeps.items()
    ]
    return sorted(found, key=lambda sweep: sweep.began, reverse=True)


def _error(path: Path) -> str | None:
    """Why a sweep cannot be read, empty if it can be; None of what is no sweep."""
    try:
        if not is_sweep(path):
            return None
        read_submitted(path)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except DataError as error:
        return str(error)
    return ""


def _began(sweep: Path) -> datetime:
    """When the first of its runs was frozen, by the file's time."""
    try:
        began = min(map(frozen_at, run_folders(sweep)), default=sweep.stat().st_mtime)
    except OSError:  # not even its runs can be listed
        began = sweep.stat().st_mtime
    return datetime.fromtimestamp(began).astimezone()
