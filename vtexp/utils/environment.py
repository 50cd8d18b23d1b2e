"""This machine and this process: names, and whether a process still runs."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil

#: Environment variable that names this start of a job where SLURM does not.
ATTEMPT = "VTEXP_ATTEMPT"


def host() -> str:
    """Name of this machine, as SLURM calls it where it runs this process."""
    return os.environ.get("SLURMD_NODENAME") or platform.node()


def boot() -> str:
    """Names this start of the machine, alike in all its containers; empty where it has no name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def process_space() -> str:
    """Names what numbers the processes that this one sees: another in each container.

    Empty where the system has no such spaces, or does not say.
    """
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def process_started(process_id: int) -> str | None:
    """When a process was started; None where there is none, or a dead one not yet collected.

    In seconds since the machine started, which no change of its clock moves.
    """
    try:
        process = psutil.Process(process_id)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return f"{process.create_time() - psutil.boot_time():.2f}"
    except psutil.Error:
        return None


def attempt() -> str:
    """Names this start of a job, alike for all its processes; SLURM starts a requeued one again."""
    started = (os.environ.get(key, "") for key in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"))
    return os.environ.get(ATTEMPT) or ".".join(started)
