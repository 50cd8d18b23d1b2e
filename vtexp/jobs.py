"""The jobs of a sweep: which runs each makes, and where it was submitted to, in `jobs.json`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vtexp import records
from vtexp.config import HardwareConfig, Launcher

JOBS = "jobs.json"
#: Folder of the jobs' logs in a sweep's.
LOGS = "jobs"


@dataclass(frozen=True)
class Job:
    """Runs that one process makes on one loaded model: their folders, and what they run on."""

    folders: tuple[Path, ...]
    hardware: HardwareConfig


@dataclass(frozen=True)
class SubmittedJob:
    """A job that was handed to SLURM (`job_id` is its), or to processes of this machine.

    runs: names of folders; process_id, process_started: of the local process that makes it.
    """

    runs: tuple[str, ...]
    launcher: str
    job_id: str
    host: str
    log: str
    process_id: int | None = None
    process_started: str | None = None
    submitted: str = ""


def add_submitted(sweep: Path, jobs: Sequence[SubmittedJob]) -> None:
    """Note jobs behind those that are noted already, and where they were submitted from."""
    noted = read_submitted(sweep)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    rows = [asdict(job) | {"submitted": now} for job in jobs]
    content: dict[str, Any] = {
        "working_folder": str(working_folder(sweep)),
        "jobs": [*(asdict(job) for job in noted), *rows],
    }
    records.write_json(sweep / JOBS, content)


def read_submitted(sweep: Path) -> list[SubmittedJob]:
    """The jobs that were submitted, in order; a run's last one counts. None where none was."""
    if not (sweep / JOBS).is_file():
        return []
    rows = records.read_json(sweep / JOBS)["jobs"]
    return [SubmittedJob(**row | {"runs": tuple(row["runs"])}) for row in rows]


def working_folder(sweep: Path) -> Path:
    """The folder that relative paths of the sweep's config start from."""
    if (sweep / JOBS).is_file():
        return Path(records.read_json(sweep / JOBS)["working_folder"])
    return Path.cwd()


def job_name(sweep: Path) -> str:
    """What a sweep's jobs are called in squeue."""
    return f"vtexp-{sweep.name}"


def of_launcher(jobs: Sequence[SubmittedJob], launcher: Launcher) -> list[SubmittedJob]:
    """Those that were submitted to a launcher."""
    return [job for job in jobs if job.launcher == launcher.value]


def local_user() -> str:
    """The user whose jobs these are."""
    return os.environ.get("USER") or str(os.getuid())
