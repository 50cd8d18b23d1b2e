"""The tables of a report: what stands first, what is cut, LaTeX; the answer in a line."""

from __future__ import annotations

import re
import shutil
import subprocess
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from tests.helpers.facts import says
from tests.helpers.made_records import change_result
from tests.helpers.made_sweeps import make_run, steady_scores, unfinish
from vtexp.analysis.analyse import analyse
from vtexp.analysis.rows import ComparedRun, collect, warnings
from vtexp.config.schema import Config
from vtexp.report.columns import MARKDOWN, PAGE, TERMINAL, report_rows, shown
from vtexp.report.files import markdown
from vtexp.report.format import headline
from vtexp.report.html_table import report_table
from vtexp.report.latex import latex, latex_table
from vtexp.report.plan import show_plan
from vtexp.report.terminal import between_table, steps_table
from vtexp.runs.folder import labels, run_folders
from vtexp.runs.plan import make_plan
from vtexp.utils.console import console
from vtexp.utils.text import three_digits

#: Columns by which people decide, after the budget.
DECIDING = ["measured_vision_tokens", "accuracy", "prefill_ms_mean", "speed_up", "verdict"]
SIZES = (("336x336", 288), ("560x336", 384), ("560x560", 544), ("784x784", 928))


def make_sweep(sweep: Path, levels: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8), **more) -> list[Path]:
    scores, images = steady_scores(levels, 60, 2)
    return [
        make_run(sweep, value, tokens, own.tolist(), images=images, prefill_ms=tokens / 30, **more)
        for (value, tokens), own in zip(SIZES, scores.T, strict=True)
    ]


def runs_of(*sweeps: Path) -> list[ComparedRun]:
    return collect(*sweeps)


@pytest.mark.parametrize("place", [TERMINAL, MARKDOWN, PAGE])
def test_what_decides_stands_first_everywhere(tmp_path: Path, place: str) -> None:
    make_sweep(tmp_path)
    runs = runs_of(tmp_path)
    rows = report_rows(runs, analyse(runs))
    assert [column.key for column in shown(rows, place)][: len(DECIDING)] == DECIDING


def test_the_page_says_of_each_budget_whether_it_is_enough(tmp_path: Path) -> None:
    make_sweep(tmp_path, (0.2, 0.78, 0.8, 0.8))
    unfinish(make_sweep(tmp_path / "failed")[0], "out of memory")
    runs = runs_of(tmp_path)
    rows = report_rows(runs, analyse(runs, 30))
    said = [row.values.get("verdict") for row in rows]
    assert said[0] == "not enough" and said.count("smallest enough") == 1
    table = report_table(rows)
    chosen = [row.name.text for row in table.rows if row.chosen]
    assert chosen == [rows[said.index("smallest enough")].run.asked.value_label]


@pytest.mark.parametrize(
    ("levels", "margin", "said"),
    [
        ((0.2, 0.4, 0.6, 0.9), 5.0, ("image_size=784x784", "needed")),
        ((0.8, 0.8, 0.8, 0.81), 20.0, ("image_size=336x336", "enough", "69 %")),
        ((0.5, 0.5, 0.5, 0.51), 1.0, ("No budget", "1 point")),
    ],
)
def test_the_headline_is_one_short_line(
    tmp_path: Path, levels: tuple[float, ...], margin: float, said: tuple[str, ...]
) -> None:
    make_sweep(tmp_path, levels)
    (series,) = analyse(runs_of(tmp_path), margin).series
    line = headline(series, margin)
    assert says(line, *said) and len(line) < 95 and "\n" not in line


def test_a_budget_that_saves_tokens_alone_is_called_slower(tmp_path: Path) -> None:
    scores, images = steady_scores((0.8, 0.82), 60, 2)
    for (value, tokens), own, ms in zip(SIZES, scores.T, (30.0, 20.0), strict=False):
        make_run(tmp_path, value, tokens, own.tolist(), images=images, prefill_ms=ms)
    (series,) = analyse(runs_of(tmp_path), 50).series
    assert series.answer.verdict == "smaller" and series.answer.speed_up is not None
    for said in (headline(series, 50), series.answer.sentence):
        assert "slower" in said and "times as fast" not in said
    longer = 1 / series.answer.speed_up.ratio
    assert f"{longer:.2f} times as long" in series.answer.sentence and longer > 1.3


def test_each_series_has_its_answer_in_a_section_of_its_own(tmp_path: Path) -> None:
    for name in "ab":
        make_sweep(tmp_path / name, result={"model": name})
    runs = runs_of(tmp_path / "a", tmp_path / "b")
    analysis = analyse(runs)
    text = markdown(report_rows(runs, analysis), analysis)
    sections = re.split(r"^## ", text, flags=re.MULTILINE)
    for series in analysis.series:
        (own,) = [part for part in sections if part.startswith(f"Answer: {series.name}\n")]
        lines = own.splitlines()
        assert lines[2] == f"**{headline(series, analysis.margin)}**"
        assert series.answer.sentence in lines  # a paragraph, no bullet


@pytest.mark.parametrize("width", [40, 80])
def test_tables_of_differences_cut_nothing(tmp_path: Path, width: int) -> None:
    for name in ("a_rather_long_name_of_a_sweep", "another_rather_long_name"):
        make_sweep(tmp_path / name, result={"model": name})
    analysis = analyse(runs_of(*sorted(tmp_path.iterdir())))
    between = between_table(analysis, width, plain=True)
    steps = steps_table(analysis.series[0], width, plain=True)
    for table in (between, steps):
        console = Console(width=width, no_color=True)
        with console.capture() as capture:
            console.print(table)
        assert "…" not in capture.get() and "points" in capture.get()
        assert max(map(len, capture.get().splitlines())) <= width


def test_a_note_that_is_true_of_one_data_set_says_of_which(tmp_path: Path) -> None:
    first = make_sweep(tmp_path / "a")
    make_sweep(tmp_path / "b", result={"dataset": "other"})
    change_result(first[0], warnings=("it rained",))
    told = warnings(runs_of(tmp_path / "a", tmp_path / "b"))
    (line,) = [line for line in told if "it rained" in line]
    assert line.startswith("image_size=336x336, d: ")


def test_runs_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    for value in ("12", "1", "4", "9"):
        make_run(tmp_path, value, 100 * int(value), [1.0, 0.0], knob="max_crops", timed=2)
    names = [folder.name.split("_")[1].split("-")[1] for folder in run_folders(tmp_path)]
    assert names == ["1", "4", "9", "12"]


def test_the_plan_cuts_no_number_at_80_columns(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    caps = "knob.max_crops=[1,2,3,4,6,8,9,12]"
    plan = make_plan(make_config("knob=max_crops", caps, "model.path=embedded:molmo_tiny"))
    with console.capture() as whole:
        show_plan(plan)
    assert "TFLOP" in whole.get()
    monkeypatch.setattr(console, "_width", 80)
    with console.capture() as capture:
        show_plan(plan)
    lines = capture.get().splitlines()[: 5 + len(plan.runs)]  # title, heads, a rule, the runs
    table = "\n".join(lines)
    assert "…" not in table and max(map(len, lines)) <= 80
    for run in plan.runs:
        assert f"{run.predicted_vision_tokens:.5g}" in table


def test_status_tells_runs_of_one_label_apart(tmp_path: Path) -> None:
    for limit in (100, 200):
        make_run(tmp_path, "336x336", 288, [1.0, 0.0], settings={"dataset.limit": limit}, timed=2)
    names = labels(run_folders(tmp_path)).values()
    assert set(names) == {
        "image_size=336x336 (dataset.limit=100)",
        "image_size=336x336 (dataset.limit=200)",
    }


def test_latex_has_a_cell_for_every_column(tmp_path: Path) -> None:
    folders = make_sweep(tmp_path)
    unfinish(folders[1], "out of memory")
    runs = runs_of(tmp_path)
    text = latex_table(report_rows(runs, analyse(runs)))
    lines = text.splitlines()
    (kinds,) = re.findall(r"\\begin\{tabular\}\{([lr]+)\}", text)
    body = [line for line in lines if line.endswith(r"\\")]
    assert len(body) == 1 + len(runs)
    for line in body:
        assert len(re.findall(r"(?<!\\)&", line)) == len(kinds) - 1
    assert lines[-1] == r"\end{tabular}" and text.count("{") == text.count("}")
    assert re.search(r"image\\_size=560x336 .*failed", text)
    assert "usepackage" not in text and "toprule" not in text  # no package is needed


def test_latex_escapes_what_it_would_read_as_commands() -> None:
    assert latex("a_b 50 % & {x} $ # ~ ^ \\") == (
        r"a\_b 50 \% \& \{x\} \$ \# \textasciitilde{} \textasciicircum{} \textbackslash{}"
    )


NAMES = [
    "100% & more_of #1 ~ ^ \\ {x} $y$ <z> |",
    "[first]", "*starred", "a--b---c", "`quoted' \"twice\"", "!`?`",
    "Café Łódź naïve Straße Șț", "e\u0301 \u0105 \u00ab", "模型 модель α", "-1 ± 2 ≤ 3 − 4 × 5",
    "tab\tnew\nline \x07", "%", "\\\\", "\\end{tabular}", "🙂",
]  # fmt: skip


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs texlive-latex-base")
def test_the_table_compiles_with_any_names_and_shows_them(tmp_path: Path) -> None:
    for i, name in enumerate(NAMES):
        make_run(tmp_path / "sweep", name, 288 + 100 * i, [1.0, 0.0] * 20, timed=2,
                 knob="image_size", result={"model": name, "hardware": name})  # fmt: skip
    runs = collect(tmp_path / "sweep")
    (tmp_path / "comparison.tex").write_text(latex_table(report_rows(runs, analyse(runs))))
    lines = "\n".join(latex(name) + r"\par" for name in NAMES)
    (tmp_path / "paper.tex").write_text(
        r"\documentclass{article}\pdfpagewidth 3000pt\hsize 2900pt\begin{document}"
        rf"\input{{comparison.tex}}\par{lines}\end{{document}}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout[-2000:]
    assert "Missing character" not in (tmp_path / "paper.log").read_text("latin1")
    if shutil.which("pdftotext") is not None:
        text = subprocess.check_output(["pdftotext", "-layout", "paper.pdf", "-"], cwd=tmp_path)
        shown = unicodedata.normalize("NFKC", text.decode())
        for said in ("100% & more", "of #1", "{x} $y$ <z> |", "[first]", "*starred", "a--b---c",
                     "Café", "[U+6A21]", "\\end{tabular}"):  # fmt: skip
            assert said in shown, said


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (2181.4, "2181"),
        (100.0, "100"),
        (99.96, "100"),
        (99.9, "99.9"),
        (30.0, "30.0"),
        (0.5, "0.500"),
    ],
)
def test_times_have_three_digits_and_no_powers_of_ten(value: float, shown: str) -> None:
    assert three_digits(value) == shown
