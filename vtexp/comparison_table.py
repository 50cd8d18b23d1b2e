"""The comparison and its answer on a terminal, or as plain text where there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rich.box import SIMPLE_HEAD, Box
from rich.table import Table

from vtexp.answering import interval, points
from vtexp.compare import label
from vtexp.findings import AnalysedRun, Analysis, Series

#: A line of hyphens under the heads, for files and logs.
PLAIN = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
#: What stands behind times that are doubtful.
DOUBTFUL = "!"


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


def p_value(p: float) -> str:
    """A p-value with two digits."""
    return "<0.001" if p < 0.001 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"
