"""Jobs through SLURM: submitted by submitit, watched by squeue, and by sacct where there is one."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from vtexp.config.schema import HardwareConfig, Launcher
from vtexp.errors import ConfigError, VtexpError
from vtexp.jobs.state import JobState
from vtexp.jobs.worker import SweepJob
from vtexp.runs.ledger import JOBS, Job, SubmittedJob

QUEUED = (
    *("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD"),
    *("SPECIAL_EXIT", "SUSPENDED", "STOPPED"),
)
RUNNING = ("RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "RESIZING")
#: SLURM signals a job this long before its time limit, or a third of the limit if that is less.
SIGNAL_S = 90
#: What a call of SLURM may take, on a busy controller.
TIMEOUT_S = 60
#: What a job's script and its tasks set for themselves; a launch inside of one must not hand it on.
_OF_A_JOB = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")
#: Of these, what says which SLURM there is and how to speak to it.
_OF_THE_SITE = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
#: Where caches are and whether there is a network: sites that export nothing would lose it.
_NEEDED = (
    *("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "VTEXP_CACHE_DIR"),
    *("WANDB_MODE", "WANDB_BASE_URL"),
)
#: The folder that vtexp is imported from: jobs run the code that submitted them.
_CODE = Path(__file__).parents[2]


def submit(sweep: Path, jobs: Sequence[Job], hardware: HardwareConfig) -> list[SubmittedJob]:
    """Hand jobs of one hardware to SLURM, as an array where they are several.

    Raises ConfigError where there is no SLURM, VtexpError where it refuses them.
    """
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise ConfigError(
            f"hardware={hardware.name}: no SLURM on this machine (sbatch not found); launch on a "
            "login node, or take hardware.launcher=local or here"
        )
    from submitit.core.utils import FailedJobError

    executor = _executor(sweep, hardware, len(jobs))
    try:
        # sbatch's own lines are told below.
        with _outside_of_any_job(), redirect_stderr(io.StringIO()), executor.batch():
            handed = [executor.submit(SweepJob(sweep, job.runs, Path.cwd())) for job in jobs]
    except FailedJobError as error:  # with sbatch's words
        lines = [line for line in str(error).splitlines() if "error" in line.lower()]
        text = " ".join((lines[-1] if lines else str(error)).split())
        raise VtexpError(f"hardware={hardware.name}: SLURM refused the jobs: {text}") from error
    return [
        SubmittedJob(
            runs=job.runs,
            launcher=Launcher.slurm,
            job_id=given.job_id,
            log=str(given.paths.stderr),
            user_id=os.getuid(),
        )
        for job, given in zip(jobs, handed, strict=True)
    ]


@contextmanager
def _outside_of_any_job() -> Iterator[None]:
    """An environment without what SLURM set for the job that this process runs in, if it does.

    Such as SLURM_CPU_BIND, which would pin every task of the new job to the cores of the old one.
    """
    leaked = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name.startswith(_OF_A_JOB) and name not in _OF_THE_SITE
    }
    try:
        yield
    finally:
        os.environ.update(leaked)


def _setup(cpus: int) -> list[str]:
    """Shell lines by which a job runs as it would here, whatever of the environment it is given."""
    lines = [
        f"export PYTHONPATH={shlex.quote(str(_CODE))}${{PYTHONPATH:+:$PYTHONPATH}}",
        # Where tasks are not bound to their cores, libraries would take all that a node has.
        f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{cpus}}}",
    ]
    given = [name for name in _NEEDED if name in os.environ]
    return [*lines, *(f"export {name}={shlex.quote(os.environ[name])}" for name in given)]


def _executor(sweep: Path, hardware: HardwareConfig, count: int) -> Any:
    """submitit's executor with what the hardware asks for."""
    import submitit

    slurm, ranks = hardware.slurm, hardware.gpus_per_run
    executor = submitit.SlurmExecutor(sweep / JOBS / "%j", max_num_timeout=slurm.max_requeues)
    wanted = {
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "constraint": slurm.constraint,
        "gpus_per_node": slurm.gpus * ranks or None,
        "mem": None if slurm.memory_gb is None else f"{slurm.memory_gb}GB",
    }
    executor.update_parameters(
        job_name=f"vtexp-{sweep.name}",
        setup=[*_setup(slurm.cpus), *slurm.setup],
        wckey=None,  # submitit's own default is one that sites with wckeys do not know
        time=slurm.time_min,
        nodes=1,
        ntasks_per_node=ranks,
        cpus_per_task=slurm.cpus,
        array_parallelism=hardware.max_parallel or count,
        signal_delay_s=min(SIGNAL_S, slurm.time_min * 20),
        # Some sites put no job back into the queue that does not ask for it.
        additional_parameters={"requeue": True, **slurm.extra},
        # One process of a run that dies takes the others along, so that none waits for it. Newer
        # srun do not take the number of CPUs from sbatch. Tasks take the script's environment,
        # also on sites where the script takes none of the submitter's.
        srun_args=["--kill-on-bad-exit=1", f"--cpus-per-task={slurm.cpus}", "--export=ALL"],
        **{key: value for key, value in wanted.items() if value is not None},
    )
    return executor


def states(jobs: Sequence[SubmittedJob]) -> dict[SubmittedJob, JobState]:
    """State of each job; `unknown` while SLURM does not answer, and of another user's."""
    own = [job for job in jobs if job.user_id == os.getuid()]
    found = {job: JobState("unknown", f"of user {job.user_id}") for job in jobs if job not in own}
    if not own:
        return found
    listed = _lines("squeue", "--me", "-h", "-r", "-t", "all", "-o", "%i|%T|%r|%N")
    if listed is None:
        return found | {job: JobState("unknown", "SLURM does not answer") for job in own}
    by_id = {row[0]: _state(*row[1:]) for row in listed}
    gone = [job.job_id for job in own if job.job_id not in by_id]
    if gone:
        asked = ("-j", ",".join(gone), "-o", "JobID,State,NodeList")
        accounted = _lines("sacct", "-n", "-P", "-X", *asked) or []
        by_id |= {row[0]: _state(row[1].split()[0], "", row[2]) for row in accounted}
    forgotten = JobState("ended", "SLURM has forgotten it")
    return found | {job: by_id.get(job.job_id, forgotten) for job in own}


def _state(word: str, reason: str, node: str) -> JobState:
    if word in QUEUED:
        return JobState("queued", "" if reason == "None" else reason, node)
    if word in RUNNING:
        return JobState("running", "", node)
    return JobState("ended", word, node)


def cancel(jobs: Sequence[SubmittedJob]) -> None:
    """Cancel jobs. Raises VtexpError where SLURM does not answer."""
    ids = sorted({job.job_id for job in jobs})
    if ids and _lines("scancel", *ids) is None:
        raise VtexpError(
            f"SLURM does not answer, or refuses: {len(ids)} of its jobs go on; cancel again when "
            f"squeue answers, or type: scancel {' '.join(ids)}"
        )


def _lines(*command: str) -> list[list[str]] | None:
    """Output of a command of SLURM, each line split at its bars; None where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return [line.split("|") for line in done.stdout.splitlines()] if done.returncode == 0 else None
