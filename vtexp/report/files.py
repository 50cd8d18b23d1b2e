"""The comparison as files: CSV, Parquet and Markdown, with one name for each column everywhere."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import Any

from vtexp.analysis.answer import at_most, interval, points
from vtexp.analysis.findings import Across, AnalysedRun, Analysis, Grid, GroupCell, Grouping, Series
from vtexp.analysis.rows import ComparedRun, warnings
from vtexp.report.columns import MARKDOWN, ReportRow, in_files, shown
from vtexp.report.format import answer_lines, common_lines, headline
from vtexp.report.grid_plots import front_heads, front_rows
from vtexp.report.next_steps import next_lines
from vtexp.utils.text import csv_cell, p_value, visible

CSV_NAME = "comparison.csv"
PARQUET_NAME = "comparison.parquet"
MARKDOWN_NAME = "comparison.md"


def csv_text(rows: Sequence[ReportRow]) -> str:
    """comparison.csv: one row per run, lists joined by `; `, no cell a formula."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = in_files()
    writer.writerow([column.key for column in columns])
    for row in rows:
        values = [row.values.get(column.key) for column in columns]
        joined = ["; ".join(value) if isinstance(value, tuple) else value for value in values]
        writer.writerow(map(csv_cell, joined))
    return buffer.getvalue()


def parquet_bytes(rows: Sequence[ReportRow]) -> bytes:
    """comparison.parquet: the same columns with their types, null where nothing was measured.

    Control characters of texts are escapes as in the CSV: not all of them are UTF-8.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {float: pa.float64(), int: pa.int64(), bool: pa.bool_(), str: pa.string()}
    types[tuple] = pa.list_(pa.string())
    table = {
        column.key: pa.array(
            [_plain(row.values.get(column.key)) for row in rows], types[column.kind]
        )
        for column in in_files()
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(table), buffer)
    return buffer.getvalue()


def _plain(value: Any) -> Any:
    """A value for Parquet: texts, alone or in lists, without control characters."""
    if isinstance(value, tuple):
        return [visible(text) for text in value]
    return visible(value) if isinstance(value, str) else value


def markdown(rows: Sequence[ReportRow], analysis: Analysis) -> str:
    """comparison.md: the answers, the table, the differences, warnings and the methods."""
    runs = [row.run for row in rows]
    parts = ["# Comparison", *_answers(runs, analysis), ""]
    parts += ["## Runs", ""] if len(analysis.series) > 1 else []
    parts += _main_table(rows)
    for series in analysis.series:
        parts += _differences(series.runs, series.name)
        for grouping in series.groupings:
            parts += _groups(series, grouping)
    parts += _between(analysis)
    for one in analysis.across:
        parts += _across(one)
    for grid in analysis.grids:
        parts += _front(grid)
    told = [f"- {_text(warning)}" for warning in warnings(runs)]
    parts += ["", "## Warnings", "", *(told or ["None."]), ""]
    parts += ["## Statistics", "", *(f"- {_text(method)}" for method in analysis.methods)]
    return "\n".join(parts) + "\n"


def _answers(runs: Sequence[ComparedRun], analysis: Analysis) -> list[str]:
    """The answer of each series, of several in a section each, and what holds for all."""
    lines: list[str] = []
    for series in analysis.series:
        if len(analysis.series) > 1:
            lines += ["", f"## Answer: {_text(series.name)}"]
        lines += ["", f"**{_text(headline(series, analysis.margin))}**", ""]
        first, *rest = answer_lines(series)
        lines += [_text(first), "", *(f"- {_text(line)}" for line in rest)]
    common = [*common_lines(runs, analysis), *next_lines(runs, analysis)]
    common = [_text(line) for line in common]
    if not analysis.series:
        return ["", *(f"**{line}**" for line in common)]
    if len(analysis.series) > 1 and common:
        lines += ["", "## All series", ""]
    return lines + [f"- {line}" for line in common]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown."""
    return [_line(heads), "|" + "---|" * len(heads), *map(_line, rows)]


def _main_table(rows: Sequence[ReportRow]) -> list[str]:
    columns = shown(rows, MARKDOWN)
    heads = ["budget", *(column.head for column in columns), "status"]
    cells = [
        [row.run.label, *(row.text(column) for column in columns), ", ".join(_status(row))]
        for row in rows
    ]
    return _table(heads, cells)


def _status(row: ReportRow) -> list[str]:
    """What became of a run, and why its numbers are to be read with care."""
    run, found = row.run, [row.run.status]
    if run.timing_warnings:
        found.append(f"timings doubtful ({'; '.join(run.timing_warnings)})")
    if run.result is not None and run.result.actual_overridden:
        found.append("counts overridden")
    if run.same_inputs_as:
        found.append(f"same inputs as {run.same_inputs_as}")
    return found


def _differences(runs: Sequence[AnalysedRun], name: str) -> list[str]:
    """Each budget against the next smaller one and against the best one."""
    labels = {run.run: run.label for run in runs}
    pairs = [
        difference
        for run in runs
        for difference in (run.versus_smaller, run.versus_best)
        if difference is not None
    ]
    if not pairs:
        return []
    heads = [*("budget", "against", "points", "95 %", "wins", "losses", "p")]
    heads += ["p (Holm, all pairs)", "McNemar"]
    cells = [
        [
            *(labels[pair.run], labels[pair.baseline], points(pair.difference, signed=True)),
            *(interval(pair), str(pair.wins), str(pair.losses)),
            *(p_value(p, pair.p_at_floor) for p in (pair.p_value, pair.p_holm)),
            "" if pair.p_mcnemar is None else p_value(pair.p_mcnemar),
        ]
        for pair in dict.fromkeys(pairs)
    ]
    return ["", f"## Differences: {_text(name)}", "", *_table(heads, cells)]


def _groups(series: Series, grouping: Grouping) -> list[str]:
    """Accuracy by group, and the difference from the best run with its corrected p-value."""
    labels = {run.run: run.label for run in series.runs}
    cells = grouping.groups[0].cells
    heads = [grouping.name, "questions", "images", *(labels[cell.run] for cell in cells)]
    rows = [
        [group.value, str(group.num_samples), str(group.num_images), *map(_cell, group.cells)]
        for group in grouping.groups
    ]
    title = f"## By {_text(grouping.name)}, accuracy in %: {_text(series.name)}"
    said = (
        "In brackets: points from the most accurate budget, and p (Holm, all pairs in all groups)."
    )
    return ["", title, "", said, "", *_table(heads, rows)]


def _cell(cell: GroupCell) -> str:
    text = f"{100 * cell.accuracy:.1f}"
    if cell.difference is None or cell.p_holm is None:
        return text
    p = p_value(cell.p_holm, cell.p_at_floor)
    return f"{text} ({points(cell.difference, signed=True)}, p {p})"


def _between(analysis: Analysis) -> list[str]:
    """The same budgets in two series; empty where no two answered the same questions."""
    if not analysis.between:
        return []
    names = {run.run: (s.name, run.label) for s in analysis.series for run in s.runs}
    heads = ("series", "against", "budget", "points", "95 %", "p (Holm, all these)")
    rows = []
    for pair in analysis.between:
        series, budget = names[pair.run]
        cells = [series, names[pair.baseline][0], budget, points(pair.difference, signed=True)]
        rows.append([*cells, interval(pair), p_value(pair.p_holm, pair.p_at_floor)])
    return ["", "## Between series", "", *_table(heads, rows)]


def _across(found: Across) -> list[str]:
    """One budget for several data sets: its accuracy and loss on average, and the worst."""
    heads = (
        "budget",
        "tokens",
        "accuracy, %",
        "loss at most, average",
        "loss at most, worst",
        "on",
    )
    rows = [
        [
            *(budget.label, f"{budget.vision_tokens:.5g}", f"{100 * budget.accuracy:.1f}"),
            "" if budget.average_at_most is None else at_most(budget.average_at_most),
            *(at_most(budget.worst_at_most), budget.worst_dataset),
        ]
        for budget in found.budgets
    ]
    title = f"## Across data sets{f': {_text(found.name)}' if found.name else ''}"
    return ["", title, "", *_table(heads, rows)]


def _front(grid: Grid) -> list[str]:
    """The settings of a grid that are worth their cost; empty where that is not known."""
    rows = front_rows(grid)
    if not rows:
        return []
    said = (
        f"No other setting is at least as accurate, as fast and as small in {grid.memory} memory, "
        "by these estimates."
    )
    return [
        "",
        f"## Pareto front: {_text(grid.name)}",
        "",
        said,
        "",
        *_table(front_heads(grid), rows),
    ]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_text(cell) for cell in cells) + " |"


def _text(text: str) -> str:
    """Text that Markdown shows as it is, on one line: names come from configs and data sets."""
    plain = visible(" ".join(text.split()))
    return re.sub(r"([\\|`*\[\]])", r"\\\1", plain).replace("<", "&lt;") if plain else ""
