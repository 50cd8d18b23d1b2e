"""Progress of long work: a bar with an estimate on a terminal, sparse plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from vtexp.errors import VtexpError
from vtexp.utils import environment, files
from vtexp.utils.output import Output
from vtexp.utils.text import visible


class _Console(Console):
    """A console to which control characters in texts and in cells of tables are letters."""

    def render_str(self, text: str, **options: Any) -> Text:
        """As rich's, by which it makes all strings texts before it lays them out."""
        return super().render_str(visible(text), **options)


#: The one console: bars, tables and messages share it, so that none breaks another.
#: Without a terminal the width is that of a wide log, so that no column of a table is cut.
console = _Console(
    file=cast(IO[str], Output(lambda: sys.stdout)),
    highlight=False,
    markup=False,
    soft_wrap=True,
    width=None if sys.stdout.isatty() else 160,
)

_LINE_EVERY_S = 30.0
_FILE_EVERY_S = 5.0


def print_whole(to: Console, table: Table) -> None:
    """Print a table; a pipe has no width: there nothing is cut or wrapped."""
    width = None if to.is_terminal else max(to.measure(table).maximum, to.width)
    to.print(table, soft_wrap=False, width=width)


@contextmanager
def progress(label: str, total: int, kept: int = 0) -> Iterator[Callable[[int], None]]:
    """Show work of `total` steps or more; gives a function that adds finished steps.

    An earlier try did `kept` of them; the estimate of the time left ignores these.
    """
    if console.is_terminal:
        with Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        ) as bar:
            task = bar.add_task(visible(label), total=total, completed=kept)

            def advance(steps: int) -> None:
                done = bar.tasks[0].completed + steps
                bar.update(task, completed=done, total=max(total, done))

            yield advance
    else:
        yield _lines(label, total, kept)


def _lines(label: str, total: int, kept: int) -> Callable[[int], None]:
    """A line at most every 30 s."""
    began = last = time.monotonic()
    done = kept

    def advance(steps: int) -> None:
        nonlocal done, last
        done += steps
        now = time.monotonic()
        if now - last >= _LINE_EVERY_S:
            last = now
            if done < total and done > kept:
                left_s = (now - began) / (done - kept) * (total - done)
                console.print(f"{label}: {done}/{total}, about {left_s:.0f} s left")
            elif done > total:
                console.print(f"{label}: {done}, more than the {total} needed at least")
            else:
                console.print(f"{label}: {done}/{total}")

    return advance


class ProgressFile:
    """How far a process of a run is, in a file for others to read; never an error."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stage, self._done, self._total, self._kept = "", 0, 0, 0
        self._began = self._last = 0.0

    def start(self, stage: str, total: int, kept: int = 0) -> None:
        """A new stage of `total` steps, of which an earlier try has done `kept`."""
        self._stage, self._done, self._total, self._kept = stage, kept, total, kept
        self._began = time.time()
        self._write()

    def advance(self, steps: int) -> None:
        """Steps done; written down every few seconds."""
        self._done += steps
        if time.time() - self._last >= _FILE_EVERY_S or self._done == self._total:
            self._write()

    def _write(self) -> None:
        self._last = time.time()
        row = {
            "stage": self._stage,
            "done": self._done,
            "total": self._total,
            "kept": self._kept,
            "host": environment.host(),
            "began": self._began,
            "updated": self._last,
        }
        with suppress(VtexpError):
            files.write_json(self._path, row)
