"""A sweep watched until it is over: a live table, or plain lines in a log."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.live import Live
from rich.table import Table

from vtexp.config.choices import Launcher
from vtexp.errors import VtexpError
from vtexp.jobs.limits import HeldBack
from vtexp.jobs.status import RunStatus, grace_s, look, settle
from vtexp.runs.folder import asked_of, labels, quoted, settled
from vtexp.utils.console import console
from vtexp.utils.text import count_of, natural

#: SLURM is asked this often.
POLL_S = 5.0
#: Without a terminal, a line at least this often while nothing changes.
LINE_EVERY_S = 600.0
#: Rows of the live table; the rest is only counted.
MOST_ROWS = 20
#: All states in the order of a summary, and in that of a table too short for all runs.
STATES = ("done", "failed", "running", "queued", "waiting", "lost", "unknown", "missing")
FIRST = ("failed", "lost", "unknown", "running", "queued", "waiting", "missing", "done")
#: Heads of the table; columns that no run fills are left out.
HEADS = ("run", "state", "progress", "left", "node", "job", "")


class StuckError(VtexpError):
    """Queued jobs can never start."""


class TimeoutExpiredError(VtexpError):
    """A sweep was watched for as long as asked, and is not over. Exit code as of timeout(1)."""

    exit_code = 124


def watch(sweep: Path, timeout_s: float = math.inf) -> None:
    """Show a sweep until nothing of it is under way: a live table, or plain lines in a log.

    Submits what a limit of the site held back. Ctrl-C leaves the jobs alone and says how to come
    back. Raises StuckError where queued jobs can never start, TimeoutExpiredError after
    `timeout_s`.
    """
    try:
        if console.is_terminal:
            with Live(console=console, auto_refresh=False, transient=True) as live:
                show = lambda found: live.update(table(sweep, found), refresh=True)  # noqa: E731
                statuses = _watch(sweep, show, timeout_s)
        else:
            statuses = _watch(sweep, _Lines(), timeout_s)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(come_back(sweep)) from None
    if stuck := [status for status in statuses if status.stuck]:
        raise StuckError(_never(sweep, stuck))
    if not all(map(_ended, statuses)):
        raise TimeoutExpiredError(f"--timeout is over: {summary(statuses)}; {come_back(sweep)}")


def _watch(sweep: Path, show: Any, timeout_s: float) -> list[RunStatus]:
    """Show the runs until all are over, or for `timeout_s`; returns them."""
    lost_since: dict[Path, float] = {}
    unrecorded: set[Path] = set()
    held_back, began = HeldBack(sweep), time.monotonic()
    while True:
        statuses, now = _seen(sweep, unrecorded), time.monotonic()
        show(statuses)
        left_s = began + timeout_s - now
        if all(map(_ended, statuses)) or left_s <= 0:
            return statuses
        lost = [status for status in statuses if status.state == "lost"]
        lost_since = {s.folder: lost_since.get(s.folder, now) for s in lost}
        silent = [s for s in lost if now - lost_since[s.folder] >= grace_s(s)]
        settle(silent)
        unrecorded |= {s.folder for s in silent if not settled(s.folder)}
        if any(status.state == "waiting" for status in statuses):
            held_back.submit()
        far = any(s.job is not None and s.job.launcher == Launcher.slurm for s in statuses)
        time.sleep(min(POLL_S if far else 1.0, left_s))


def _seen(sweep: Path, unrecorded: Collection[Path]) -> list[RunStatus]:
    """Status of each run; lost ones whose failure could not be written have failed all the same."""
    return [
        replace(status, state="failed")
        if status.state == "lost" and status.folder in unrecorded
        else status
        for status in look(sweep)
    ]


def _ended(status: RunStatus) -> bool:
    """Whether a run is over and its job gone, as of a cancelled one some seconds later."""
    here = status.job is not None and status.job.launcher == Launcher.here
    gone = not status.active or here or bool(status.unknown_because)
    return status.stuck or (status.over and gone)


def _never(sweep: Path, stuck: Sequence[RunStatus]) -> str:
    """The message about runs whose jobs can never start."""
    reasons = ", ".join(sorted({status.cause for status in stuck}))
    return (
        f"{count_of(len(stuck), 'run')} will never start: SLURM gives the reason {reasons}. Cancel "
        f"the sweep with python -m vtexp cancel {quoted(sweep)}, mend the request "
        "(hardware.slurm), then resume it"
    )


class _Lines:
    """A plain line per change of a run, and one for the whole where nothing changes for long."""

    def __init__(self) -> None:
        self._states: dict[Path, str] = {}
        self._said = ""
        self._last = time.monotonic()

    def __call__(self, statuses: Sequence[RunStatus]) -> None:
        names = labels([status.folder for status in statuses])
        for status in statuses:
            if self._states.get(status.folder) != status.state:
                self._states[status.folder] = status.state
                if status.state not in ("queued", "waiting"):
                    note = f": {status.cause}" if status.cause else ""
                    where = f" on {status.node}" if status.node else ""
                    console.print(f"{names[status.folder]}: {status.state}{where}{note}")
        said = summary(statuses)
        if said != self._said or time.monotonic() - self._last > LINE_EVERY_S:
            self._said, self._last = said, time.monotonic()
            console.print(said)


def summary(statuses: Sequence[RunStatus]) -> str:
    """Such as `8 runs: 3 done, 1 failed, 2 running, 2 queued (Priority)`."""
    counts = Counter(status.state for status in statuses)
    parts = [f"{counts[name]} {name}" for name in STATES if counts[name]]
    reasons = Counter(s.cause for s in statuses if s.state == "queued" and s.cause and not s.node)
    said = f" ({', '.join(reason for reason, _ in reasons.most_common())})" if reasons else ""
    parts = [part + said if part.endswith(" queued") else part for part in parts]
    return f"{count_of(len(statuses), 'run')}: {', '.join(parts)}"


def table(sweep: Path, statuses: Sequence[RunStatus], *, every: bool = False) -> Table:
    """The runs of a sweep and how far they are, in the order of their knob's values.

    Where runs are many, it shows those that need attention, or with `every` all.
    """
    shown = in_order(statuses)
    if len(shown) > MOST_ROWS and not every:
        shown = sorted(shown, key=lambda status: FIRST.index(status.state))[:MOST_ROWS]
    result = Table(
        title=f"{sweep.name}: {summary(statuses)}",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    names = labels([status.folder for status in statuses])
    rows = [_cells(status, names[status.folder]) for status in shown]
    filled = [i for i in range(len(HEADS)) if any(row[i] for row in rows) or i < 2]
    for i in filled:
        result.add_column(HEADS[i], overflow="fold")
    for row in rows:
        result.add_row(*(row[i] for i in filled))
    if len(shown) < len(statuses):
        result.add_row(f"and {len(statuses) - len(shown)} more: vtexp status --all")
    return result


def _cells(status: RunStatus, name: str) -> list[str]:
    job = "" if status.job is None else status.job.job_id
    return [name, status.state, *_how_far(status), status.node, job, status.cause]


def in_order(statuses: Sequence[RunStatus]) -> list[RunStatus]:
    """By model, data set, hardware and knob, then by the knob's value, its numbers as numbers."""

    def key(status: RunStatus) -> tuple[Any, ...]:
        asked = asked_of(status.folder)
        if asked is None:  # last
            return True, natural(status.folder.name)
        groups = (asked.model, asked.dataset, asked.hardware, asked.knob)
        return (False, *groups, natural(asked.knob_value), asked.force_full_tokens)

    return sorted(statuses, key=key)


def _how_far(status: RunStatus) -> tuple[str, str]:
    """Steps done of a stage, and about how long it still takes."""
    made = status.progress
    if made is None or status.state != "running":
        return "", ""
    done, total = made["done"], made["total"]
    left = ""
    if (new := done - made["kept"]) > 0 and done < total:
        left_s = (made["updated"] - made["began"]) / new * (total - done)
        left = f"{left_s / 60:.0f} min" if left_s >= 90 else f"{left_s:.0f} s"
    return f"{made['stage']} {done}/{total}", left


def come_back(sweep: Path) -> str:
    """How to go on after leaving a sweep alone; ends in a command that works as typed."""
    return (
        "the jobs go on by themselves (status, cancel, resume and report find them); come back "
        f"with: python -m vtexp wait {quoted(sweep)}"
    )
