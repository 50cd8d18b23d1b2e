"""Sweeps in processes of this machine: found again, cancelled, resumed, without any SLURM."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers.facts import says
from tests.helpers.slurm_cluster import wait_until
from tests.helpers.sweeps import ROOT, Sweep, process_of, run_without_report
from vtexp.config.choices import Launcher
from vtexp.config.schema import Config
from vtexp.errors import ConfigError, DataError, RunFailedError, VtexpError
from vtexp.jobs import launch, local, slurm
from vtexp.jobs.prepare import in_new_folder
from vtexp.jobs.status import find_sweep, look
from vtexp.runs import ranks
from vtexp.runs.frozen import freeze, thaw
from vtexp.runs.ledger import Job, SubmittedJob, note_submitted, of_process
from vtexp.runs.plan import make_plan, sweep_folder
from vtexp.utils import files

MakeConfig = Callable[..., Config]
LOCAL = ("hardware.launcher=local",)
LONG = ("dataset.limit=80", "hardware.batch_size=1", "knob.sizes=784x784,336x336")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, small_checkpoint: Path) -> Sweep:
    """The long sweep in one process, without an interruption."""
    sweep = Sweep(tmp_path_factory.mktemp("undisturbed") / "sweep", small_checkpoint, *LONG)
    assert sweep.launch().returncode == 0
    assert {len(rows) for rows in sweep.answers().values()} == {80}
    return sweep


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
    with pytest.raises(ConfigError, match="no SLURM"):
        slurm.submit(tmp_path, [], make_config("hardware=h100").hardware)
    job = SubmittedJob(("a",), Launcher.slurm, "7", user_id=os.getuid())
    assert slurm.states([job])[job].state == "unknown"


def test_the_sweep_of_another_user_is_not_judged() -> None:
    job = SubmittedJob(("a",), Launcher.slurm, "7", user_id=os.getuid() + 1)
    assert slurm.states([job])[job].state == "unknown"


def test_no_such_sweep_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no sweep"):
        find_sweep(str(tmp_path))


def test_a_process_that_is_another_now_is_not_the_job() -> None:
    me = of_process(["a"], Launcher.local, os.getpid())
    assert local.states([me])[me].state == "running"
    other = replace(me, process_started="long ago")
    assert local.states([other])[other].state == "ended"
    local.cancel([other])  # or this test would end here
    for away in (replace(me, host="another"), replace(me, process_space="pid:[1]")):
        assert local.states([away])[away].state == "unknown"
        with pytest.raises(VtexpError, match="cancel it there"):
            local.cancel([away])
    before_a_restart = replace(me, process_space="pid:[1]", boot="b", process_started="1.00")
    assert local.states([before_a_restart])[before_a_restart].state == "ended"
    of_an_older_version = replace(me, process_space="", boot="")
    assert local.states([of_an_older_version])[of_an_older_version].state == "running"


def test_a_run_in_another_container_is_not_made_twice(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    """It has the name of this machine; its processes have numbers of their own."""
    freeze(make_plan(make_config("knob.sizes=[336x336]")))
    sweep = tmp_path / "sweep"
    code = "import os, sys; from pathlib import Path; from vtexp.config.choices import Launcher; "
    code += "from vtexp.runs.ledger import note_submitted, of_process; sweep = Path(sys.argv[1]); "
    code += "runs = [path.parent.name for path in sweep.glob('*/planned.json')]; "
    code += "note_submitted(sweep, [of_process(runs, Launcher.here, os.getpid())])"
    command = ["unshare", "--fork", "--pid", "--mount-proc", sys.executable, "-c", code, str(sweep)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if not shutil.which("unshare") or subprocess.run(command, env=environment).returncode:
        pytest.skip("no container can be made here")
    assert {status.state for status in look(sweep)} == {"unknown"}
    command = [sys.executable, "-m", "vtexp", "resume", str(sweep)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "another container" in done.stderr


def test_a_run_under_way_is_not_made_twice(
    make_config: MakeConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(make_config("knob.sizes=[336x336]"))
    freeze(plan)
    sweep, job = sweep_folder(plan.config), Job((plan.runs[0].folder,), plan.config.hardware)
    note_submitted(sweep, [of_process(job.runs, Launcher.here, os.getppid())])
    watched: list[Path] = []
    monkeypatch.setattr(launch, "make_job", None)
    monkeypatch.setattr(launch, "watch", watched.append)
    with pytest.raises(RunFailedError, match="no result"):
        launch.launch([job], wait=True)
    assert watched == [sweep]
    assert says(capsys.readouterr().out, "1 run", "under way")
    with pytest.raises(ConfigError, match="336x336: is under way"):
        run_without_report(plan.config)


def test_runs_that_are_timed_are_not_disturbed(make_config: MakeConfig) -> None:
    plan = make_plan(make_config("knob.sizes=[336x336,560x336]"))
    freeze(plan)
    first, second = (Job((run.folder,), plan.config.hardware) for run in plan.runs)
    sweep = sweep_folder(plan.config)
    note_submitted(sweep, [of_process(first.runs, Launcher.local, os.getppid())])
    with pytest.raises(ConfigError, match="still run"):
        launch.launch([first, second], wait=True)
    away = replace(of_process(first.runs, Launcher.local, os.getppid()), host="another")
    note_submitted(sweep, [away])
    with pytest.raises(ConfigError, match=r"another.*resume .* --anyway"):
        launch.launch([first, second], wait=True)


def rank_result(start: str) -> ranks.RankResult:
    return ranks.RankResult(
        start=start, broken={}, batch_size=1, out_of_memory_count=0, duration_s=1.0
    )


def test_a_rank_that_failed_or_is_of_an_earlier_start_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / files.RANKS / str(rank) for rank in range(2)]
    monkeypatch.setenv("VTEXP_ATTEMPT", "earlier")
    for folder in folders:
        ranks.record_rank_result(folder, rank_result("earlier"))
    assert len(ranks.wait_for_ranks(folders)) == 2
    monkeypatch.setenv("VTEXP_ATTEMPT", "later")
    ranks.record_rank_result(folders[0], rank_result("later"))
    ranks.record_rank_failure(tmp_path, 1, VtexpError("no GPU left"))
    with pytest.raises(VtexpError, match="rank 1: no GPU left"):
        ranks.wait_for_ranks(folders)
    monkeypatch.setenv("VTEXP_ATTEMPT", "last")
    ranks.record_rank_result(folders[0], rank_result("last"))
    monkeypatch.setattr(ranks, "SILENT_S", -1)
    with pytest.raises(VtexpError, match="rank 1: nothing"):
        ranks.wait_for_ranks(folders)


def test_a_finished_share_is_not_answered_again(tmp_path: Path) -> None:
    rows = [{"sample_id": "a"}, {"sample_id": "b"}]
    first = files.RowsFile(tmp_path / "answers.jsonl")
    first.write(rows)
    first.finish()
    with first.path.open("ab") as file:
        file.write(b"\0\0\0\n")  # as a disk leaves it that lost power
    again = files.RowsFile(tmp_path / "answers.jsonl")
    assert again.go_on(lambda row: row["sample_id"]) == ["a", "b"]
    again.write([{"sample_id": "c"}])
    again.finish()
    files.merge_rows([again.path], tmp_path / "all.jsonl", "sample_id", ["c", "a", "b"])
    found = files.read_jsonl(tmp_path / "all.jsonl")
    assert [row["sample_id"] for row in found] == ["c", "a", "b"]
    for order in (["a", "b"], ["a", "b", "c", "d"], ["a", "b", "c", "c"]):
        with pytest.raises(DataError, match="another process"):
            files.merge_rows([again.path], tmp_path / "all.jsonl", "sample_id", order)


@pytest.mark.slow
@pytest.mark.fault(
    "kill anywhere",
    "Ctrl-C, then cancel, of a sweep of local processes",
    "resumed, the same answers",
)
def test_a_local_sweep_is_cancelled_and_resumed(
    tmp_path: Path, small_checkpoint: Path, undisturbed: Sweep
) -> None:
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, *LONG, *LOCAL)
    launcher = sweep.start()
    sweep.wait_for_answers(3)
    (group,) = (int(job) for job in set(sweep.job_ids()))
    os.killpg(group, signal.SIGSTOP)  # or, on a busy machine, the run ends before it is cancelled
    launcher.send_signal(signal.SIGINT)  # asks nothing of the jobs
    _, errors = launcher.communicate()
    assert launcher.returncode == 130
    assert errors.endswith(f" python -m vtexp wait {sweep.folder}\n")
    status = sweep.do("status").stdout
    assert "1 running, 1 queued" in status
    assert sweep.do("cancel").returncode == 0
    os.killpg(group, signal.SIGCONT)
    waited = sweep.do("wait")
    assert waited.returncode == 1 and "2 of 2 runs failed" in waited.stderr
    assert "CANCELLED" in next(iter(sweep.failures().values()))
    assert sweep.do("resume").returncode == 0
    assert sweep.answers() == undisturbed.answers() and len(sweep.answers()) == 2


@pytest.mark.slow
@pytest.mark.fault(
    "kill anywhere",
    "SIGKILL of one of two ranks of a local job",
    "its run fails with the signal, the others go on; resumed",
)
def test_a_killed_run_leaves_its_lane_alone(tmp_path: Path, small_checkpoint: Path) -> None:
    """Also of two ranks: the other one does not wait for it."""
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, *LONG, *LOCAL, "hardware.gpus_per_run=2")
    process = sweep.start()
    started = "*/ranks/1/answers.jsonl.partial"
    wait_until(lambda: any(sweep.folder.glob(started)), "answers of the second rank")
    (folder,) = (path.parents[2] for path in sweep.folder.glob(started))
    os.kill(process_of(folder.name, "VTEXP_RANK=1"), signal.SIGKILL)
    output, errors = process.communicate()
    assert process.returncode == 1, output
    assert "1 of 2 runs failed: image_size=784x784 (its process ended (signal 9" in errors
    assert len(sweep.answers()) == 1
    assert sweep.do("resume").returncode == 0
    assert {len(rows) for rows in sweep.answers().values()} == {80}
    for run in sweep.answers():
        result = files.read_json(sweep.folder / run / files.RESULT)
        assert len(result["prefill_ms_by_rank"]) == 2


@pytest.mark.slow
@pytest.mark.fault(
    "kill anywhere",
    "Ctrl-C of a sweep in one process",
    "exit code 130; resumed",
)
def test_an_interrupted_sweep_of_this_process_is_resumed(
    tmp_path: Path, small_checkpoint: Path, undisturbed: Sweep
) -> None:
    sweep = Sweep(tmp_path / "my sweeps" / "sweep", small_checkpoint, *LONG)
    process = sweep.start()
    sweep.wait_for_answers(3)
    process.send_signal(signal.SIGSTOP)
    assert "1 running, 1 queued" in sweep.do("status").stdout
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate()
    assert process.returncode == 130
    report = sweep.do("report")
    assert report.returncode == 0
    _, _, hint = errors.strip().partition("to go on: ")
    environment = sweep.environment | {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    assert subprocess.run(hint, shell=True, env=environment).returncode == 0, hint
    assert sweep.answers() == undisturbed.answers()
