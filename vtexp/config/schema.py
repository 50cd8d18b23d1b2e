"""Typed configuration: the schemas behind `conf/`, and the one place where OmegaConf stops.

Past `from_hydra` everything is plain dataclasses. Nothing here imports torch or transformers.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from vtexp.budget.knobs import KnobValue
from vtexp.budget.llm import LlmSetting
from vtexp.budget.reduction import DEFAULT_LAYER, Reduction, parse_kept
from vtexp.config.choices import (
    Device,
    Dtype,
    Launcher,
    Positions,
    Preprocess,
    ReductionMethod,
    StructureTokens,
    WandbMode,
    Weights,
)
from vtexp.config.dataset_schema import DatasetConfig
from vtexp.config.fields import MOST_SEED, Pattern, Range, name_field, number, ranges, rule_of, text
from vtexp.config.knob_schema import (
    KNOB_SCHEMAS,
    MOST_BLOCKS,
    MOST_EXPERTS,
    CapKnob,
    ImageSizeKnob,
    KeptTokensKnob,
    KnobConfig,
    canonical,
    knob_list,
    values_key,
)
from vtexp.errors import ConfigError

#: Longer than any time that is waited for or measured, in seconds.
MOST_SECONDS = 10**6


@dataclass
class ModelConfig:
    """A checkpoint; its family is read from its config.json.

    `moe_top_k`: experts that work on each token, None for the published number, which the first
    block keeps with `moe_first_block_as_published`. `active_blocks`: how many blocks of the
    language model run, or a list of their indices; None for all. `block_order`: file of
    `vtexp importance`, in whose order blocks leave.
    """

    name: str = name_field()
    path: str = MISSING
    revision: str | None = None
    weights: Weights = Weights.pretrained
    max_sequence_length: int = number(4096, 1, 10**7, "tokens")
    moe_top_k: int | None = number(None, 1, MOST_EXPERTS, "experts")
    moe_first_block_as_published: bool = False
    active_blocks: Any = None
    block_order: str | None = None


@dataclass
class ReductionConfig:
    """How `knob=kept_tokens` reduces vision tokens.

    seed: for random; merge: for cls_attention, whether means of the others are among those kept;
    layer: for early_layer, blocks that read all tokens; function: for python, as module:function.
    """

    method: ReductionMethod = ReductionMethod.none
    structure_tokens: StructureTokens = StructureTokens.keep
    positions: Positions = Positions.renumber
    seed: int = number(0, 0, MOST_SEED)
    merge: bool = False
    layer: int = number(DEFAULT_LAYER, 1, MOST_BLOCKS, "blocks")
    function: str | None = None

    def reduction(self, value: str) -> Reduction:
        """What is asked of the model for a value of the knob."""
        kept, ratio = parse_kept(value)
        return Reduction(
            self.method.value,
            kept,
            ratio,
            self.structure_tokens.value,
            self.positions.value,
            self.seed if self.method is ReductionMethod.random else 0,
            self.merge and self.method is ReductionMethod.cls_attention,
            self.function,
            self.layer if self.method is ReductionMethod.early_layer else None,
        )


@dataclass
class SlurmConfig:
    """What is asked of SLURM for one job; None leaves it to the site's defaults.

    `gpus` and `cpus` are per run, times `hardware.gpus_per_run`. `setup`: shell lines before Python
    starts. `extra`: further options of sbatch by their long name, such as `gres` or `reservation`.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus: int = number(1, 0, 1024, "GPUs")
    cpus: int = number(8, 1, 4096, "cores")
    memory_gb: int | None = number(None, 1, 10**6, "GB")
    time_min: int = number(240, 1, 525_600, "min")
    max_requeues: int = number(20, 0, 10_000, "times")
    setup: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class HardwareConfig:
    """Where a run runs, and how much it may load at once.

    `memory_gb`, `peak_tflops` (of `dtype`, dense) and `bandwidth_gb_per_s` are a GPU's, from its
    data sheet; None where unknown. `price_per_hour`: of what one process of a run uses, in any
    currency.
    """

    name: str = name_field()
    device: Device = Device.cpu
    dtype: Dtype = Dtype.float32
    cuda_graphs: bool | None = None
    compile: bool | None = None
    preprocess: Preprocess | None = None
    sharded: bool = False
    batch_size: int = number(16, 1, 65_536, "samples")
    auto_adjust_batch_size: bool = True
    decode_workers: int = number(0, 0, 1024, "processes")
    gpus_per_run: int = number(1, 1, 1024, "processes")
    memory_gb: float | None = number(None, 1e-3, 10**6, "GB")
    peak_tflops: float | None = number(None, 1e-3, 10**9, "TFLOP/s")
    bandwidth_gb_per_s: float | None = number(None, 1e-3, 10**9, "GB/s")
    price_per_hour: float | None = number(None, 0, 10**6, "per hour")
    launcher: Launcher = Launcher.here
    max_parallel: int | None = number(None, 1, 100_000, "jobs")
    slurm: SlurmConfig = field(default_factory=SlurmConfig)

    @property
    def wants_graphs(self) -> bool:
        """Whether timed prefills are to be CUDA graphs: as asked, else on a GPU."""
        return self.device is Device.cuda if self.cuda_graphs is None else self.cuda_graphs

    @property
    def preprocesses_on_device(self) -> bool:
        """Whether images are resized where the model is: as asked, else on a GPU."""
        if self.preprocess is None:
            return self.device is Device.cuda
        return self.preprocess is Preprocess.device


@dataclass
class MeasureConfig:
    """How prefill latency is measured: docs/measuring.md."""

    latency_samples: int = number(16, 1, 10**6, "samples")
    latency_repeats: int = number(4, 1, 10**6, "rounds")
    min_seconds: float = number(1.0, 0, MOST_SECONDS, "s")
    max_half_width: float = number(0.03, 0, 1000, "times the median")
    max_seconds: float = number(30.0, 0, MOST_SECONDS, "s")
    warmup_repeats: int = number(2, 0, 10**6, "rounds")
    repeats: int = number(1, 1, 1000, "processes")
    decode_tokens: int = number(0, 0, 10**6, "tokens")
    energy_seconds: float = number(1.0, 0, MOST_SECONDS, "s")


@dataclass
class TrackingConfig:
    """Where finished runs are mirrored to."""

    name: str = MISSING
    project: str | None = text(
        None, r"[^/\\#?%:]{1,128}", r"1 to 128 characters without / \ # ? % :, for W&B"
    )
    entity: str | None = None
    mode: WandbMode = WandbMode.auto
    tags: list[str] = text(list, r".{1,64}", "1 to 64 characters, for W&B")
    timeout_s: int = number(20, 1, 86_400, "s")


#: Keys of `report` that limit what a budget may cost.
LIMITS = ("max_prefill_ms", "max_ttft_ms", "max_memory_gb", "max_energy_j")


@dataclass
class ReportConfig:
    """What the comparison asks of its data.

    `margin`: points of accuracy that a budget may lose against the best one and still be enough.
    Limits are None where there is none; those on times are on the mean at batch 1.
    """

    margin: float = number(5.0, 0, 1000, "points")
    max_prefill_ms: float | None = number(None, 1e-3, 10**9, "ms")
    max_ttft_ms: float | None = number(None, 1e-3, 10**9, "ms")
    max_memory_gb: float | None = number(None, 1e-3, 10**6, "GB")
    max_energy_j: float | None = number(None, 1e-6, 10**9, "J")

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by their keys."""
        values = {key: getattr(self, key) for key in LIMITS}
        return {key: value for key, value in values.items() if value is not None}


@dataclass
class SweepConfig:
    """Name and folder of a sweep, and how its runs are grouped into jobs.

    `identical_runs`: whether to make runs whose inputs equal those of another run.
    """

    name: str = name_field()
    folder: str = "outputs"
    values_per_job: int = number(1, 1, 100_000, "values")
    wait: bool = True
    identical_runs: bool = False


#: Keys of `model` that say what of the language model works on a token.
OF_LLM = ("moe_top_k", "moe_first_block_as_published", "active_blocks", "block_order")


#: Settings that do not change a run's numbers.
OF_NO_NUMBER = (
    ("dataset", "licence"),
    ("dataset", "max_failed"),
    ("dataset", "num_questions"),
    ("hardware", "decode_workers"),
    ("hardware", "memory_gb"),
    ("hardware", "peak_tflops"),
    ("hardware", "bandwidth_gb_per_s"),
    ("hardware", "price_per_hour"),
    ("hardware", "launcher"),
    ("hardware", "max_parallel"),
    ("hardware", "slurm"),
)


@dataclass
class Config:
    """A whole experiment: one knob with its values on one model, data set and hardware."""

    model: ModelConfig = MISSING
    dataset: DatasetConfig = MISSING
    knob: KnobConfig = MISSING
    hardware: HardwareConfig = MISSING
    tracking: TrackingConfig = MISSING
    measure: MeasureConfig = MISSING
    sweep: SweepConfig = MISSING
    report: ReportConfig = field(default_factory=ReportConfig)
    reduction: ReductionConfig = field(default_factory=ReductionConfig)
    force_full_tokens: bool = False
    plan: bool = False

    @property
    def knob_values(self) -> list[KnobValue]:
        """The knob's values in the order given. Raises ConfigError if there are none."""
        values = [canonical(self.knob.name, value) for value in knob_list(self.knob)]
        if not values:
            raise ConfigError(
                f"{values_key(self.knob)}: the list is empty; give at least one value"
            )
        doubled = sorted({v for v in values if values.count(v) > 1})
        if doubled:
            raise ConfigError(f"{values_key(self.knob)}: {', '.join(doubled)} is given twice")
        fit = self.knob.fit.value if isinstance(self.knob, ImageSizeKnob) else None
        full = self.force_full_tokens
        if isinstance(self.knob, KeptTokensKnob):
            (cap,), reduction = self.knob.max_crops, self.reduction.reduction
            return [KnobValue("kept_tokens", v, None, full, reduction(v), cap) for v in values]
        if isinstance(self.knob, CapKnob):
            (cap,) = self.knob.max_crops
            return [KnobValue(self.knob.name, v, None, full, None, cap) for v in values]
        return [KnobValue(self.knob.name, value, fit, full) for value in values]

    def run_id(self, value: KnobValue, checkpoint: str, llm: LlmSetting | None = None) -> str:
        """12 hex digits of everything that can change the numbers of one run.

        Equal for equal settings, whatever sweep or list of values they are in. `checkpoint` is the
        fingerprint of the weights: new weights in the old folder are another run. `llm`: what the
        keys of the model's experts and blocks mean for this value.
        """
        plain = to_plain(self)
        parts = {key: plain[key] for key in ("model", "dataset", "hardware", "measure")}
        for group, key in (*OF_NO_NUMBER, *(("model", key) for key in OF_LLM)):
            del parts[group][key]
        if llm is not None:
            parts["llm"] = llm.plain()
        knob = {key: v for key, v in asdict(value).items() if v is not None or key == "fit"}
        if value.reduction is not None:
            knob["reduction"] = value.reduction.plain()
        identity = parts | {"knob": knob, "checkpoint": checkpoint}
        text = json.dumps(identity, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


#: The schema of each group but the knob's.
GROUP_SCHEMAS: dict[str, type] = {
    "model": ModelConfig,
    "dataset": DatasetConfig,
    "hardware": HardwareConfig,
    "measure": MeasureConfig,
    "tracking": TrackingConfig,
    "sweep": SweepConfig,
    "report": ReportConfig,
    "reduction": ReductionConfig,
}


def rule_of_key(key: str) -> Range | Pattern | None:
    """What a key of the config takes, such as `dataset.limit` or `knob.targets[0]`, if written."""
    group, _, rest = re.sub(r"\[\d+\]$", "", key).partition(".")
    schemas = [schema for schema, _ in KNOB_SCHEMAS.values()] if group == "knob" else []
    schemas += [GROUP_SCHEMAS[group]] if group in GROUP_SCHEMAS else []
    return next((rule for schema in schemas if (rule := rule_of(schema, rest))), None)


def all_ranges() -> dict[str, Range]:
    """Each key that holds numbers, such as `dataset.limit`, and its range."""
    schemas = [*GROUP_SCHEMAS.items(), *(("knob", schema) for schema, _ in KNOB_SCHEMAS.values())]
    return {key: own for group, schema in schemas for key, own in ranges(schema, group)}


def _ranges_table() -> str:
    found = {key: str(own) for key, own in all_ranges().items()}
    width = max(map(len, found))
    return "\n".join(f"{key.ljust(width)}  {own}" for key, own in found.items())


@cache
def register_schemas() -> None:
    """Tell Hydra the schemas that the files of `conf/` name, and `--help` the ranges of numbers.

    Once per process: a call takes 50 ms.
    """
    OmegaConf.register_new_resolver("vtexp_ranges", _ranges_table, replace=True)
    store = ConfigStore.instance()
    store.store(group="schema", name="config", node=Config)
    for group, schema in GROUP_SCHEMAS.items():
        store.store(group="schema", name=group, node=schema)
    for name, (schema, _) in KNOB_SCHEMAS.items():
        store.store(group="schema", name=name, node=schema)


def to_plain(config: Any) -> dict[str, Any]:
    """A config as JSON-ready dicts, enums by name."""
    return json.loads(json.dumps(asdict(config), default=lambda enum: enum.value))
