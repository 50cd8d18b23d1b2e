"""Jobs through SLURM: submitted by submitit, watched by squeue, and by sacct where there is one."""

from __future__ import annotations

import io
import os
import pwd
import re
import shlex
import shutil
import subprocess
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

from vtexp.config.choices import Launcher
from vtexp.config.schema import HardwareConfig, SlurmConfig
from vtexp.errors import ConfigError, VtexpError
from vtexp.jobs.state import JobState
from vtexp.jobs.worker import SweepJob
from vtexp.runs.ledger import JOBS, Job, SubmittedJob
from vtexp.utils.source import same_source
from vtexp.utils.text import count_of, listed

QUEUED = (
    *("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD"),
    *("SPECIAL_EXIT", "SUSPENDED", "STOPPED"),
)
RUNNING = ("RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "RESIZING")
#: SLURM signals a job this long before its time limit, or a third of the limit if that is less.
SIGNAL_S = 90
#: Cause of the end of a job that neither squeue nor sacct knows.
FORGOTTEN = "SLURM has forgotten it"
#: Reasons for which a job waits forever, but for what its user or the site changes.
NEVER = re.compile(
    r"Partition(Time|Node)Limit|DependencyNeverSatisfied|BadConstraints|ReservationDeleted"
    r"|(Assoc|QOS)\w*Per(Job|Node)(Limit)?$|QOS(TimeLimit|Min\w+)$|MaxMemPerLimit"
    r"|Invalid(Account|QOS)|(Account|QOS)NotAllowed|launch failed requeued held|JobHoldMaxRequeue"
)
#: What a call of SLURM may take, on a busy controller.
TIMEOUT_S = 60
#: A controller that has not answered by then is asked for a sign of life, which takes no longer.
PROMPT_S = 1.0
#: Accounting may add the word for a job's end, if it does so at once.
ACCOUNTING_S = 5.0
#: What a job's script and its tasks set for themselves; a launch inside of one must not hand it on.
_OF_A_JOB = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")
#: Among these, those that say which SLURM to use and how to reach it.
_OF_THE_SITE = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
#: sbatch lets its variables override the job's script: those of what vtexp asks for itself.
_ASKED = (
    *("ARRAY_INX", "ERROR", "JOB_NAME", "NO_REQUEUE", "OPEN_MODE", "OUTPUT", "REQUEUE", "SIGNAL"),
    *("TIMELIMIT", "WAIT", "CPUS_PER_GPU"),
    *("GPUS", "GPUS_PER_NODE", "GPUS_PER_SOCKET", "GPUS_PER_TASK"),
)
_MEMORY = ("MEM_PER_CPU", "MEM_PER_GPU", "MEM_PER_NODE")
#: They change what SLURM's programs print, or make them ask before a job is cancelled.
_OF_A_VIEW = ("SQUEUE_", "SACCT_", "SCANCEL_")
#: Where caches are and whether there is a network: sites that export nothing would lose it.
_NEEDED = (
    *("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT", "VTEXP_CACHE_DIR"),
    *("WANDB_MODE", "WANDB_BASE_URL"),
)

#: What sbatch says when it would take fewer jobs, or the same ones later.
_LIMIT = re.compile(r"\b(?:Assoc|QOS)\w*Submit\w*Limit\b")
#: And what it says instead of a limit's name.
_LIMIT_UNNAMED = {
    "Invalid job array specification": "MaxArraySize",
    "temporarily unable to accept job": "MaxJobCount",
    "Job violates accounting/QOS policy": "accounting policy",
}


class LimitError(VtexpError):
    """SLURM takes fewer jobs at once, or no more now: `limit` names the site's limit."""

    def __init__(self, message: str, limit: str) -> None:
        super().__init__(message)
        self.limit = limit


def submit(sweep: Path, jobs: Sequence[Job], hardware: HardwareConfig) -> list[SubmittedJob]:
    """Hand jobs of one hardware to SLURM, as an array where they are several.

    Raises ConfigError without SLURM, LimitError where it would take fewer jobs, VtexpError where it
    refuses them.
    """
    require_plain_folder(sweep)
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise ConfigError(
            f"hardware={hardware.name}: no SLURM on this machine (sbatch not found); launch on a "
            "login node, or take hardware.launcher=local or here"
        )
    from submitit.core.utils import FailedJobError

    executor = _executor(sweep, hardware, len(jobs))
    try:
        # sbatch's own lines are in the error below.
        with _clean_environment(hardware.slurm), redirect_stderr(io.StringIO()), executor.batch():
            handed = [executor.submit(SweepJob(sweep, job.runs, Path.cwd())) for job in jobs]
    except FailedJobError as error:  # with sbatch's words
        _remove_leftovers(sweep / JOBS)
        raise _refusal(hardware, str(error)) from error
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


def require_plain_folder(sweep: Path) -> None:
    """Raise ConfigError for a folder that SLURM reads otherwise: jobs would fail without a log."""
    if "%" in str(sweep) or "\n" in str(sweep):
        raise ConfigError(
            f"sweep.folder: SLURM cannot write the logs of jobs to {sweep}: in the name of a log "
            "it replaces %, and it ends at a new line; choose another folder"
        )


@contextmanager
def _clean_environment(asked: SlurmConfig) -> Iterator[None]:
    """An environment without what SLURM set for the job that this process runs in, if it does.

    Such as SLURM_CPU_BIND, which would pin every task of the new job to the cores of the old one.
    It also lacks the user's SBATCH_PARTITION and the like where the config asks for another one.
    """
    contrary = {f"SBATCH_{name}" for name in _contrary(asked)}
    leaked = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name in contrary or (name.startswith(_OF_A_JOB) and name not in _OF_THE_SITE)
    }
    try:
        yield
    finally:
        os.environ.update(leaked)


def _contrary(asked: SlurmConfig) -> set[str]:
    """Variables of sbatch, without their prefix, that would override what is asked for."""
    options = ("partition", "account", "qos", "constraint")
    found = {name.upper() for name in options if getattr(asked, name) is not None}
    found |= {name.upper().replace("-", "_") for name in asked.extra}
    if "gpu" in os.environ.get("SBATCH_GRES", ""):
        found.add("GRES")
    return found.union(_ASKED, _MEMORY if asked.memory_gb is not None else ())


def _refusal(hardware: HardwareConfig, said: str) -> VtexpError:
    """The error for what sbatch said."""
    lines = [line for line in said.splitlines() if "error" in line.lower()]
    text = " ".join((lines[-1] if lines else said).split())
    message = f"hardware={hardware.name}: SLURM refused the jobs: {text}"
    named = _LIMIT.search(said)
    unnamed = (limit for words, limit in _LIMIT_UNNAMED.items() if words in said)
    if limit := named[0] if named else next(unnamed, None):
        hint = "ask for fewer jobs with sweep.values_per_job=N, or wait until others have ended"
        return LimitError(f"{message} ({limit}); {hint}", limit)
    return VtexpError(message)


def _remove_leftovers(folder: Path) -> None:
    """Delete what submitit wrote for jobs that SLURM refused; of others it has moved it."""
    for path in (*folder.glob("*.pkl"), *folder.glob(".submission_file_*.sh")):
        if not path.is_symlink():
            path.unlink(missing_ok=True)


def _setup(cpus: int) -> list[str]:
    """Shell lines that let a job run as it would here, whatever environment it gets."""
    given = {name: os.environ[name] for name in _NEEDED if name in os.environ}
    lines = [f"export {key}={shlex.quote(value)}" for key, value in (same_source() | given).items()]
    # Where tasks are not bound to their cores, libraries would take all that a node has.
    return [*lines, f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{cpus}}}"]


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
        # Some sites requeue only jobs that ask for it.
        additional_parameters={"requeue": True, **slurm.extra},
        # One process of a run that dies takes the others along, so that none waits for it. Newer
        # srun do not take the number of CPUs from sbatch. Tasks take the script's environment,
        # also on sites where the script takes none of the submitter's.
        srun_args=["--kill-on-bad-exit=1", f"--cpus-per-task={slurm.cpus}", "--export=ALL"],
        **{key: value for key, value in wanted.items() if value is not None},
    )
    return executor


def states(
    jobs: Sequence[SubmittedJob], settled: Collection[SubmittedJob] = ()
) -> dict[SubmittedJob, JobState]:
    """State of each job; `unknown` while SLURM does not answer.

    SLURM knows another user's job while it is in the queue and for some minutes longer, unless the
    site hides it; after that it is `unknown`. `settled`: jobs of which nobody needs to know how
    they ended.
    """
    found: dict[SubmittedJob, JobState] = {}
    for user_id in {job.user_id for job in jobs}:
        theirs = [job for job in jobs if job.user_id == user_id]
        found |= _states_of(user_id, theirs, settled)
    return found


def _states_of(
    user_id: int, jobs: Sequence[SubmittedJob], settled: Collection[SubmittedJob]
) -> dict[SubmittedJob, JobState]:
    """State of each job of one user."""
    own = user_id == os.getuid()
    whose = ("--me",) if own else ("-u", str(user_id))
    shown = lines("squeue", *whose, "-h", "-r", "-t", "all", "-o", "%i|%T|%r|%N")
    rest = JobState("ended", FORGOTTEN) if own else JobState("unknown", f"of user {_name(user_id)}")
    if shown is None:
        return dict.fromkeys(jobs, JobState("unknown", "SLURM does not answer") if own else rest)
    by_id = {row[0]: _state(*row[1:]) for row in shown}
    gone = {_array(job) for job in jobs if job.job_id not in by_id and job not in settled}
    if own and gone:
        asked = ("-j", ",".join(sorted(gone)), "-o", "JobID,State,NodeList")
        accounted = lines("sacct", "-n", "-P", "-X", *asked, timeout_s=ACCOUNTING_S) or []
        ended = {i: _state(r[1].split()[0], "", r[2]) for r in accounted for i in task_ids(r[0])}
        by_id = ended | by_id
    # An array that was cancelled before any of its tasks began stays one record of its own number.
    return {job: by_id.get(job.job_id) or by_id.get(_array(job)) or rest for job in jobs}


def _name(user_id: int) -> str:
    """A user's name, or the number where this machine does not know it."""
    try:
        return pwd.getpwuid(user_id).pw_name
    except (KeyError, OverflowError):
        return str(user_id)


def _array(job: SubmittedJob) -> str:
    """Number of a job, or of the array whose task it is."""
    return job.job_id.partition("_")[0]


def task_ids(text: str) -> list[str]:
    """Ids of the jobs that SLURM writes as one, such as `7_[0-2,5%2]` for tasks 0, 1, 2 and 5."""
    found = re.fullmatch(r"(\d+)_\[([\d,-]+)(?:%\d+)?\]", text)
    if found is None:
        return [text]
    spans = (span.split("-") for span in found[2].split(","))
    return [f"{found[1]}_{n}" for span in spans for n in range(int(span[0]), int(span[-1]) + 1)]


def _state(word: str, reason: str, node: str) -> JobState:
    if word in QUEUED:
        return JobState("queued", "" if reason == "None" else reason, node)
    if word in RUNNING:
        return JobState("running", "", node)
    return JobState("ended", word, node)


def cancel(jobs: Sequence[SubmittedJob]) -> None:
    """Cancel jobs. Raises VtexpError where SLURM does not answer."""
    ids = sorted({job.job_id for job in jobs})
    if not ids or lines("scancel", *ids) is not None:
        return
    if others := sorted({_name(job.user_id) for job in jobs if job.user_id != os.getuid()}):
        raise VtexpError(
            f"SLURM does not answer, or refuses: {count_of(len(ids), 'job')}, of user "
            f"{listed(others)}, who can cancel them with: scancel {' '.join(ids)}"
        )
    raise VtexpError(
        f"SLURM does not answer, or refuses: {len(ids)} of its jobs go on; cancel again when "
        f"squeue answers, or type: scancel {' '.join(ids)}"
    )


def queued() -> int | None:
    """Number of this user's jobs in the queue, tasks of arrays one by one; None if unknown."""
    shown = lines("squeue", "--me", "-h", "-r", "-o", "%i")
    return None if shown is None else len(shown)


def lines(*command: str, timeout_s: float = TIMEOUT_S) -> list[list[str]] | None:
    """Output of a command of SLURM, each line split at its bars; None where it fails.

    Where the controller is gone, that takes 2 s at most, though SLURM itself would try for longer.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith(_OF_A_VIEW)}
    pipes: dict[str, Any] = {"stdin": DEVNULL, "stdout": PIPE, "stderr": DEVNULL}
    try:
        with subprocess.Popen(command, **pipes, text=True, env=own) as process:
            try:
                output = _output(process, timeout_s)
            finally:
                process.kill()
    except (OSError, subprocess.TimeoutExpired):
        return None
    return [line.split("|") for line in output.splitlines()] if process.returncode == 0 else None


def _output(process: subprocess.Popen[str], timeout_s: float) -> str:
    """Raises TimeoutExpired after a time, or as soon as no controller is there to answer."""
    try:
        return process.communicate(timeout=PROMPT_S)[0]
    except subprocess.TimeoutExpired:
        if not _is_there():
            raise
    return process.communicate(timeout=timeout_s)[0]


def _is_there() -> bool:
    """Whether a controller, the first or one that stands in for it, gives a sign of life."""
    ping = ("scontrol", "ping")
    done = subprocess.run(ping, capture_output=True, text=True, timeout=PROMPT_S)
    return "is UP" in done.stdout
