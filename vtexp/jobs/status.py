"""The state of a sweep's runs, from their files and their jobs.

Any process can ask, on another day too. A run whose job has ended without a word is recorded as
failed, with how its job ended and the last lines of its log.
"""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vtexp.config.choices import Launcher
from vtexp.errors import ConfigError, DataError, VtexpError
from vtexp.jobs import local, slurm
from vtexp.jobs.state import JobState
from vtexp.runs.causes import state_in_log
from vtexp.runs.folder import (
    asked_of,
    failure,
    finished,
    is_sweep,
    log_lines,
    quoted,
    record_end,
    run_folders,
    settled,
)
from vtexp.runs.ledger import JOBS, SubmittedJob, read_submitted
from vtexp.runs.records import read_planned
from vtexp.utils import files
from vtexp.utils.text import cut

#: Seconds after a job's end within which files of another machine appear here.
GRACE_S = 30.0
#: Characters that are shown of a text that cannot name a folder.
MOST_OF_A_NAME = 60


@dataclass(frozen=True)
class RunStatus:
    """A run as seen from outside.

    state: done, failed, running, queued, waiting (a limit of the site holds its job back: nobody
    has submitted it yet), lost (its job ended without a word), unknown (its launcher does not
    answer) or missing (nothing is to make it). `active`: its job is still there, whatever the run's
    state, or cannot be queried; `unknown_because`: why it cannot. `stuck`: its job is queued and
    never starts by itself.
    """

    folder: Path
    state: str
    cause: str = ""
    node: str = ""
    job: SubmittedJob | None = None
    progress: dict[str, Any] | None = None
    active: bool = False
    unknown_because: str = ""
    stuck: bool = False

    @property
    def over(self) -> bool:
        """Whether its state stays as it is unless someone acts."""
        return self.stuck or self.state in ("done", "failed", "missing")

    def plain(self) -> dict[str, Any]:
        """As JSON takes it; what was asked is None where the run's plan is damaged."""
        asked = asked_of(self.folder)
        keys = ("knob", "knob_value", "model", "dataset", "hardware")
        return {
            "run": self.folder.name,
            **{key: getattr(asked, key, None) for key in keys},
            "state": self.state,
            "reason": self.cause,
            "node": self.node,
            "job": self.job.job_id if self.job else "",
            "active": self.active,
            "progress": self.progress,
        }


def find_sweep(name: str) -> Path:
    """Folder of a sweep given by its name or path.

    Raises DataError if there is none, ConfigError for a text that cannot name a folder.
    """
    if not name:  # as of an unset variable of the shell; as a path, this folder
        raise ConfigError("'': no name of a sweep; python -m vtexp sweeps lists them")
    for path in (Path(name), Path("outputs") / name):
        try:
            with suppress(FileNotFoundError, NotADirectoryError):
                path.stat()  # Python 3.14's is_dir would hide that a name is too long
            if is_sweep(path):
                return path.absolute()
        except OSError as error:  # such as a name that is too long for one
            said = name if len(name) <= MOST_OF_A_NAME else f"{name[:MOST_OF_A_NAME]}..."
            too_long = error.errno == errno.ENAMETOOLONG
            what = "not the name of a folder" if too_long else "cannot be read"
            raise ConfigError(f"{said}: {what} ({error.strerror})") from error
    raise DataError(f"{cut(name)}: {_instead(Path(name))}")


def _instead(path: Path) -> str:
    """What a name that is no sweep's stands for, and what to do."""
    listing = "python -m vtexp sweeps lists them"
    if path.is_file():
        return f"a file, not the folder of a sweep; {listing}"
    if (path / files.PLANNED).is_file() or (path / files.RESULT).is_file():
        return f"a run; name the folder of its sweep, {quoted(path.absolute().parent)}"
    if path.is_dir() and (found := next(filter(is_sweep, sorted(path.iterdir())), None)):
        return f"a folder of sweeps; name one of them, such as {quoted(found)}"
    return f"no sweep of this name in outputs/, and no folder with runs; {listing}"


def look(sweep: Path) -> list[RunStatus]:
    """Status of each run of a sweep."""
    return look_at([sweep])[sweep]


def look_at(sweeps: Sequence[Path]) -> dict[Path, list[RunStatus]]:
    """Status of each run of some sweeps; their launchers are asked once for all."""
    makers = {
        sweep: {run: job for job in read_submitted(sweep) for run in job.runs} for sweep in sweeps
    }
    # Jobs are asked for before the files are: one that ends in between has written them.
    pairs = [(sweep / run, job) for sweep, last in makers.items() for run, job in last.items()]
    asked = {job for folder, job in pairs if job.job_id and not finished(folder)}
    of_slurm = {job for job in asked if job.launcher == Launcher.slurm}
    open_ended = {job for folder, job in pairs if not settled(folder)}
    states = slurm.states(list(of_slurm), of_slurm - open_ended)
    states |= local.states(list(asked - of_slurm))
    return {
        sweep: [_status(folder, last.get(folder.name), states) for folder in run_folders(sweep)]
        for sweep, last in makers.items()
    }


def _status(
    folder: Path, job: SubmittedJob | None, states: dict[SubmittedJob, JobState]
) -> RunStatus:
    if finished(folder):
        return RunStatus(folder, "done", job=job)
    found = _unfinished(folder, job, states)
    try:
        read_planned(folder)
    except DataError as error:
        return replace(found, cause="; ".join(filter(None, [found.cause, str(error)])))
    return found


def _unfinished(
    folder: Path, job: SubmittedJob | None, states: dict[SubmittedJob, JobState]
) -> RunStatus:
    ended = JobState("ended", "no job is working on it")
    state, cause, node = ended if job is None else states.get(job, ended)
    active, unknown = state != "ended", cause if state == "unknown" else ""
    if (error := _error(folder)) is not None:
        return RunStatus(folder, "failed", error, "", job, None, active, unknown)
    if job is not None and not job.job_id:
        return RunStatus(folder, "waiting", "not submitted yet: a limit of the site", job=job)
    if job is None or (not active and job.launcher == Launcher.here):
        return RunStatus(folder, "missing", cause, job=job)
    if not active:
        return RunStatus(folder, "lost", cause, node, job)
    made = _progress(folder)
    if state == "running" and made is None:
        why = "its job is loading the model or working on other runs"
        return RunStatus(folder, "queued", why, node, job, active=True)
    stuck = state == "queued" and slurm.NEVER.match(cause) is not None
    return RunStatus(folder, state, cause, node, job, made, True, unknown, stuck)


def _error(folder: Path) -> str | None:
    """Why a run failed, in one line; None if it has not."""
    try:
        found = failure(folder)
    except DataError as error:
        return str(error)
    return None if found is None else found.error


def _progress(folder: Path) -> dict[str, Any] | None:
    """How far all ranks of a run are together, None before the first has begun."""
    found = []
    for path in folder.glob(f"{files.RANKS}/*/{files.PROGRESS}"):
        with suppress(DataError):
            found.append(files.read_json(path))
    if not found:
        return None
    try:
        slowest = min(found, key=lambda row: row["stage"] == "answers")
        same = [row for row in found if row["stage"] == slowest["stage"]]
        return {
            "stage": slowest["stage"],
            "done": sum(row["done"] for row in same),
            "kept": sum(row.get("kept", 0) for row in same),
            "total": sum(row["total"] for row in same),
            "began": min(float(row["began"]) for row in same),
            "updated": max(float(row["updated"]) for row in found),
        }
    except (KeyError, TypeError, ValueError):  # damaged
        return None


def settle(statuses: Sequence[RunStatus]) -> None:
    """Record runs as failed whose job ended without a word; call it after the grace period.

    Where that cannot be written, as of another user's sweep, they stay lost.
    """
    for status in statuses:
        with suppress(OSError):
            list(status.folder.iterdir())  # makes a network file system look again
        if status.state == "lost" and not settled(status.folder):
            where = f" on {status.node}" if status.node else ""
            log, cause = None if status.job is None else status.job.log, status.cause
            if cause == slurm.FORGOTTEN:
                cause = state_in_log(log_lines(status.folder.parent / JOBS, log)) or cause
            end = f"its job ended without a result ({cause}{where})"
            with suppress(VtexpError):
                record_end(status.folder, end, log)


def look_now(sweep: Path) -> list[RunStatus]:
    """Status of each run without waiting: lost ones are recorded as failed once they are silent.

    A job that has written nothing into its log for the grace period has had time for its files.
    """
    statuses = look(sweep)
    if silent := [s for s in statuses if s.state == "lost" and _silent_s(s) > grace_s(s)]:
        settle(silent)
        statuses = look(sweep)
    return statuses


def _silent_s(status: RunStatus) -> float:
    """Seconds since a job last wrote into its log; infinite without a log."""
    with suppress(OSError, TypeError):
        return time.time() - Path(str(status.job and status.job.log)).stat().st_mtime
    return math.inf


def look_again(sweep: Path) -> list[RunStatus]:
    """Status of each run, lost ones recorded as failed once their files had time to be seen."""
    statuses = look(sweep)
    if any(status.state == "lost" for status in statuses):
        time.sleep(max(map(grace_s, statuses)))
        settle(look(sweep))
        statuses = look(sweep)
    return statuses


def grace_s(status: RunStatus) -> float:
    """How long files may still come after a job's end."""
    through_slurm = status.job is not None and status.job.launcher == Launcher.slurm
    return GRACE_S if status.state == "lost" and through_slurm else 1.0
