"""The columns of a comparison: one list behind terminal, Markdown, page, CSV, Parquet and W&B.

A new column stands here alone, and under its key in `runs/records.py` (or in what analysis finds).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vtexp.analysis.findings import AnalysedRun, Analysis
from vtexp.analysis.rows import ComparedRun
from vtexp.stages import STAGE_NAMES

#: Where a column is shown.
FILES, TERMINAL, MARKDOWN, PAGE = "ftmp"
#: What stands behind times that are doubtful.
DOUBTFUL = "!"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column; `key` is its name in files and in W&B, `name` what people read.

    A cell is the value times `factor` in this `format`, or from the first of `ends` to the second;
    `otherwise` is the key that stands in where a run has no value. `group`: on the page, what the
    neighbours have in common. `varying`: shown to people only where runs differ. `timed`: marked
    where times are doubtful. `drop`: a terminal too narrow leaves 1 out first, 0 never.
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
    otherwise: str = ""
    varying: bool = False
    timed: bool = False
    drop: int = 0
    shown: str = FILES

    @property
    def numeric(self) -> bool:
        """Whether cells are numbers, which stand to the right."""
        return self.kind in (int, float)

    @property
    def head(self) -> str:
        """Its heading with its unit, such as `vision, ms`."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    @property
    def lines(self) -> tuple[str, str]:
        """Its heading in two short lines, the unit or the last word below."""
        name = self.short or self.name
        if self.unit:
            return name, self.unit
        first, _, last = name.rpartition(" ")
        return (first, last) if first else (last, "")


#: Groups of the page, in order.
GROUPS = _BUDGET, _TOKENS, _ACCURACY, _TIMES, _MEMORY, _PREFILL = (
    "budget",
    "vision tokens",
    "accuracy",
    "median time at batch 1",
    "peak memory",
    "one prefill",
)


def _text(key: str, **more: Any) -> Column:
    return Column(key=key, kind=str, **more)


def _varying(key: str, shown: str) -> Column:
    return _text(key, name=key, group=_BUDGET, varying=True, shown=shown)


def _tokens(kind: str, shown: str, **more: Any) -> Column:
    name = f"{kind} tokens"
    key = f"{kind}_vision_tokens"
    return Column(key=key, name=name, group=_TOKENS, format=".5g", shown=shown, **more)


def _interval(key: str, low: str, high: str, **more: Any) -> Column:
    return Column(key=f"{key}_interval", ends=(low, high), **more)


def _stage(stage: str, name: str, shown: str = "", digits: int = 1, **more: Any) -> list[Column]:
    """Median of a stage, and both ends of its 95 % interval."""
    median = Column(
        key=f"{stage}_median",
        name=name,
        unit="ms",
        group=_TIMES,
        format=f".{digits}f",
        timed=True,
        shown=FILES + shown,
        **more,
    )
    return [median, Column(key=f"{stage}_low"), Column(key=f"{stage}_high")]


def _memory(kind: str, shown: str = "fp") -> Column:
    return Column(
        key=f"memory_peak_mib_{kind}",
        name=f"memory {kind}",
        unit="MiB",
        group=_MEMORY,
        format=".0f",
        shown=shown,
    )


#: Of a run itself, in the order of comparison.csv: what was asked, what was counted, what came out.
OF_RUNS: tuple[Column, ...] = (
    _text("knob"),
    _text("knob_value"),
    _text("tiling", name="tiling", group=_BUDGET, drop=9, shown="ftmp"),
    Column(key="num_crops", kind=int),
    Column(key="target_vision_tokens", kind=int),
    Column(key="theoretical_num_crops"),
    _tokens("theoretical", "ftmp", short="theory tokens", drop=8),
    _text("measured_tiling"),
    Column(
        key="measured_num_crops",
        name="crops",
        group=_BUDGET,
        format=".4g",
        otherwise="num_crops",
        drop=7,
        shown="ftmp",
    ),
    _tokens("measured", "ftmp"),
    _text("actual_tiling"),
    Column(key="actual_num_crops"),
    _tokens("actual", "fmp"),
    Column(key="actual_overridden", kind=bool),
    Column(key="force_full_tokens", kind=bool),
    _text("fit"),
    _varying("model", "ftmp"),
    _text("weights"),
    _varying("dataset", "ftmp"),
    _varying("split", "fp"),
    _varying("hardware", "ftmp"),
    _varying("settings", "ftmp"),
    _text("device"),
    _text("execution", name="prefill run by", group=_PREFILL, shown="fmp"),
    Column(
        key="accuracy",
        name="accuracy",
        unit="%",
        group=_ACCURACY,
        format=".1f",
        factor=100,
        shown="ftmp",
    ),
    Column(key="accuracy_standard_error"),
    _interval(
        "accuracy",
        *("accuracy_low", "accuracy_high"),
        name="accuracy 95 %",
        short="95 % interval",
        group=_ACCURACY,
        format=".1f",
        factor=100,
        shown="tmp",
    ),
    Column(key="accuracy_low"),
    Column(key="accuracy_high"),
    _text("metric"),
    Column(
        key="num_samples", kind=int, name="questions", group=_ACCURACY, format=".0f", shown="fp"
    ),
    Column(key="num_failed", kind=int),
    Column(key="num_images", kind=int),
    *_stage("image_decode_ms", STAGE_NAMES["image_decode_ms"], "p"),
    *_stage("preprocess_ms", STAGE_NAMES["preprocess_ms"], "p"),
    *_stage("transfer_ms", STAGE_NAMES["transfer_ms"], "p"),
    *_stage("vision_encoder_ms", STAGE_NAMES["vision_encoder_ms"], "p"),
    *_stage("connector_ms", STAGE_NAMES["connector_ms"], "p"),
    *_stage("vision_ms", "vision", "t", drop=6),
    *_stage("llm_prefill_ms", STAGE_NAMES["llm_prefill_ms"], "tp", short="LLM", drop=5),
    *_stage("prefill_ms", "prefill", "tmp"),
    _interval(
        "prefill_ms",
        *("prefill_ms_low", "prefill_ms_high"),
        name="prefill 95 %",
        short="prefill 95%",
        group=_TIMES,
        format=".1f",
        drop=1,
        shown="tmp",
    ),
    *_stage("first_token_ms", STAGE_NAMES["first_token_ms"], "p"),
    *_stage("ttft_ms", "TTFT", "tmp", drop=2),
    *_stage("ttft_without_preprocess_ms", "TTFT without preprocess"),
    *_stage("decode_ms_per_token", "decode, per token", "p", digits=2),
    *(Column(key=f"prefill_ms_{name}") for name in ("p25", "p75", "p90", "p99")),
    Column(key="prefill_ms_n", kind=int),
    *(Column(key=f"prefill_ms_between_processes_{name}") for name in ("mean", "low", "high")),
    Column(key="prefill_ms_between_processes_n", kind=int),
    Column(key="prefill_vision_tokens"),
    Column(
        key="cold_ttft_ms",
        name="cold TTFT",
        unit="ms",
        group=_TIMES,
        format=".1f",
        timed=True,
        shown="fmp",
    ),
    Column(key="timing_warnings", kind=tuple),
    _memory("allocated", "fmp"),
    _memory("reserved"),
    _memory("resident", "fmp"),
    Column(
        key="graph_memory_mib",
        name="CUDA graphs",
        unit="MiB",
        group=_MEMORY,
        format=".0f",
        shown="fp",
    ),
    Column(
        key="gpu_busy_ratio",
        name="GPU busy",
        unit="%",
        group=_PREFILL,
        format=".0f",
        factor=100,
        shown="fmp",
    ),
    Column(
        key="energy_j_per_prefill",
        name="energy",
        unit="J",
        group=_PREFILL,
        format=".3g",
        shown="fmp",
    ),
    Column(
        key="idle_power_w", name="idle power", unit="W", group=_PREFILL, format=".1f", shown="fp"
    ),
    Column(
        key="flops_per_prefill",
        name="arithmetic",
        unit="GFLOP",
        group=_PREFILL,
        format=".1f",
        factor=1e-9,
        shown="fp",
    ),
    Column(key="mfu", name="MFU", unit="%", group=_PREFILL, format=".1f", factor=100, shown="fmp"),
    Column(
        key="roofline_ms", name="roofline", unit="ms", group=_PREFILL, format=".3g", shown="fmp"
    ),
    Column(key="sequence_length"),
    Column(key="batch_size", kind=int),
    _text("samples_fingerprint"),
    _text("inputs_fingerprint"),
    _text("same_inputs_as"),
    _text("status"),
    _text("error"),
    Column(key="warnings", kind=tuple),
    _varying("sweep", "fp"),
    _text("run"),
    _text("run_id"),
)
#: What the analysis says of a run. Empty where it says nothing.
OF_ANALYSIS: tuple[Column, ...] = (
    Column(key="at_least_worse"),
    Column(
        key="at_most_worse",
        name="loss at most",
        short="max loss",
        unit="points",
        format=".1f",
        factor=100,
        drop=3,
        shown="ftm",
    ),
    Column(key="sufficient", kind=bool),
    Column(
        key="speed_up",
        name="speed-up",
        format=".2f",
        timed=True,
        drop=4,
        shown="ftm",
    ),
    _interval(
        "speed_up",
        *("speed_up_low", "speed_up_high"),
        name="speed-up 95 %",
        format=".2f",
        shown="m",
    ),
    Column(key="speed_up_low"),
    Column(key="speed_up_high"),
    _text("speed_up_baseline"),
    Column(key="on_front", kind=bool),
    Column(
        key="front_share",
        name="on the Pareto front",
        unit="%",
        format=".0f",
        factor=100,
        shown="fm",
    ),
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
            ends = [self.values.get(key) for key in column.ends]
            parts = [format(column.factor * end, column.format) for end in ends if end is not None]
            return "-".join(parts) if len(parts) == len(ends) else ""
        found = self.value(column)
        if found is None or not column.numeric:
            return "" if found is None else str(found)
        return format(column.factor * found, column.format) + self._mark(column)

    def _mark(self, column: Column) -> str:
        doubtful = bool(self.run.timing_warnings)
        if column.key == "speed_up":
            doubtful |= self.baseline_doubtful
        return DOUBTFUL if column.timed and doubtful else ""


def report_rows(runs: Sequence[ComparedRun], analysis: Analysis) -> list[ReportRow]:
    """The runs of a comparison with what analysis found of them."""
    found = analysis.analysed()
    rows = []
    for run in runs:
        own = found.get(run.name)
        ratio = None if own is None else own.speed_up
        doubtful = ratio is not None and bool(found[ratio.baseline].timing_warnings)
        rows.append(ReportRow(run, run.values() | _found_values(own), doubtful))
    return rows


def _found_values(run: AnalysedRun | None) -> dict[str, Any]:
    if run is None:
        return {}
    plain = ("at_least_worse", "at_most_worse", "sufficient", "on_front", "front_share")
    values = {name: getattr(run, name) for name in plain}
    if (ratio := run.speed_up) is not None:
        values |= {"speed_up": ratio.ratio, "speed_up_baseline": ratio.baseline}
        values |= {"speed_up_low": ratio.low, "speed_up_high": ratio.high}
    return values


def shown(rows: Sequence[ReportRow], place: str) -> list[Column]:
    """Columns that people see in a place and some run fills, group by group.

    What the analysis says comes behind the groups, and columns in which runs differ last.
    """
    wanted = [column for column in COLUMNS if place in column.shown]
    filled = [column for column in wanted if any(row.text(column) for row in rows)]
    kept = [column for column in filled if not column.varying or _differs(rows, column)]
    order = (*GROUPS, "")
    return sorted(kept, key=lambda column: (column.varying, order.index(column.group)))


def _differs(rows: Sequence[ReportRow], column: Column) -> bool:
    return len({row.value(column) for row in rows}) > 1
