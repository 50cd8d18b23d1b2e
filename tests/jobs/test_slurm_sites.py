"""Sites set up as real ones are: a sweep on each gives its answers without a recipe."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.helpers.slurm_cluster import Cluster
from tests.helpers.sweeps import Sweep

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

ON_SLURM = ("hardware.launcher=slurm", "hardware.slurm.gpus=0")
SMALL = ("knob.sizes=336x336", "dataset.limit=4")


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
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, *ON_SLURM, *SMALL, "hardware.slurm.cpus=1")
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


def test_a_wckey_is_sent_where_it_is_asked_for(
    slurm: Cluster, tmp_path: Path, small_checkpoint: Path
) -> None:
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, *ON_SLURM, *SMALL, "hardware.slurm.cpus=1")
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
    sweep = Sweep(tmp_path / "named", small_checkpoint, *ON_SLURM, *SMALL, "hardware.slurm.cpus=1")
    command = [part for part in sweep.command() if not part.startswith("sweep.")]
    command += ["--config-dir", str(tmp_path / "site"), "experiment=mine"]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, env=sweep.environment)
        assert done.returncode == 0, done.stderr
    assert "have a result already" in done.stdout
    assert not (tmp_path / "named-2").exists()
    assert len(sweep.answers()) == 1
