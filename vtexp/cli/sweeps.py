"""`vtexp sweeps`: lists the sweeps, newest first, with the state of each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from vtexp.errors import ConfigError, DataError
from vtexp.jobs.status import RunStatus, look_at
from vtexp.jobs.watch import summary
from vtexp.runs.folder import run_folders
from vtexp.runs.records import read_planned
from vtexp.utils import files
from vtexp.utils.console import console
from vtexp.utils.text import listed


@dataclass(frozen=True)
class SweepSummary:
    """A sweep in a list: when it was first submitted, and its runs."""

    folder: Path
    began: datetime
    statuses: list[RunStatus]

    @property
    def state(self) -> str:
        """What the sweep needs: nothing (done), time (running, queued), or its user."""
        states = {status.state for status in self.statuses}
        order = ("running", "queued", "waiting", "unknown", "lost", "failed", "missing", "done")
        return next(state for state in order if state in states)

    def values(self, key: str) -> list[str]:
        """What its runs have of a key of `planned.json`, each once."""
        found = set()
        for status in self.statuses:
            with suppress(DataError):
                found.add(str(getattr(read_planned(status.folder), key)))
        return sorted(found)

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
        runs = summary(sweep.statuses)
        groups = (listed(sweep.values(key)) for key in ("model", "dataset"))
        table.add_row(sweep.folder.name, began, sweep.state, runs, *groups)
    # A pipe has no width: nothing is cut there.
    width = None if console.is_terminal else console.measure(table).maximum
    console.print(table, soft_wrap=False, width=width)


def find_sweeps(folder: Path) -> list[SweepSummary]:
    """The sweeps in a folder, the newest first; their jobs are asked for all at once."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; name the one that sweep.folder gave")
    sweeps = [path.absolute() for path in folder.iterdir() if path.is_dir() and run_folders(path)]
    found = [SweepSummary(sweep, _began(sweep), own) for sweep, own in look_at(sweeps).items()]
    return sorted(found, key=lambda sweep: sweep.began, reverse=True)


def _began(sweep: Path) -> datetime:
    """When the first of its runs was frozen, by the file's time."""
    times: Sequence[float] = [(run / files.CONFIG).stat().st_mtime for run in run_folders(sweep)]
    return datetime.fromtimestamp(min(times)).astimezone()
