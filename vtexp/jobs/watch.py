"""A sweep watched until it is over: a live table, or plain lines in a log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.live import Live
from rich.table import Table

from vtexp.config.schema import Launcher
from vtexp.jobs.status import RunStatus, grace_s, look, settle
from vtexp.runs.folder import label
from vtexp.runs.records import read_planned
from vtexp.utils.console import console

#: SLURM is asked this often.
POLL_S = 5.0
#: Without a terminal, a line at least this often while nothing changes.
LINE_EVERY_S = 600.0
#: Rows of the live table; of the rest only numbers are shown.
MOST_ROWS = 20


def watch(sweep: Path) -> None:
    """Show a sweep until nothing of it is under way: a live table, or plain lines in a log.

    Ctrl-C leaves the jobs alone and says how to come back.
    """
    try:
        if console.is_terminal:
            with Live(console=console, auto_refresh=False, transient=True) as live:
                _watch(sweep, lambda statuses: live.update(table(sweep, statuses), refresh=True))
        else:
            _watch(sweep, _Lines())
    except KeyboardInterrupt:
        console.print(come_back(sweep))
        raise


def _watch(sweep: Path, show: Any) -> None:
    lost_since: dict[Path, float] = {}
    while True:
        statuses, now = look(sweep), time.monotonic()
        show(statuses)
        if all(status.over for status in statuses):
            return
        lost = [status for status in statuses if status.state == "lost"]
        lost_since = {s.folder: lost_since.get(s.folder, now) for s in lost}
        settle([s for s in lost if now - lost_since[s.folder] >= grace_s(s)])
        far = any(s.job is not None and s.job.launcher == Launcher.slurm for s in statuses)
        time.sleep(POLL_S if far else 1.0)


class _Lines:
    """A plain line per change of a run, and one for the whole where nothing changes for long."""

    def __init__(self) -> None:
        self._states: dict[Path, str] = {}
        self._last = time.monotonic()

    def __call__(self, statuses: Sequence[RunStatus]) -> None:
        changed = False
        for status in statuses:
            if self._states.get(status.folder) != status.state:
                self._states[status.folder] = status.state
                if status.state != "queued":
                    changed = True
                    note = f": {status.cause}" if status.cause else ""
                    where = f" on {status.node}" if status.node else ""
                    console.print(f"{label(status.folder)}: {status.state}{where}{note}")
        if changed or time.monotonic() - self._last > LINE_EVERY_S:
            self._last = time.monotonic()
            console.print(summary(statuses))


def summary(statuses: Sequence[RunStatus]) -> str:
    """Such as `8 runs: 3 done, 1 failed, 2 running, 2 queued`."""
    counts = Counter(status.state for status in statuses)
    names = ("done", "failed", "running", "queued", "lost", "unknown", "missing")
    parts = [f"{counts[name]} {name}" for name in names if counts[name]]
    return f"{len(statuses)} runs: {', '.join(parts)}"


def table(sweep: Path, statuses: Sequence[RunStatus]) -> Table:
    """The runs of a sweep and how far they are; those that need eyes first where they are many."""
    shown = list(statuses)
    if len(shown) > MOST_ROWS:
        first = ("failed", "lost", "unknown", "running", "queued", "missing", "done")
        shown = sorted(shown, key=lambda status: first.index(status.state))[:MOST_ROWS]
    result = Table(
        title=f"{sweep.name}: {summary(statuses)}",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for name in ("run", "state", "progress", "left", "node", "job", ""):
        result.add_column(name, overflow="fold" if not name else "ellipsis")
    for status in shown:
        asked = read_planned(status.folder)
        name = f"{asked.label} {asked.model} {asked.hardware}"
        job = "" if status.job is None else status.job.job_id
        result.add_row(name, status.state, *_how_far(status), status.node, job, status.cause)
    if len(shown) < len(statuses):
        result.add_row(f"and {len(statuses) - len(shown)} more", *[""] * 6)
    return result


def _how_far(status: RunStatus) -> tuple[str, str]:
    """Steps done of a stage, and about how long it still takes."""
    made = status.progress
    if made is None or status.state != "running":
        return "", ""
    done, total = made["done"], made["total"]
    left = ""
    if done and done < total:
        left_s = (made["updated"] - made["began"]) / done * (total - done)
        left = f"{left_s / 60:.0f} min" if left_s >= 90 else f"{left_s:.0f} s"
    return f"{made['stage']} {done}/{total}", left


def come_back(sweep: Path) -> str:
    """How to go on after leaving a sweep alone."""
    return (
        f"the jobs go on by themselves; come back with: python -m vtexp wait {sweep} "
        "(or status, cancel, resume, report)"
    )
