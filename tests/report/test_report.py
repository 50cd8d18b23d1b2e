"""The report of sweeps: its files, what is printed, and what is said of runs that lack or fail."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from tests.helpers.facts import says
from tests.helpers.made_records import change_result, summary
from tests.helpers.made_sweeps import make_run, steady_scores, unfinish
from vtexp.analysis.analyse import analyse
from vtexp.analysis.findings import read_analysis
from vtexp.analysis.rows import collect
from vtexp.report import write
from vtexp.report.columns import in_files, report_rows
from vtexp.report.files import markdown
from vtexp.report.format import headline
from vtexp.report.terminal import table
from vtexp.runs.records import AnswerTimes, GroupAccuracy, read_result
from vtexp.stats.times import BetweenProcesses
from vtexp.utils import files
from vtexp.utils.console import console

ROOT = Path(__file__).parents[2]
VALUES = (("336x336", 288), ("560x336", 384), ("560x560", 544), ("784x784", 928))
#: What is not measured everywhere.
SELDOM = {
    "cold_ttft_ms": 321.5,
    "timing_warnings": ("the GPU's clock fell by 20 %",),
    "memory_peak_mib": {"allocated": 100.5, "reserved": 120.0, "resident": 900.25},
    "energy_j_per_prefill": 1.5,
    "answer_times": AnswerTimes(
        batch_size=8, samples=64, preprocess_s=1.0, prefill_s=3.2, decode_s=1.6, vision_tokens=288.0
    ),
    "flops_per_prefill": 2.5e12,
    "mfu": 0.4,
    "roofline_ms": 3.25,
    "prefill_ms_between_processes": BetweenProcesses(
        n=3, mean=10.0, low=9.0, high=11.0, next_low=8.0, next_high=12.0
    ),
}


def make_sweep(sweep: Path, count: int = 4, **more: Any) -> list[Path]:
    scores, images = steady_scores([0.2, 0.4, 0.6, 0.8], 60, 2)
    return [
        make_run(sweep, value, tokens, own.tolist(), images=images, prefill_ms=tokens / 30, **more)
        for (value, tokens), own in list(zip(VALUES, scores.T, strict=True))[:count]
    ]


def report(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Type `python -m vtexp report`."""
    command = [sys.executable, "-m", "vtexp", "report", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.slow
@pytest.mark.usefixtures("figures")
def test_every_file_has_the_same_numbers(tmp_path: Path) -> None:
    (folder, *_) = make_sweep(tmp_path)
    latency = read_result(folder).latency
    prefill = summary(latency["prefill_ms"].median, low=9.25, high=9.75)
    change_result(folder, latency=latency | {"prefill_ms": prefill}, **SELDOM)
    runs = collect(tmp_path)
    analysis = analyse(runs)
    write.write(runs, analysis, tmp_path)
    in_csv = list(csv.DictReader((tmp_path / "comparison.csv").open()))
    in_parquet = pq.read_table(tmp_path / "comparison.parquet").to_pylist()
    names = tuple(column.key for column in in_files())
    assert tuple(in_csv[0]) == tuple(in_parquet[0]) == names
    for row, text, typed in zip(report_rows(runs, analysis), in_csv, in_parquet, strict=True):
        for name in names:
            value = row.values.get(name)
            if name in ("timing_warnings", "warnings"):
                assert typed[name] == list(value) and text[name] == "; ".join(value)
            else:
                assert typed[name] == value
                assert text[name] == ("" if value is None else str(value))
    assert in_csv[0]["sufficient"] == "False" and in_csv[3]["sufficient"] == "True"
    first, found = in_parquet[0], analysis.series[0].runs[0]
    assert found.speed_up is not None and found.speed_up.ratio > 1
    ends = [first[f"speed_up_{name}"] for name in ("low", "high", "baseline")]
    assert ends == [found.speed_up.low, found.speed_up.high, runs[3].name]
    assert first["speed_up"] == found.speed_up.ratio
    assert (first["prefill_ms_low"], first["prefill_ms_high"]) == (9.25, 9.75)
    assert (first["memory_peak_mib_resident"], first["mfu"]) == (900.25, 0.4)
    assert first["prefill_ms_between_processes_high"] == 11.0
    assert in_csv[1]["mfu"] == in_csv[1]["cold_ttft_ms"] == ""
    assert read_analysis(tmp_path) == analysis
    assert (tmp_path / "comparison.png").stat().st_size > 10_000


def test_every_column_is_a_field_of_a_record(tmp_path: Path) -> None:
    """A column whose key is misspelt would be empty for good."""
    (folder, *_) = make_sweep(tmp_path, 2)
    change_result(folder, **SELDOM)
    runs = collect(tmp_path)
    known = set().union(*(row.values for row in report_rows(runs, analyse(runs))))
    unknown = {column.key for column in in_files() if column.key not in known}
    stages = {key for key in unknown if key.endswith(("_mean", "_median", "_low", "_high"))}
    assert unknown == stages  # of stages that were not timed


def test_markdown_says_what_a_reader_must_know(tmp_path: Path) -> None:
    folders = make_sweep(tmp_path)
    change_result(folders[3], **SELDOM, actual_overridden=True)
    unfinish(folders[0], "out | of\n<script>alert(1)</script> memory")
    unfinish(folders[1], None)
    runs = collect(tmp_path)
    analysis = analyse(runs)
    text = markdown(report_rows(runs, analysis), analysis)
    (series,) = analysis.series
    assert text.splitlines()[2] == f"**{headline(series, analysis.margin)}**"
    assert text.splitlines()[4] == series.answer.sentence
    assert says(text, "2 of 4 runs", "no result")
    (flagged,) = [line for line in text.splitlines() if "timings doubtful" in line]
    assert flagged.startswith("| image_size=784x784 |") and "counts overridden" in flagged
    assert f"{runs[3].found.mean('prefill_ms'):.1f}!" in flagged
    assert says(text, "doubtful", "image_size=784x784", "clock fell by 20 %")
    assert "FAILED: out \\| of &lt;script>alert(1)&lt;/script> memory" in text
    assert "no result yet" in text
    lines = text.splitlines()
    widths = {
        line.count(" | ") for line in lines if line.startswith("| image_size") and "done" in line
    }
    assert len(widths) == 1


def test_table_fits_and_marks_what_is_doubtful(tmp_path: Path) -> None:
    folders = make_sweep(tmp_path)
    change_result(folders[1], **SELDOM)
    unfinish(folders[2], "out of memory")
    runs = collect(tmp_path)
    rows = report_rows(runs, analyse(runs))
    for width in (60, 80, 160):
        console = Console(width=width, no_color=True)
        with console.capture() as capture:
            console.print(table(rows, width, plain=True))
        lines = capture.get().splitlines()
        assert max(map(len, lines)) <= width
        text = "\n".join(lines)
        assert text.isascii() and "…" not in text
        assert [line.split()[0] for line in lines[-5:-1]] == [value for value, _ in VALUES]
        assert f"{runs[1].found.mean('prefill_ms'):.1f}!" in text
        assert "failed" in text
        assert ("TTFT" in text) == (width == 160)


@pytest.mark.slow
def test_report_of_a_sweep_as_the_user_types_it(tmp_path: Path) -> None:
    folders = make_sweep(tmp_path / "a")
    unfinish(folders[0], "out of memory")
    done = report(tmp_path / "a", "--margin", "30")
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii() and "\x1b" not in done.stdout
    assert says(done.stdout, "image_size=560x560 (544 vision tokens)", "smallest")
    assert says(done.stdout, "1 of 4 runs", "no result")
    assert says(done.stdout, "FAILED", "out of memory")
    assert json.loads((tmp_path / "a" / "analysis.json").read_text())["margin"] == 30.0
    for arguments, message in (
        ((tmp_path / "a", "--margin", "-1"), "--margin -1: must be 0 to 1000 points"),
        ((tmp_path / "a", tmp_path / "a"), "named twice"),
        ((tmp_path / "nothing",), "no sweep"),
        ((tmp_path / "a", "--questions", "some"), "invalid choice: 'some'"),
    ):
        done = report(*arguments)
        assert done.returncode in (1, 2) and message in done.stderr
        assert done.stderr.count("\n") == 1


def test_several_sweeps_are_one_comparison(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make_sweep(tmp_path / "a", 2)
    make_sweep(tmp_path / "b", 4)  # the same first two runs
    write.report([tmp_path / "a", tmp_path / "b"], tmp_path / "both")
    rows = list(csv.DictReader((tmp_path / "both" / "comparison.csv").open()))
    assert [row["knob_value"] for row in rows] == [value for value, _ in VALUES]
    assert [row["sweep"] for row in rows] == ["a", "a", "b", "b"]
    assert rows[3]["run"].startswith("b/image_size-784x784")
    printed = capsys.readouterr().out
    assert says(printed, "784x784 (928 vision tokens)", "needed")
    assert says(printed, "image_size=336x336", "same result", "in b")


def test_sweeps_with_a_run_measured_again_are_compared_as_wholes(tmp_path: Path) -> None:
    make_sweep(tmp_path / "a")
    again = make_sweep(tmp_path / "b", 2)
    change_result(again[0], duration_s=3.0)
    runs = collect(tmp_path / "a", tmp_path / "b")
    assert [run.settings for run in runs] == ["sweep=a"] * 4 + ["sweep=b"] * 2
    found = analyse(runs)
    assert [series.name for series in found.series] == ["sweep=a", "sweep=b"]
    assert [(pair.difference, pair.p_holm) for pair in found.between] == [(0.0, 1.0)] * 2


def test_a_result_is_taken_before_a_failure(tmp_path: Path) -> None:
    first = make_sweep(tmp_path / "a", 2)
    make_sweep(tmp_path / "b", 2)
    unfinish(first[1], "out of memory")
    runs = collect(tmp_path / "a", tmp_path / "b")
    assert [(run.sweep, run.status) for run in runs] == [("a", "done"), ("b", "done")]
    assert [run.also_in for run in runs] == [("b",), ()]


def test_sweeps_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for parent in ("here", "there"):
        make_sweep(tmp_path / parent / "same", 1, result={"device": parent})
    runs = collect(tmp_path / "here" / "same", tmp_path / "there" / "same")
    assert len({run.name for run in runs}) == 2
    assert {run.sweep for run in runs} == {str(tmp_path / p / "same") for p in ("here", "there")}


def test_series_on_the_same_questions_are_compared_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    make_sweep(tmp_path, 2)
    for folder in make_sweep(tmp_path / "other", 2, result={"model": "another"}):
        folder.rename(tmp_path / f"another-{folder.name}")
    runs = collect(tmp_path)
    write.show(runs, analyse(runs), tmp_path)
    printed = capsys.readouterr().out
    words = [line.split() for line in printed.splitlines()]
    pairs = [line[2:5] for line in words if line[:2] == ["m", "another"]]
    assert [pair[:2] for pair in pairs] == [
        ["336x336", "0.0"],
        ["560x336", "0.0"],
    ]
    assert all(float(pair[2]) < 0 for pair in pairs)


@pytest.mark.usefixtures("figures")
def test_a_sweep_of_only_failures_has_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for folder in make_sweep(tmp_path, 2):
        unfinish(folder, "out of memory")
    write.report([tmp_path], tmp_path)
    assert says(capsys.readouterr().out, "2 of 2 runs", "no result")
    text = (tmp_path / "comparison.md").read_text()
    assert says(text, "FAILED", "out of memory") and says(text, "2 of 2 runs", "no result")
    assert not (tmp_path / "comparison.png").exists()
    assert "All runs failed." in (tmp_path / "report.html").read_text()


def test_a_report_of_what_is_left_of_runs(tmp_path: Path) -> None:
    """Files that are gone stop no report; groups and steps of several knobs are in words."""
    folders = make_sweep(tmp_path)
    (folders[0] / files.SAMPLES).unlink()
    (folders[1] / files.LATENCY).unlink()
    write.report([tmp_path], tmp_path)
    text = (tmp_path / "comparison.md").read_text()
    assert says(text, "336x336", "no samples.jsonl")
    assert "p (Holm, all pairs)" in text


ESCAPES = "\x1b]0;pwned\x07\x1b[31m\x9b2J\u202e\u2066\ud800"
FORMULAS = ("=cmd|' /C calc'!A0", "@SUM(1)", "+1", "-1", "\t=1", "\r=1")


def test_no_control_character_of_a_data_set_reaches_a_terminal_or_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = {f"{ESCAPES}{n}": GroupAccuracy(accuracy=0.5, n=4) for n in range(2)}
    more = {"accuracy_by_question_type": kinds, "warnings": (f"what {ESCAPES} is",)}
    folders = make_sweep(tmp_path, 3, result=more)
    unfinish(folders[2], f"bad {ESCAPES}")
    write.report([tmp_path], tmp_path)
    console.print(ESCAPES, style="red")
    texts = [capsys.readouterr().out]
    texts += [(tmp_path / f"comparison.{end}").read_text() for end in ("csv", "md")]
    for text in texts:
        assert not set(text) & set("\x1b\x07\x9b\u202e\u2066\ud800")
        assert r"x1b]0;pwned" in text.replace("\\]", "]")
        assert r"\x07" in text and r"\u202e" in text and r"\ud800" in text


def test_the_style_of_a_terminal_stays() -> None:
    with console.capture() as capture:
        console.print("red\n\ttab", style="red")
    assert capture.get() == "red\n        tab\n"
    own = type(console)(force_terminal=True, color_system="standard")
    with own.capture() as capture:
        own.print("a\x1bb", style="red")
    assert capture.get() == "\x1b[31ma\\x1bb\x1b[0m\n"


def test_no_cell_of_a_csv_is_a_formula(tmp_path: Path) -> None:
    said = {}
    for number, formula in enumerate(FORMULAS):
        own = {"warnings": (formula, "b"), "device": formula}
        done, failed = (
            make_run(tmp_path, str(2 * number + i + 1), 288, [1.0], knob="max_crops", result=own)
            for i in (0, 1)
        )
        unfinish(failed, formula)
        said |= {done.name: formula, failed.name: formula}
    write.report([tmp_path], tmp_path)
    rows = list(csv.DictReader((tmp_path / "comparison.csv").open(newline="")))
    assert len(rows) == len(said) == 2 * len(FORMULAS)
    for row in rows:
        plain = said[row["run"]].replace("\r", r"\r")
        if row["status"] == "failed":
            assert row["error"] == f"'{plain}"
        else:
            assert (row["warnings"], row["device"]) == (f"'{plain}; b", f"'{plain}")


@pytest.mark.slow
def test_a_closed_standard_output_costs_words_alone(tmp_path: Path) -> None:
    folders = make_sweep(tmp_path, 2)
    command = f"exec {sys.executable} -m vtexp report {tmp_path} >&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "comparison.csv").is_file() and folders
