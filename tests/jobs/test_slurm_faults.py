"""SLURM does not answer, or keeps no accounts: nothing is lost, and it is said, soon enough."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.facts import says
from tests.helpers.slurm_cluster import Cluster, wait_until
from tests.helpers.sweeps import Sweep, process_of
from vtexp.utils import files

pytestmark = [pytest.mark.slow, pytest.mark.slurm]
#: Of a SLURM that does not answer: its own retries, and the start of a process.
MOST_S = 90
SITE = ("hardware=h100", "hardware.device=cpu", "hardware.dtype=float32", "hardware.slurm.gpus=0",
        "hardware.slurm.cpus=1", "hardware.slurm.time_min=10")  # fmt: skip
LONG = ("dataset.limit=60", "hardware.batch_size=1", "knob.sizes=560x560")


@pytest.mark.fault(
    "outside world", "SLURM's controller is down at submission", "one line within 90 s; typed again"
)
def test_submission_without_a_controller_is_one_line(
    slurm: Cluster, tmp_path: Path, small_checkpoint: Path
) -> None:
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, *SITE, "dataset.limit=4")
    slurm.controller_down()
    began = time.monotonic()
    done = sweep.launch("knob.sizes=336x336")
    assert time.monotonic() - began < MOST_S
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    assert re.match("error: hardware=h100: .*refused.*contact slurm", line), line
    slurm.controller_up()
    done = sweep.launch("knob.sizes=336x336")
    assert done.returncode == 0, done.stderr
    assert {len(rows) for rows in sweep.answers().values()} == {4}


@pytest.mark.fault(
    "outside world",
    "SLURM's controller is down while a sweep runs",
    "status and wait say so and go on; cancel says what to type, exit code 1; results are complete",
)
def test_a_controller_that_goes_away_while_jobs_run(
    slurm: Cluster, tmp_path: Path, small_checkpoint: Path
) -> None:
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, *SITE, *LONG)
    process = sweep.start()
    sweep.wait_for_answers(3)
    slurm.controller_down()
    began = time.monotonic()
    cancelled = sweep.do("cancel")
    assert time.monotonic() - began < MOST_S
    assert cancelled.returncode == 1
    (line,) = cancelled.stderr.splitlines()
    (job_id,) = sweep.job_ids()
    assert says(line, "squeue") and line.endswith(f": scancel {job_id}")
    assert "not answer" in sweep.do("status").stdout or sweep.answers()
    wait_until(lambda: bool(sweep.answers()), "the result, which needs no controller")
    slurm.controller_up()
    output, errors = process.communicate()
    assert process.returncode == 0, errors + output
    assert {len(rows) for rows in sweep.answers().values()} == {60}


@pytest.mark.fault(
    "outside world",
    "a job is killed where SLURM has no sacct, and squeue forgets it",
    "wait says that its run has no result; resumed, it completes",
)
def test_without_sacct_a_killed_job_is_found_out(
    use_slurm: Callable[..., Cluster], tmp_path: Path, small_checkpoint: Path
) -> None:
    cluster = use_slurm(min_job_age_s=2)
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, *SITE, *LONG)
    submitted = sweep.launch("sweep.wait=false")
    assert submitted.returncode == 0, submitted.stderr
    (job,) = sweep.job_ids()
    sweep.wait_for_answers(3)
    array, _, task = job.partition("_")
    variable = f"SLURM_ARRAY_TASK_ID={task}" if task else f"SLURM_JOB_ID={array}"
    os.kill(process_of("submitit.core._submit", variable), signal.SIGKILL)
    cluster.wait_for(array, "")
    waited = sweep.do("wait")
    assert waited.returncode == 1
    (path,) = sweep.folder.glob(f"*/{files.FAILURE}")
    assert says(files.read_json(path)["error"], "without a result", "SLURM has forgotten")
    resumed = sweep.do("resume")
    assert resumed.returncode == 0, resumed.stderr
    assert {len(rows) for rows in sweep.answers().values()} == {60}
