"""Accuracy by question type of all runs of a sweep, as a CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vtexp.utils import files
from vtexp.utils.text import csv_cell

CSV_NAME = "question_types.csv"
COLUMNS = (
    *("knob", "knob_value", "model", "dataset", "hardware", "settings"),
    *("question_type", "accuracy", "n", "run"),
)


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
