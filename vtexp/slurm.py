"""Jobs through SLURM: submitted by submitit, watched by squeue, and by sacct where there is one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vtexp import environment
from vtexp.config import HardwareConfig, Launcher
from vtexp.errors import ConfigError, VtexpError
from vtexp.jobs import LOGS, Job, SubmittedJob, job_name, working_folder

QUEUED = (
    *("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD"),
    *("SPECIAL_EXIT", "SUSPENDED", "STOPPED"),
)
RUNNING = ("RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "RESIZING")
#: SLURM signals a job this long before its time limit, or a third of the limit if that is less.
SIGNAL_S = 90
#: What a call of SLURM may take, on a busy controller.
TIMEOUT_S = 60


class JobState(NamedTuple):
    """A job as its launcher sees it: `queued`, `running`, `ended` or `unknown`, and more of it.

    cause: why it waits, or how it ended; node: where it runs or ran.
    """

    state: str
    cause: str = ""
    node: str = ""


def submit(sweep: Path, jobs: Sequence[Job], hardware: HardwareConfig) -> list[SubmittedJob]:
    """Hand jobs of one hardware to SLURM, as an array where they are several.

    Raises ConfigError where there is no SLURM, VtexpError where it refuses them.
    """
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise ConfigError(
            f"hardware={hardware.name}: no SLURM on this machine (sbatch not found); launch on a "
            "login node, or take hardware.launcher=local or here"
        )
    from vtexp.worker import SweepJob

    executor = _executor(sweep, hardware, len(jobs))
    folder = working_folder(sweep)
    try:
        with executor.batch():
            handed = [
                executor.submit(SweepJob(sweep, [path.name for path in job.folders], folder))
                for job in jobs
            ]
    except Exception as error:  # submitit's own, of sbatch's words
        lines = [line for line in str(error).splitlines() if "error" in line.lower()]
        text = " ".join((lines[-1] if lines else str(error)).split())
        raise VtexpError(f"hardware={hardware.name}: SLURM refused the jobs: {text}") from error
    return [
        SubmittedJob(
            runs=tuple(path.name for path in job.folders),
            launcher=Launcher.slurm.value,
            job_id=given.job_id,
            host=environment.host(),
            log=str(given.paths.stderr),
        )
        for job, given in zip(jobs, handed, strict=True)
    ]


def _executor(sweep: Path, hardware: HardwareConfig, count: int) -> Any:
    """submitit's executor with what the hardware asks for."""
    import submitit

    slurm, ranks = hardware.slurm, hardware.gpus_per_run
    executor = submitit.SlurmExecutor(sweep / LOGS / "%j", max_num_timeout=slurm.max_requeues)
    wanted = {
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "constraint": slurm.constraint,
        "gpus_per_node": slurm.gpus * ranks or None,
        "mem": None if slurm.memory_gb is None else f"{slurm.memory_gb}GB",
        "setup": list(slurm.setup) or None,
        "additional_parameters": dict(slurm.extra) or None,
    }
    executor.update_parameters(
        job_name=job_name(sweep),
        time=slurm.time_min,
        nodes=1,
        ntasks_per_node=ranks,
        cpus_per_task=slurm.cpus,
        array_parallelism=hardware.max_parallel or count,
        signal_delay_s=min(SIGNAL_S, slurm.time_min * 20),
        # One process of a run that dies takes the others along, so that none waits for it.
        srun_args=["--kill-on-bad-exit=1"],
        **{key: value for key, value in wanted.items() if value is not None},
    )
    return executor


def states(jobs: Sequence[SubmittedJob]) -> dict[str, JobState]:
    """State of each job by its id; `unknown` while SLURM does not answer."""
    if not jobs:
        return {}
    listed = _lines("squeue", "--me", "-h", "-r", "-t", "all", "-o", "%i|%T|%r|%N")
    if listed is None:
        return {job.job_id: JobState("unknown", "SLURM does not answer") for job in jobs}
    found = {row[0]: _state(*row[1:]) for row in listed}
    gone = [job.job_id for job in jobs if job.job_id not in found]
    if gone:
        asked = ("-j", ",".join(gone), "-o", "JobID,State,NodeList")
        accounted = _lines("sacct", "-n", "-P", "-X", *asked) or []
        found |= {row[0]: _state(row[1].split()[0], "", row[2]) for row in accounted}
    return {
        job.job_id: found.get(job.job_id, JobState("ended", "SLURM has forgotten it"))
        for job in jobs
    }


def _state(word: str, reason: str, node: str) -> JobState:
    if word in QUEUED:
        return JobState("queued", "" if reason == "None" else reason, node)
    if word in RUNNING:
        return JobState("running", "", node)
    return JobState("ended", word, node)


def cancel(jobs: Sequence[SubmittedJob]) -> None:
    """Cancel jobs. Raises VtexpError where SLURM does not answer."""
    if jobs and _lines("scancel", *(job.job_id for job in jobs)) is None:
        raise VtexpError("scancel failed: SLURM does not answer; try again")


def _lines(*command: str) -> list[list[str]] | None:
    """Output of a command of SLURM, each line split at its bars; None where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return [line.split("|") for line in done.stdout.splitlines()] if done.returncode == 0 else None
