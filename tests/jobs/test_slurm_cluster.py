"""The private SLURM cluster is a real one, seen through submitit as vtexp sees it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import submitit

from tests.helpers.slurm_cluster import GPUS_PER_NODE, NODES, Cluster, wait_until

pytestmark = pytest.mark.slurm


def executor(folder: Path, **parameters: object) -> submitit.SlurmExecutor:
    """Executor of jobs with one GPU each, if not told otherwise."""
    made = submitit.SlurmExecutor(folder=folder)
    made.update_parameters(**{"time": 60, "gpus_per_node": 1} | parameters)
    return made


def test_four_jobs_get_a_gpu_each(slurm: Cluster, tmp_path: Path) -> None:
    def place() -> tuple[str, str]:
        """Node and GPU, once all four jobs run at the same time."""
        (tmp_path / os.environ["SLURM_JOB_ID"]).touch()
        while len(list(tmp_path.glob("[0-9]*"))) < 4:
            time.sleep(0.1)
        return os.environ["SLURMD_NODENAME"], os.environ["CUDA_VISIBLE_DEVICES"]

    jobs = [executor(tmp_path / "jobs").submit(place) for _ in range(4)]
    for job in jobs:
        slurm.wait_for(job.job_id, "COMPLETED")
    expected = [(node, str(gpu)) for node in NODES for gpu in range(GPUS_PER_NODE)]
    assert sorted(job.result() for job in jobs) == expected


def test_a_cancelled_job_is_cancelled(slurm: Cluster, tmp_path: Path) -> None:
    job = executor(tmp_path).submit(time.sleep, 300)
    slurm.wait_for(job.job_id, "RUNNING")
    job.cancel()
    slurm.wait_for(job.job_id, "CANCELLED")


def test_a_preempted_job_is_requeued_and_ends(slurm: Cluster, tmp_path: Path) -> None:
    started = tmp_path / "started"

    class Interrupted:
        """Sleeps when started for the first time; then tells how often it was restarted."""

        def __call__(self) -> str | None:
            if "SLURM_RESTART_COUNT" not in os.environ:
                started.touch()
                time.sleep(300)
            return os.environ.get("SLURM_RESTART_COUNT")

        def checkpoint(self) -> submitit.helpers.DelayedSubmission:
            return submitit.helpers.DelayedSubmission(self)

    whole_node = {"gpus_per_node": GPUS_PER_NODE, "additional_parameters": {"nodelist": NODES[0]}}
    job = executor(tmp_path, **whole_node).submit(Interrupted())
    wait_until(started.exists, "the job to start")
    urgent = executor(tmp_path, **whole_node, partition="urgent").submit(time.time)
    slurm.wait_for(job.job_id, "PENDING")
    slurm.wait_for(urgent.job_id, "COMPLETED")
    slurm.wait_for(job.job_id, "COMPLETED")
    assert job.result() == "1"


def test_sacct_knows_a_job_that_has_ended(slurm_with_accounting: Cluster, tmp_path: Path) -> None:
    job = executor(tmp_path).submit(time.time)
    query = ("sacct", "--noheader", "--allocations", f"--jobs={job.job_id}", "--format=state")
    # It hears of an end some seconds after squeue.
    wait_until(lambda: slurm_with_accounting.run(*query) == "COMPLETED", "sacct to know the end")
