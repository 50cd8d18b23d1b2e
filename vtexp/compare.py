"""The comparison of a sweep, built from its run folders alone: rows, CSV, table and picture."""

from __future__ import annotations

import csv
import io
import logging
from collections import defaultdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from vtexp import records
from vtexp.planning import same_inputs

CSV_NAME = "comparison.csv"
PICTURE_NAME = "comparison.png"

#: Columns of comparison.csv, in order: what was asked, what was counted, what came out.
COLUMNS = (
    "knob",
    "knob_value",
    "tiling",
    "num_crops",
    "target_vision_tokens",
    "theoretical_num_crops",
    "theoretical_vision_tokens",
    "measured_tiling",
    "measured_num_crops",
    "measured_vision_tokens",
    "actual_tiling",
    "actual_num_crops",
    "actual_vision_tokens",
    "actual_overridden",
    "force_full_tokens",
    "fit",
    "model",
    "dataset",
    "split",
    "hardware",
    "device",
    "accuracy",
    "accuracy_standard_error",
    "metric",
    "num_samples",
    "num_images",
    "prefill_ms_median",
    "prefill_ms_p90",
    "prefill_ms_p25",
    "prefill_ms_p75",
    "prefill_ms_n",
    "preprocess_ms_median",
    "transfer_ms_median",
    "vision_ms_median",
    "llm_prefill_ms_median",
    "ttft_ms_median",
    "sequence_length",
    "batch_size",
    "same_inputs_as",
    "status",
    "warnings",
    "run",
)
#: Normal quantile of a 95 % interval.
Z_95 = 1.96


def collect(sweep: Path) -> list[dict[str, Any]]:
    """One flat row per run folder of a sweep, done or failed, in the order of vision tokens.

    Done rows with the same inputs as an earlier row of the same model, data set and hardware name
    it in `same_inputs_as`.
    """
    rows = []
    for folder in sorted(path for path in sweep.iterdir() if path.is_dir()):
        if (folder / records.RESULT).is_file():
            rows.append(_flatten(records.read_json(folder / records.RESULT)))
        elif (folder / records.FAILURE).is_file():
            rows.append(records.read_json(folder / records.FAILURE))
    rows.sort(key=_order)
    by_setting: dict[tuple, list[tuple[str, str]]] = defaultdict(list)
    for row in rows:
        if row["status"] == "done":
            inputs = row["inputs_fingerprint"] + row["samples_fingerprint"]
            by_setting[_series(row)[:3]].append((row["run"], inputs))
    names = {row["run"]: f"{row['knob']}={row['knob_value']}" for row in rows}
    for pairs in by_setting.values():
        for run, first in same_inputs(pairs).items():
            row = next(r for r in rows if r["run"] == run)
            row["same_inputs_as"] = names[first]
    return rows


def _flatten(result: dict[str, Any]) -> dict[str, Any]:
    row = {key: value for key, value in result.items() if key != "latency"}
    for stage, summary in result["latency"].items():
        row |= {f"{stage}_{name}": value for name, value in summary.items()}
    return row


def _series(row: dict[str, Any]) -> tuple[str, str, str, str, bool, str]:
    """What a line of the picture has in common."""
    return (
        row["model"],
        row["dataset"],
        row["hardware"],
        row["knob"],
        row["force_full_tokens"],
        row["fit"],
    )


def _order(row: dict[str, Any]) -> tuple:
    tokens = row.get("measured_vision_tokens", row["target_vision_tokens"])
    return (*_series(row), tokens, row["target_vision_tokens"])


def write_comparison(sweep: Path) -> list[dict[str, Any]]:
    """Write comparison.csv and comparison.png of a sweep folder; returns its rows."""
    rows = collect(sweep)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(row | {"warnings": "; ".join(row.get("warnings", []))})
    records.write_text(sweep / CSV_NAME, buffer.getvalue())
    done = [row for row in rows if row["status"] == "done"]
    if done:
        records.write_bytes(sweep / PICTURE_NAME, picture(done))
    return rows


def notes(rows: list[dict[str, Any]]) -> list[str]:
    """What a reader must know: identical inputs, warnings, failures, unlike samples."""
    found = []
    for row in rows:
        label = f"{row['knob']}={row['knob_value']}"
        if row.get("same_inputs_as"):
            found.append(f"{label}: every image gives the same inputs as {row['same_inputs_as']}")
        found += [f"{label}: {warning}" for warning in row.get("warnings", [])]
        if row["status"] == "failed":
            found.append(f"{label} FAILED: {row['error']}")
    done = [row for row in rows if row["status"] == "done"]
    for dataset in sorted({row["dataset"] for row in done}):
        prints = {r["samples_fingerprint"] for r in done if r["dataset"] == dataset}
        if len(prints) > 1:
            found.append(f"{dataset}: rows answered different questions; they cannot be compared")
    return list(dict.fromkeys(found))


def table(rows: list[dict[str, Any]]) -> Table:
    """The comparison for a terminal: accuracy with its 95 % interval, prefill median."""
    result = Table(
        title=_title(rows),
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    several_knobs = len({row["knob"] for row in rows}) > 1
    result.add_column("knob value" if several_knobs else rows[0]["knob"], no_wrap=True)
    result.add_column("tiling")
    for name in ("crops", "theory\ntokens", "measured\ntokens"):
        result.add_column(name, justify="right")
    for name in ("accuracy\n%, ± 95 %", "prefill\nms", "vision\nms", "LLM\nms"):
        result.add_column(name, justify="right", no_wrap=True)
    varying = [key for key in ("model", "dataset", "hardware") if len({r[key] for r in rows}) > 1]
    for key in varying:
        result.add_column(key)
    for row in rows:
        value = f"{row['knob']}={row['knob_value']}" if several_knobs else row["knob_value"]
        value += ",full" if row["force_full_tokens"] else ""
        cells = [value, *_cells(row), *(row[key] for key in varying)]
        result.add_row(*cells)
    return result


def _title(rows: list[dict[str, Any]]) -> str:
    """What all rows have in common, and how many questions each answered."""
    parts = [_common(rows, key) for key in ("model", "dataset", "hardware")]
    counts = sorted({row["num_samples"] for row in rows if row["status"] == "done"})
    questions = " or ".join(map(str, counts)) or "no"
    return f"{' · '.join(parts)} · {questions} questions"


def _common(rows: list[dict[str, Any]], key: str) -> str:
    """The one value of a key in all rows, else `several KEYs`."""
    values = {row[key] for row in rows}
    return values.pop() if len(values) == 1 else f"several {key}s"


def _cells(row: dict[str, Any]) -> list[str]:
    if row["status"] != "done":
        return [row["tiling"], f"{row['num_crops']}", "", "", "failed", "", "", ""]
    error = row["accuracy_standard_error"]
    interval = "" if error is None else f" ± {100 * Z_95 * error:.1f}"
    return [
        row["tiling"],
        f"{row['measured_num_crops']:.4g}",
        f"{row['theoretical_vision_tokens']:.5g}",
        f"{row['measured_vision_tokens']:.5g}",
        f"{100 * row['accuracy']:.1f}{interval}",
        f"{row['prefill_ms_median']:.1f}",
        f"{row['vision_ms_median']:.1f}",
        f"{row['llm_prefill_ms_median']:.1f}",
    ]


def picture(rows: list[dict[str, Any]]) -> bytes:
    """PNG: accuracy (95 % interval) above, prefill (quartiles) below, over measured tokens."""
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it tells of its font cache
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, sharex=True)
    lines: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        lines[_series(row)].append(row)
    labels = _line_labels(list(lines))
    for key, points in lines.items():
        tokens = [p["measured_vision_tokens"] for p in points]
        style: dict[str, Any] = {"marker": "o", "capsize": 3, "label": labels[key]}
        errors = [100 * Z_95 * (p["accuracy_standard_error"] or 0.0) for p in points]
        top.errorbar(tokens, [100 * p["accuracy"] for p in points], yerr=errors, **style)
        medians = [p["prefill_ms_median"] for p in points]
        below = [p["prefill_ms_median"] - p["prefill_ms_p25"] for p in points]
        above = [p["prefill_ms_p75"] - p["prefill_ms_median"] for p in points]
        bottom.errorbar(tokens, medians, yerr=[below, above], **style)
        for token, median, point in zip(tokens, medians, points, strict=True):
            bottom.annotate(
                point["knob_value"],
                (token, median),
                textcoords="offset points",
                xytext=(0, 8),
                ha="center",
                fontsize=8,
            )
    first = rows[0]
    where = " · ".join(
        values.pop()
        for key in ("model", "dataset", "device")
        if len(values := {row[key] for row in rows}) == 1
    )
    questions = {row["num_samples"] for row in rows}
    many = f"{questions.pop()} questions" if len(questions) == 1 else "unequal questions"
    top.set_title(f"{where} · {many}", fontsize=9)
    top.set_ylabel(f"accuracy, % ({first['metric']})\n95 % interval by image")
    top.set_ylim(-2, 102)
    bottom.set_ylabel("prefill at batch 1, ms\nmedian and quartiles")
    bottom.set_ylim(bottom=0)
    bottom.margins(y=0.15)
    bottom.set_xlabel("vision tokens per image, measured in the model (mean)")
    for axis in (top, bottom):
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1:
        top.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _line_labels(series: list[tuple]) -> dict[tuple, str]:
    """Label of each line: only the parts in which the lines differ."""
    differing = [i for i in range(6) if len({key[i] for key in series}) > 1]

    def text(key: tuple) -> str:
        parts = []
        for i in differing:
            parts.append(
                ("full tokens" if key[i] else "overlap dropped") if i == 4 else str(key[i])
            )
        return ", ".join(parts)

    return {key: text(key) for key in series}
