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

from vtexp.errors import DataError, RunFailedError, VtexpError, error_line
from vtexp.runs import records
from vtexp.runs.causes import cause_of_end, last_words
from vtexp.runs.ledger import JOBS
from vtexp.runs.records import Asked, Failure
from vtexp.utils import files
from vtexp.utils.grouping import differing, grouped
from vtexp.utils.text import listed, natural, shell_word
from vtexp.utils.typed import flat

#: Last lines of a log that a failure keeps.
LOG_LINES = 5
#: Bytes at the end of a log that are searched for the cause of a job's end.
LOG_BYTES = 100_000


def run_folders(sweep: Path) -> list[Path]:
    """The folders of the runs of a sweep in order of their names, numbers in them as numbers.

    Each has a config, or lost it: what became of a run is in its folder too.
    """
    marks = (files.CONFIG, files.RESULT, files.FAILURE)
    found = {path.parent for name in marks for path in sweep.glob(f"*/{name}")}
    return sorted(found, key=lambda folder: natural(folder.name))


def is_sweep(folder: Path) -> bool:
    """Whether a folder is a sweep's: it has runs, and a file that no other program leaves."""
    if not folder.is_dir():
        return False
    marks = (files.PLANNED, files.RESULT, files.FAILURE)
    own = any(path.is_file() for name in marks for path in folder.glob(f"*/{name}"))
    return (own or (folder / JOBS).is_dir()) and bool(run_folders(folder))


def frozen_at(folder: Path) -> float:
    """When a run was last submitted, in seconds: the time of its config, or else of its folder."""
    config = folder / files.CONFIG
    return (config if config.is_file() else folder).stat().st_mtime


def finished(folder: Path) -> bool:
    """Whether a run has its result; one that is cut short does not count."""
    return files.is_whole(folder / files.RESULT)


def settled(folder: Path) -> bool:
    """Whether a run has its result or has failed."""
    return finished(folder) or (folder / files.FAILURE).is_file()


def asked_of(folder: Path) -> Asked | None:
    """What was asked of a run: by its plan, else by its result; None where both are damaged."""
    for read in (records.read_planned, records.read_result):
        with suppress(DataError):
            return read(folder)
    return None


def failure(folder: Path) -> Failure | None:
    """The failure of a run, None of any other. Raises DataError where it is damaged."""
    if finished(folder) or not (folder / files.FAILURE).is_file():
        return None
    return records.read_failure(folder)


def record_failure(
    folder: Path, error: BaseException, asked: Asked | None = None, **more: Any
) -> None:
    """Write `failure.json` with the error in one line and its traceback.

    `asked`: of the run, if it differs from the plan; `more`: further fields. Writes nothing where
    the plan is damaged: the run then has no result, and is lost.
    """
    if (asked := asked or asked_of(folder)) is None:
        return
    failed = records.extended(
        Failure,
        asked,
        error=error_line(error),
        traceback=tuple(traceback.format_exception(error)),
        **more,
    )
    records.write(folder / files.FAILURE, failed)


def record_end(folder: Path, end: str, log: str | None) -> None:
    """Record a run as failed whose job ended without a result, with the end of its log.

    The error has the line of the log that says why, which is seldom the last one.
    """
    lines = log_lines(folder.parent / JOBS, log)
    said = ""
    if cause := cause_of_end(lines, _max_requeues(folder)):
        said = f": {cause}"
    elif words := last_words(lines):
        said = f"; its log ends: {words}"
    tail = tuple(lines[-LOG_LINES:])
    record_failure(folder, VtexpError(f"{end}{said}"), log=log, log_tail=tail)


def _max_requeues(folder: Path) -> int | None:
    """`hardware.slurm.max_requeues` of a run, None where its config does not say."""
    with suppress(DataError, KeyError, TypeError):
        return int(files.read_config(folder)["hardware"]["slurm"]["max_requeues"])
    return None


def log_lines(logs: Path, log: str | None) -> list[str]:
    """Lines of a job's log that are not empty, from its last `LOG_BYTES`.

    A file outside the sweep's `jobs/` is not read: a stranger's sweep must not put files of this
    machine into a report.
    """
    if log is None:
        return []
    with suppress(OSError, ValueError, RuntimeError):  # such as a link to itself
        path = Path(log).resolve()
        if path.is_relative_to(logs.resolve()) and path.is_file():
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - LOG_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
            return [line.strip() for line in lines if line.strip()]
    return []


def raise_failures(folders: Sequence[Path]) -> None:
    """Raises RunFailedError naming the runs without a result and their failure files."""
    failed = [folder for folder in folders if not finished(folder)]
    if failed:
        of_all = labels(folders)
        names = listed([of_all[folder] for folder in failed])
        found = failure(failed[0])
        error = found.error if found else "no result"
        raise RunFailedError(
            f"{len(failed)} of {len(folders)} runs failed: {names} ({error}); see "
            f"{failed[0] / files.FAILURE}; python -m vtexp resume {quoted(failed[0].parent)} "
            "reruns only these"
        )


def labels(folders: Sequence[Path]) -> dict[Path, str]:
    """What runs are called in messages, such as `image_size=560x336`.

    Model, data set and hardware follow where the runs differ in them; behind names that would be
    the same, the keys of the config that differ. A run whose plan is damaged is called by its
    folder's name.
    """
    found = {folder: asked_of(folder) for folder in folders}
    asked = {folder: own for folder, own in found.items() if own is not None}
    varied = differing(("model", "dataset", "hardware"), asked.values())
    names = {
        folder: " ".join([own.label, *(getattr(own, key) for key in varied)])
        for folder, own in asked.items()
    }
    alike = grouped(names, names.__getitem__)
    for twins in alike.values():
        if len(twins) > 1:
            names |= {folder: names[folder] + said for folder, said in _differing(twins).items()}
    return {folder: names.get(folder, folder.name) for folder in folders}


def _differing(folders: Sequence[Path]) -> dict[Path, str]:
    """The keys in which the configs of runs differ, such as ` (dataset.limit=100)`.

    The folders' names where none does, as of copies, or where a config is damaged.
    """
    try:
        configs = {folder: dict(flat(files.read_config(folder), ".")) for folder in folders}
    except DataError:
        configs = {}
    keys = dict.fromkeys(key for own in configs.values() for key in own)
    differing = [
        key
        for key in keys
        if not key.startswith("run.") and len({str(own.get(key)) for own in configs.values()}) > 1
    ]
    if not differing:
        return {folder: f" ({folder.name})" for folder in folders}
    return {
        folder: " (" + ", ".join(f"{key}={own.get(key)}" for key in differing) + ")"
        for folder, own in configs.items()
    }


def go_on(sweep: Path) -> str:
    """The message after an interrupt of the process that makes a sweep's runs."""
    return f"what was answered is kept; to go on: python -m vtexp resume {quoted(sweep)}"


def quoted(path: Path | str) -> str:
    """A path or name as a shell takes it in a command to be typed."""
    return shell_word(str(path))
