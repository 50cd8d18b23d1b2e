"""Resume of runs of which a file is damaged, lost, or from elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.damage import Damage, change, half, note
from tests.helpers.sweeps import run_without_report
from vtexp.cli.main import main
from vtexp.config.schema import Config
from vtexp.jobs.status import look, settle
from vtexp.runs import ranks
from vtexp.runs.folder import run_folders
from vtexp.runs.ledger import JOBS
from vtexp.runs.run import Measurement
from vtexp.utils import files

Captured = pytest.CaptureFixture[str]


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
