"""Sweeps in processes of this machine: found again, cancelled, resumed, without any SLURM."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.sweeps import Sweep, wait_until
from vtexp import local, records, slurm, watching
from vtexp.config import Config
from vtexp.errors import ConfigError, DataError
from vtexp.jobs import SubmittedJob
from vtexp.outcomes import freeze, thaw
from vtexp.planning import make_plan, sweep_folder
from vtexp.sweep import in_new_folder

MakeConfig = Callable[..., Config]
LOCAL = ("hardware.launcher=local",)
LONG = ("dataset.limit=50", "hardware.batch_size=1")


def test_a_frozen_config_thaws_to_the_same_runs(make_config: MakeConfig, tmp_path: Path) -> None:
    for knob in ("knob.sizes=[560x336,784x784]", "knob=max_crops", "knob=vision_tokens"):
        plan = make_plan(make_config(knob, "knob.fit=crop" if "sizes" in knob else "plan=false"))
        freeze(plan)
        folders = [run.folder for run in plan.runs]
        for chosen in (folders, folders[1:]):
            again = make_plan(thaw(chosen))
            assert [run.folder for run in again.runs] == chosen
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    sweep_folder(plan.config).rename(moved)
    found = thaw([moved / folders[0].name])
    assert [run.folder for run in make_plan(found).runs] == [moved / folders[0].name]


def test_sweeps_of_one_second_get_two_folders(make_config: MakeConfig) -> None:
    plan = make_plan(make_config("knob.sizes=[336x336]"))
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: in_new_folder([plan])[0], range(8)))
    assert sorted(p.config.sweep.name for p in made) == [
        "sweep", *(f"sweep-{number}" for number in range(2, 9))
    ]  # fmt: skip
    for plan in made:
        assert plan.runs[0].folder.parent == sweep_folder(plan.config)
        assert sweep_folder(plan.config).is_dir()


def test_no_slurm_is_one_line(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="no SLURM on this machine"):
        slurm.submit(tmp_path, [], make_config("hardware=h100").hardware)
    job = SubmittedJob(("a",), "slurm", "7", "here", "log")
    assert slurm.states([job])["7"].state == "unknown"


def test_no_such_sweep_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no sweep of this name"):
        watching.find_sweep(str(tmp_path))


def test_a_process_that_is_another_now_is_not_the_job(tmp_path: Path) -> None:
    me = SubmittedJob(
        ("a",), "local", "1", local.environment.host(), "log", os.getpid(), "long ago"
    )
    assert local.states([me])["1"].state == "ended"
    local.cancel([me])  # or this test would end here


@pytest.mark.slow
def test_a_local_sweep_is_cancelled_and_resumed(tmp_path: Path, small_checkpoint: Path) -> None:
    sizes = "knob.sizes=784x784,672x672"
    here = Sweep(tmp_path / "here" / "sweep", small_checkpoint, *LONG, sizes)
    assert here.launch().returncode == 0
    sweep = Sweep(tmp_path / "there" / "sweep", small_checkpoint, *LONG, sizes, *LOCAL)
    assert sweep.launch("sweep.wait=false").returncode == 0
    sweep.wait_for_answers(3)
    status = sweep.do("status").stdout
    assert "1 running, 1 queued" in status
    assert sweep.do("cancel").returncode == 0
    waited = sweep.do("wait")
    assert waited.returncode == 1 and "2 of 2 runs failed" in waited.stderr
    assert "its process has ended" in next(iter(sweep.failures().values()))
    assert sweep.do("resume").returncode == 0
    assert sweep.answers() == here.answers() and len(here.answers()) == 2


@pytest.mark.slow
def test_a_killed_run_leaves_its_lane_alone(tmp_path: Path, small_checkpoint: Path) -> None:
    """Also of two ranks: the other one does not wait for it."""
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, *LONG, *LOCAL, "hardware.gpus_per_run=2")
    process = sweep.start("knob.sizes=784x784,336x336")
    sweep.wait_for_answers(3)
    (folder,) = (p.parents[2] for p in sweep.folder.glob("*/ranks/1/answers.jsonl.partial"))
    os.kill(_worker(folder.name, rank=1), signal.SIGKILL)
    output, errors = process.communicate()
    assert process.returncode == 1, output
    assert "1 of 2 runs failed: image_size=784x784 (its process ended: " in errors
    assert "signal 9" in errors
    assert len(sweep.answers()) == 1
    assert sweep.do("resume").returncode == 0
    assert {len(rows) for rows in sweep.answers().values()} == {50}
    for run in sweep.answers():
        result = records.read_json(sweep.folder / run / records.RESULT)
        assert len(result["prefill_ms_by_rank"]) == 2


def _worker(run: str, rank: int) -> int:
    """Process that makes a rank of a run."""
    found: list[int] = []

    def look() -> bool:
        for path in Path("/proc").glob("[0-9]*"):
            try:
                command = (path / "cmdline").read_text()
                variables = (path / "environ").read_text().split("\0")
            except OSError:
                continue
            if "vtexp.worker" in command and run in command and f"VTEXP_RANK={rank}" in variables:
                found.append(int(path.name))
        return bool(found)

    wait_until(look, f"rank {rank} of {run}")
    return found[0]


@pytest.mark.slow
def test_an_interrupted_sweep_of_this_process_is_resumed(
    tmp_path: Path, small_checkpoint: Path
) -> None:
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, *LONG, "knob.sizes=784x784,336x336")
    process = sweep.start()
    sweep.wait_for_answers(3)
    assert "1 running, 1 missing" in sweep.do("status").stdout
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    report = sweep.do("report")
    assert report.returncode == 0
    assert sweep.do("resume").returncode == 0
    assert {len(rows) for rows in sweep.answers().values()} == {50}
