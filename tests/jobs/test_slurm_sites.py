"""Sweeps on private clusters set up as sites are: limits, queues, environments, other code."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.slurm_cluster import CPUS_PER_NODE, Cluster, wait_until
from tests.helpers.sweeps import ROOT, Sweep
from vtexp.runs.ledger import read_submitted
from vtexp.utils import files

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

ON_SLURM = ("hardware.launcher=slurm", "hardware.slurm.cpus=1", "hardware.slurm.gpus=0")
SHORT = ("dataset.limit=2", "measure.latency_samples=1")
#: Values of the knob, as many runs.
SIX = "knob.sizes=336x336,336x560,560x336,560x560,336x784,784x336"
SMALL = ("knob.sizes=336x336", "dataset.limit=4")
Use = Callable[..., Cluster]


def jobs_of_runs(sweep: Sweep) -> dict[str, list[str]]:
    """Ids of all jobs that were ever submitted to make a run."""
    found: dict[str, list[str]] = {}
    for job in read_submitted(sweep.folder):
        for run in job.runs:
            found.setdefault(run, []).extend([job.job_id] if job.job_id else [])
    return found


def refused_files(sweep: Sweep) -> list[str]:
    """What submitit wrote for jobs that SLURM did not take."""
    left = [*sweep.folder.glob("jobs/*.pkl"), *sweep.folder.glob("jobs/.submission_file_*.sh")]
    return [path.name for path in left if not path.is_symlink()]


def test_an_array_longer_than_the_site_allows_is_split(
    use_slurm: Use, tmp_path: Path, small_checkpoint: Path
) -> None:
    use_slurm(max_array_size=5)
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, *ON_SLURM, *SHORT)
    done = sweep.launch(SIX)
    assert done.returncode == 0, done.stderr
    assert len(sweep.answers()) == 6
    assert {len(jobs) for jobs in jobs_of_runs(sweep).values()} == {1}
    arrays = [job.partition("_")[0] for job in sweep.job_ids()]
    assert sorted(arrays.count(array) for array in set(arrays)) == [1, 5]
    assert not refused_files(sweep)


@pytest.mark.parametrize("limit", ["user", "qos"])
def test_what_a_submit_limit_holds_back_follows_as_places_free(
    use_slurm: Use, tmp_path: Path, small_checkpoint: Path, limit: str
) -> None:
    """Told with its name; the launcher is killed, and `wait` submits the rest. Each run once."""
    options = {"user": {"max_submit_jobs": 3}, "qos": {"qos_max_submit_jobs": 2}}[limit]
    use_slurm(accounting=True, **options)
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, *ON_SLURM, *SHORT)
    qos = ["hardware.slurm.qos=few"] if limit == "qos" else []
    launcher = sweep.start(SIX, *qos)
    room = options.get("max_submit_jobs", 2)
    wait_until(lambda: len(read_submitted(sweep.folder)) >= 6, "jobs to be noted as held back")
    launcher.send_signal(signal.SIGKILL)
    said = launcher.communicate()[0]
    assert f"room for {room} of 6 jobs" in said and "sweep.values_per_job=" in said
    assert ("QOSMaxSubmitJobPerUserLimit" if qos else "AssocMaxSubmitJobLimit") in said
    assert "waiting" in sweep.do("status").stdout
    waited = sweep.do("wait")
    assert waited.returncode == 0, waited.stderr + waited.stdout
    assert len(sweep.answers()) == 6
    assert {len(jobs) for jobs in jobs_of_runs(sweep).values()} == {1}
    assert not refused_files(sweep)


def test_a_refusal_leaves_nothing_behind(
    slurm: Cluster, tmp_path: Path, small_checkpoint: Path
) -> None:
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, *ON_SLURM, *SHORT)
    done = sweep.launch(SIX, "hardware.slurm.partition=nowhere")
    assert done.returncode == 1 and "Invalid partition name" in done.stderr
    assert not sweep.folder.exists()
    assert sweep.launch("knob.sizes=336x336").returncode == 0


@pytest.mark.parametrize(
    ("setup", "cause"),
    [
        ("exec /no/such/python", "/no/such/python"),
        ("export PYTHONPATH={broken}", "SyntaxError"),
    ],
)
def test_the_real_line_says_why_a_job_died(
    slurm: Cluster, tmp_path: Path, small_checkpoint: Path, setup: str, cause: str
) -> None:
    broken = tmp_path / "broken"
    (broken / "vtexp").mkdir(parents=True)
    (broken / "vtexp" / "__init__.py").write_text("def (:\n")
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, *ON_SLURM, *SHORT)
    line = setup.format(broken=broken)
    done = sweep.launch("knob.sizes=336x336", f"hardware.slurm.setup=['{line}']")
    assert done.returncode == 1
    (error,) = sweep.failures().values()
    assert cause in error and "srun: error" not in error


def test_timed_out_for_good(use_slurm: Use, tmp_path: Path, small_checkpoint: Path) -> None:
    cluster = use_slurm()
    long = ("dataset.limit=2000", "knob.sizes=784x784", "hardware.batch_size=1")
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, *ON_SLURM, *long)
    gone = sweep.launch("sweep.wait=false", "hardware.slurm.time_min=1",
                        "hardware.slurm.max_requeues=0")  # fmt: skip
    assert gone.returncode == 0, gone.stderr
    (job,) = sweep.job_ids()
    wait_until(lambda: cluster.state(job) not in ("PENDING", "RUNNING", "COMPLETING"), "its end")
    assert sweep.do("wait").returncode == 1
    (error,) = sweep.failures().values()
    assert "after 0 requeues" in error


def test_jobs_run_the_code_that_launched_them(
    slurm: Cluster, tmp_path: Path, small_checkpoint: Path
) -> None:
    """A copy of the checkout launches from a folder with yet another; changed while jobs wait."""
    copy = tmp_path / "copy"
    for part in ("conf", "vtexp", "hydra_plugins"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "launch.py", copy)
    version = copy / "vtexp" / "__init__.py"
    version.write_text(version.read_text() + '\n__version__ = "of the copy"\n')
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, *ON_SLURM, *SHORT, root=copy)
    assert sweep.launch("knob.sizes=336x336").returncode == 0
    held = ("+hardware.slurm.extra.hold=true", "sweep.wait=false")
    assert sweep.launch("knob.sizes=560x560", *held).returncode == 0
    version.write_text(version.read_text() + "\n# changed\n")
    slurm.run("scontrol", "release", sweep.job_ids()[-1])
    waited = sweep.do("wait")
    assert waited.returncode == 0, waited.stderr
    found = [sweep.environment_of(run) for run in sweep.answers()]
    assert [row["vtexp"] for row in found] == ["of the copy"] * 2
    assert sorted(row["source"] == row["submitted_source"] for row in found) == [False, True]
    assert "code changed" in waited.stdout


def test_cancelled_runs_say_so_when_slurm_has_forgotten_them(
    use_slurm: Use, tmp_path: Path, small_checkpoint: Path
) -> None:
    """One run by its knob's value, then all; no accounting, and squeue forgets within seconds."""
    cluster = use_slurm(min_job_age_s=2)
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, *ON_SLURM, *SHORT)
    held = ("+hardware.slurm.extra.hold=true", "sweep.wait=false")
    assert sweep.launch("knob.sizes=336x336,560x560", *held).returncode == 0
    one = run_vtexp(sweep, "cancel", str(sweep.folder), "560x560")
    assert one.returncode == 0, one.stderr
    assert ["CANCELLED" in error for error in sweep.failures().values()] == [True]
    states = json.loads(run_vtexp(sweep, "status", "--json", str(sweep.folder)).stdout)
    assert [(row["knob_value"], row["state"]) for row in states] == [
        ("336x336", "queued"), ("560x560", "failed")]  # fmt: skip
    assert states[0]["reason"] == "JobHeldUser"
    assert sweep.do("cancel").returncode == 0
    cluster.wait_for(sweep.job_ids()[0].partition("_")[0], "")
    status = sweep.do("status").stdout
    assert status.count("CANCELLED") == 2 and "forgotten" not in status


def run_vtexp(sweep: Sweep, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Type `python -m vtexp ...`."""
    command = [sys.executable, "-m", "vtexp", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=sweep.environment, cwd="/")


def test_a_reason_that_never_clears_ends_the_wait(
    slurm: Cluster, tmp_path: Path, small_checkpoint: Path
) -> None:
    """And one that may clear is waited for as long as asked; both are told without a terminal."""
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, *ON_SLURM, *SHORT)
    done = sweep.launch("knob.sizes=336x336", "hardware.slurm.partition=short",
                        "hardware.slurm.time_min=60")  # fmt: skip
    assert done.returncode == 1
    assert "PartitionTimeLimit" in done.stderr and "never start" in done.stderr
    assert "PartitionTimeLimit" in sweep.do("status").stdout
    other = Sweep(tmp_path / "my sweeps" / "sweep", small_checkpoint, *ON_SLURM, *SHORT)
    held = ("+hardware.slurm.extra.hold=true", "sweep.wait=false", "knob.sizes=336x336")
    assert other.launch(*held).returncode == 0
    began = time.monotonic()
    waited = run_vtexp(other, "wait", str(other.folder), "--timeout", "3s")
    assert 3 <= time.monotonic() - began < 30
    assert waited.returncode == 124
    assert "JobHeldUser" in waited.stdout and f"wait '{other.folder}'" in waited.stderr


@pytest.mark.parametrize("cpus", [1, 2])
def test_jobs_take_the_threads_that_they_asked_for(
    slurm: Cluster, tmp_path: Path, small_checkpoint: Path, cpus: int
) -> None:
    """The cluster does not bind jobs to their CPUs."""
    assert cpus < CPUS_PER_NODE
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, *ON_SLURM, *SHORT, "knob.sizes=336x336")
    del sweep.environment["OMP_NUM_THREADS"]
    done = sweep.launch(f"hardware.slurm.cpus={cpus}")
    assert done.returncode == 0, done.stderr
    (run,) = sweep.answers()
    assert sweep.environment_of(run)["torch_threads"] == cpus
    assert (sweep.folder / run / files.RESULT).is_file()


def scripts(sweep: Sweep) -> str:
    """What was handed to sbatch."""
    paths = sorted(sweep.folder.glob("jobs/**/*submission*.sh"))
    assert paths
    return "\n".join(path.read_text() for path in paths)


def threads(sweep: Sweep) -> set[int]:
    """Threads of the finished runs."""
    return {sweep.environment_of(run)["torch_threads"] for run in sweep.answers()}


@pytest.mark.usefixtures("slurm")
@pytest.mark.parametrize("how", ["SBATCH_EXPORT", "extra"])
def test_a_site_that_exports_nothing(how: str, tmp_path: Path, small_checkpoint: Path) -> None:
    extra = ["+hardware.slurm.extra.export=NONE"] if how == "extra" else []
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, *ON_SLURM, *SMALL)
    sweep.environment |= {"SBATCH_EXPORT": "NONE"} if how == "SBATCH_EXPORT" else {}
    done = sweep.launch(*extra)
    assert done.returncode == 0, done.stderr
    assert len(sweep.answers()) == 1 and threads(sweep) == {1}
    assert "wckey" not in scripts(sweep)


@pytest.mark.usefixtures("slurm")
def test_a_launch_inside_of_an_allocation(tmp_path: Path, small_checkpoint: Path) -> None:
    """One core and a mask of it, which the sweep's own jobs of two cores do not inherit."""
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, *ON_SLURM, *SMALL, "hardware.slurm.cpus=2")
    inside = {"SLURM_CPU_BIND": "quiet,mask_cpu:0x1", "SLURM_CPUS_PER_TASK": "1"}
    inside |= {"SLURM_TRES_PER_TASK": "gres:nothing:1", "SLURM_GRES": "nothing:1"}
    environment = sweep.environment | inside
    del environment["OMP_NUM_THREADS"]
    command = ["salloc", "--ntasks=1", "--cpus-per-task=1", "--quiet", *sweep.command()]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr
    assert len(sweep.answers()) == 1 and threads(sweep) == {2}


def test_what_the_config_asks_for_wins_over_variables_of_sbatch(
    slurm: Cluster, tmp_path: Path, small_checkpoint: Path
) -> None:
    """Defaults of a user that the config does not touch stay; cancel asks nobody."""
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, *ON_SLURM, *SMALL)
    contrary = {"PARTITION": "nowhere", "TIMELIMIT": "1", "OUTPUT": "/nowhere/x", "GPUS": "2"}
    contrary |= {"ARRAY_INX": "0-3", "NO_REQUEUE": "1", "WAIT": "1", "JOB_NAME": "x", "COMMENT": ""}
    sweep.environment |= {f"SBATCH_{name}": value for name, value in contrary.items()}
    sweep.environment |= {"SBATCH_EXCLUSIVE": "user", "SBATCH_GRES": "gpu:1"}
    sweep.environment |= {"SQUEUE_PARTITION": "urgent", "SCANCEL_INTERACTIVE": "1"}
    asked = ("hardware.slurm.partition=gpu", "hardware.slurm.time_min=7", "sweep.wait=false")
    done = sweep.launch(*asked, "+hardware.slurm.extra.hold=true")
    assert done.returncode == 0, done.stderr
    (job,) = sweep.job_ids()
    shown = slurm.run("scontrol", "--oneliner", "show", "job", job)
    for part in ("Partition=gpu", "TimeLimit=00:07:00", "Requeue=1", "JobName=vtexp-sweep"):
        assert part in shown
    assert f"StdOut={sweep.folder}" in shown
    assert "gpu:" not in shown and "gres/gpu" not in shown and "ArrayTaskId" not in shown
    assert "OverSubscribe=USER" in shown
    assert "JobHeldUser" in sweep.do("status").stdout
    assert sweep.do("cancel").returncode == 0
    assert slurm.state(job) == "CANCELLED"


@pytest.mark.parametrize("setup", ["", "export SLURM_CPU_BIND=quiet,mask_cpu:0x1"])
def test_a_job_on_fewer_cores_than_asked_for_says_so(
    use_slurm: Use, tmp_path: Path, small_checkpoint: Path, setup: str
) -> None:
    """A site that binds tasks to cores; a line of the job's script pins it to one."""
    use_slurm(task_plugin="affinity")
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, *ON_SLURM, *SMALL, "hardware.slurm.cpus=2")
    del sweep.environment["OMP_NUM_THREADS"]
    done = sweep.launch(f"hardware.slurm.setup=['{setup}']")
    assert done.returncode == 0, done.stderr
    assert ("1 core of the 2 that hardware.slurm.cpus asks for" in done.stdout) == bool(setup)


def test_a_wckey_is_sent_where_it_is_asked_for(
    slurm: Cluster, tmp_path: Path, small_checkpoint: Path
) -> None:
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, *ON_SLURM, *SMALL)
    done = sweep.launch("+hardware.slurm.extra.wckey=ours", "sweep.wait=false")
    assert done.returncode == 0, done.stderr
    assert "--wckey=ours" in scripts(sweep)


@pytest.mark.usefixtures("slurm")
def test_a_name_in_a_file_is_the_same_sweep(tmp_path: Path, small_checkpoint: Path) -> None:
    """Typed again, it makes nothing again."""
    (tmp_path / "site" / "experiment").mkdir(parents=True)
    mine = {"sweep": {"name": "named", "folder": str(tmp_path)}}
    text = "# @package _global_\n" + json.dumps(mine)
    (tmp_path / "site" / "experiment" / "mine.yaml").write_text(text)
    sweep = Sweep(tmp_path / "named", small_checkpoint, *ON_SLURM, *SMALL)
    command = [part for part in sweep.command() if not part.startswith("sweep.")]
    command += ["--config-dir", str(tmp_path / "site"), "experiment=mine"]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, env=sweep.environment)
        assert done.returncode == 0, done.stderr
    assert "1 run already done" in done.stdout
    assert not (tmp_path / "named-2").exists()
    assert len(sweep.answers()) == 1
