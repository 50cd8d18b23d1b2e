"""Jobs as processes of this machine: lanes, each a process that runs its jobs one after the other.

A lane lives on when whoever started it ends. Each job is a process of its own, so that one that is
killed takes no other along.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from vtexp import environment
from vtexp.config import HardwareConfig, Launcher
from vtexp.errors import VtexpError
from vtexp.jobs import LOGS, Job, SubmittedJob
from vtexp.slurm import JobState
from vtexp.worker import RANK


def submit(sweep: Path, jobs: Sequence[Job], hardware: HardwareConfig) -> list[SubmittedJob]:
    """Start `hardware.max_parallel` lanes (1 if null) over the jobs."""
    logs = sweep / LOGS
    logs.mkdir(parents=True, exist_ok=True)
    count = min(hardware.max_parallel or 1, len(jobs))
    submitted = []
    for number in range(count):
        own = [[path.name for path in job.folders] for job in jobs[number::count]]
        log = _unused(logs, "lane")
        arguments = [str(hardware.gpus_per_run), *("/".join(names) for names in own)]
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "vtexp.local", str(sweep), *arguments],
                env=os.environ | _gpus_of_lane(number, count),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        for names in own:
            submitted.append(
                SubmittedJob(
                    runs=tuple(names),
                    launcher=Launcher.local.value,
                    job_id=f"{process.pid}",
                    host=environment.host(),
                    log=str(log),
                    process_id=process.pid,
                    process_started=_started(process.pid),
                )
            )
    return submitted


def _unused(folder: Path, name: str) -> Path:
    """A log that no earlier lane has written."""
    number = 0
    while True:
        path = folder / f"{name}{number}.log"
        with suppress(FileExistsError):
            path.touch(exist_ok=False)
            return path
        number += 1


def _gpus_of_lane(number: int, count: int) -> dict[str, str]:
    """The lane's share of the GPUs that this process may use, none said where it cannot tell."""
    visible = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    if not visible:
        with suppress(OSError):
            command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
            visible = subprocess.run(command, capture_output=True, text=True).stdout.split()
    share = len(visible) // count
    own = visible[number * share : (number + 1) * share]
    return {"CUDA_VISIBLE_DEVICES": ",".join(own)} if own else {}


def states(jobs: Sequence[SubmittedJob]) -> dict[str, JobState]:
    """State of each lane by its id: `running` for all of its jobs until it ends."""
    here, found = environment.host(), {}
    for job in jobs:
        if job.host != here:
            found[job.job_id] = JobState("unknown", f"started on {job.host}: ask there", job.host)
        elif _alive(job):
            found[job.job_id] = JobState("running", "", here)
        else:
            found[job.job_id] = JobState("ended", "its process has ended", here)
    return found


def cancel(jobs: Sequence[SubmittedJob]) -> None:
    """End lanes of this machine and all that they started."""
    for job in jobs:
        if job.host != environment.host():
            raise VtexpError(f"job {job.job_id} was started on {job.host}: cancel it there")
        if job.process_id is not None and _alive(job):
            with suppress(ProcessLookupError):
                os.killpg(job.process_id, signal.SIGTERM)


def _alive(job: SubmittedJob) -> bool:
    """Whether a lane's process runs: that number, started at that time."""
    assert job.process_id is not None
    return job.process_started is not None and _started(job.process_id) == job.process_started


def _started(process_id: int) -> str | None:
    """When a process was started; None where there is none, or a dead one not yet collected."""
    command = ["ps", "-o", "stat=,lstart=", "-p", str(process_id)]
    words = subprocess.run(command, capture_output=True, text=True).stdout.split()
    return None if not words or words[0].startswith("Z") else " ".join(words[1:])


def run_lane(sweep: Path, ranks: int, jobs: Sequence[Sequence[str]]) -> None:
    """Run jobs one after the other, each as `ranks` processes; a killed one fails its runs."""
    from vtexp.outcomes import failure, finished, record_failure

    for names in jobs:
        command = [sys.executable, "-m", "vtexp.worker", str(sweep), *names]
        processes = [
            subprocess.Popen(command, env=os.environ | {RANK: str(rank)}) for rank in range(ranks)
        ]
        ends = _wait_for_all(processes)
        for folder in (sweep / name for name in names):
            if not finished(folder) and failure(folder) is None:
                record_failure(folder, VtexpError(f"its process ended: {ends}"))


def _wait_for_all(processes: Sequence[subprocess.Popen[bytes]]) -> str:
    """Wait until all have ended; one that is killed takes the others along. Says how they ended."""
    left = list(processes)
    while left:
        for process in list(left):
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
                left.remove(process)
                if process.returncode:
                    for other in left:
                        other.kill()
    codes = [process.returncode for process in processes]
    return ", ".join(f"signal {-code}" if code < 0 else f"exit code {code}" for code in codes)


if __name__ == "__main__":
    run_lane(Path(sys.argv[1]), int(sys.argv[2]), [names.split("/") for names in sys.argv[3:]])
