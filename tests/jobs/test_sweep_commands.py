"""Commands on sweeps, by made-up runs; and what a job's log says of its end."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest

from tests.helpers.facts import says
from tests.helpers.made_sweeps import make_run, unfinish
from vtexp.analysis.rows import collect, timing_warnings
from vtexp.cli.main import main
from vtexp.jobs.watch import come_back, in_order
from vtexp.runs.causes import cause_of_end, last_words, state_in_log
from vtexp.runs.folder import labels, run_folders
from vtexp.utils import console as console_module
from vtexp.utils.console import progress

SRUN = "srun: error: node0: task 0: Exited with exit code 1"


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (["Traceback (most recent call last):", "RuntimeError: boom", SRUN], "RuntimeError: boom"),
        (["SyntaxError: invalid syntax", SRUN], "SyntaxError: invalid syntax"),
        (
            ["slurmstepd: error: execve(): /x/python: No such file or directory", SRUN],
            "slurmstepd: error: execve(): /x/python: No such file or directory",
        ),
        (
            ["a word", "srun: error: node0: task 0: Killed"],
            "srun: error: node0: task 0: Killed",
        ),
        (["a word", SRUN], ""),
    ],
)
def test_the_line_that_says_why(lines: list[str], cause: str) -> None:
    assert cause_of_end(lines) == cause


def test_ends_that_have_words_of_their_own() -> None:
    oom = "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks"
    assert cause_of_end([oom, SRUN]).startswith("out of memory")
    again = "UncompletedJobError: Job not requeued because: timed-out too many times."
    assert "after 3 requeues" in cause_of_end([again, SRUN], 3)
    cancelled = "slurmstepd: error: *** STEP 7.0 ON node0 CANCELLED AT 2026-11-27T02:00:00 ***"
    assert state_in_log([cancelled]) == "CANCELLED"
    assert state_in_log([cancelled.replace(" ***", " DUE TO TIME LIMIT ***")]) == "TIMEOUT"
    assert last_words(["loading", cancelled, SRUN]) == "loading"


def test_status_sorts_numbers_as_numbers_and_names_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = [str(n) for n in (12, 2, 1, *range(3, 12), *range(13, 31))]
    for value in values:
        make_run(tmp_path, value, 144 * int(value), [1.0], knob="max_crops")
    assert main(["status", str(tmp_path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["knob_value"] for row in rows] == [str(n) for n in range(1, 31)]
    assert {row["state"] for row in rows} == {"done"}
    assert main(["status", str(tmp_path)]) == 0
    assert "10 more" in capsys.readouterr().out
    assert main(["status", "--all", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    places = [shown.index(f"max_crops={n} ") for n in range(1, 31)]
    assert places == sorted(places)


def test_rows_and_lines_name_what_differs(tmp_path: Path) -> None:
    make_run(tmp_path, "2", 288, [1.0], knob="max_crops")
    (one,) = run_folders(tmp_path)
    assert labels([one]) == {one: "max_crops=2"}
    make_run(tmp_path, "4", 576, [1.0], knob="max_crops")
    row = json.loads((one / "planned.json").read_text()) | {"dataset": "other"}
    (one / "planned.json").write_text(json.dumps(row))
    assert sorted(labels(run_folders(tmp_path)).values()) == ["max_crops=2 other", "max_crops=4 d"]


def test_sweeps_are_listed_newest_first_with_their_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for age, name in enumerate(("newest", "middle", "oldest")):
        run = make_run(tmp_path / name, "2", 288, [1.0], knob="max_crops")
        os.utime(run / "config.yaml", (1e9 - age * 1e5,) * 2)
        if name == "middle":
            unfinish(run, "it broke")
    (tmp_path / "no sweep").mkdir()
    assert main(["sweeps", "--json", str(tmp_path)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["sweep"], row["state"]) for row in rows] == [
        ("newest", "done"), ("middle", "failed"), ("oldest", "done")]  # fmt: skip
    assert main(["sweeps", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert shown.index("newest") < shown.index("middle") < shown.index("oldest")
    assert main(["sweeps", str(tmp_path / "nowhere")]) != 0


def test_nothing_to_cancel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path, "2", 288, [1.0], knob="max_crops")
    assert main(["cancel", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert says(said, "1 done") and says(said, "nothing to cancel") and "resume" not in said


def test_commands_to_be_typed_are_quoted(tmp_path: Path) -> None:
    command = come_back(Path("/a b/it's")).partition("come back with: ")[2]
    assert shlex.split(command) == ["python", "-m", "vtexp", "wait", "/a b/it's"]


def test_a_time_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["wait", "x", "--timeout", "soon"])
    assert "30m" in capsys.readouterr().err


def test_progress_goes_on_from_what_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kept steps count as done; "more than needed" is said of more alone."""
    monkeypatch.setattr(console_module, "_LINE_EVERY_S", 0.0)
    with progress("answers", 10, kept=7) as advance:
        advance(1)
        advance(2)
        advance(1)
    first, second, third = capsys.readouterr().out.splitlines()
    assert "8/10" in first and "10/10" in second and "more" not in second
    assert "11, more than the 10" in third


def test_order_of_no_runs() -> None:
    assert in_order([]) == []


def test_like_doubts_are_one_line(tmp_path: Path) -> None:
    for n in range(1, 16):
        warned = {"timing_warnings": (f"{n}.5 % slower",)}
        make_run(tmp_path, str(n), 144 * n, [1.0], knob="max_crops", result=warned)
    make_run(tmp_path, "16", 144 * 16, [1.0], knob="max_crops")
    (line,) = timing_warnings(collect(tmp_path))
    assert "max_crops=1," in line and "1.5 % slower" in line
