"""The table of a report: a row per run, cells as text with the number that they are sorted by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vtexp.report.plots import STAGE_LABELS, is_disturbed

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class HtmlCell:
    """Text, and what the column is sorted by; None sorts last."""

    text: str
    sort: float | str | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """A column under a heading that it may share with its neighbours."""

    heading: str
    name: str
    cell: Callable[[Row], HtmlCell]
    numeric: bool = True


@dataclass(frozen=True, slots=True)
class TableRow:
    """A run's knob value, status (done, failed, missing), notes on it, and its other cells."""

    name: HtmlCell
    status: str
    disturbed: bool
    cells: list[HtmlCell]
    flags: list[str]


@dataclass(frozen=True, slots=True)
class ReportTable:
    """The table: `knob` heads the names of the rows.

    `headings`: each with the number of columns below it. `left_out`: columns that no row fills.
    """

    knob: str
    headings: list[tuple[str, int]]
    columns: list[Column]
    rows: list[TableRow]
    left_out: list[str]


def number(key: str, digits: int, factor: float = 1.0) -> Callable[[Row], HtmlCell]:
    """Cells of a number of the row times a factor; empty where there is none."""

    def cell(row: Row) -> HtmlCell:
        value = row.get(key)
        if value is None:
            return HtmlCell("")
        return HtmlCell(f"{factor * value:.{digits}f}", factor * value)

    return cell


def text(key: str) -> Callable[[Row], HtmlCell]:
    """Cells of a text of the row."""

    def cell(row: Row) -> HtmlCell:
        value = str(row.get(key) or "")
        return HtmlCell(value, value)

    return cell


def report_table(rows: Sequence[Row]) -> ReportTable:
    """The table of a comparison; columns that no row fills are left out, and named."""
    wanted = _columns(rows)
    cells = [[column.cell(row) for row in rows] for column in wanted]
    filled = [any(cell.text for cell in column) for column in cells]
    columns = [column for column, full in zip(wanted, filled, strict=True) if full]
    kept = [column for column, full in zip(cells, filled, strict=True) if full]
    headings: list[tuple[str, int]] = []
    for column in columns:
        if headings and headings[-1][0] == column.heading:
            headings[-1] = (column.heading, headings[-1][1] + 1)
        else:
            headings.append((column.heading, 1))
    knobs = {row["knob"] for row in rows}
    return ReportTable(
        "knob value" if len(knobs) > 1 else str(rows[0]["knob"]).replace("_", " "),
        headings,
        columns,
        [
            TableRow(
                _knob(row, len(knobs) == 1),
                row["status"],
                is_disturbed(row),
                [column[i] for column in kept],
                flags(row),
            )
            for i, row in enumerate(rows)
        ],
        _left_out([column for column, full in zip(wanted, filled, strict=True) if not full]),
    )


def _left_out(columns: Sequence[Column]) -> list[str]:
    by_heading: dict[str, list[str]] = defaultdict(list)
    for column in columns:
        by_heading[column.heading].append(column.name)
    return [f"{heading}: {', '.join(names)}" for heading, names in by_heading.items()]


def _columns(rows: Sequence[Row]) -> list[Column]:
    keys = ("sweep", "model", "dataset", "split", "hardware", "settings")
    varying = [key for key in keys if len({row.get(key) for row in rows}) > 1]
    ms = "median time at batch 1, ms"
    memory = "peak memory, MiB"
    return [
        *(Column("budget", key, text(key), numeric=False) for key in varying),
        Column("budget", "tiling", text("tiling"), numeric=False),
        Column("budget", "crops", _crops),
        Column("vision tokens", "theoretical", number("theoretical_vision_tokens", 0)),
        Column("vision tokens", "measured", number("measured_vision_tokens", 0)),
        Column("vision tokens", "actual", number("actual_vision_tokens", 0)),
        Column("accuracy, %", "mean", number("accuracy", 1, 100)),
        Column("accuracy, %", "95 % interval", _interval),
        Column("accuracy, %", "questions", number("num_samples", 0)),
        *(Column(ms, name, number(f"{stage}_median", 1)) for stage, name in STAGE_LABELS.items()),
        Column(ms, "prefill", number("prefill_ms_median", 1)),
        Column(ms, "prefill, 95 %", _prefill_interval),
        Column(ms, "TTFT", number("ttft_ms_median", 1)),
        Column(ms, "cold TTFT", number("cold_ttft_ms", 1)),
        Column(ms, "decode, per token", number("decode_ms_per_token_median", 2)),
        Column(ms, "roofline of prefill", number("roofline_ms", 2)),
        Column(memory, "allocated", number("memory_peak_mib_allocated", 0)),
        Column(memory, "reserved", number("memory_peak_mib_reserved", 0)),
        Column(memory, "resident", number("memory_peak_mib_resident", 0)),
        Column(memory, "CUDA graphs", number("graph_memory_mib", 0)),
        Column("one prefill", "run by", text("execution"), numeric=False),
        Column("one prefill", "GPU busy, %", number("gpu_busy_ratio", 0, 100)),
        Column("one prefill", "energy, J", number("energy_j_per_prefill", 2)),
        Column("one prefill", "idle power, W", number("idle_power_w", 1)),
        Column("one prefill", "GFLOPs", number("flops_per_prefill", 1, 1e-9)),
        Column("one prefill", "MFU, %", number("mfu", 1, 100)),
    ]


def _knob(row: Row, one_knob: bool) -> HtmlCell:
    """The knob's value; sorted by the tokens that it stands for, as sizes have no order."""
    value = str(row["knob_value"]) + (", full tokens" if row["force_full_tokens"] else "")
    name = value if one_knob else f"{row['knob']}={value}"
    return HtmlCell(name, row.get("measured_vision_tokens", row["theoretical_vision_tokens"]))


def _crops(row: Row) -> HtmlCell:
    mean = row.get("measured_num_crops", row["num_crops"])
    return HtmlCell(f"{mean:.4g}", mean)


def _interval(row: Row) -> HtmlCell:
    low, high = row.get("accuracy_low"), row.get("accuracy_high")
    if low is None or high is None:
        return HtmlCell("")
    return HtmlCell(f"{100 * low:.1f} to {100 * high:.1f}", low)


def _prefill_interval(row: Row) -> HtmlCell:
    low, high = row.get("prefill_ms_low"), row.get("prefill_ms_high")
    if low is None or high is None:
        return HtmlCell("")
    return HtmlCell(f"{low:.1f} to {high:.1f}", low)


def flags(row: Row) -> list[str]:
    """What a reader must know of a run, in words."""
    found = [f"disturbed: {reason}" for reason in row.get("disturbed") or []]
    found += row.get("warnings") or []
    if row.get("error"):
        found.append(row["error"])
    if row["status"] == "missing":
        found.append("no result yet")
    if row.get("same_inputs_as"):
        found.append(f"every image gives the same inputs as {row['same_inputs_as']}")
    if row.get("num_failed"):
        found.append(f"{row['num_failed']} samples could not be asked")
    return found
