"""The columns of a comparison: one list behind terminal, Markdown, page, CSV, Parquet and W&B.

A new column stands here alone, and under its key in `runs/records.py` (or in what analysis finds).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from vtexp.analysis.findings import AnalysedRun, Analysis
from vtexp.analysis.rows import ComparedRun
from vtexp.analysis.times import scope
from vtexp.report.format import score_unit
from vtexp.stages import STAGE_NAMES
from vtexp.utils.text import bound_text

#: Where a column is shown.
FILES, TERMINAL, MARKDOWN, PAGE = "ftmp"
#: What stands behind times that are doubtful.
DOUBTFUL = "!"
#: The verdict on the budget that is the answer.
CHOSEN = "smallest enough"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column; `key` is its name in files and in W&B, `name` what people read.

    A cell is the value times `factor` in this `format`, or from the first of `ends` to the second,
    rounded outward, of a ratio `beside` 1; `up`: an upper bound, rounded up;
    `otherwise` is the key that stands in where a run has no value. `group`: on the page, what the
    neighbours have in common. `varying`: shown to people only where runs differ. `timed`: marked
    where times are doubtful. `scoped`: an interval of times, whose heading says within or between
    which processes. `drop`: a terminal too narrow leaves 1 out first, 0 never. `lead`: its place
    among the columns that people see first, 0 for those behind.
    """

    key: str
    kind: type = float
    name: str = ""
    short: str = ""
    unit: str = ""
    group: str = ""
    format: str = ""
    factor: float = 1.0
    ends: tuple[str, str] | None = None
    beside: float = 0.0
    up: bool = False
    otherwise: str = ""
    varying: bool = False
    timed: bool = False
    scoped: bool = False
    drop: int = 0
    lead: int = 0
    shown: str = FILES

    @property
    def numeric(self) -> bool:
        """Whether cells are numbers, which stand to the right."""
        return self.kind in (int, float)

    @property
    def head(self) -> str:
        """Its heading with its unit, such as `vision, ms`."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    def bound(self, value: float, up: bool) -> str:
        """A bound as a cell has it, rounded outward to the format's digits behind the point."""
        digits = int(self.format.strip(".f"))
        return bound_text(self.factor * value, digits, up=up, beside=self.beside)

    @property
    def lines(self) -> tuple[str, str]:
        """Its heading in two short lines, the unit or the last word below."""
        name = self.short or self.name
        if self.unit:
            return name, self.unit
        first, _, last = name.rpartition("\n" if "\n" in name else " ")
        return (first, last) if first else (last, "")


#: Groups of the page, in order.
GROUPS = _BUDGET, _TOKENS, _ACCURACY, _TIMES, _MEMORY, _PREFILL, _COST = (
    "budget",
    "vision tokens",
    "accuracy",
    "mean time at batch 1",
    "peak memory",
    "one prefill",
    "prefill of 1 000 images",
)


def _plain(key: str, kind: type = float) -> Column:
    """A column of files alone."""
    return Column(key=key, kind=kind)


def _text(key: str, name: str = "", group: str = "", shown: str = FILES, **more: Any) -> Column:
    return Column(key=key, kind=str, name=name, group=group, shown=shown, **more)


def _varying(key: str, shown: str) -> Column:
    return _text(key, key, _BUDGET, shown, varying=True)


def _number(
    key: str, name: str, unit: str, group: str, format: str, shown: str, **more: Any
) -> Column:
    return Column(key=key, name=name, unit=unit, group=group, format=format, shown=shown, **more)


def _stage(
    stage: str, name: str, shown: str = "", format: str = ".1f", **more: Any
) -> list[Column]:
    """Mean of a stage with its 95 % interval; in files its median with its own too."""
    key = f"{stage}_mean"
    mean = _number(key, name, "ms", _TIMES, format, FILES + shown, timed=True, **more)
    others = ("mean_low", "mean_high", "median", "low", "high")
    return [mean, *(_plain(f"{stage}_{other}") for other in others)]


def _interval(
    key: str, name: str, group: str, format: str, shown: str, ends: str, **more: Any
) -> Column:
    """From the column `ends` with `_low` behind it to the one with `_high`."""
    columns = (f"{ends}_low", f"{ends}_high")
    return _number(key, name, "", group, format, shown, ends=columns, **more)


#: Of a run itself, in the order of comparison.csv: what was asked, what was counted, what came out.
OF_RUNS: tuple[Column, ...] = (
    _text("knob"),
    _text("knob_value"),
    _text("tiling", "tiling", _BUDGET, "ftmp", drop=9),
    _plain("num_crops", int),
    _plain("target_vision_tokens", int),
    _plain("theoretical_num_crops"),
    _number(
        *("theoretical_vision_tokens", "theoretical tokens", "", _TOKENS, ".5g", "ftmp"),
        short="theory tokens",
        drop=8,
    ),
    _text("measured_tiling"),
    _number(
        *("measured_num_crops", "crops", "", _BUDGET, ".4g", "ftmp"), otherwise="num_crops", drop=7
    ),
    _number("measured_vision_tokens", "tokens", "", _TOKENS, ".0f", "ftmp", lead=1),
    _number(
        *("measured_early_vision_tokens", "tokens in early blocks", "", _TOKENS, ".0f", "fmp"),
    ),
    _number("measured_late_vision_tokens", "tokens in late blocks", "", _TOKENS, ".0f", "fmp"),
    _text("actual_tiling"),
    _plain("actual_num_crops"),
    _number("actual_vision_tokens", "actual tokens", "", _TOKENS, ".5g", "fmp"),
    _plain("actual_overridden", bool),
    _plain("force_full_tokens", bool),
    _text("fit"),
    _text("reduction"),
    _plain("reduction_layer", int),
    _number("moe_top_k", "experts", "", _BUDGET, ".0f", "fmp", kind=int, varying=True),
    _plain("moe_first_block_top_k", int),
    _number("active_blocks", "blocks", "", _BUDGET, ".0f", "fmp", kind=int, varying=True),
    _text("blocks"),
    _varying("model", "ftmp"),
    _text("weights"),
    _varying("dataset", "ftmp"),
    _varying("split", "fp"),
    _varying("hardware", "ftmp"),
    _varying("settings", "ftmp"),
    _text("device"),
    _text("execution", "prefill run by", _PREFILL, "fmp"),
    _number("accuracy", "accuracy", "%", _ACCURACY, ".1f", "ftmp", factor=100, lead=2),
    _plain("accuracy_standard_error"),
    _interval(
        *("accuracy_interval", "accuracy 95 %", _ACCURACY, ".1f", "tmp", "accuracy"),
        lead=6,
        drop=10,
        short="95 % interval",
        factor=100,
    ),
    _plain("accuracy_low"),
    _plain("accuracy_high"),
    _text("metric"),
    _number("num_samples", "questions", "", _ACCURACY, ".0f", "fp", kind=int),
    _plain("num_failed", int),
    _plain("num_images", int),
    *_stage("image_decode_ms", STAGE_NAMES["image_decode_ms"], "p"),
    *_stage("preprocess_ms", STAGE_NAMES["preprocess_ms"], "p"),
    *_stage("transfer_ms", STAGE_NAMES["transfer_ms"], "p"),
    *_stage("vision_encoder_ms", STAGE_NAMES["vision_encoder_ms"], "p"),
    *_stage("connector_ms", STAGE_NAMES["connector_ms"], "p"),
    *_stage("reduction_ms", STAGE_NAMES["reduction_ms"], "tp", short="reduce", drop=6),
    *_stage("vision_ms", "vision", "t", drop=6),
    *_stage("llm_prefill_ms", STAGE_NAMES["llm_prefill_ms"], "tp", short="LLM", drop=5),
    *_stage("prefill_ms", "prefill", "tmp", lead=3),
    _interval(
        *("prefill_ms_interval", "prefill 95 %", _TIMES, ".1f", "tmp", "prefill_ms_mean"),
        lead=7,
        short="prefill 95 %",
        scoped=True,
        drop=1,
    ),
    *_stage("first_token_ms", STAGE_NAMES["first_token_ms"], "p"),
    *_stage("ttft_ms", "TTFT", "tmp", drop=2),
    *_stage("ttft_without_preprocess_ms", "TTFT without preprocess"),
    *_stage("decode_ms_per_token", "decode, per token", "p", ".2f"),
    *(_plain(f"prefill_ms_{name}") for name in ("p25", "p75", "p90", "p99")),
    _plain("prefill_ms_n", int),
    *(_plain(f"prefill_ms_between_processes_{name}") for name in ("mean", "low", "high")),
    *(_plain(f"prefill_ms_between_processes_{name}") for name in ("next_low", "next_high")),
    _plain("prefill_ms_between_processes_n", int),
    _plain("prefill_vision_tokens"),
    _number("cold_ttft_ms", "cold TTFT", "ms", _TIMES, ".1f", "fmp", timed=True),
    _plain("timing_warnings", tuple),
    _number("memory_peak_mib_allocated", "memory allocated", "MiB", _MEMORY, ".0f", "fmp"),
    _number("memory_peak_mib_reserved", "memory reserved", "MiB", _MEMORY, ".0f", "fp"),
    _number("memory_peak_mib_resident", "memory resident", "MiB", _MEMORY, ".0f", "fmp"),
    _number("graph_memory_mib", "CUDA graphs", "MiB", _MEMORY, ".0f", "fp"),
    _number("gpu_busy_ratio", "GPU busy", "%", _PREFILL, ".0f", "fmp", factor=100),
    _number("energy_j_per_prefill", "energy", "J", _PREFILL, ".3g", "fmp"),
    _number("idle_power_w", "idle power", "W", _PREFILL, ".1f", "fp"),
    _number("flops_per_prefill", "arithmetic", "GFLOP", _PREFILL, ".1f", "fp", factor=1e-9),
    _number("mfu", "MFU", "%", _PREFILL, ".1f", "fmp", factor=100),
    _number("roofline_ms", "roofline", "ms", _PREFILL, ".3g", "fmp"),
    _plain("sequence_length"),
    _plain("batch_size", int),
    *(_plain(f"answer_times_{name}", int) for name in ("batch_size", "samples")),
    *(_plain(f"answer_times_{name}_s") for name in ("preprocess", "prefill", "decode")),
    _plain("answer_times_vision_tokens"),
    _text("samples_fingerprint"),
    _text("inputs_fingerprint"),
    _text("same_inputs_as"),
    _text("same_run_as"),
    _text("status"),
    _text("error"),
    _plain("warnings", tuple),
    _varying("sweep", "fp"),
    _text("run"),
    _text("run_id"),
)
#: What the analysis says of a run. Empty where it says nothing.
OF_ANALYSIS: tuple[Column, ...] = (
    _plain("at_least_worse"),
    _number(
        *("at_most_worse", "loss at most", "points", "", ".1f", "ftm"),
        short="max loss",
        factor=100,
        up=True,
        drop=3,
    ),
    _plain("sufficient", bool),
    _text("verdict", "verdict", "", "ftmp", lead=5, drop=11),
    _number("speed_up", "speed-up", "", "", ".2f", "ftmp", timed=True, lead=4, drop=12),
    _interval(
        *("speed_up_interval", "speed-up 95 %", "", ".2f", "m", "speed_up"), scoped=True, beside=1.0
    ),
    _plain("speed_up_low"),
    _plain("speed_up_high"),
    _text("speed_up_baseline"),
    _number("cost_seconds", "1 000 at batch 1", "s", _COST, ".5g", "fmp", timed=True),
    _plain("cost_seconds_low"),
    _plain("cost_seconds_high"),
    _number("cost_energy_j", "1 000: energy", "J", _COST, ".5g", "fmp"),
    _number("cost_price", "1 000: price at batch 1", "", _COST, ".5g", "fmp", timed=True),
    _number("cost_batch_size", "largest batch", "", _COST, ".0f", "fp", kind=int),
    _number("cost_batch_seconds", "1 000 in batches", "s", _COST, ".5g", "fmp"),
    _number("cost_images_per_s", "images per second in batches", "", _COST, ".5g", "fmp"),
    _plain("cost_batch_decode_seconds"),
    _number("cost_batch_price", "1 000: price in batches", "", _COST, ".5g", "fmp"),
    _plain("on_front", bool),
    _number("front_share", "on the Pareto front", "%", "", ".0f", "fm", factor=100),
)
COLUMNS = (*OF_RUNS, *OF_ANALYSIS)


def in_files(columns: Sequence[Column] = COLUMNS) -> list[Column]:
    """The columns of comparison.csv among these, in order."""
    return [column for column in columns if FILES in column.shown]


@dataclass(frozen=True, slots=True)
class ReportRow:
    """A run and its values by column; `baseline_doubtful`: whether its speed-up's baseline is."""

    run: ComparedRun
    values: dict[str, Any]
    baseline_doubtful: bool = False

    def value(self, column: Column) -> Any:
        """What a column has of the run; None where it was not measured."""
        found = self.values.get(column.key)
        return self.values.get(column.otherwise) if found is None else found

    def sort(self, column: Column) -> float | str | None:
        """What the column is sorted by: an interval by its lower end."""
        found = self.values.get(column.ends[0]) if column.ends else self.value(column)
        return column.factor * found if column.numeric and found is not None else found

    def text(self, column: Column) -> str:
        """The cell of a column as people read it; empty where nothing was measured."""
        if column.ends:
            low, high = (self.values.get(key) for key in column.ends)
            if low is None or high is None:
                return ""
            return f"{column.bound(low, up=False)}-{column.bound(high, up=True)}"
        found = self.value(column)
        if found is None or not column.numeric:
            return "" if found is None else str(found)
        if column.up:
            return column.bound(found, up=True)
        return format(column.factor * found, column.format) + self._mark(column)

    def cell(self, column: Column) -> str:
        """The same in a table: what became of a run stands where its accuracy would."""
        lacking = column.key == "accuracy" and self.run.result is None
        return self.run.status if lacking else self.text(column)

    def _mark(self, column: Column) -> str:
        doubtful = bool(self.run.timing_warnings)
        if column.key == "speed_up":
            doubtful |= self.baseline_doubtful
        return DOUBTFUL if column.timed and doubtful else ""


def report_rows(runs: Sequence[ComparedRun], analysis: Analysis) -> list[ReportRow]:
    """The runs of a comparison with what analysis found of them."""
    found = analysis.analysed()
    chosen = {series.answer.run for series in analysis.series}
    rows = []
    for run in runs:
        own = found.get(run.name)
        ratio = None if own is None else own.speed_up
        doubtful = ratio is not None and bool(found[ratio.baseline].timing_warnings)
        values = run.values() | _found_values(own)
        if own is not None:
            values["verdict"] = _verdict(own, own.run in chosen, analysis.margin)
        rows.append(ReportRow(run, values, doubtful))
    return rows


def _verdict(run: AnalysedRun, chosen: bool, margin: float) -> str | None:
    """Whether a budget is enough, in a word or two; None where nothing was compared.

    `chosen`: the answer is this run. `margin` in points.
    """
    if chosen:
        return CHOSEN
    if run.same_inputs_as is not None:
        return f"same as {run.same_inputs_as}"
    return run.verdict(margin)


def _found_values(run: AnalysedRun | None) -> dict[str, Any]:
    if run is None:
        return {}
    plain = ("at_least_worse", "at_most_worse", "sufficient", "on_front", "front_share")
    values = {name: getattr(run, name) for name in plain}
    if (ratio := run.speed_up) is not None:
        values |= {"speed_up": ratio.ratio, "speed_up_baseline": ratio.baseline}
        values |= {"speed_up_low": ratio.low, "speed_up_high": ratio.high}
    if run.cost is not None:
        values |= {f"cost_{key}": value for key, value in vars(run.cost).items()}
    return values


def shown(rows: Sequence[ReportRow], place: str) -> list[Column]:
    """Columns that people see in a place and some run fills, those first that decide.

    The others follow group by group, what the analysis says behind the groups, and columns in which
    runs differ last.
    """
    wanted = [column for column in COLUMNS if place in column.shown]
    filled = [column for column in wanted if any(row.text(column) for row in rows)]
    kept = [column for column in filled if not column.varying or _differs(rows, column)]
    order = (*GROUPS, "")
    kept.sort(key=lambda column: (column.varying, order.index(column.group)))
    leading = sorted((column for column in kept if column.lead), key=lambda column: column.lead)
    found = [*leading, *(column for column in kept if not column.lead)]
    found = [_with_scope(column, rows) if column.scoped else column for column in found]
    return [_of_metric(column, rows) for column in found]


def _with_scope(column: Column, rows: Sequence[ReportRow]) -> Column:
    """A column of intervals of times, with what they hold for in its heading."""
    counts = {row.run.result.num_processes for row in rows if row.run.result is not None}
    said = scope(max(counts, default=1)) if len(counts) < 2 else "within or between processes"
    within = {1} >= counts
    short = f"{column.short}\n{'1 process' if within else 'processes'}" if column.short else ""
    return replace(column, name=f"{column.name} {said}", short=short)


def _differs(rows: Sequence[ReportRow], column: Column) -> bool:
    return len({row.value(column) for row in rows}) > 1


def _of_metric(column: Column, rows: Sequence[ReportRow]) -> Column:
    """A column of scores under the name of what the runs' metrics give: CIDEr is no share."""
    if column.group != _ACCURACY or column.factor == 1:
        return column
    name, unit = score_unit({row.run.asked.metric for row in rows})
    return replace(
        column,
        name=column.name.replace("accuracy", name),
        short=column.short.replace("accuracy", name),
        unit=unit if column.unit else "",
    )
