"""The folder of a run: what became of it, by its files alone.

A run folder holds, from submission on, `config.yaml` (all of the config, with this run's one knob
value) and `planned.json` (what was asked of it); then `result.json`, or `failure.json`. These files
are the only source of truth about a run, on any machine and day.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vtexp.errors import RunFailedError, VtexpError, error_line
from vtexp.runs import records
from vtexp.runs.ledger import JOBS
from vtexp.runs.records import Asked, Failure
from vtexp.utils import files
from vtexp.utils.text import listed

#: Last lines of a log that a failure keeps.
LOG_LINES = 5


def run_folders(sweep: Path) -> list[Path]:
    """The folders of the runs of a sweep, in order of their names."""
    return sorted(path.parent for path in sweep.glob(f"*/{files.CONFIG}"))


def finished(folder: Path) -> bool:
    """Whether a run has its result; one that is cut short is none, and is made again."""
    return files.is_whole(folder / files.RESULT)


def settled(folder: Path) -> bool:
    """Whether a run has its result or has failed."""
    return finished(folder) or (folder / files.FAILURE).is_file()


def failure(folder: Path) -> Failure | None:
    """The failure of a run, None of any other. Raises DataError where it is damaged."""
    if finished(folder) or not (folder / files.FAILURE).is_file():
        return None
    return records.read_failure(folder)


def record_failure(
    folder: Path, error: BaseException, asked: Asked | None = None, **more: Any
) -> None:
    """Write `failure.json` with the error in one line and its traceback.

    `asked`: of the run, if it is not what was planned any more; `more`: further fields.
    """
    failed = records.extended(
        Failure,
        asked or records.read_planned(folder),
        error=error_line(error),
        traceback=tuple(traceback.format_exception(error)),
        **more,
    )
    records.write(folder / files.FAILURE, failed)


def record_end(folder: Path, end: str, log: str | None) -> None:
    """Record a run as failed whose job ended without a word, with the last lines of its log."""
    tail = _log_tail(folder.parent / JOBS, log)
    said = f"; its log ends: {tail[-1]}" if tail else ""
    record_failure(folder, VtexpError(f"{end}{said}"), log=log, log_tail=tuple(tail))


def _log_tail(logs: Path, log: str | None) -> list[str]:
    """Last lines of a job's log that say something; of a file elsewhere nothing is told.

    The sweep may be a stranger's: it names no file of this machine that then stands in a report.
    """
    if log is None:
        return []
    with suppress(OSError, ValueError, RuntimeError):  # such as a link to itself
        path = Path(log).resolve()
        if path.is_relative_to(logs.resolve()) and path.is_file():
            lines = path.read_text(errors="replace").splitlines()
            return [line.strip() for line in lines if line.strip()][-LOG_LINES:]
    return []


def raise_failures(folders: Sequence[Path]) -> None:
    """Raises RunFailedError naming the runs that have no result and where their story is."""
    failed = [folder for folder in folders if not finished(folder)]
    if failed:
        names = listed([label(folder) for folder in failed])
        found = failure(failed[0])
        error = found.error if found else "no result"
        raise RunFailedError(
            f"{len(failed)} of {len(folders)} runs failed: {names} ({error}); see "
            f"{failed[0] / files.FAILURE}; python -m vtexp resume {failed[0].parent} "
            "makes only these again"
        )


def label(folder: Path) -> str:
    """What a run is called in messages, such as `image_size=560x336`."""
    return records.read_planned(folder).label
