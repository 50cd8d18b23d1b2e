"""What a job runs, on whatever machine: some runs of a sweep, known by their folders alone.

`python -m vtexp.jobs.worker SWEEP RUN [RUN ...]` makes them as one process; submitit calls
`SweepJob`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from vtexp.config.choices import Launcher
from vtexp.errors import VtexpError, error_line
from vtexp.runs.allocation import named_gpus, shares
from vtexp.runs.folder import record_failure, settled
from vtexp.runs.frozen import require_folders, thaw
from vtexp.runs.job import make_runs
from vtexp.runs.ledger import JOBS, SubmittedJob, note_submitted, read_submitted, taking
from vtexp.runs.plan import make_plan
from vtexp.runs.preemption import preempted
from vtexp.runs.ranks import rank_of_process, record_rank_failure
from vtexp.tracking.mirror import mirror
from vtexp.utils import source
from vtexp.utils.console import console
from vtexp.utils.output import output_may_close

#: Seconds after its submission within which a job is noted, and the note seen elsewhere.
NOTED_S, SEEN_S = 5.0, 90.0


class SweepJob:
    """Some runs of a sweep as submitit takes them: a callable that pickles to two paths and names.

    After a time limit or a preemption SLURM starts it again, and it goes on from the runs' files.
    """

    def __init__(self, sweep: Path, runs: Sequence[str], working_folder: Path) -> None:
        self.sweep, self.runs, self.working_folder = sweep, tuple(runs), working_folder
        self.source = (str(source.root()), source.fingerprint())

    def __call__(self) -> None:
        """Make the runs; whatever happens is in their folders."""
        os.chdir(self.working_folder)
        os.environ[source.SUBMITTED] = self.source[1]
        if not is_theirs(self.sweep, self.runs):
            console.print("another job works on these runs: nothing is left to do")
            return
        folders = [self.sweep / run for run in self.runs]
        now = (str(source.root()), source.fingerprint())
        # The comparison reports code that was changed in place; code of another place is not what
        # the user launched.
        if now[0] != self.source[0] and now[1] != self.source[1]:
            refuse(folders, f"runs the vtexp of {now[0]}, but was launched from {self.source[0]}")
            return
        make_job(folders, rank_of_process())

    def checkpoint(self) -> object:
        """What SLURM is to run when it starts the job again: the same, all state is in files."""
        from submitit.helpers import DelayedSubmission

        preempted.set()
        return DelayedSubmission(self)


def refuse(folders: Sequence[Path], why: str) -> None:
    """Record runs as failed that this job must not make."""
    for folder in folders:
        if not settled(folder):
            record_failure(folder, VtexpError(f"the job {why}; check hardware.slurm.setup"))


def is_theirs(sweep: Path, runs: Sequence[str]) -> bool:
    """Whether this job of SLURM makes its runs: by the sweep's notes, or as nobody else does.

    A launcher that is killed between submitting a job and noting it leaves runs that someone may
    submit again: the job that is noted, or notes itself, makes them. Notes of another machine may
    be seen late.
    """
    own, began = _job_id(), time.monotonic()
    while True:
        found = _makers(sweep, runs)
        if own in found:
            return True
        waited = time.monotonic() - began
        if found == {""} and waited > NOTED_S:
            return _claim(sweep, runs, own)
        if waited > SEEN_S:
            return False
        time.sleep(0.5)


def _makers(sweep: Path, runs: Sequence[str]) -> set[str]:
    """Ids of the jobs that are noted to make runs; empty for a run that none makes."""
    makers = {run: job.job_id for job in read_submitted(sweep) for run in job.runs}
    return {makers.get(run, "") for run in runs}


def _claim(sweep: Path, runs: Sequence[str], own: str) -> bool:
    """Note this job as the one that makes its runs; False if another job was quicker."""
    with taking(sweep):
        if _makers(sweep, runs) - {"", own}:
            return False
        log = str(sweep / JOBS / own / f"{own}_0_log.err")
        job = SubmittedJob(tuple(runs), Launcher.slurm, own, log=log, user_id=os.getuid())
        note_submitted(sweep, [job])
        return True


def _job_id() -> str:
    """This job's id as submitit gives it: of an array's task with its number."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")


def make_job(folders: Sequence[Path], rank: int = 0) -> None:
    """Make runs that were frozen in these folders of one sweep, or a rank's share in them.

    Where nothing can be made at all, each run's folder says why. Every rank but 0 re-raises, so
    that the others are not kept waiting.
    """
    try:
        _make(folders, rank)
    except Exception as error:
        if preempted.is_set():
            raise
        console.print(f"FAILED: {error_line(error)}")
        if rank > 0:
            for folder in folders:
                record_rank_failure(folder, rank, error)
            raise
        for folder in folders:
            if not settled(folder):
                record_failure(folder, error)


def _make(folders: Sequence[Path], rank: int) -> None:
    config = thaw(folders)
    if config.hardware.gpus_per_run > 1:
        _take_own_gpus(rank, config.hardware.gpus_per_run)
    plan = make_plan(config)
    require_folders(plan, folders)
    make_runs(plan, rank, on_result=mirror)


def _take_own_gpus(rank: int, ranks: int) -> None:
    """Leave this process its share of the GPUs that it can see, before CUDA looks at them.

    Raises VtexpError where they are fewer than the ranks. All ranks are on one node.
    """
    visible = named_gpus()
    if not visible:
        return
    if len(visible) < ranks:
        raise VtexpError(
            f"hardware.gpus_per_run={ranks}: only {len(visible)} GPUs can be used here"
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = shares(visible, ranks)[rank]


if __name__ == "__main__":
    sweep = Path(sys.argv[1])
    with output_may_close(fails=False):
        make_job([sweep / run for run in sys.argv[2:]], rank_of_process())
