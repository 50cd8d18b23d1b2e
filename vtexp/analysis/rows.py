"""The comparison of sweeps, built from their run folders alone: rows, and what is said of them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vtexp.analysis.fairness import different_questions
from vtexp.budget.knobs import same_inputs
from vtexp.config.schema import OF_NO_NUMBER
from vtexp.errors import DataError
from vtexp.runs.folder import finished
from vtexp.utils import files
from vtexp.utils.text import listed

#: Stages of a prefill whose medians have columns, each with its 95 % interval.
STAGE_COLUMNS = (
    *(
        "image_decode_ms",
        "preprocess_ms",
        "transfer_ms",
        "vision_encoder_ms",
        "connector_ms",
        "vision_ms",
    ),
    *("llm_prefill_ms", "prefill_ms", "first_token_ms", "ttft_ms", "ttft_without_preprocess_ms"),
    "decode_ms_per_token",
)
#: The status of a row by the file that says most of its run.
STATUSES = {files.RESULT: "done", files.FAILURE: "failed", files.PLANNED: "missing"}
#: What is said of a run whose result is there, but not as a whole.
CUT_SHORT = "its result.json is damaged: python -m vtexp resume makes the run again"
#: Parts of a result that are mappings, and become columns such as `memory_peak_mib_allocated`.
FLATTENED = ("memory_peak_mib", "prefill_ms_between_processes")

#: Columns that are texts, of every row or of some; true or false; and lists. The rest are numbers.
TEXTS = (
    *("status", "run_id", "knob", "knob_value", "tiling", "model", "weights", "dataset", "split"),
    *("hardware", "metric"),
)
TEXTS_OF_SOME = (
    *("measured_tiling", "actual_tiling", "fit", "device", "error", "same_inputs_as", "settings"),
    "execution",
    *("samples_fingerprint", "inputs_fingerprint", "sweep", "run"),
)
FLAGS = ("force_full_tokens", "actual_overridden")
LISTS = ("disturbed", "warnings")
#: Numbers without which there is no row; and none that is done.
PLANNED_NUMBERS = ("num_crops", "target_vision_tokens", "theoretical_vision_tokens")
DONE_NUMBERS = (
    *("num_samples", "measured_num_crops", "measured_vision_tokens", "actual_num_crops"),
    *("actual_vision_tokens", "prefill_vision_tokens"),
)

#: Columns of comparison.csv, in order: what was asked, what was counted, what came out. Those that
#: a run has not measured are empty.
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
    "execution",
    "accuracy",
    "accuracy_standard_error",
    "accuracy_low",
    "accuracy_high",
    "metric",
    "num_samples",
    "num_failed",
    "num_images",
    *(f"{stage}_{name}" for stage in STAGE_COLUMNS for name in ("median", "low", "high")),
    *("prefill_ms_p25", "prefill_ms_p75", "prefill_ms_p90", "prefill_ms_p99", "prefill_ms_n"),
    *(f"prefill_ms_between_processes_{name}" for name in ("mean", "low", "high", "n")),
    "prefill_vision_tokens",
    "cold_ttft_ms",
    "disturbed",
    *(f"memory_peak_mib_{kind}" for kind in ("allocated", "reserved", "resident")),
    "graph_memory_mib",
    "gpu_busy_ratio",
    "energy_j_per_prefill",
    "idle_power_w",
    "flops_per_prefill",
    "mfu",
    "roofline_ms",
    "sequence_length",
    "batch_size",
    "samples_fingerprint",
    "inputs_fingerprint",
    "same_inputs_as",
    "status",
    "error",
    "warnings",
    "sweep",
    "run",
    "run_id",
)


def collect(*sweeps: Path) -> list[dict[str, Any]]:
    """One flat row per run folder of some sweeps, in the order of vision tokens.

    `status` is done, failed, or missing: planned, but neither of both. `folder` is the run's path.

    `settings` names what else differs between runs (dtype, path, limit, ...). Done rows with the
    same inputs as an earlier row of the same series name it in `same_inputs_as`. Of several sweeps,
    `run` has the sweep's name before it; a run with the same result in several is one row, the
    others are named in `also_in`; where one has several results, `settings` name the sweep. Raises
    DataError for a folder that is damaged.
    """
    names = _sweep_names(sweeps)
    rows = [row for sweep in sweeps for row in _rows(sweep, names[sweep])]
    again = False
    if len(sweeps) > 1:
        rows, again = _once(rows)
    configs = [_settings(Path(row["folder"])) for row in rows]
    varying = _varying(rows, configs)
    for row, config in zip(rows, configs, strict=True):
        parts = [f"{key}={config[key]}" for key in sorted(varying & config.keys())]
        if again:
            parts.append(f"sweep={row['sweep']}")
        row["settings"] = ", ".join(parts)
    rows.sort(key=_order)
    _mark_same_inputs(rows)
    return rows


def _sweep_names(sweeps: Sequence[Path]) -> dict[Path, str]:
    """What sweeps are called: by their folders' names, by their paths where two share one."""
    names = [sweep.name for sweep in sweeps]
    return {sweep: sweep.name if names.count(sweep.name) == 1 else str(sweep) for sweep in sweeps}


def _rows(sweep: Path, name: str) -> list[dict[str, Any]]:
    rows = []
    for folder in sorted(path for path in sweep.iterdir() if path.is_dir()):
        if (file := _row_file(folder)) is not None:
            row = _read_row(file)
            if file.name != files.RESULT and (folder / files.RESULT).is_file():
                row["warnings"] = [*row.get("warnings", []), CUT_SHORT]
            rows.append(row | {"folder": str(folder), "sweep": name, "run": folder.name})
    return rows


def _row_file(folder: Path) -> Path | None:
    """What says most of a run; None of a folder that is none, or was not frozen to the end."""
    if finished(folder):
        return folder / files.RESULT
    if (folder / files.FAILURE).is_file():
        return folder / files.FAILURE
    return folder / files.PLANNED if (folder / files.CONFIG).is_file() else None


def _once(rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], bool]:
    """The rows of several sweeps without copies, and whether a run was measured more than once.

    Of the same run a result is taken before a failure, the first of equal results. Where a run has
    several results, all rows stay: each sweep is then compared as a whole.
    """
    by_id: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_id[row["run_id"]].append(row)
    done = {
        run_id: [row for row in same if row["status"] == "done"] or same[:1]
        for run_id, same in by_id.items()
    }
    again = any(_numbers(row) != _numbers(own[0]) for own in done.values() for row in own)
    kept = list(rows) if again else [own[0] for own in done.values()]
    for row in kept:
        if not again:
            row["also_in"] = [copy["sweep"] for copy in done[row["run_id"]][1:]]
        row["run"] = f"{row['sweep']}/{row['run']}"
    return kept, again


def _numbers(row: dict[str, Any]) -> dict[str, Any]:
    """A row but for where it lies."""
    return {key: row[key] for key in row.keys() - {"folder", "sweep", "run"}}


def _mark_same_inputs(rows: Sequence[dict[str, Any]]) -> None:
    by_series: dict[tuple, list[tuple[str, str]]] = defaultdict(list)
    for row in rows:
        if row["status"] == "done":
            setting = tuple(row[key] for key in ("model", "dataset", "hardware", "settings"))
            prints = [row.get(f"{kind}_fingerprint") for kind in ("inputs", "samples")]
            if None not in prints:  # those of before say nothing
                by_series[setting].append((row["run"], "".join(map(str, prints))))
    named = {row["run"]: row for row in rows}
    for pairs in by_series.values():
        for run, first in same_inputs(pairs).items():
            named[run]["same_inputs_as"] = label(named[first])


def _varying(rows: list[dict[str, Any]], configs: list[dict[str, Any]]) -> set[str]:
    """Settings in which runs differ; those of a data set only where runs on the same one do.

    One that a run's vtexp did not have yet, or its knob does not have, differs from none.
    """
    seen: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row, config in zip(rows, configs, strict=True):
        for key, value in config.items():
            group = row["dataset"] if key.startswith("dataset.") else ""
            seen[key, group].add(str(value))
    return {key for (key, _), values in seen.items() if len(values) > 1}


def _read_row(path: Path) -> dict[str, Any]:
    """A result or failure as a flat row. Raises DataError if it is none."""
    row = files.read_json(path)
    if path.name == files.PLANNED:
        row["status"] = "missing"
    row.setdefault("weights", "pretrained")  # before there were random ones, none said so
    row.setdefault("disturbed", [])
    try:
        for stage, summary in row.pop("latency", {}).items():
            row |= {f"{stage}_{name}": value for name, value in summary.items()}
        for part in FLATTENED:
            row |= {f"{part}_{name}": value for name, value in (row.pop(part, None) or {}).items()}
    except AttributeError as error:
        raise files.damaged(path, "not a result of vtexp") from error
    if row.get("status") != STATUSES[path.name]:
        raise files.damaged(path, "not a result of vtexp (status)")
    if wrong := [key for key in (*_needed(row), *row) if not _fits(row, key)]:
        raise files.damaged(path, f"not a result of vtexp ({wrong[0]})")
    return row


def _needed(row: dict[str, Any]) -> list[str]:
    """Columns that no row of this status lacks."""
    needed = [*TEXTS, "force_full_tokens", *PLANNED_NUMBERS]
    if row["status"] == "failed":
        needed.append("error")
    if row["status"] == "done":
        needed += ["accuracy", *DONE_NUMBERS]
    return needed


def _fits(row: dict[str, Any], key: str) -> bool:
    """Whether a row's value is of its column's kind; other keys are of any."""
    value = row.get(key)
    if key in TEXTS or (key == "error" and row["status"] == "failed"):
        return isinstance(value, str)
    if key in TEXTS_OF_SOME:
        return value is None or isinstance(value, str)
    if key in FLAGS:
        return isinstance(value, bool)
    if key in LISTS:
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    if key == "accuracy_by_question_type":
        return isinstance(value, dict) and all(map(_is_share, value.values()))
    if key in (*PLANNED_NUMBERS, *DONE_NUMBERS):
        return _is_number(value)
    return key not in COLUMNS or (value is None and key in row) or _is_number(value)


def _is_share(value: Any) -> bool:
    """Whether this is the accuracy of a question type, and the number of its questions."""
    return isinstance(value, dict) and all(_is_number(value.get(key)) for key in ("accuracy", "n"))


def _is_number(value: Any) -> bool:
    """Whether a number is finite, and one that arithmetic is done with."""
    if isinstance(value, float):
        return abs(value) < 1e300
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _settings(folder: Path) -> dict[str, Any]:
    """Settings of a run that can change its numbers and have no column of their own, flat."""
    config = files.read_config(folder)
    if not isinstance(config.get("run") or {}, dict):
        raise DataError(f"{folder / files.CONFIG}: not the config of a run")
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
        add(group, config.get(group))
    run = config.get("run") or {}
    if run.get("name") == "image_size":
        flat["knob.fit"] = run.get("fit")
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


def doubtful_times(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Why timings are doubtful: each kind of reason once, with the rows that it is true of.

    Reasons that differ in their numbers alone are of one kind: the first one is told.
    """
    by_kind: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for reason in row["disturbed"]:
            by_kind[re.sub(r"\d+(\.\d+)?", "0", reason)][reason].append(_with_settings(row))
    found = []
    for reasons in by_kind.values():
        names = list(dict.fromkeys(name for own in reasons.values() for name in own))
        first = next(iter(reasons))
        others = " (numbers of the first one)" if len(reasons) > 1 else ""
        found.append(f"timings are doubtful ({listed(names)}): {first}{others}")
    return found


def _with_settings(row: dict[str, Any]) -> str:
    return label(row) + (f" ({row['settings']})" if row["settings"] else "")


def notes(rows: list[dict[str, Any]]) -> list[str]:
    """What a reader must know of rows: doubts first, then identical inputs, warnings, failures."""
    found = doubtful_times(rows)
    for row in rows:
        name = _with_settings(row)
        if row.get("same_inputs_as"):
            found.append(f"{name}: every image gives the same inputs as {row['same_inputs_as']}")
        told = [w for w in row.get("warnings", []) if w not in row["disturbed"]]
        found += [f"{name}: {warning}" for warning in told]
        if row.get("also_in"):
            found.append(f"{name}: the same result is in {listed(row['also_in'])} too")
        if row["status"] == "missing":
            found.append(f"{name}: no result yet")
        if row["status"] == "failed":
            found.append(f"{name} FAILED: {row['error']}")
        if row.get("num_failed"):
            found.append(f"{row['dataset']}: {row['num_failed']} samples could not be asked")
    return list(dict.fromkeys(found))


def require_same_samples(rows: list[dict[str, Any]]) -> None:
    """Raises DataError where rows are not answers to the same questions, and so no pairs.

    To be called before any comparison question by question (paired tests, differences).
    """
    for reason in different_questions([row for row in rows if row["status"] == "done"], {}):
        raise DataError(f"{reason}; run them again with the same dataset.limit, seed and files")


def series_of(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
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
