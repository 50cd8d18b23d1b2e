"""The comparison of a sweep, built from its run folders alone: rows, CSV and table."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml
from rich.box import SIMPLE_HEAD
from rich.table import Table

from vtexp import records
from vtexp.config import OF_NO_NUMBER
from vtexp.errors import DataError
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
    "weights",
    "dataset",
    "split",
    "hardware",
    "settings",
    "device",
    "accuracy",
    "accuracy_standard_error",
    "accuracy_low",
    "accuracy_high",
    "metric",
    "num_samples",
    "num_failed",
    "num_images",
    "prefill_ms_median",
    "prefill_ms_p90",
    "prefill_ms_p25",
    "prefill_ms_p75",
    "prefill_ms_n",
    "prefill_vision_tokens",
    "preprocess_ms_median",
    "transfer_ms_median",
    "vision_ms_median",
    "llm_prefill_ms_median",
    "ttft_ms_median",
    "sequence_length",
    "batch_size",
    "samples_fingerprint",
    "same_inputs_as",
    "status",
    "warnings",
    "run",
)


def collect(sweep: Path) -> list[dict[str, Any]]:
    """One flat row per run folder of a sweep, in the order of vision tokens.

    `status` is done, failed, or missing: planned, but neither of both.

    `settings` names what else differs between runs (dtype, path, limit, ...). Done rows with the
    same inputs as an earlier row of the same series name it in `same_inputs_as`.
    """
    rows, configs = [], []
    for folder in sorted(path for path in sweep.iterdir() if path.is_dir()):
        for name in (records.RESULT, records.FAILURE, records.PLANNED):
            if (folder / name).is_file():
                rows.append(_read_row(folder / name))
                configs.append(_settings(folder / records.CONFIG))
                break
    varying = _varying(rows, configs)
    for row, config in zip(rows, configs, strict=True):
        parts = [f"{key}={config[key]}" for key in sorted(varying & config.keys())]
        row["settings"] = ", ".join(parts)
    rows.sort(key=_order)
    by_series: dict[tuple, list[tuple[str, str]]] = defaultdict(list)
    for row in rows:
        if row["status"] == "done":
            setting = tuple(row[key] for key in ("model", "dataset", "hardware", "settings"))
            inputs = row["inputs_fingerprint"] + row["samples_fingerprint"]
            by_series[setting].append((row["run"], inputs))
    named = {row["run"]: row for row in rows}
    for pairs in by_series.values():
        for run, first in same_inputs(pairs).items():
            named[run]["same_inputs_as"] = label(named[first])
    return rows


def _varying(rows: list[dict[str, Any]], configs: list[dict[str, Any]]) -> set[str]:
    """Settings in which runs differ; those of a data set only where runs on the same one do."""
    seen: dict[tuple[str, str], set[str]] = defaultdict(set)
    keys = {key for config in configs for key in config}
    for row, config in zip(rows, configs, strict=True):
        for key in keys:
            group = row["dataset"] if key.startswith("dataset.") else ""
            seen[key, group].add(str(config.get(key)))
    return {key for (key, _), values in seen.items() if len(values) > 1}


def _read_row(path: Path) -> dict[str, Any]:
    """A result or failure as a flat row. Raises DataError if it is none."""
    row = records.read_json(path)
    if path.name == records.PLANNED:
        row = {"status": "missing"} | row
    needed = ("status", "run", "knob", "knob_value", "model", "dataset", "hardware")
    if not isinstance(row, dict) or any(key not in row for key in needed):
        raise DataError(f"{path}: not a result of vtexp; delete its folder to run it again")
    row.setdefault("weights", "pretrained")  # before there were random ones, none said so
    for stage, summary in row.pop("latency", {}).items():
        row |= {f"{stage}_{name}": value for name, value in summary.items()}
    return row


def _settings(path: Path) -> dict[str, Any]:
    """Settings of a run that can change its numbers and have no column of their own, flat."""
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    flat: dict[str, Any] = {}
    unseen = {f"{group}.{key}" for group, key in OF_NO_NUMBER}

    def add(path: str, value: Any) -> None:
        if path in unseen:
            return
        if isinstance(value, dict):
            for key, inner in value.items():
                add(f"{path}.{key}", inner)
        elif path.partition(".")[2] not in ("name", "split"):
            flat[path] = value

    for group in ("model", "dataset", "hardware", "measure"):
        add(group, config[group])
    if config["run"]["name"] == "image_size":
        flat["knob.fit"] = config["run"]["fit"]
    return flat


def label(row: dict[str, Any]) -> str:
    """A row in words, such as `image_size=560x336,full`."""
    return f"{row['knob']}={row['knob_value']}" + (",full" if row["force_full_tokens"] else "")


def _series(row: dict[str, Any]) -> tuple[str, str, str, str, bool, str]:
    """What the points of one line of the picture have in common."""
    return (
        row["model"],
        row["dataset"],
        row["hardware"],
        row["knob"],
        row["force_full_tokens"],
        row["settings"],
    )


def _order(row: dict[str, Any]) -> tuple:
    tokens = row.get("measured_vision_tokens", row["theoretical_vision_tokens"])
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
    lines = _lines(rows)
    if lines:
        from vtexp.picture import picture

        records.write_bytes(sweep / PICTURE_NAME, picture(lines))
    return rows


def notes(rows: list[dict[str, Any]]) -> list[str]:
    """What a reader must know: identical inputs, warnings, failures, unlike samples."""
    found = []
    for row in rows:
        name = label(row) + (f" ({row['settings']})" if row["settings"] else "")
        if row.get("same_inputs_as"):
            found.append(f"{name}: every image gives the same inputs as {row['same_inputs_as']}")
        found += [f"{name}: {warning}" for warning in row.get("warnings", [])]
        if row["status"] == "missing":
            found.append(f"{name}: no result yet")
        if row["status"] == "failed":
            found.append(f"{name} FAILED: {row['error']}")
        if row.get("num_failed"):
            found.append(f"{row['dataset']}: {row['num_failed']} samples could not be asked")
    return list(dict.fromkeys([*found, *_unlike_samples(rows)]))


def require_same_samples(rows: list[dict[str, Any]]) -> None:
    """Raises DataError where rows are not answers to the same questions, and so no pairs.

    To be called before any comparison question by question (paired tests, differences).
    """
    for reason in _unlike_samples(rows):
        raise DataError(f"{reason}; run them again with the same dataset.limit, seed and files")


def _unlike_samples(rows: list[dict[str, Any]]) -> list[str]:
    """Data sets on which finished rows answered different questions, in words."""
    prints: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row["status"] == "done":
            prints[row["dataset"]].add(row["samples_fingerprint"])
    return [
        f"{dataset}: rows answered different questions; they cannot be compared"
        for dataset, found in sorted(prints.items())
        if len(found) > 1
    ]


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
        result.add_column(name, justify="right", no_wrap=True)
    for name in ("accuracy\n%", "95 %\ninterval", "prefill\nms", "vision\nms", "LLM\nms"):
        result.add_column(name, justify="right", no_wrap=True)
    varying = [
        key
        for key in ("model", "dataset", "hardware", "settings")
        if len({r[key] for r in rows}) > 1
    ]
    for key in varying:
        result.add_column(key)
    for row in rows:
        value = label(row)
        if not several_knobs:
            value = value.partition("=")[2]
        result.add_row(value, *_cells(row), *(row[key] for key in varying))
    return result


def _title(rows: list[dict[str, Any]]) -> str:
    """What all rows have in common, and how many questions each answered."""
    parts = [_common(rows, key) for key in ("model", "dataset", "hardware")]
    if any(row["weights"] == "random" for row in rows):
        parts.insert(1, "random weights")
    counts = sorted({row["num_samples"] for row in rows if row["status"] == "done"})
    questions = " or ".join(map(str, counts)) or "no"
    return f"{' · '.join(parts)} · {questions} questions"


def _common(rows: list[dict[str, Any]], key: str) -> str:
    """The one value of a key in all rows, else `several KEYs`."""
    values = {row[key] for row in rows}
    return values.pop() if len(values) == 1 else f"several {key}s"


def _cells(row: dict[str, Any]) -> list[str]:
    if row["status"] != "done":
        return [row["tiling"], f"{row['num_crops']}", "", "", row["status"], "", "", "", ""]
    low, high = row["accuracy_low"], row["accuracy_high"]
    return [
        row["tiling"],
        f"{row['measured_num_crops']:.4g}",
        f"{row['theoretical_vision_tokens']:.5g}",
        f"{row['measured_vision_tokens']:.5g}",
        "none" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f}",
        "" if low is None else f"{100 * low:.1f}-{100 * high:.1f}",
        f"{row['prefill_ms_median']:.1f}",
        f"{row['vision_ms_median']:.1f}",
        f"{row['llm_prefill_ms_median']:.1f}",
    ]


def _lines(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Finished rows by the line of the picture they belong to, under its label."""
    by_series: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["status"] == "done":
            by_series[_series(row)].append(row)
    labels = _line_labels(list(by_series))
    return {labels[series]: points for series, points in by_series.items()}


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
