"""Typed configuration: the schemas behind `conf/`, and the one place where OmegaConf stops.

Past `from_hydra` everything is plain dataclasses. Nothing here imports torch or transformers.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from vtexp.budget.geometry import Size
from vtexp.budget.knobs import MOST_TOKENS, KnobValue
from vtexp.budget.llm import LlmSetting
from vtexp.budget.reduction import DEFAULT_LAYER, Reduction, parse_kept
from vtexp.config.fields import Pattern, Range, number, ranges, rule_of, text
from vtexp.errors import ConfigError

#: The largest seed that numpy takes, and more rows than any data set has.
MOST_SEED, MOST_ROWS = 2**32 - 1, 10**9
#: More experts and blocks than any model has.
MOST_EXPERTS, MOST_BLOCKS = 10_000, 1000
#: Longer than any time that is waited for or measured, in seconds.
MOST_SECONDS = 10**6


def _name() -> Any:
    """A field that becomes part of a folder's name."""
    allowed = "at most 64 letters, digits and . _ + - (a letter, digit or _ first)"
    return text(MISSING, r"\w[\w.+-]{0,63}", f"{allowed}: it becomes part of a folder's name")


class Fit(Enum):
    """How an image is brought to the canvas of an image size."""

    stretch = "stretch"
    letterbox = "letterbox"
    crop = "crop"


class Device(Enum):
    """Where the model runs."""

    cpu = "cpu"
    cuda = "cuda"


class Dtype(Enum):
    """Floating-point type of weights and activations."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float8 = "float8"

    @property
    def is_float8(self) -> bool:
        """Whether products of the blocks' linear layers are float8; all else is bfloat16 then."""
        return self is Dtype.float8

    @property
    def of_weights(self) -> str:
        """The type that weights are loaded as, and that activations have."""
        return "bfloat16" if self.is_float8 else self.value


class Preprocess(Enum):
    """Where decoded images are resized, normalised and cut: by the host, or where the model is."""

    host = "host"
    device = "device"


class Launcher(Enum):
    """Where `-m` runs jobs: in this process, as processes of this machine, or through SLURM."""

    here = "here"
    local = "local"
    slurm = "slurm"


class Weights(Enum):
    """Where a model's weights come from; random ones have a latency but no accuracy."""

    pretrained = "pretrained"
    random = "random"


class ReductionMethod(Enum):
    """How vision tokens become fewer behind the connector; resize: by a smaller image; early_layer:
    within the language model."""

    none = "none"
    random = "random"
    stride = "stride"
    pool = "pool"
    resize = "resize"
    max_min = "max_min"
    cls_attention = "cls_attention"
    conditional = "conditional"
    early_layer = "early_layer"
    python = "python"


class StructureTokens(Enum):
    """What becomes of the tokens around an image: start, end, and after each row."""

    keep = "keep"
    drop = "drop"


class Positions(Enum):
    """Positions of what stays in a reduced prompt: those of the whole one, or one after another."""

    keep = "keep"
    renumber = "renumber"


class Form(Enum):
    """The file format of a data set's rows."""

    easy_vqa = "easy_vqa"
    small_print = "small_print"
    parquet = "parquet"
    json = "json"
    imagefolder = "imagefolder"
    saved = "saved"
    python = "python"


class WandbMode(Enum):
    """auto: online where there is a key and a network, else offline."""

    auto = "auto"
    online = "online"
    offline = "offline"


@dataclass
class ModelConfig:
    """A checkpoint; its family is read from its config.json.

    `moe_top_k`: experts that work on each token, None for the published number, which the first
    block keeps with `moe_first_block_as_published`. `active_blocks`: how many blocks of the
    language model run, or a list of their indices; None for all. `block_order`: file of
    `vtexp importance`, in whose order blocks leave.
    """

    name: str = _name()
    path: str = MISSING
    revision: str | None = None
    weights: Weights = Weights.pretrained
    max_sequence_length: int = number(4096, 1, 10**7, "tokens")
    moe_top_k: int | None = number(None, 1, MOST_EXPERTS, "experts")
    moe_first_block_as_published: bool = False
    active_blocks: Any = None
    block_order: str | None = None


@dataclass
class SourceConfig:
    """Where the rows of a data set lie: in a repository of the hub or a folder, in which files.

    `files` is a pattern below it, `{split}` in it the split; `records` the key of a JSON file whose
    list has the rows; `images` the folder of the images that rows name; `image_url` a column of
    addresses to download them from; `obtain` says how to get the folder, to a user who lacks it.
    With form python, `function` (module:function) gives the questions instead.
    """

    form: Form = MISSING
    function: str | None = None
    hub: str | None = None
    revision: str | None = None
    folder: str | None = None
    files: str = "data/{split}-*.parquet"
    records: str | None = None
    images: str = "."
    image_url: str | None = None
    splits: list[str] = MISSING
    obtain: str | None = None


@dataclass
class JoinConfig:
    """A second table that completes the rows: where the row's `column` equals the table's `key`.

    All None where there is none.
    """

    files: str | None = None
    records: str | None = None
    column: str | None = None
    key: str | None = None


@dataclass
class HoldoutConfig:
    """A split of one's own: rows sorted by a column, shuffled by a seed, the first so many.

    All None for all rows.
    """

    first: int | None = number(None, 1, MOST_ROWS, "rows")
    sort_by: str | None = None
    seed: int | None = number(None, 0, MOST_SEED)


@dataclass
class ColumnsConfig:
    """Which column, field of one, or template of several a sample's parts come from."""

    question: str | None = "question"
    answers: str | None = "answers"
    options: str | None = None
    answer_index: str | None = None
    image: str = "image"
    sample_id: str | None = None
    image_id: str | None = None
    question_type: str | None = None
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass
class DatasetConfig:
    """Questions about images: where they come from, how they are asked and answers are scored.

    `num_questions`: questions in each split, if known; shown to people only.
    """

    name: str = _name()
    split: str = "test"
    num_questions: dict[str, int] = number(dict, 0, MOST_ROWS, "questions")
    limit: int | None = number(None, 1, MOST_ROWS, "questions")
    seed: int = number(0, 0, MOST_SEED)
    stratify: bool = True
    max_failed: int = number(0, 0, MOST_ROWS, "samples")
    style: str = MISSING
    styles: dict[str, str] = field(default_factory=dict)
    max_new_tokens: int = number(12, 1, 10**6, "tokens")
    metric: str = "exact_match"
    licence: str = "unknown"
    source: SourceConfig = field(default_factory=SourceConfig)
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    join: JoinConfig = field(default_factory=JoinConfig)
    where: dict[str, Any] = field(default_factory=dict)
    holdout: HoldoutConfig = field(default_factory=HoldoutConfig)
    unnest: str | None = None
    lists_as_text: list[str] = field(default_factory=list)
    transforms: list[str] = field(default_factory=list)


@dataclass
class KnobConfig:
    """What every knob has; each knob adds its list of values."""

    name: str = MISSING


@dataclass
class ImageSizeKnob(KnobConfig):
    """One image size for all images."""

    sizes: list[str] = MISSING
    fit: Fit = Fit.stretch


@dataclass
class VisionTokensKnob(KnobConfig):
    """A target of theoretical vision tokens per image."""

    targets: list[int] = number(MISSING, 1, MOST_TOKENS, "vision tokens")


@dataclass
class MaxCropsKnob(KnobConfig):
    """A cap on the crops per image."""

    max_crops: list[int] = number(MISSING, 1, MOST_TOKENS, "crops")


@dataclass
class KeptTokensKnob(KnobConfig):
    """Vision tokens that a reduction keeps per image, or their share; and the cap on crops beside.

    Where `keep_ratio` is given, it takes the place of `kept`.
    """

    kept: list[int] = number(MISSING, 1, MOST_TOKENS, "vision tokens")
    keep_ratio: list[float] | None = number(None, 0.001, 1, "of the tokens")
    max_crops: list[int] = number(MISSING, 1, MOST_TOKENS, "crops")


@dataclass
class MoeTopKKnob(KnobConfig):
    """Experts that work on each token, and the cap on crops beside."""

    top_k: list[int] = number(MISSING, 1, MOST_EXPERTS, "experts")
    max_crops: list[int] = number(MISSING, 1, MOST_TOKENS, "crops")


@dataclass
class TransformerBlocksKnob(KnobConfig):
    """Blocks of the language model that run, and the cap on crops beside."""

    blocks: list[int] = number(MISSING, 2, MOST_BLOCKS, "blocks")
    max_crops: list[int] = number(MISSING, 1, MOST_TOKENS, "crops")


#: Knobs with one cap on crops beside their values.
CapKnob = KeptTokensKnob | MoeTopKKnob | TransformerBlocksKnob


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

    name: str = _name()
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

    name: str = _name()
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
#: The schema and the list of values of each knob: the key a user sweeps.
KNOB_SCHEMAS: dict[str, tuple[type[KnobConfig], str]] = {
    "image_size": (ImageSizeKnob, "sizes"),
    "vision_tokens": (VisionTokensKnob, "targets"),
    "max_crops": (MaxCropsKnob, "max_crops"),
    "kept_tokens": (KeptTokensKnob, "kept"),
    "moe_top_k": (MoeTopKKnob, "top_k"),
    "transformer_blocks": (TransformerBlocksKnob, "blocks"),
}
#: Keys whose value is a list of knob values, with or without brackets on the command line.
VALUE_KEYS = (*(f"knob.{key}" for _, key in KNOB_SCHEMAS.values()), "knob.keep_ratio")


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


def values_key(knob: KnobConfig | DictConfig) -> str:
    """Config key of the values in use, such as `knob.sizes`."""
    if getattr(knob, "keep_ratio", None) is not None:
        return "knob.keep_ratio"
    return f"knob.{KNOB_SCHEMAS[knob.name][1]}"


def knob_list(knob: KnobConfig | DictConfig) -> list[Any]:
    """Values in use of a knob's config, typed or still OmegaConf's."""
    return list(getattr(knob, values_key(knob).removeprefix("knob.")))


def canonical(knob: str, value: Any) -> str:
    """A knob value in its one way of writing, such as `560x336` for `560 X 336`.

    Raises ConfigError for a text that is not a size.
    """
    if knob != "image_size":
        return str(value).strip()
    try:
        return str(Size.parse(value))
    except ConfigError as error:
        raise ConfigError(f"knob.sizes: {error}") from error


def register_schemas() -> None:
    """Tell Hydra the schemas that the files of `conf/` name, and `--help` the ranges of numbers."""
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
