"""The jobs of a sweep: which runs each makes, and to whom it was handed, in `jobs/*.json`."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from vtexp.config.choices import Launcher
from vtexp.config.schema import HardwareConfig
from vtexp.errors import DataError
from vtexp.utils import environment, files
from vtexp.utils.typed import Misfit, from_json

#: Folder of what was submitted, and of the jobs' logs, in a sweep's.
JOBS = "jobs"


@dataclass(frozen=True)
class Job:
    """Runs that one process makes on one loaded model: their folders, and what they run on."""

    folders: tuple[Path, ...]
    hardware: HardwareConfig

    @property
    def runs(self) -> tuple[str, ...]:
        """Names of the folders."""
        return tuple(folder.name for folder in self.folders)


@dataclass(frozen=True)
class SubmittedJob:
    """A job that was handed to SLURM (`job_id` is its), or to a process of a machine (`host`).

    Without `job_id`: held back by a limit of the site, still to be submitted. process_started:
    tells the process from a later one of the same number; process_space: from one of another
    container of the machine, since its start named boot. Both are empty in notes of older versions.
    """

    runs: tuple[str, ...]
    launcher: Launcher
    job_id: str
    log: str | None = None
    host: str = ""
    process_started: str | None = None
    user_id: int = -1
    process_space: str = ""
    boot: str = ""


def of_process(
    runs: Sequence[str], launcher: Launcher, process_id: int, log: Path | None = None
) -> SubmittedJob:
    """The job that a process of this machine makes."""
    return SubmittedJob(
        runs=tuple(runs),
        launcher=launcher,
        job_id=str(process_id),
        log=None if log is None else str(log),
        host=environment.host(),
        process_started=environment.process_started(process_id),
        user_id=os.getuid(),
        process_space=environment.process_space(),
        boot=environment.boot(),
    )


def not_submitted(runs: Sequence[str]) -> SubmittedJob:
    """A job for SLURM that a limit of the site holds back."""
    return SubmittedJob(tuple(runs), Launcher.slurm, job_id="", user_id=os.getuid())


def taking(sweep: Path) -> AbstractContextManager[None]:
    """A lock for one process at a time, while it looks what is left to do and notes what it takes.

    Without it, two that begin at once would make the same runs, into the same files.
    """
    return files.locked(sweep / JOBS / ".lock")


def note_submitted(sweep: Path, jobs: Sequence[SubmittedJob]) -> None:
    """Write down jobs that were submitted together, and from which folder, in a file of their own.

    Relative paths in the sweep's config start from that folder.
    """
    now = datetime.now(UTC)
    content = {
        "submitted": now.isoformat(timespec="seconds"),
        "working_folder": str(Path.cwd()),
        "jobs": [asdict(job) | {"launcher": job.launcher.value} for job in jobs],
    }
    name = f"{now:%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:8]}.json"
    files.write_json(sweep / JOBS / name, content)


@dataclass(frozen=True)
class _Note:
    """A file of submitted jobs."""

    jobs: tuple[SubmittedJob, ...]
    working_folder: str | None = None


def read_submitted(sweep: Path) -> list[SubmittedJob]:
    """The jobs that were submitted, in order; of a run's, the last one counts.

    Raises DataError for a note that is damaged.
    """
    return [job for path in _notes(sweep) for job in _read(path).jobs]


def working_folder(sweep: Path) -> Path:
    """The folder that relative paths of the sweep's config start from.

    Raises DataError where this machine does not have it.
    """
    notes = _notes(sweep)
    if not notes:
        return Path.cwd()
    folder = _read(notes[0]).working_folder
    if folder is None or not Path(folder).is_dir():
        raise DataError(
            f"{notes[0]}: working_folder={folder!r} is not a folder on this machine; write there "
            "the folder that relative paths of the sweep's config start from"
        )
    return Path(folder)


def _read(path: Path) -> _Note:
    advice = "if none of its jobs runs any more, delete it"
    try:
        note = from_json(_Note, files.read_json(path))
    except DataError as error:
        if isinstance(error.__cause__, PermissionError):
            raise
        raise DataError(f"{error}; {advice}") from error
    except Misfit as error:
        raise DataError(f"{path}: not a note of submitted jobs ({error}); {advice}") from error
    for job in note.jobs:
        # An id is an argument of scancel, which has options.
        if not re.fullmatch(r"[\w+]*", job.job_id):
            raise DataError(f"{path}: {job.job_id!r:.40} is not the id of a job; {advice}")
    return note


def _notes(sweep: Path) -> list[Path]:
    return sorted((sweep / JOBS).glob("*.json"))
