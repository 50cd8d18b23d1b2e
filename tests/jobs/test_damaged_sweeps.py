"""Every command on sweeps of which a file is damaged, lost, or from elsewhere."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import vtexp
from tests.helpers.damage import Damage, change, half, note, other_bytes, pipe, run_of
from vtexp.cli.main import main
from vtexp.errors import DataError, VtexpError
from vtexp.jobs.status import look
from vtexp.runs.ledger import JOBS, read_submitted
from vtexp.utils import files

Captured = pytest.CaptureFixture[str]


FILES = [
    *(("a", name) for name in (files.RESULT, files.SAMPLES, files.LATENCY, files.ENVIRONMENT)),
    *(("b", name) for name in (files.PLANNED, files.FAILURE, files.CONFIG)),
    ("", "note"),
]


@pytest.mark.fault(
    "hostile input",
    "any file of a sweep cut short, of other bytes or a pipe; every command but publish",
    "no command waits or stops with a traceback; errors name the file, other runs stay visible",
)
@pytest.mark.parametrize("damage", [half, other_bytes, pipe], ids=lambda own: own.__name__)
@pytest.mark.parametrize(("run", "name"), FILES, ids=lambda text: text)
def test_a_damaged_file_is_named_and_hides_nothing_else(
    sweep: Path, capsys: Captured, run: str, name: str, damage: Damage
) -> None:
    path = run_of(sweep, run) / name if run else next((sweep / JOBS).glob("*.json"))
    damage(path)
    codes = {}
    for command in ("status", "cancel", "resume", "report"):
        codes[command] = main([command, str(sweep)])
        said = capsys.readouterr()
        lines = said.err.splitlines()
        assert len(lines) == (codes[command] != 0)
        # A made-up config is none that can be resumed.
        assert not lines or path.name in lines[0] or command == "resume"
    assert main(["sweeps", str(sweep.parent)]) == 0
    listed = capsys.readouterr().out
    assert ("unreadable" in listed) == (name == "note")
    if name != "note":
        assert codes["status"] == codes["cancel"] == 0


@pytest.mark.parametrize("name", [files.PLANNED, files.FAILURE])
def test_status_shows_what_is_damaged_beside_the_others(
    sweep: Path, capsys: Captured, name: str
) -> None:
    (run_of(sweep, "b") / name).write_text("[1]")
    assert main(["status", str(sweep)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "1 done, 1 failed" in shown and f"{name}: cannot be read" in shown
    assert main(["status", "--json", str(sweep)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["state"] for row in rows] == ["done", "failed"]
    assert rows[1]["run"] == run_of(sweep, "b").name and name in rows[1]["reason"]
    assert main(["cancel", str(sweep), run_of(sweep, "b").name]) == 0


def test_a_run_that_lost_its_config_is_still_there(sweep: Path, capsys: Captured) -> None:
    for value in "ab":
        (run_of(sweep, value) / files.CONFIG).unlink()
        assert [status.state for status in look(sweep)] == ["done", "failed"]
    assert main(["report", str(sweep)]) == 1
    assert f"{files.CONFIG}: cannot be read" in capsys.readouterr().err


@pytest.mark.fault(
    "hostile input",
    "notes of jobs with values of other types, or options of scancel as ids",
    "one line that names the file",
)
@pytest.mark.parametrize(
    "values",
    [{"runs": 5}, {"runs": [5]}, {"runs": "ab"}, {"launcher": "x"}, {"launcher": None},
     {"job_id": 5}, {"job_id": []}, {"job_id": "--me"}, {"job_id": "1 2"}, {"log": []},
     {"host": None}, {"process_started": {}}, {"user_id": "root"}],
    ids=str,
)  # fmt: skip
def test_a_note_of_other_types_is_one_line(
    sweep: Path, capsys: Captured, values: dict[str, Any]
) -> None:
    path = next((sweep / JOBS).glob("*.json"))
    (job,) = json.loads(path.read_text())["jobs"]
    change(path, jobs=[job | values])
    assert main(["status", str(sweep)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert path.name in line and "delete it" in line


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError(5, "I/O error")]
)
def test_what_may_not_be_read_is_not_to_be_deleted(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, error: OSError
) -> None:
    real = Path.open

    def refuse(path: Path, *arguments: Any, **more: Any) -> Any:
        if path.name == files.RESULT:
            raise error
        return real(path, *arguments, **more)

    monkeypatch.setattr(Path, "open", refuse)
    assert main(["report", str(sweep)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert files.RESULT in line and str(error.strerror) in line and "delete" not in line


def test_a_sweep_that_may_not_be_read_hides_no_other(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    locked = sweep.with_name("locked")
    shutil.copytree(sweep, locked)
    real = Path.is_dir

    def refuse(path: Path) -> bool:
        if locked in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "is_dir", refuse)
    for path in locked.glob("*/*"):
        path.unlink()
    assert main(["sweeps", str(sweep.parent), "--json"]) == 0
    rows = {row["sweep"]: row for row in json.loads(capsys.readouterr().out)}
    assert "Permission denied" in rows["locked"]["error"]
    assert rows["locked"]["state"] == "unreadable" and rows["sweep"]["error"] is None
    assert main(["status", str(locked)]) == 2
    assert "cannot be read (Permission denied)" in capsys.readouterr().err


def test_keys_of_later_versions_are_no_damage(sweep: Path) -> None:
    path = next((sweep / JOBS).glob("*.json"))
    (job,) = json.loads(path.read_text())["jobs"]
    change(path, jobs=[job | {"more": 1}], more=2)
    assert [job.job_id for job in read_submitted(sweep)] == ["17"]


def test_runs_that_failed_on_another_machine(sweep: Path, capsys: Captured) -> None:
    """Nothing says that their jobs are gone: the user does; and nobody waits for them."""
    note(sweep, [run_of(sweep, "b").name], host="elsewhere")
    assert main(["resume", str(sweep)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "elsewhere" in line and "--anyway" in line
    assert main(["wait", str(sweep), "--timeout", "60"]) == 1
    assert "1 of 2 runs failed" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["image_size-a copy", "image_size=a", "-a", "a\nb", "größe"])
def test_a_copy_of_a_run_does_not_count_twice(sweep: Path, capsys: Captured, name: str) -> None:
    own = run_of(sweep, "a")
    shutil.copytree(own, sweep / name)
    assert main(["status", str(sweep)]) == 0
    assert "3 runs: 2 done" in capsys.readouterr().out
    assert main(["report", str(sweep)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "twice" in line and own.name in line
    shutil.rmtree(own)
    assert main(["report", str(sweep)]) == 0


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (files.RESULT, {"num_samples": -4}),
        (files.RESULT, {"measured_vision_tokens": -1.0}),
        (
            files.RESULT,
            {
                "answer_times": {
                    "batch_size": 4,
                    "samples": 0,
                    "preprocess_s": 1.0,
                    "prefill_s": 1.0,
                    "decode_s": 1.0,
                    "vision_tokens": 288.0,
                }
            },
        ),
        (files.RESULT, {"accuracy": 0.5}),
        (files.SAMPLES, {"score": -1.0}),
        (files.SAMPLES, {"score": 0.0}),
        (files.LATENCY, {"prefill_ms": -3.0}),
        (files.LATENCY, {"prefill_ms": 0.0}),
    ],
)
def test_numbers_that_cannot_be_are_no_results(
    sweep: Path, capsys: Captured, name: str, values: dict[str, Any]
) -> None:
    path = run_of(sweep, "a") / name
    first, *rest = path.read_text().splitlines() if name != files.RESULT else [path.read_text()]
    path.write_text("\n".join([json.dumps(json.loads(first) | values), *rest]) + "\n")
    assert main(["report", str(sweep)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(rf"{name if 'accuracy' not in values else files.SAMPLES}: .*resume", line)


def test_tables_of_records_need_the_records(sweep: Path) -> None:
    own = vtexp.load_sweep(sweep)
    assert len(own.samples) == 4
    (run_of(sweep, "a") / files.SAMPLES).unlink()
    with pytest.raises(DataError, match=r"samples\.jsonl"):
        _ = vtexp.load_sweep(sweep).samples


@pytest.mark.fault(
    "resources",
    "status, wait and sweeps of a sweep that cannot be written, with a run that ended silently",
    "the run is shown as lost or failed; nobody waits for it",
)
@pytest.mark.slow
@pytest.mark.parametrize("reason", ["unwritable", "damaged plan"])
def test_a_lost_run_that_cannot_be_recorded(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, reason: str
) -> None:
    """As of another user's sweep, on a full disk, or without the run's plan."""
    run = run_of(sweep, "b")
    (run / files.FAILURE).unlink()
    if reason == "damaged plan":
        half(run / files.PLANNED)
    else:

        def refuse(path: Path, data: bytes) -> None:
            raise VtexpError(f"{path}: cannot be written (Read-only file system)")

        monkeypatch.setattr(files, "write_bytes", refuse)
    assert main(["status", str(sweep)]) == 0
    assert "1 done, 1 lost" in capsys.readouterr().out
    assert main(["wait", str(sweep), "--timeout", "60"]) == 1
    said = capsys.readouterr()
    assert "1 done, 1 failed" in said.out
    assert len(said.err.splitlines()) == 1 and "timeout" not in said.err
    assert not (run / files.FAILURE).exists()


@pytest.mark.parametrize("command", ["status", "wait", "cancel", "resume", "report", "publish"])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing", "no sweep of this name"),
        ("miss*", "no sweep of this name"),
        ("", "'': no name of a sweep"),
        ("empty", "no folder with runs"),
        ("hydra", "no folder with runs"),
        ("dangling", "no sweep of this name"),
        ("file.txt", "file.txt: a file"),
        ("sweep/image_size-a", "a run; name the folder of its sweep"),
        (".", "a folder of sweeps; name one of them, such as sweep"),
    ],
)
def test_what_is_no_sweep_is_one_line_with_what_to_do(
    sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, command: str, name: str,
    says: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(sweep.parent)
    run_of(sweep, "a").rename(sweep / "image_size-a")
    (sweep.parent / "hydra" / ".hydra").mkdir(parents=True)
    (sweep.parent / "hydra" / ".hydra" / "config.yaml").write_text("a: 1\n")
    (sweep.parent / "empty").mkdir()
    (sweep.parent / "file.txt").touch()
    (sweep.parent / "dangling").symlink_to("nowhere")
    assert main([command, name]) == (1 if name else 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


def test_a_report_does_not_replace_that_of_another_sweep(sweep: Path, capsys: Captured) -> None:
    other = sweep.with_name("other")
    shutil.copytree(sweep, other)
    assert main(["report", str(sweep), "--out", str(other)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--out" in line and "another sweep" in line
    assert not (other / "comparison.csv").exists()
    assert main(["report", str(sweep), "--out", str(sweep)]) == 0


@pytest.mark.parametrize(("command", "lacks"), [("cancel", "RUN"), ("resume", "KEY=VALUE")])
def test_what_may_be_left_out_is_not_missing(command: str, lacks: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit):
        main([command])
    line = capsys.readouterr().err
    assert "SWEEP" in line and lacks not in line
