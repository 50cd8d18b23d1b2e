"""Jobs as processes of this machine: workers, each a process that runs its jobs in turn.

A worker lives on when whoever started it ends. Each job is a process of its own, so that one that
is killed takes no other along.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from vtexp.config.choices import Device, Launcher
from vtexp.errors import ConfigError, VtexpError
from vtexp.jobs.state import JobState
from vtexp.runs.allocation import named_gpus, shares
from vtexp.runs.folder import record_end, settled
from vtexp.runs.ledger import JOBS, Job, SubmittedJob, of_process
from vtexp.runs.ranks import RANK
from vtexp.utils import environment
from vtexp.utils.source import same_source


def submit(sweep: Path, jobs: Sequence[Job]) -> list[SubmittedJob]:
    """Start `hardware.max_parallel` workers (1 if null, the most of all jobs) over the jobs.

    Raises ConfigError where there are fewer GPUs than workers.
    """
    (sweep / JOBS).mkdir(parents=True, exist_ok=True)
    count = min(max(job.hardware.max_parallel or 1 for job in jobs), len(jobs))
    gpus = _gpus_of_workers(count) if any(on_gpu(job) for job in jobs) else [{}] * count
    submitted = []
    for number in range(count):
        own = jobs[number::count]
        log = _new_log(sweep / JOBS)
        parts = ["/".join((str(job.hardware.gpus_per_run), *job.runs)) for job in own]
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "vtexp.jobs.local", str(sweep), str(log), *parts],
                env=os.environ | same_source() | gpus[number],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        submitted += [of_process(job.runs, Launcher.local, process.pid, log) for job in own]
    return submitted


def on_gpu(job: Job) -> bool:
    """Whether a job wants GPUs."""
    return job.hardware.device == Device.cuda


def _new_log(folder: Path) -> Path:
    """A log that no earlier worker has written."""
    for number in itertools.count():
        path = folder / f"worker{number}.log"
        with suppress(FileExistsError):
            path.touch(exist_ok=False)
            return path
    raise AssertionError


def _gpus_of_workers(count: int) -> list[dict[str, str]]:
    """Environment variables by which each worker sees its share of the GPUs of this process.

    Raises ConfigError where they are too few.
    """
    visible = named_gpus()
    if not visible:
        command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        with suppress(OSError, subprocess.CalledProcessError):
            visible = subprocess.run(
                command, capture_output=True, text=True, check=True
            ).stdout.split()
    if len(visible) < count:
        raise ConfigError(
            f"hardware.max_parallel={count}: only {len(visible)} GPUs can be used on this machine"
        )
    return [{"CUDA_VISIBLE_DEVICES": own} for own in shares(visible, count)]


def states(jobs: Sequence[SubmittedJob]) -> dict[SubmittedJob, JobState]:
    """State of each job by its process: `running`, a worker for all of its jobs, until it ends."""
    found = {}
    for job in jobs:
        if place := _elsewhere(job):
            found[job] = JobState("unknown", f"started {place}: ask there", job.host)
        elif alive(job):
            found[job] = JobState("running", "", job.host)
        else:
            found[job] = JobState("ended", "its process has ended", job.host)
    return found


def _elsewhere(job: SubmittedJob) -> str:
    """Where a job was started if its process cannot be seen from here, in words; else empty."""
    if job.host != environment.host():
        return f"on {job.host}"
    here = environment.process_space()
    lives = job.boot == environment.boot()  # nothing outlives the machine
    if lives and job.process_space and here and job.process_space != here:
        return f"in another container on {job.host}, or before this one was restarted"
    return ""


def cancel(jobs: Sequence[SubmittedJob]) -> None:
    """End workers of this machine and all that they started. Raises VtexpError for another's."""
    for job in jobs:
        if place := _elsewhere(job):
            raise VtexpError(f"process {job.job_id} was started {place}: cancel it there")
        if alive(job):
            with suppress(ProcessLookupError):
                os.killpg(int(job.job_id), signal.SIGTERM)


def alive(job: SubmittedJob) -> bool:
    """Whether a job's process runs: that number, started at that time."""
    if not job.job_id.isdecimal():
        return False
    started = environment.process_started(int(job.job_id))
    return started is not None and started == job.process_started


def run_jobs(sweep: Path, log: Path, jobs: Sequence[tuple[int, Sequence[str]]]) -> None:
    """Run jobs (processes, runs) one after the other; what a killed one leaves has failed."""
    for ranks, names in jobs:
        command = [sys.executable, "-m", "vtexp.jobs.worker", str(sweep), *names]
        start = os.environ | {environment.ATTEMPT: uuid.uuid4().hex}
        processes = [
            subprocess.Popen(command, env=start | {RANK: str(rank)}) for rank in range(ranks)
        ]
        ends = _wait_for_all(processes)
        for folder in (sweep / name for name in names):
            if not settled(folder):
                record_end(folder, f"its process ended ({ends})", str(log))


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


def _main(sweep: str, log: str, *parts: str) -> None:
    split = [part.split("/") for part in parts]
    run_jobs(Path(sweep), Path(log), [(int(ranks), names) for ranks, *names in split])


if __name__ == "__main__":
    _main(*sys.argv[1:])
