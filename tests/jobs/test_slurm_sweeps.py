"""Sweeps on a real SLURM: whatever happens to jobs, no answer is lost, doubled or changed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.slurm_cluster import NODES, Cluster, wait_until
from tests.helpers.sweeps import ROOT, Sweep, process_of
from vtexp.utils import files

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

ON_SLURM = ("hardware.launcher=slurm", "hardware.slurm.cpus=1", "hardware.slurm.gpus=1")
#: A run that takes some 10 s, so that something can happen to it.
LONG = ("dataset.limit=80", "knob.sizes=784x784", "hardware.batch_size=1")
TWO_LONG = ("dataset.limit=80", "knob.sizes=[784x784,672x672]", "hardware.batch_size=1")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, small_checkpoint: Path) -> Sweep:
    """Two long runs that nothing happened to, made in one process."""
    sweep = Sweep(tmp_path_factory.mktemp("undisturbed") / "sweep", small_checkpoint, *TWO_LONG)
    done = sweep.launch()
    assert done.returncode == 0, done.stderr
    return sweep


def same_as(undisturbed: Sweep, sweep: Sweep) -> None:
    """Assert that all runs of a sweep gave the same answers, each once and in the same order."""
    expected = undisturbed.answers()
    found = sweep.answers()
    assert found
    assert found == {run: expected[run] for run in found}


def worker_of(job: str) -> int:
    """Process that makes the runs of a task of an array."""
    _, _, task = job.partition("_")
    return process_of("submitit.core._submit", f"SLURM_ARRAY_TASK_ID={task}")


@pytest.mark.fault(
    "outside world", "SLURM without accounting: no sacct", "a sweep of four jobs, the same answers"
)
def test_a_sweep_of_two_hardwares_over_two_nodes(
    slurm: Cluster, tmp_path: Path, small_checkpoint: Path
) -> None:
    """One is a site's own. Two runs of each: two arrays over four GPUs."""
    own = tmp_path / "site" / "hardware" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("defaults: [cpu, _self_]\nname: mine\nslurm: {extra: {comment: ours}}\n")
    two_by_two = ("hardware=cpu,mine", "knob.sizes=336x336,560x336", "dataset.limit=8")
    site = ("--config-dir", str(tmp_path / "site"), *two_by_two)
    here = Sweep(tmp_path / "here" / "sweep", small_checkpoint)
    assert here.launch(*site).returncode == 0
    there = Sweep(tmp_path / "there" / "sweep", small_checkpoint, *ON_SLURM)
    done = there.launch(*site)
    assert done.returncode == 0, done.stderr
    assert "4 runs: 4 done" in done.stdout
    assert there.answers() == here.answers() and len(here.answers()) == 4
    hosts = {there.environment_of(run)["host"] for run in there.answers()}
    assert hosts == set(NODES)
    arrays = {job.partition("_")[0] for job in there.job_ids()}
    assert len(there.job_ids()) == 4 and len(arrays) == 2
    assert (there.folder / "comparison.csv").is_file()
    about = [slurm.run("scontrol", "show", "job", job) for job in there.job_ids()]
    assert sum("Comment=ours" in text for text in about) == 2


@pytest.mark.fault(
    "kill anywhere",
    "scancel, SIGKILL under SLURM",
    "runs fail and say how they ended; resumed, the same answers",
)
def test_cancelled_and_killed_runs_say_so_and_are_resumed(
    use_slurm: Callable[..., Cluster], tmp_path: Path, small_checkpoint: Path, undisturbed: Sweep
) -> None:
    """Killed as the kernel does for memory. squeue has forgotten both by then, sacct has not."""
    cluster = use_slurm(accounting=True, min_job_age_s=2)
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, *TWO_LONG, *ON_SLURM, "sweep.wait=false")
    submitted = sweep.launch("sweep.values_per_job=1")
    assert submitted.returncode == 0, submitted.stderr
    assert f"python -m vtexp wait {sweep.folder}" in submitted.stdout
    cancelled, killed = sweep.job_ids()
    for job, run in ((cancelled, "*784x784*"), (killed, "*672x672*")):
        sweep.wait_for_answers(3, run)
        process = worker_of(job)
        os.kill(process, signal.SIGSTOP)  # or, on a busy machine, the run ends before its kill
    # At once: submitit ignores SIGTERM, and in the time until SIGKILL the run could end well.
    cluster.run("scancel", "--signal=KILL", "--full", cancelled)
    os.kill(process, signal.SIGKILL)
    array, _, _ = killed.partition("_")
    cluster.wait_for(array, "")
    waited = sweep.do("wait")
    assert waited.returncode == 1
    assert "2 of 2 runs failed: image_size=" in waited.stderr
    failed = [files.read_json(path) for path in sweep.folder.glob(f"*/{files.FAILURE}")]
    by_value = {failure["knob_value"]: failure for failure in failed}
    assert "(CANCELLED" in by_value["784x784"]["error"]
    assert "(FAILED" in by_value["672x672"]["error"]
    assert any("Killed" in line for line in by_value["672x672"]["log_tail"])
    assert Path(by_value["672x672"]["log"]).is_file()
    report = sweep.do("report")
    assert report.returncode == 0
    assert re.search(r"image_size=784x784\W+FAILED", report.stdout)
    resumed = sweep.do("resume")
    assert resumed.returncode == 0, resumed.stderr
    same_as(undisturbed, sweep)
    assert len(sweep.answers()) == 2 and not sweep.failures()


def test_a_job_that_cannot_begin_says_why(
    slurm_with_accounting: Cluster, tmp_path: Path, small_checkpoint: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(small_checkpoint, broken)
    (broken / "model.safetensors").write_bytes(b"not weights")
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, "knob.sizes=[336x336]", "dataset.limit=4")
    done = sweep.launch(f"model.path={small_checkpoint},{broken}", *ON_SLURM)
    assert done.returncode == 1
    assert "1 of 2 runs failed" in done.stderr and "as Molmo v1" in done.stderr
    assert len(sweep.answers()) == 1


@pytest.mark.fault(
    "outside world",
    "SLURM's time limit",
    "requeued, goes on, the same answers",
)
def test_at_the_time_limit_a_job_is_requeued_and_goes_on(
    slurm: Cluster, tmp_path: Path, small_checkpoint: Path, undisturbed: Sweep
) -> None:
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, *LONG, *ON_SLURM)
    assert sweep.launch("sweep.wait=false", "hardware.slurm.time_min=10").returncode == 0
    (job,) = sweep.job_ids()
    sweep.wait_for_answers(3)
    # SLURM looks twice in a minute, and lets what it signals go on: until then nothing is computed.
    os.kill(process_of("submitit.core._submit", f"SLURM_JOB_ID={job}"), signal.SIGSTOP)
    slurm.run("scontrol", "update", f"jobid={job}", "timelimit=1")
    slurm.wait_for(job, "PENDING")
    slurm.run("scontrol", "update", f"jobid={job}", "timelimit=10")
    assert sweep.do("wait").returncode == 0
    same_as(undisturbed, sweep)
    assert "Restarts=1" in slurm.run("scontrol", "show", "job", job)


@pytest.mark.fault(
    "outside world",
    "SLURM preempts a job",
    "requeued, goes on, the same answers",
)
def test_a_preempted_job_goes_on(
    slurm: Cluster, tmp_path: Path, small_checkpoint: Path, undisturbed: Sweep
) -> None:
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, *LONG, *ON_SLURM, "sweep.wait=false")
    extra = f"+hardware.slurm.extra.nodelist={NODES[0]}"
    assert sweep.launch("hardware.slurm.gpus=2", extra).returncode == 0
    (job,) = sweep.job_ids()
    sweep.wait_for_answers(3)
    urgent = ["--partition=urgent", "--gres=gpu:2", f"--nodelist={NODES[0]}", "--output=/dev/null"]
    slurm.run("sbatch", *urgent, "--wrap=sleep 1")
    slurm.wait_for(job, "PENDING")
    assert sweep.do("wait").returncode == 0
    same_as(undisturbed, sweep)
    assert "Restarts=1" in slurm.run("scontrol", "show", "job", job)


@pytest.mark.fault(
    "outside world",
    "a node of SLURM dies",
    "another node goes on; all times come from that node",
)
def test_when_a_node_dies_another_goes_on(
    slurm: Cluster, tmp_path: Path, small_checkpoint: Path, undisturbed: Sweep
) -> None:
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, *LONG, *ON_SLURM, "sweep.wait=false")
    assert sweep.launch().returncode == 0
    (job,) = sweep.job_ids()
    sweep.wait_for_answers(3)
    first = slurm.run("squeue", "--noheader", f"--jobs={job}", "--format=%N")
    slurm.node_down(first)
    assert sweep.do("wait").returncode == 0
    same_as(undisturbed, sweep)
    (run,) = sweep.answers()
    (other,) = set(NODES) - {first}
    assert sweep.environment_of(run)["host"] == other  # where its prefill was timed


@pytest.mark.fault(
    "kill anywhere",
    "SIGKILL of the launching process while SLURM runs its jobs",
    "found again by wait, the same answers",
)
def test_a_sweep_whose_launcher_was_killed_is_found_again(
    slurm: Cluster, tmp_path: Path, small_checkpoint: Path, undisturbed: Sweep
) -> None:
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, *LONG, *ON_SLURM)
    launcher = sweep.start()
    sweep.wait_for_answers(3)
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    status = sweep.do("status")
    assert status.returncode == 0
    assert "1 running" in status.stdout and "answers " in status.stdout
    assert sweep.do("wait").returncode == 0
    same_as(undisturbed, sweep)


def test_editing_conf_changes_no_job_that_waits(
    slurm: Cluster, tmp_path: Path, small_checkpoint: Path
) -> None:
    copy = tmp_path / "copy"
    for part in ("conf", "vtexp", "hydra_plugins"):
        shutil.copytree(ROOT / part, copy / part)
    shutil.copy(ROOT / "launch.py", copy)
    short = ("knob.sizes=336x336,560x336", "dataset.limit=4")
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, *short, *ON_SLURM, root=copy)
    hold = "+hardware.slurm.extra.hold=true"
    assert sweep.launch("sweep.wait=false", hold).returncode == 0
    status = sweep.do("status").stdout
    assert "2 queued" in status and "JobHeldUser" in status
    measure = copy / "conf" / "measure" / "default.yaml"
    measure.write_text(measure.read_text().replace("latency_repeats: 4", "latency_repeats: 9"))
    dataset = copy / "conf" / "dataset" / "easy_vqa.yaml"
    dataset.write_text(dataset.read_text().replace("metric: exact_match", "metric: anls"))
    first, second = sweep.job_ids()
    slurm.run("scancel", second)
    slurm.run("scontrol", "release", first)
    wait_until(lambda: len(sweep.answers()) == 1, "the first run")
    # Asked for held again, as it was frozen: released from outside once more.
    resume = subprocess.Popen(
        [sys.executable, *("-m", "vtexp", "resume"), str(sweep.folder)], env=sweep.environment
    )
    wait_until(lambda: len(sweep.job_ids()) == 3, "the run to be submitted again")
    slurm.run("scontrol", "release", sweep.job_ids()[2])
    assert resume.wait() == 0
    results = [files.read_json(path) for path in sweep.folder.glob(f"*/{files.RESULT}")]
    assert len(results) == 2
    for result in results:
        assert result["metric"] == "exact_match"
        assert result["latency"]["prefill_ms"]["n"] == 2


def test_two_ranks_answer_as_one(
    slurm: Cluster, tmp_path: Path, small_checkpoint: Path, undisturbed: Sweep
) -> None:
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, *LONG, *ON_SLURM)
    done = sweep.launch("hardware.gpus_per_run=2")
    assert done.returncode == 0, done.stderr
    ((run, answers),) = sweep.answers().items()
    (expected,) = (rows for name, rows in undisturbed.answers().items() if "784x784" in name)
    assert answers == expected
    result = files.read_json(sweep.folder / run / files.RESULT)
    assert len(result["prefill_ms_by_rank"]) == 2
    assert result["latency"]["prefill_ms"]["n"] == 4
    assert len(sweep.environment_of(run)["processes"]) == 2


def test_what_slurm_refuses_is_one_line(
    slurm: Cluster, tmp_path: Path, small_checkpoint: Path
) -> None:
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, *LONG, *ON_SLURM)
    done = sweep.launch("hardware.slurm.partition=nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("error: hardware=cpu: SLURM refused")
    assert "Invalid partition name" in done.stderr
    assert done.stderr.count("\n") == 1
