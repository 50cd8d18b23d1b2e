"""Every command on sweeps of which a file is damaged, lost, or from elsewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import vtexp
from tests.helpers.made_records import change_result
from tests.helpers.made_sweeps import make_run, unfinish
from tests.helpers.sweeps import run_without_report
from vtexp.analysis.analyse import of_sweep
from vtexp.analysis.rows import collect
from vtexp.cli.main import main
from vtexp.config.choices import Launcher
from vtexp.config.schema import Config, TrackingConfig
from vtexp.errors import DataError, VtexpError
from vtexp.jobs.status import look, settle
from vtexp.runs import ranks
from vtexp.runs.folder import run_folders
from vtexp.runs.ledger import JOBS, SubmittedJob, note_submitted, read_submitted
from vtexp.runs.run import Measurement
from vtexp.tracking import wandb_report, wandb_runs
from vtexp.utils import environment, files

Damage = Callable[[Path], object]
Captured = pytest.CaptureFixture[str]


def half(path: Path) -> None:
    """Cut a file short."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def other_bytes(path: Path) -> None:
    """Put bytes into a file that no text has."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + b"\xff\0\xfe" + data[len(data) // 2 :])


def pipe(path: Path) -> None:
    """Put a pipe in place of a file: who opens it waits for its writer."""
    path.unlink()
    os.mkfifo(path)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A made-up sweep: a finished run `a`, a failed one `b`, and a note of the job of both."""
    folder = tmp_path / "sweep"
    first = make_run(folder, "a", 288, [1.0, 0.0, 1.0, 1.0])
    second = make_run(folder, "b", 400, [1.0, 0.0, 1.0, 1.0])
    unfinish(second, "no memory")
    note(folder, [first.name, second.name])
    return folder


def note(sweep: Path, runs: Sequence[str], host: str | None = None) -> Path:
    """Note an ended local job of these runs; its file."""
    job = SubmittedJob(tuple(runs), Launcher.local, "17", host=host or environment.host())
    note_submitted(sweep, [job])
    return max((sweep / JOBS).glob("*.json"))


def run_of(sweep: Path, value: str) -> Path:
    """The folder of a run by its knob's value."""
    return next(sweep.glob(f"image_size-{value}_*"))


def change(path: Path, **values: Any) -> None:
    """Put other values into a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


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
@pytest.mark.usefixtures("no_figures")
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


@pytest.mark.usefixtures("no_figures")
def test_runs_that_failed_on_another_machine(sweep: Path, capsys: Captured) -> None:
    """Nothing says that their jobs are gone: the user does; and nobody waits for them."""
    note(sweep, [run_of(sweep, "b").name], host="elsewhere")
    assert main(["resume", str(sweep)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "elsewhere" in line and "--anyway" in line
    assert main(["wait", str(sweep), "--timeout", "60"]) == 1
    assert "1 of 2 runs failed" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["image_size-a copy", "image_size=a", "-a", "a\nb", "größe"])
@pytest.mark.usefixtures("no_figures")
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
@pytest.mark.usefixtures("no_figures")
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


# --- arguments -----------------------------------------------------------------------------------


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


@pytest.mark.usefixtures("no_figures")
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


# --- resume --------------------------------------------------------------------------------------


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the runs that a command would make; none is made."""
    found: list[str] = []

    def take(jobs: Sequence[Any], **_: Any) -> None:
        found.extend(folder.name for job in jobs for folder in job.folders)

    monkeypatch.setattr("vtexp.cli.sweep.launch", take)
    return found


def first_run(sweep: Path) -> Path:
    """The first run of a real sweep, which has lost its result."""
    folder = run_folders(sweep)[0]
    (folder / files.RESULT).unlink()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("damage", [half, Path.unlink], ids=["half", "deleted"])
def test_resume_rewrites_a_damaged_plan(
    made_runs: Path, launched: list[str], damage: Damage
) -> None:
    """Of a job that ended without a word, too, whose failure could not be written down."""
    folder = first_run(made_runs)
    note(made_runs, [folder.name])
    before = json.loads((folder / files.PLANNED).read_text())
    damage(folder / files.PLANNED)
    settle(look(made_runs))
    assert [status.state for status in look(made_runs)] == ["lost", "done"]
    assert main(["resume", str(made_runs)]) == 0
    assert launched == [folder.name]
    after = json.loads((folder / files.PLANNED).read_text())
    assert (after["run_id"], after["knob_value"]) == (before["run_id"], before["knob_value"])


def test_a_renamed_run_is_resumed_under_its_own_name(
    made_runs: Path, launched: list[str], capsys: Captured
) -> None:
    folder = first_run(made_runs)
    name = folder.name
    note(made_runs, [name])
    folder = folder.rename(folder.with_name("renamed"))
    assert main(["resume", str(made_runs)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "renamed" in line and name in line and not launched
    folder.rename(folder.with_name(name))
    assert main(["resume", str(made_runs)]) == 0
    assert launched == [name]


def test_a_sweep_of_another_machine_is_resumed_from_a_folder_of_this_one(
    made_runs: Path, launched: list[str], capsys: Captured
) -> None:
    folder = first_run(made_runs)
    path = note(made_runs, [folder.name])
    for own in (made_runs / JOBS).glob("*.json"):
        change(own, working_folder="/no/such/folder")
    assert main(["resume", str(made_runs)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "working_folder" in line and not launched
    for own in (made_runs / JOBS).glob("*.json"):
        change(own, working_folder=str(path.parent))
    assert main(["resume", str(made_runs)]) == 0


def _lines(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


def _second(**values: Any) -> Callable[[list[str]], list[str]]:
    return lambda rows: [rows[0], json.dumps(json.loads(rows[1]) | values), *rows[2:]]


ANSWERS = f"{files.ANSWERS}.partial"
#: A case that takes a second or two, like others that are quick.
slow = partial(pytest.param, marks=pytest.mark.slow)


@pytest.mark.fault(
    "kill anywhere",
    "what an interrupted run left is damaged, or of other data",
    "resumed: whole answers before the damage are kept, the others are asked again",
)
@pytest.mark.parametrize(
    ("name", "damage", "asked_again"),
    [
        (ANSWERS, lambda path: None, 0),
        slow(ANSWERS, lambda path: _lines(path, _second(score=7.0)), 5),
        slow(ANSWERS, lambda path: _lines(path, _second(score=None)), 5),
        (ANSWERS, lambda path: _lines(path, _second(question="is it another?")), 5),
        slow(ANSWERS, lambda path: _lines(path, _second(sequence_length="x")), 5),
        (ANSWERS, half, 4),
        slow(files.ENVIRONMENT, half, 6),
        slow(files.LATENCY, half, 0),
        slow(files.LATENCY, lambda path: path.write_text(""), 0),
        slow("process-x.json", lambda path: path.write_text("[1]"), 0),
    ],
)
def test_what_an_interrupted_run_left_is_taken_as_far_as_it_is_whole(
    made_runs: Path,
    make_config: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    damage: Damage,
    asked_again: int,
) -> None:
    folder = first_run(made_runs)
    shutil.rmtree(made_runs / JOBS)  # they name the worker that made the runs, which is alive
    samples = files.read_jsonl(folder / files.SAMPLES)
    own = ranks.rank_folder(folder, 0)
    own.mkdir(parents=True)
    for source, target in ((files.SAMPLES, ANSWERS), (files.LATENCY, files.LATENCY),
                           (files.ENVIRONMENT, files.ENVIRONMENT)):  # fmt: skip
        (folder / source).rename(own / target)
    damage(own / name)
    asked: list[int] = []
    monkeypatch.setattr(Measurement, "start_answers", lambda self: asked.append(len(self.waiting)))
    run_without_report(make_config("knob.sizes=[336x336,560x336]"))
    assert asked == [asked_again]
    rows = files.read_jsonl(folder / files.SAMPLES)
    keys = ("sample_id", "question", "prediction", "score")
    assert [[row[k] for k in keys] for row in rows] == [[row[k] for k in keys] for row in samples]
    assert files.is_whole(folder / files.RESULT)


def test_damaged_times_of_further_processes_are_taken_again(tmp_path: Path) -> None:
    for name in ("process-1.json", "process-x.json"):
        (tmp_path / name).write_text("[1]")
    ranks.drop_other_processes([tmp_path], "cpu")
    assert not ranks.process_path(tmp_path, 1).exists()
    assert ranks.read_processes(tmp_path) == {}


def test_a_finished_run_with_a_damaged_environment_hinders_no_other(
    made_runs: Path, make_config: Callable[..., Config], capsys: Captured
) -> None:
    """Where the command that launched the sweep is typed again."""
    folder = first_run(made_runs)
    shutil.rmtree(made_runs / JOBS)  # they name the worker that made the runs, which is alive
    other = run_folders(made_runs)[1]
    half(other / files.ENVIRONMENT)
    run_without_report(make_config("knob.sizes=[336x336,560x336]"))
    assert files.is_whole(folder / files.RESULT) and not (folder / files.FAILURE).exists()
    assert f"{files.ENVIRONMENT}: cannot be read" in " ".join(capsys.readouterr().out.split())


# --- W&B -----------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B's own logging is a folder with a file; nothing is uploaded."""

    def log(tracking: TrackingConfig, sweep: Path, about: wandb_runs.About, fill: object) -> Path:
        folder = sweep / wandb_runs.WANDB / f"offline-run-{uuid.uuid4()}"
        folder.mkdir(parents=True)
        (folder / "run.wandb").touch()
        return folder

    monkeypatch.setattr(wandb_runs, "_log_offline", log)


@pytest.mark.fault(
    "hostile input",
    "a sweep whose wandb.json names a folder elsewhere, as of a copied sweep",
    "the folder is neither deleted nor uploaded; the run is logged again",
)
@pytest.mark.parametrize("where", ["original", "private", "sweep", "up", "link"])
@pytest.mark.usefixtures("offline")
def test_no_folder_elsewhere_is_taken_for_wandbs(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    run = run_of(sweep, "a")
    first = wandb_runs.log_run(TrackingConfig(), run)
    private = tmp_path / "private"
    private.mkdir()
    (private / "letter.txt").touch()
    copy = shutil.copytree(sweep, tmp_path / "copy")
    link = copy / wandb_runs.WANDB / "link"
    link.symlink_to(private)
    named = {
        "original": first.folder,
        "private": str(private),
        "sweep": str(copy),
        "up": str(copy / wandb_runs.WANDB / ".." / ".." / "private"),
        "link": str(link),
    }[where]
    run = copy / run.name
    change(run / wandb_runs.MIRRORED, folder=named)
    sent: list[str] = []
    monkeypatch.setattr(
        wandb_runs, "_sync", lambda sweep, folders, seconds: sent.extend(folders) or ("", {})
    )
    assert wandb_runs.upload(copy, [run / wandb_runs.MIRRORED], 1) is not None
    assert sent == []
    change_result(run, sequence_length=7.0)
    again = wandb_runs.log_run(TrackingConfig(), run)
    assert Path(again.folder).parent == copy / wandb_runs.WANDB
    assert (private / "letter.txt").is_file() and run.is_dir()
    assert (Path(first.folder) / "run.wandb").is_file()
    change_result(run, sequence_length=8.0)
    wandb_runs.log_run(TrackingConfig(), run)
    assert not Path(again.folder).exists()  # its own, replaced


@pytest.mark.parametrize(
    "text", ["[1]", "{}", '{"id": 5, "content": "a", "folder": 5}', "\0", "{"], ids=repr
)
@pytest.mark.usefixtures("offline")
def test_a_damaged_record_of_wandb_is_none(sweep: Path, text: str) -> None:
    run = run_of(sweep, "a")
    (run / wandb_runs.MIRRORED).write_text(text)
    assert wandb_runs.upload(sweep, [run / wandb_runs.MIRRORED], 1) is None
    assert Path(wandb_runs.log_run(TrackingConfig(), run).folder).is_dir()


@pytest.mark.parametrize("data", [b"", b"0123", b"\xff" * 8, b"../../aa"])
def test_a_damaged_id_of_a_sweep_is_one_line(sweep: Path, data: bytes) -> None:
    (sweep / wandb_runs.WANDB).mkdir()
    (sweep / wandb_runs.WANDB / "sweep_id").write_bytes(data)
    with pytest.raises(DataError, match=r"sweep_id: .*delete it"):
        wandb_runs.sweep_id(sweep)


@pytest.mark.parametrize("text", ["[1]", "{", "{}", '{"content": "a", "saved": true}'])
def test_a_damaged_report_of_wandb_is_one_line(sweep: Path, text: str) -> None:
    (sweep / wandb_report.REPORT).write_text(text)
    with pytest.raises(DataError, match=r"wandb_report\.json: .*delete it"):
        wandb_report.write_report(TrackingConfig(), [sweep], collect(sweep), of_sweep(sweep), sweep)
