"""Accuracy by question type: a CSV of all runs of a sweep, and a table where one fits."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from vtexp.analysis.rows import label
from vtexp.report.terminal import PLAIN
from vtexp.utils import files
from vtexp.utils.text import csv_cell

CSV_NAME = "question_types.csv"
COLUMNS = (
    *("knob", "knob_value", "model", "dataset", "hardware", "settings"),
    *("question_type", "accuracy", "n", "run"),
)
#: Types and runs of a table, at most; all are in the CSV.
MOST_TYPES, MOST_RUNS = 15, 8


def write_question_types(sweep: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write question_types.csv of the finished rows of a comparison that have accuracies."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        for kind, found in row.get("accuracy_by_question_type", {}).items():
            cells = row | found | {"question_type": kind}
            writer.writerow({name: csv_cell(cells.get(name)) for name in COLUMNS})
    files.write_text(sweep / CSV_NAME, buffer.getvalue())


def question_types_table(rows: Sequence[dict[str, Any]], *, plain: bool = False) -> Table | None:
    """Accuracy in % by type and run, the most frequent types first; `plain`: ASCII lines alone.

    None where there is one type only, or more runs or data sets than fit.
    """
    rows = [row for row in rows if row.get("accuracy_by_question_type")]
    counts: Counter[str] = Counter()
    for row in rows:
        for kind, found in row["accuracy_by_question_type"].items():
            counts[kind] = max(counts[kind], found["n"])
    one_series = len({(row["model"], row["dataset"], row["settings"]) for row in rows}) == 1
    if len(counts) < 2 or not one_series or len(rows) > MOST_RUNS:
        return None
    table = Table(box=PLAIN if plain else SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("accuracy, %\nby question type")
    table.add_column("questions", justify="right")
    several_knobs = len({row["knob"] for row in rows}) > 1
    for row in rows:
        name = label(row)
        table.add_column(name if several_knobs else name.partition("=")[2], justify="right")
    for kind, n in counts.most_common(MOST_TYPES):
        scores = [row["accuracy_by_question_type"].get(kind) for row in rows]
        cells = ["" if s is None else f"{100 * s['accuracy']:.1f}" for s in scores]
        table.add_row(kind, str(n), *cells)
    if len(counts) > MOST_TYPES:
        table.add_row(f"and {len(counts) - MOST_TYPES} more: {CSV_NAME}")
    return table
