"""This machine and this process: names, and whether a process still runs."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

#: Environment variable that names this start of a job where SLURM does not.
ATTEMPT = "VTEXP_ATTEMPT"


def host() -> str:
    """Name of this machine, as SLURM calls it where it runs this process."""
    return os.environ.get("SLURMD_NODENAME") or platform.node()


def process_started(process_id: int) -> str | None:
    """When a process was started; None where there is none, or a dead one not yet collected."""
    try:
        # Behind the name in brackets, which may hold anything: state first, start as the 20th.
        words = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        command = ["ps", "-o", "stat=,lstart=", "-p", str(process_id)]  # macOS
        words = subprocess.run(command, capture_output=True, text=True).stdout.split()
        return None if not words or words[0].startswith("Z") else " ".join(words[1:])
    return None if words[0] == "Z" else words[19]


def attempt() -> str:
    """Names this start of a job, alike for all its processes; SLURM starts a requeued one again."""
    started = (os.environ.get(key, "") for key in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"))
    return os.environ.get(ATTEMPT) or ".".join(started)
