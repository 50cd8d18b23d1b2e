"""The comparison as files: CSV, Parquet and Markdown, with one name for each column everywhere."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vtexp.analysis.answer import interval, points
from vtexp.analysis.findings import AnalysedRun, Analysis, GroupCell, Grouping, Series
from vtexp.analysis.rows import COLUMNS, LISTS, label, notes
from vtexp.report.format import milliseconds, p_value, sentences, speed_up
from vtexp.utils.text import csv_cell, visible

CSV_NAME = "comparison.csv"
PARQUET_NAME = "comparison.parquet"
MARKDOWN_NAME = "comparison.md"

#: Columns behind those of the runs: what the analysis says of each. Empty where it says nothing.
FINDINGS = (
    *("at_least_worse", "at_most_worse", "sufficient"),
    *("speed_up", "speed_up_low", "speed_up_high", "speed_up_baseline"),
    *("on_front", "front_share"),
)


def csv_text(rows: Sequence[dict[str, Any]], analysis: Analysis) -> str:
    """comparison.csv: COLUMNS, then FINDINGS; one row per run, lists joined by `; `."""
    buffer = io.StringIO()
    names = (*COLUMNS, *FINDINGS)
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    for row in _with_findings(rows, analysis):
        row |= {name: "; ".join(row.get(name) or []) for name in LISTS}
        writer.writerow({name: csv_cell(row.get(name)) for name in names})
    return buffer.getvalue()


def parquet_bytes(rows: Sequence[dict[str, Any]], analysis: Analysis) -> bytes:
    """comparison.parquet: the same columns with their types, null where nothing was measured.

    Control characters of texts are escapes as in the CSV: not all of them are UTF-8.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, columns = _with_findings(rows, analysis), {}
    for name in (*COLUMNS, *FINDINGS):
        values = [row.get(name) for row in rows]
        if name in LISTS:
            lists = [[visible(text) for text in value or []] for value in values]
            columns[name] = pa.array(lists, pa.list_(pa.string()))
        elif any(isinstance(value, float) for value in values):
            values = [None if value is None else float(value) for value in values]
            columns[name] = pa.array(values, pa.float64())
        else:
            texts = [visible(value) if isinstance(value, str) else value for value in values]
            columns[name] = pa.array(texts)
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def _with_findings(rows: Sequence[dict[str, Any]], analysis: Analysis) -> list[dict[str, Any]]:
    """The rows with FINDINGS, where the analysis has any of their run."""
    found = {run.run: run for series in analysis.series for run in series.runs}
    return [row | (_findings(found[row["run"]]) if row["run"] in found else {}) for row in rows]


def _findings(run: AnalysedRun) -> dict[str, Any]:
    ratio = run.speed_up
    plain = ("at_least_worse", "at_most_worse", "sufficient", "on_front", "front_share")
    found = {name: getattr(run, name) for name in plain}
    if ratio is not None:
        found |= {"speed_up": ratio.ratio, "speed_up_baseline": ratio.baseline}
        found |= {"speed_up_low": ratio.low, "speed_up_high": ratio.high}
    return found


#: Columns of the table in Markdown that are there in every comparison, and those that are there
#: where a run has measured them, with the format of their numbers.
_OPTIONAL = {
    "execution": ("prefill run by", ""),
    "gpu_busy_ratio": ("GPU busy", ".0%"),
    "cold_ttft_ms": ("cold TTFT, ms", ".1f"),
    "memory_peak_mib_allocated": ("memory allocated, MiB", ".0f"),
    "memory_peak_mib_resident": ("memory resident, MiB", ".0f"),
    "energy_j_per_prefill": ("energy per prefill, J", ".3g"),
    "mfu": ("MFU", ".3f"),
    "roofline_ms": ("roofline, ms", ".3g"),
}


def markdown(rows: Sequence[dict[str, Any]], analysis: Analysis) -> str:
    """comparison.md: the answers, the table, the differences, notes and the methods."""
    first, *rest = [_text(line) for line in sentences(rows, analysis)]
    first = first.removeprefix("- ")  # without an answer the list starts at once
    parts = ["# Comparison", "", f"**{first}**", "", *rest, "", *_main_table(rows, analysis)]
    for series in analysis.series:
        parts += _differences(series.runs, series.name)
        for grouping in series.groupings:
            parts += _groups(series, grouping)
    parts += _between(analysis)
    told = [f"- {_text(note)}" for note in notes(list(rows))]
    parts += ["", "## Notes", "", *(told or ["None."]), ""]
    parts += ["## Statistics", "", *(f"- {_text(method)}" for method in analysis.methods)]
    return "\n".join(parts) + "\n"


def _main_table(rows: Sequence[dict[str, Any]], analysis: Analysis) -> list[str]:
    found = {run.run: run for series in analysis.series for run in series.runs}
    optional = [key for key in _OPTIONAL if any(row.get(key) is not None for row in rows)]
    varying = [
        key
        for key in ("model", "dataset", "hardware", "settings")
        if len({row[key] for row in rows}) > 1
    ]
    heads = [
        *("budget", "tiling", "crops", "theoretical tokens", "measured tokens", "actual tokens"),
        *("accuracy, % (95 %)", "at most worse by, points", "prefill, ms (95 %)", "TTFT, ms"),
        *("speed-up", "on the front"),
        *(_OPTIONAL[key][0] for key in optional),
        *("status", *varying),
    ]
    lines = [_line(heads), "|" + "---|" * len(heads)]
    for row in rows:
        cells = _row(row, found.get(row["run"]), found)
        for key in optional:
            value = row.get(key)
            cells.append("" if value is None else format(value, _OPTIONAL[key][1]))
        status = [row["status"], *_doubtful(row)]
        if row.get("actual_overridden"):
            status.append("counts overridden")
        if row.get("same_inputs_as"):
            status.append(f"same inputs as {row['same_inputs_as']}")
        lines.append(_line([*cells, ", ".join(status), *(row[key] for key in varying)]))
    return lines


def _doubtful(row: dict[str, Any]) -> list[str]:
    """The status of a row with doubtful timings, with the reasons."""
    return [f"timings doubtful ({'; '.join(row['disturbed'])})"] if row["disturbed"] else []


def _row(
    row: dict[str, Any], run: AnalysedRun | None, runs: Mapping[str, AnalysedRun]
) -> list[str]:
    if run is None:
        return [label(row), row["tiling"], str(row["num_crops"]), *[""] * 9]
    ratio, low, high = run.speed_up, row.get("prefill_ms_low"), row.get("prefill_ms_high")
    accuracy = "none" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f}"
    if row.get("accuracy_low") is not None:
        accuracy += f" ({100 * row['accuracy_low']:.1f}-{100 * row['accuracy_high']:.1f})"
    spread = "" if low is None or high is None else f" ({low:.1f}-{high:.1f})"
    return [
        label(row),
        row["tiling"],
        f"{row['measured_num_crops']:.4g}",
        *(f"{row[f'{kind}_vision_tokens']:.5g}" for kind in ("theoretical", "measured", "actual")),
        accuracy,
        "" if run.at_most_worse is None else points(run.at_most_worse),
        milliseconds(row, "prefill_ms_median") + spread,
        milliseconds(row, "ttft_ms_median"),
        "" if ratio is None else f"{speed_up(run, runs)} ({interval(ratio)})",
        "" if run.front_share is None else f"{run.front_share:.0%}",
    ]


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
    lines = ["", f"## Differences: {_text(name)}", "", _line(heads), "|" + "---|" * len(heads)]
    for pair in dict.fromkeys(pairs):
        mcnemar = "" if pair.p_mcnemar is None else p_value(pair.p_mcnemar)
        cells = [labels[pair.run], labels[pair.baseline], points(pair.difference, signed=True)]
        cells += [interval(pair), str(pair.wins), str(pair.losses), p_value(pair.p_value)]
        lines.append(_line([*cells, p_value(pair.p_holm), mcnemar]))
    return lines


def _groups(series: Series, grouping: Grouping) -> list[str]:
    """Accuracy by group, and the difference from the best run with its corrected p-value."""
    labels = {run.run: run.label for run in series.runs}
    heads = [
        grouping.name,
        "questions",
        "images",
        *(labels[c.run] for c in grouping.groups[0].cells),
    ]
    title = f"## By {_text(grouping.name)}, accuracy in %: {_text(series.name)}"
    said = "In brackets: points from the most accurate budget, and p (Holm, the whole table)."
    lines = ["", title, "", said, "", _line(heads), "|" + "---|" * len(heads)]
    for group in grouping.groups:
        counts = [str(group.num_samples), str(group.num_images)]
        lines.append(_line([group.value, *counts, *map(_group_cell, group.cells)]))
    return lines


def _group_cell(cell: GroupCell) -> str:
    text = f"{100 * cell.accuracy:.1f}"
    if cell.difference is None or cell.p_holm is None:
        return text
    return f"{text} ({points(cell.difference, signed=True)}, p {p_value(cell.p_holm)})"


def _between(analysis: Analysis) -> list[str]:
    """The same budgets in two series; empty where no two answered the same questions."""
    if not analysis.between:
        return []
    names = {run.run: (s.name, run.label) for s in analysis.series for run in s.runs}
    heads = ("series", "against", "budget", "points", "95 %", "p (Holm, all these)")
    lines = ["", "## Between series", "", _line(heads), "|" + "---|" * len(heads)]
    for pair in analysis.between:
        series, budget = names[pair.run]
        cells = [series, names[pair.baseline][0], budget, points(pair.difference, signed=True)]
        lines.append(_line([*cells, interval(pair), p_value(pair.p_holm)]))
    return lines


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_text(cell) for cell in cells) + " |"


def _text(text: str) -> str:
    """Text that Markdown shows as it is, on one line: names come from configs and data sets."""
    plain = visible(" ".join(text.split()))
    return re.sub(r"([\\|`*\[\]])", r"\\\1", plain).replace("<", "&lt;") if plain else ""
