"""Typed configuration: the schemas behind `conf/`, and the one place where OmegaConf stops.

Past `from_hydra` everything is plain dataclasses. Nothing here imports torch or transformers.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig

from vtexp.budget.geometry import Size
from vtexp.budget.knobs import KnobValue
from vtexp.errors import ConfigError


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


class Form(Enum):
    """In which form the rows of a data set lie."""

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
    """A checkpoint; what kind of model it is says its config.json."""

    name: str = MISSING
    path: str = MISSING
    revision: str | None = None
    weights: Weights = Weights.pretrained
    max_sequence_length: int = 4096


@dataclass
class SourceConfig:
    """Where the rows of a data set lie: in a repository of the hub or a folder, in which files.

    `files` is a pattern below it, `{split}` in it the split; `records` the key of a JSON file whose
    list has the rows; `images` the folder of the images that rows name; `image_url` a column of
    addresses to download them from; `obtain` what a user is told who does not have the folder.
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

    first: int | None = None
    sort_by: str | None = None
    seed: int | None = None


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

    `num_questions`: how many the splits are known to have, for people alone.
    """

    name: str = MISSING
    split: str = "test"
    num_questions: dict[str, int] = field(default_factory=dict)
    limit: int | None = None
    seed: int = 0
    stratify: bool = True
    max_failed: int = 0
    style: str = MISSING
    styles: dict[str, str] = field(default_factory=dict)
    max_new_tokens: int = 12
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
    force_full_tokens: bool = False


@dataclass
class ImageSizeKnob(KnobConfig):
    """One image size for all images."""

    sizes: list[str] = MISSING
    fit: Fit = Fit.stretch


@dataclass
class VisionTokensKnob(KnobConfig):
    """A target of theoretical vision tokens per image."""

    targets: list[int] = MISSING
    vision_tokens_list: list[int] | None = None


@dataclass
class MaxCropsKnob(KnobConfig):
    """A cap on the crops per image."""

    max_crops: list[int] = MISSING


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
    gpus: int = 1
    cpus: int = 8
    memory_gb: int | None = None
    time_min: int = 240
    max_requeues: int = 20
    setup: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class HardwareConfig:
    """Where a run runs, and how much it may load at once.

    `memory_gb`, `peak_tflops` (of `dtype`, dense) and `bandwidth_gb_per_s` are a GPU's, from its
    data sheet; None where unknown.
    """

    name: str = MISSING
    device: Device = Device.cpu
    dtype: Dtype = Dtype.float32
    cuda_graphs: bool | None = None
    compile: bool | None = None
    preprocess: Preprocess | None = None
    sharded: bool = False
    batch_size: int = 16
    auto_adjust_batch_size: bool = True
    decode_workers: int = 0
    gpus_per_run: int = 1
    memory_gb: float | None = None
    peak_tflops: float | None = None
    bandwidth_gb_per_s: float | None = None
    launcher: Launcher = Launcher.here
    max_parallel: int | None = None
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

    latency_samples: int = 16
    latency_repeats: int = 4
    min_seconds: float = 1.0
    max_half_width: float = 0.03
    max_seconds: float = 30.0
    warmup_repeats: int = 2
    repeats: int = 1
    decode_tokens: int = 0
    energy_seconds: float = 1.0


@dataclass
class TrackingConfig:
    """Where finished runs are mirrored to."""

    name: str = MISSING
    project: str = "vtexp"
    entity: str | None = None
    mode: WandbMode = WandbMode.auto
    tags: list[str] = field(default_factory=list)
    timeout_s: int = 20


@dataclass
class ReportConfig:
    """What the comparison asks of its data.

    `margin`: points of accuracy that a budget may lose against the best one and still be enough.
    """

    margin: float = 1.0


@dataclass
class SweepConfig:
    """Name and folder of a sweep, and how its runs are grouped into jobs."""

    name: str = MISSING
    folder: str = "outputs"
    values_per_job: int = 1
    wait: bool = True


#: Settings that change no number of a run.
OF_NO_NUMBER = (
    ("dataset", "licence"),
    ("dataset", "max_failed"),
    ("dataset", "num_questions"),
    ("hardware", "decode_workers"),
    ("hardware", "memory_gb"),
    ("hardware", "peak_tflops"),
    ("hardware", "bandwidth_gb_per_s"),
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
        return [
            KnobValue(self.knob.name, value, fit, self.knob.force_full_tokens) for value in values
        ]

    def run_id(self, value: KnobValue, checkpoint: str) -> str:
        """12 hex digits of everything that can change the numbers of one run.

        Equal for equal settings, whatever sweep or list of values they are in. `checkpoint` is the
        fingerprint of the weights: new weights in the old folder are another run.
        """
        plain = to_plain(self)
        parts = {key: plain[key] for key in ("model", "dataset", "hardware", "measure")}
        for group, key in OF_NO_NUMBER:
            del parts[group][key]
        identity = parts | {"knob": asdict(value), "checkpoint": checkpoint}
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
}
#: The schema and the list of values of each knob: the key a user sweeps.
KNOB_SCHEMAS: dict[str, tuple[type[KnobConfig], str]] = {
    "image_size": (ImageSizeKnob, "sizes"),
    "vision_tokens": (VisionTokensKnob, "targets"),
    "max_crops": (MaxCropsKnob, "max_crops"),
}
#: Keys whose value is a list of knob values, with or without brackets on the command line.
VALUE_KEYS = ("knob.sizes", "knob.targets", "knob.max_crops", "knob.vision_tokens_list")


def values_key(knob: KnobConfig | DictConfig) -> str:
    """Config key of the values in use, such as `knob.sizes`."""
    if knob.name == "vision_tokens" and knob.vision_tokens_list is not None:  # type: ignore[union-attr]
        return "knob.vision_tokens_list"  # the seeds' name for it
    return f"knob.{KNOB_SCHEMAS[knob.name][1]}"


def knob_list(knob: KnobConfig | DictConfig) -> list[Any]:
    """Values in use of a knob's config, typed or still OmegaConf's."""
    return list(getattr(knob, values_key(knob).removeprefix("knob.")))


def canonical(knob: str, value: Any) -> str:
    """A knob value in its one way of writing, such as `560x336` for `560 X 336`."""
    if knob == "image_size":
        return str(Size.parse(value))
    return str(value).strip()


def register_schemas() -> None:
    """Tell Hydra the schemas that the files of `conf/` name in their defaults lists."""
    store = ConfigStore.instance()
    store.store(group="schema", name="config", node=Config)
    for group, schema in GROUP_SCHEMAS.items():
        store.store(group="schema", name=group, node=schema)
    for name, (schema, _) in KNOB_SCHEMAS.items():
        store.store(group="schema", name=name, node=schema)


def to_plain(config: Any) -> dict[str, Any]:
    """A config as JSON-ready dicts, enums by name."""
    return json.loads(json.dumps(asdict(config), default=lambda enum: enum.value))
