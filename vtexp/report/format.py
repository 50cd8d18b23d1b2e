"""Numbers and sentences of a comparison as text, alike wherever they stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vtexp.analysis.answer import points
from vtexp.analysis.findings import AnalysedRun, Analysis, Series

#: What stands behind times that are doubtful.
DOUBTFUL = "!"


def title(rows: Sequence[dict[str, Any]]) -> str:
    """What all rows have in common, and how many questions each answered."""
    parts = [_common(rows, key) for key in ("model", "dataset", "hardware")]
    if any(row["weights"] == "random" for row in rows):
        parts.insert(1, "random weights")
    counts = sorted({row["num_samples"] for row in rows if row["status"] == "done"})
    if how := sorted({row["execution"] for row in rows if row.get("execution")}):
        parts[-1] += f" ({' or '.join(how)})"
    questions = " or ".join(map(str, counts)) or "no"
    return f"{', '.join(parts)}, {questions} questions"


def _common(rows: Sequence[dict[str, Any]], key: str) -> str:
    """The one value of a key in all rows, else `several KEYs`."""
    values = {row[key] for row in rows}
    return values.pop() if len(values) == 1 else f"several {key}s"


def speed_up(run: AnalysedRun, runs: Mapping[str, AnalysedRun]) -> str:
    """How much faster than its baseline, marked where the times of either are doubtful."""
    if run.speed_up is None:
        return ""
    doubtful = run.disturbed or runs[run.speed_up.baseline].disturbed
    return f"{run.speed_up.ratio:.2f}{DOUBTFUL if doubtful else ''}"


def milliseconds(row: dict[str, Any], key: str) -> str:
    """A time of a row, marked where it is doubtful; empty where it was not measured."""
    value = row.get(key)
    return "" if value is None else f"{value:.1f}{DOUBTFUL if row['disturbed'] else ''}"


def sentences(rows: Sequence[dict[str, Any]], analysis: Analysis) -> list[str]:
    """The answer of each series, what must be known with it, and what the data can see."""
    said = []
    for series in analysis.series:
        name = f"{series.name}: " if len(analysis.series) > 1 else ""
        said.append(f"{name}{series.answer.sentence}")
        said += [f"- {caveat}" for caveat in series.answer.caveats]
        said += [f"- {line}" for line in _power(series)]
    if analysis.shared:
        said.append("- all this is of the questions that all runs on a data set answered")
    said += [f"- not fair: {line}" for line in analysis.unfair]
    if analysis.unfinished:
        said.append(f"- {len(analysis.unfinished)} of {len(rows)} runs have no result")
    return said


def _power(series: Series) -> list[str]:
    if series.power is None:
        return []
    return [
        f"{series.num_samples} questions on {series.num_images} images see a difference between "
        f"neighbouring budgets from about {points(series.power.detectable)} points on (80 % power, "
        "one test, uncorrected)"
    ]


def p_value(p: float) -> str:
    """A p-value with two digits."""
    return "<0.001" if p < 0.001 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"
