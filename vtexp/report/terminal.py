"""The comparison and its answer on a terminal, or as plain text where there is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rich.box import SIMPLE_HEAD, Box
from rich.table import Table

from vtexp.analysis.answer import interval, points
from vtexp.analysis.findings import AnalysedRun, Analysis, Series
from vtexp.analysis.rows import label
from vtexp.report.format import milliseconds, p_value, speed_up, title
from vtexp.report.question_types import CSV_NAME

#: Types and runs of a table, at most; all are in the CSV.
MOST_TYPES, MOST_RUNS = 15, 8

#: A line of hyphens under the heads, for files and logs.
PLAIN = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)


#: Numbers of the table, the one that is left out first at the end. Where the budget stands, its
#: accuracy and its prefill always stay.
HEADS = {
    "tiling": "tiling",
    "crops": "crops",
    "theory": "theory\ntokens",
    "measured": "measured\ntokens",
    "accuracy": "accuracy\n%",
    "accuracy_interval": "95 %\ninterval",
    "prefill": "prefill\nms",
    "prefill_interval": "prefill\n95 %",
    "vision": "vision\nms",
    "llm": "LLM\nms",
    "ttft": "TTFT\nms",
    "at_most_worse": "at most\nworse by",
    "speed_up": "speed-\nup",
}
LEFT_OUT_FIRST = (
    *("prefill_interval", "ttft", "at_most_worse", "speed_up", "llm", "vision"),
    *("crops", "theory", "tiling"),
)
#: Comparisons between series that a terminal shows at most.
MOST_BETWEEN = 12
#: Room that a column of words, such as the settings, needs at least.
WORDS = 16


def table(
    rows: Sequence[dict[str, Any]], analysis: Analysis, width: int, *, plain: bool = False
) -> Table:
    """The comparison: accuracy with its 95 % interval, prefill, and what follows of both.

    Columns that do not fit into the width are left out. `plain`: nothing but ASCII lines.
    """
    result = Table(
        title=title(rows),
        title_justify="left",
        title_style="" if plain else "italic",
        box=PLAIN if plain else SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    found = {run.run: run for series in analysis.series for run in series.runs}
    several_knobs = len({row["knob"] for row in rows}) > 1
    budgets = [label(row) if several_knobs else label(row).partition("=")[2] for row in rows]
    cells = [_cells(row, found.get(row["run"]), found) for row in rows]
    varying = [
        key
        for key in ("model", "dataset", "hardware", "settings")
        if len({row[key] for row in rows}) > 1
    ]
    first = "knob value" if several_knobs else rows[0]["knob"]
    taken = max(map(len, (first, *budgets))) + (WORDS + 2) * len(varying)
    shown = _fitting(cells, width - taken - 4)
    result.add_column(first, no_wrap=True)
    for name in shown:
        justify: Literal["left", "right"] = "left" if name == "tiling" else "right"
        result.add_column(HEADS[name], justify=justify, no_wrap=name != "tiling")
    for key in varying:
        result.add_column(key)
    for row, budget, own in zip(rows, budgets, cells, strict=True):
        result.add_row(budget, *(own[name] for name in shown), *(row[key] for key in varying))
    return result


def _fitting(cells: Sequence[dict[str, str]], width: int) -> list[str]:
    """Columns that hold anything, as many as fit into the width."""
    shown = [name for name in HEADS if any(own[name] for own in cells)]
    widths = {
        name: max(len(text) for text in (*HEADS[name].split("\n"), *(own[name] for own in cells)))
        for name in shown
    }
    for name in LEFT_OUT_FIRST:
        if name in shown and sum(widths[own] + 2 for own in shown) > width:
            shown.remove(name)
    return shown


def _cells(
    row: dict[str, Any], run: AnalysedRun | None, runs: Mapping[str, AnalysedRun]
) -> dict[str, str]:
    """Text of each of HEADS."""
    cells = dict.fromkeys(HEADS, "") | {"tiling": row["tiling"], "crops": f"{row['num_crops']}"}
    if row["status"] != "done" or run is None:
        return cells | {"accuracy": row["status"]}
    low, high = row["accuracy_low"], row["accuracy_high"]
    below, above = row.get("prefill_ms_low"), row.get("prefill_ms_high")
    worse = run.at_most_worse
    return cells | {
        "crops": f"{row['measured_num_crops']:.4g}",
        "theory": f"{row['theoretical_vision_tokens']:.5g}",
        "measured": f"{row['measured_vision_tokens']:.5g}",
        "accuracy": "none" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f}",
        "accuracy_interval": "" if low is None else f"{100 * low:.1f}-{100 * high:.1f}",
        "prefill": milliseconds(row, "prefill_ms_median"),
        "prefill_interval": "" if None in (below, above) else f"{below:.1f}-{above:.1f}",
        "vision": milliseconds(row, "vision_ms_median"),
        "llm": milliseconds(row, "llm_prefill_ms_median"),
        "ttft": milliseconds(row, "ttft_ms_median"),
        "at_most_worse": "" if worse is None else points(worse),
        "speed_up": speed_up(run, runs),
    }


def steps_table(series: Series, *, plain: bool = False) -> Table | None:
    """Each budget against the next smaller one; None where there are not two."""
    runs = [run for run in series.runs if run.versus_smaller is not None]
    if not runs:
        return None
    labels = {run.run: run.label for run in series.runs}
    if len({name.partition("=")[0] for name in labels.values()}) == 1:
        labels = {run: name.partition("=")[2] for run, name in labels.items()}
    result = Table(box=PLAIN if plain else SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    result.add_column("step")
    for name in ("points", "95 % interval", "p (Holm,\nall pairs)", "p (McNemar)"):
        result.add_column(name, justify="right")
    for run in runs:
        step = run.versus_smaller
        assert step is not None
        result.add_row(
            f"{labels[step.baseline]} to {labels[step.run]}",
            points(step.difference, signed=True),
            interval(step),
            p_value(step.p_holm),
            "" if step.p_mcnemar is None else p_value(step.p_mcnemar),
        )
    return result


def between_table(analysis: Analysis, *, plain: bool = False) -> Table:
    """The same budgets in two series that answered the same questions, the first MOST_BETWEEN."""
    names = {run.run: (series.name, run.label) for series in analysis.series for run in series.runs}
    left_out = len(analysis.between) - MOST_BETWEEN
    result = Table(
        box=PLAIN if plain else SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        caption=f"{left_out} more in comparison.md" if left_out > 0 else None,
        caption_justify="left",
    )
    for name in ("series", "against", "budget"):
        result.add_column(name)
    for name in ("points", "95 % interval", "p (Holm,\nall these)"):
        result.add_column(name, justify="right")
    for pair in analysis.between[:MOST_BETWEEN]:
        series, budget = names[pair.run]
        result.add_row(
            series,
            names[pair.baseline][0],
            budget,
            points(pair.difference, signed=True),
            interval(pair),
            p_value(pair.p_holm),
        )
    return result


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
