"""The report of one or several sweeps: every file of it, and what is printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vtexp.analysis.analyse import analyse
from vtexp.analysis.configured import configured_limits, configured_margin
from vtexp.analysis.findings import Analysis, write_analysis
from vtexp.analysis.rows import ComparedRun, collect, timing_warnings, warnings
from vtexp.report.columns import DOUBTFUL, report_rows
from vtexp.report.figures import write_figures
from vtexp.report.files import (
    CSV_NAME,
    MARKDOWN_NAME,
    PARQUET_NAME,
    csv_text,
    markdown,
    parquet_bytes,
)
from vtexp.report.format import sentences, title
from vtexp.report.html import write_page
from vtexp.report.latex import LATEX_NAME, latex_table
from vtexp.report.next_steps import next_lines
from vtexp.report.terminal import between_table, question_types_table, steps_table, table
from vtexp.utils.console import console
from vtexp.utils.extras import missing_modules
from vtexp.utils.files import write_bytes, write_text

#: Warnings that are printed at most, unless more doubtful times than that; comparison.md has all.
MOST_WARNINGS = 12


def report(
    sweeps: Sequence[Path],
    out: Path,
    *,
    margin: float | None = None,
    shared: bool = False,
    limits: Mapping[str, float] | None = None,
) -> bool:
    """Write and print the comparison of sweeps' folders; whether anything has become of any run.

    `margin` in points and `limits` by their keys, those of the sweeps' configs if None. `shared`:
    runs that answered different questions are compared on those that all answered. Raises
    DataError for damaged records, ConfigError where the sweeps have several margins or limits.
    """
    runs = collect(*sweeps)
    if all(run.status == "missing" for run in runs):
        return False
    if margin is None:
        margin = configured_margin(sweeps)
    if limits is None:
        limits = configured_limits(sweeps)
    analysis = analyse(runs, margin, shared=shared, limits=limits)
    write(runs, analysis, out)
    show(runs, analysis, out)
    return True


def write(runs: Sequence[ComparedRun], analysis: Analysis, out: Path) -> None:
    """All files of a report, page and figures where the extra `report` is installed.

    Raises VtexpError where the disk does not take them.
    """
    rows = report_rows(runs, analysis)
    write_text(out / CSV_NAME, csv_text(rows))
    write_bytes(out / PARQUET_NAME, parquet_bytes(rows))
    write_text(out / MARKDOWN_NAME, markdown(rows, analysis))
    write_text(out / LATEX_NAME, latex_table(rows))
    write_analysis(out, analysis)
    if not missing_modules("report"):
        write_figures(out, write_page(out, rows, analysis), title(runs))


def show(runs: Sequence[ComparedRun], analysis: Analysis, out: Path) -> None:
    """Print the table, the answer and the warnings; without a terminal in plain text."""
    plain = not console.is_terminal
    console.print()
    console.print(table(report_rows(runs, analysis), console.width, plain=plain))
    for line in (*sentences(runs, analysis), *(f"- {line}" for line in next_lines(runs, analysis))):
        console.print(line, soft_wrap=plain)
    if len(analysis.series) == 1:
        for part in (
            steps_table(analysis.series[0], console.width, plain=plain),
            question_types_table(runs, plain=plain),
        ):
            if part is not None:
                console.print()
                console.print(part)
    elif analysis.between:
        console.print()
        console.print(between_table(analysis, console.width, plain=plain))
    told, doubtful = warnings(runs), timing_warnings(runs)
    most = max(MOST_WARNINGS, len(doubtful))
    for warning in told[:most]:
        console.print(f"- {warning}", soft_wrap=plain)
    if len(told) > most:
        console.print(f"- {len(told) - most} more in {MARKDOWN_NAME}")
    if doubtful:
        console.print(f"{DOUBTFUL}: the timings of this run are doubtful, see above")
    files = "comparison.csv .parquet .md .tex, analysis.json"
    if not missing_modules("report"):
        files = f"report.html, figures, comparison.png, {files}"
    console.print(f"{out}: {files}")
