"""The comparison and its answer on a terminal, or as plain text where there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD, Box
from rich.table import Table

from vtexp.analysis.answer import interval, points
from vtexp.analysis.findings import Analysis, Series
from vtexp.analysis.rows import ComparedRun, run_names
from vtexp.report.columns import TERMINAL, Column, ReportRow, shown
from vtexp.report.format import short_label, title
from vtexp.utils.text import p_value

#: Types and runs of a table, at most; each run's result.json has all types.
MOST_TYPES, MOST_RUNS = 15, 8
#: A line of hyphens under the heads, for files and logs.
PLAIN = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
#: Comparisons between series that a terminal shows at most.
MOST_BETWEEN = 12
#: Room that a column of words, such as the settings, gets: that of its longest, within these.
LEAST_WORDS, MOST_WORDS = 16, 32
#: Room that columns of words beside differences get at least: they go on in the next line.
SHORT_WORDS = 10


def _table(plain: bool, **more: Any) -> Table:
    """An empty table; `plain`: nothing but ASCII lines."""
    box = PLAIN if plain else SIMPLE_HEAD
    return Table(box=box, pad_edge=False, padding=(0, 1, 0, 0), **more)


def table(rows: Sequence[ReportRow], width: int, *, plain: bool = False) -> Table:
    """The comparison: accuracy with its 95 % interval, prefill, and what follows of both.

    Columns that do not fit into the width are left out.
    """
    runs = [row.run for row in rows]
    style = "" if plain else "italic"
    result = _table(plain, title=title(runs), title_justify="left", title_style=style)
    names, knobs = run_names(runs), {run.asked.knob for run in runs}
    first = "knob value" if len(knobs) > 1 else knobs.pop()
    columns = shown(rows, TERMINAL)
    longest = (max(len(_cell(row, column)) for row in rows) for column in columns if column.varying)
    words = sum(2 + min(MOST_WORDS, max(LEAST_WORDS, own)) for own in longest)
    taken = max(map(len, (first, *names.values()))) + words
    columns = _fitting(rows, columns, width - taken - 4)
    result.add_column(first, no_wrap=True)
    for column in columns:
        head = "\n".join(column.lines).strip()
        justify = "right" if column.numeric else "left"
        overflow = "ellipsis" if column.numeric else "fold"
        result.add_column(head, justify=justify, no_wrap=column.numeric, overflow=overflow)  # type: ignore[arg-type]
    for row in rows:
        result.add_row(names[row.run.name], *(_cell(row, column) for column in columns))
    return result


def _fitting(rows: Sequence[ReportRow], columns: list[Column], width: int) -> list[Column]:
    """As many columns as fit into the width; those of words have their room already."""
    widths = {
        column.key: 2 + max(map(len, (*column.lines, *(_cell(row, column) for row in rows))))
        for column in columns
        if not column.varying
    }
    left = list(columns)
    for column in sorted((c for c in columns if c.drop), key=lambda column: column.drop):
        if sum(widths.get(own.key, 0) for own in left) > width:
            left.remove(column)
    return left


def _cell(row: ReportRow, column: Column) -> str:
    return row.cell(column) or ("none" if column.key == "accuracy" else "")


def _differences(
    words: Sequence[str],
    numbers: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    **more: Any,
) -> Table:
    """A table of columns of words and columns of numbers; the last ones only where they fit."""
    heads = [*words, *numbers]
    wide = [
        2 + max(len(line) for cell in column for line in cell.split("\n"))
        for column in zip(heads, *rows, strict=True)
    ]
    kept = len(heads)
    while kept > len(words) and len(words) * SHORT_WORDS + sum(wide[len(words) : kept]) > width:
        kept -= 1
    result = _table(**more)
    for head in words:
        result.add_column(head, overflow="fold")
    for head in heads[len(words) : kept]:
        result.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        result.add_row(*row[:kept])
    return result


def steps_table(series: Series, width: int, *, plain: bool = False) -> Table | None:
    """Each budget against the next smaller one; None where there are not two.

    p-values are left out where they do not fit into the width.
    """
    runs = [run for run in series.runs if run.versus_smaller is not None]
    if not runs:
        return None
    labels = {run.run: short_label(run.label) for run in series.runs}
    steps = [run.versus_smaller for run in runs if run.versus_smaller is not None]
    rows = [
        [
            f"{labels[step.baseline]} to {labels[step.run]}",
            points(step.difference, signed=True),
            interval(step),
            p_value(step.p_holm, step.p_at_floor),
            "" if step.p_mcnemar is None else p_value(step.p_mcnemar),
        ]
        for step in steps
    ]
    numbers = ("points", "95 % interval", "p (Holm,\nall pairs)", "p (McNemar)")
    return _differences(["step"], numbers, rows, width, plain=plain)


def between_table(analysis: Analysis, width: int, *, plain: bool = False) -> Table:
    """The same budgets in two series that answered the same questions, the first MOST_BETWEEN.

    Intervals and p-values are left out where they do not fit into the width.
    """
    series = {run.run: one.name for one in analysis.series for run in one.runs}
    labels = {run: short_label(own.label) for run, own in analysis.analysed().items()}
    left_out = len(analysis.between) - MOST_BETWEEN
    more = f"{left_out} more in comparison.md" if left_out > 0 else None
    rows = [
        [
            series[pair.run],
            series[pair.baseline],
            labels[pair.run],
            points(pair.difference, signed=True),
            interval(pair),
            p_value(pair.p_holm, pair.p_at_floor),
        ]
        for pair in analysis.between[:MOST_BETWEEN]
    ]
    words = ("series", "against", "budget")
    numbers = ("points", "95 % interval", "p (Holm,\nall these)")
    return _differences(
        words, numbers, rows, width, plain=plain, caption=more, caption_justify="left"
    )


def question_types_table(runs: Sequence[ComparedRun], *, plain: bool = False) -> Table | None:
    """Accuracy in % by type and run, the most frequent types first; `plain`: ASCII lines alone.

    None where there is one type only, or more runs or data sets than fit.
    """
    done = [run for run in runs if run.result and run.result.accuracy_by_question_type]
    counts: Counter[str] = Counter()
    for run in done:
        for kind, found in run.found.accuracy_by_question_type.items():
            counts[kind] = max(counts[kind], found.n)
    one_series = len({(run.asked.model, run.asked.dataset, run.settings) for run in done}) == 1
    if len(counts) < 2 or not one_series or len(done) > MOST_RUNS:
        return None
    table = _table(plain)
    table.add_column("accuracy, %\nby question type", overflow="fold")
    table.add_column("questions", justify="right", no_wrap=True)
    for name in run_names(done).values():
        table.add_column(name, justify="right", no_wrap=True)
    for kind, n in counts.most_common(MOST_TYPES):
        scores = [run.found.accuracy_by_question_type.get(kind) for run in done]
        cells = ["" if s is None else f"{100 * s.accuracy:.1f}" for s in scores]
        table.add_row(kind, str(n), *cells)
    if len(counts) > MOST_TYPES:
        table.add_row(f"and {len(counts) - MOST_TYPES} more: each run's result.json")
    return table
