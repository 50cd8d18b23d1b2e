"""The report of one or several sweeps: every file of it, and what is printed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vtexp.analysis.analyse import ANALYSIS_NAME, analyse, analysis_to_plain, configured_margin
from vtexp.analysis.findings import Analysis
from vtexp.analysis.rows import collect, doubtful_times, notes
from vtexp.report import question_types, terminal
from vtexp.report.figures import write_figures
from vtexp.report.files import (
    CSV_NAME,
    MARKDOWN_NAME,
    PARQUET_NAME,
    csv_text,
    markdown,
    parquet_bytes,
)
from vtexp.report.format import DOUBTFUL, sentences, title
from vtexp.report.html import write_page
from vtexp.report.terminal import between_table, steps_table, table
from vtexp.utils.console import console
from vtexp.utils.extras import missing_modules
from vtexp.utils.files import write_bytes, write_json, write_text

#: Notes that are printed at most, unless more doubts than that; comparison.md has all.
MOST_NOTES = 12


def report(
    sweeps: Sequence[Path], out: Path, *, margin: float | None = None, shared: bool = False
) -> bool:
    """Write and print the comparison of sweeps' folders; whether anything has become of any run.

    `margin` in points, that of the sweeps' configs if None. `shared`: runs that answered different
    questions are compared on those that all answered. Raises DataError for damaged records,
    ConfigError where the sweeps have several margins.
    """
    rows = collect(*sweeps)
    if all(row["status"] == "missing" for row in rows):
        return False
    if margin is None:
        margin = configured_margin(sweeps)
    analysis = analyse(rows, margin, shared=shared)
    write(rows, analysis, out)
    show(rows, analysis, out)
    return True


def write(rows: Sequence[dict[str, Any]], analysis: Analysis, out: Path) -> None:
    """All files of a report, page and figures where the extra `report` is installed.

    Raises VtexpError where the disk does not take them.
    """
    write_text(out / CSV_NAME, csv_text(rows, analysis))
    write_bytes(out / PARQUET_NAME, parquet_bytes(rows, analysis))
    write_text(out / MARKDOWN_NAME, markdown(rows, analysis))
    write_json(out / ANALYSIS_NAME, analysis_to_plain(analysis))
    question_types.write_question_types(out, rows)
    if not missing_modules("report"):
        write_figures(out, write_page(out, rows, analysis), title(rows))


def show(rows: Sequence[dict[str, Any]], analysis: Analysis, out: Path) -> None:
    """Print the table, the answer and the notes; without a terminal in plain text."""
    plain = not console.is_terminal
    console.print()
    console.print(table(rows, analysis, console.width, plain=plain))
    for line in sentences(rows, analysis):
        console.print(line, soft_wrap=plain)
    if len(analysis.series) == 1:
        for part in (
            steps_table(analysis.series[0], plain=plain),
            terminal.question_types_table(rows, plain=plain),
        ):
            if part is not None:
                console.print()
                console.print(part)
    elif analysis.between:
        console.print()
        console.print(between_table(analysis, plain=plain))
    told = notes(list(rows))
    shown = max(MOST_NOTES, len(doubtful_times(rows)))
    for note in told[:shown]:
        console.print(f"- {note}", soft_wrap=plain)
    if len(told) > shown:
        console.print(f"- {len(told) - shown} more in {MARKDOWN_NAME}")
    if any(row["disturbed"] for row in rows):
        console.print(f"{DOUBTFUL}: the timings of this run are doubtful, see above")
    files = "comparison.csv .parquet .md, analysis.json, question_types.csv"
    if not missing_modules("report"):
        files = f"report.html, figures, comparison.png, {files}"
    console.print(f"{out}: {files}")
