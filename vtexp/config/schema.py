"""Typed configuration: the schemas behind `conf/`, and the one place where OmegaConf stops.

Past `from_hydra` everything is plain dataclasses. Nothing here imports torch or transformers.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from enum import Enum
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

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
    """

    form: Form = MISSING
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
    sharded: bool = False
    compile: bool = False
    uint8_crops: bool = False
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


@dataclass
class MeasureConfig:
    """How prefill latency is measured: docs/measuring.md."""

    latency_samples: int = 16
    latency_repeats: int = 4
    min_seconds: float = 3.0
    max_half_width: float = 0.03
    max_seconds: float = 30.0
    warmup_repeats: int = 2
    repeats: int = 1
    decode_tokens: int = 0
    energy_seconds: float = 3.0


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


def from_hydra(raw: DictConfig) -> Config:
    """The typed, checked config. Raises ConfigError, or OmegaConf's errors for missing values."""
    names = [f.name for f in fields(Config)]
    unknown = sorted(set(map(str, raw)) - {*names, "hydra"})
    if unknown:
        allowed = ", ".join(names)
        raise ConfigError(f"{unknown[0]}: no such key; the top level has {allowed}")
    for name, part in raw.items():
        if name in names and OmegaConf.is_config(part):
            _refuse_unknown(part, str(name))
    # Part by part: a sweeper's config holds Hydra's own part too and is no longer typed at the top.
    values = {name: raw[name] for name in names}
    typed: dict[str, Any] = {
        k: OmegaConf.to_object(v) if OmegaConf.is_config(v) else v for k, v in values.items()
    }
    config = Config(**typed)
    _require_kinds(config)
    _check(config)
    return config


def from_plain(plain: dict[str, Any]) -> Config:
    """The checked config of what `to_plain` gave. Raises ConfigError, or OmegaConf's errors."""
    schemas: dict[str, type] = {**GROUP_SCHEMAS, "knob": KNOB_SCHEMAS[plain["knob"]["name"]][0]}
    plain = _literal({"report": {}} | plain)  # runs from before there was a group `report`
    raw = OmegaConf.create({key: plain[key] for key in (f.name for f in fields(Config))})
    for group, schema in schemas.items():
        raw[group] = OmegaConf.merge(OmegaConf.structured(schema), plain[group])
    return from_hydra(raw)


def _literal(value: Any) -> Any:
    """The same with `${` escaped: what was resolved once, maybe by a stranger, is not again."""
    if isinstance(value, dict):
        return {key: _literal(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_literal(part) for part in value]
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return value


def _refuse_unknown(part: DictConfig, path: str) -> None:
    """Raises ConfigError for a key that the schema lacks: Hydra takes any key with a plus sign."""
    schema: Any = OmegaConf.get_type(part)
    if not is_dataclass(schema):  # a mapping of free names
        return
    allowed_keys = [f.name for f in fields(schema)]
    for key in part:
        if key not in allowed_keys:
            allowed = ", ".join(allowed_keys)
            raise ConfigError(f"{path}.{key!s}: no such key; allowed here: {allowed}")
        if not OmegaConf.is_missing(part, key) and isinstance(part[key], DictConfig):
            _refuse_unknown(part[key], f"{path}.{key}")


def _require_kinds(part: Any, path: str = "") -> None:
    """Raises ConfigError where `${...}` put a part or a list of another kind: Hydra lets it."""
    for name, hint in get_type_hints(type(part)).items():
        value, key = getattr(part, name), f"{path}{name}"
        kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        classes = tuple(get_origin(kind) or kind for kind in kinds)
        if not {list, dict}.isdisjoint(classes) or any(map(is_dataclass, classes)):
            items = value.values() if isinstance(value, dict) else value
            wanted = get_args(kinds[0])[-1:]
            if not isinstance(value, classes) or (
                isinstance(value, list | dict)
                and wanted != (Any,)
                and not all(isinstance(item, wanted) for item in items)
            ):
                raise ConfigError(f"{key}: {value!s:.60} is nothing that it can be")
        if is_dataclass(value):
            _require_kinds(value, f"{key}.")


def to_plain(config: Any) -> dict[str, Any]:
    """A config as JSON-ready dicts, enums by name."""
    return json.loads(json.dumps(asdict(config), default=lambda enum: enum.value))


def _check(config: Config) -> None:
    try:
        json.dumps(to_plain(config), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        near = error.object[max(0, error.start - 20) : error.end + 20]
        raise ConfigError(f"{near!r}: not UTF-8, so it cannot be written down") from error
    at_least_one: dict[str, float | None] = {
        "dataset.limit": config.dataset.limit,
        "dataset.max_new_tokens": config.dataset.max_new_tokens,
        "hardware.batch_size": config.hardware.batch_size,
        "measure.latency_samples": config.measure.latency_samples,
        "measure.latency_repeats": config.measure.latency_repeats,
        "measure.repeats": config.measure.repeats,
        "model.max_sequence_length": config.model.max_sequence_length,
        "sweep.values_per_job": config.sweep.values_per_job,
        "hardware.gpus_per_run": config.hardware.gpus_per_run,
        "hardware.max_parallel": config.hardware.max_parallel,
        "hardware.slurm.cpus": config.hardware.slurm.cpus,
        "hardware.slurm.memory_gb": config.hardware.slurm.memory_gb,
        "hardware.slurm.time_min": config.hardware.slurm.time_min,
        "tracking.timeout_s": config.tracking.timeout_s,
    }
    at_least_zero: dict[str, float | None] = {
        "measure.warmup_repeats": config.measure.warmup_repeats,
        "measure.min_seconds": config.measure.min_seconds,
        "measure.max_seconds": config.measure.max_seconds,
        "measure.max_half_width": config.measure.max_half_width,
        "measure.energy_seconds": config.measure.energy_seconds,
        "dataset.seed": config.dataset.seed,
        "dataset.max_failed": config.dataset.max_failed,
        "hardware.decode_workers": config.hardware.decode_workers,
        "hardware.slurm.gpus": config.hardware.slurm.gpus,
        "hardware.slurm.max_requeues": config.hardware.slurm.max_requeues,
        "report.margin": config.report.margin,
    }
    above_zero: dict[str, float | None] = {
        "hardware.memory_gb": config.hardware.memory_gb,
        "hardware.peak_tflops": config.hardware.peak_tflops,
        "hardware.bandwidth_gb_per_s": config.hardware.bandwidth_gb_per_s,
    }
    for least, settings in ((1, at_least_one), (0, at_least_zero)):
        for key, value in settings.items():
            if value is not None and not least <= value < math.inf:
                raise ConfigError(f"{key}={value}: must be at least {least}, and finite")
    for key, value in above_zero.items():
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"{key}={value}: must be above 0, and finite")
    tokens, most = config.measure.decode_tokens, config.model.max_sequence_length
    if tokens != 0 and not 2 <= tokens < most:
        raise ConfigError(
            f"measure.decode_tokens={tokens}: 0 for none, or at least 2 (the time per token is "
            f"read off the first and the last) and less than model.max_sequence_length={most}"
        )
    names = {
        "sweep.name": config.sweep.name,
        "model.name": config.model.name,
        "dataset.name": config.dataset.name,
        "hardware.name": config.hardware.name,
    }
    for key, name in names.items():
        if not re.fullmatch(r"\w[\w.+-]{0,63}", name):
            raise ConfigError(
                f"{key}={name!r}: becomes part of a folder's name; at most 64 letters, digits "
                "and . _ + - (a letter, digit or _ first)"
            )
    project = config.tracking.project
    if not project or len(project) > 128 or set(project) & set("/\\#?%:"):
        raise ConfigError(
            f"tracking.project={project!r}: W&B takes 1 to 128 characters without / \\ # ? % :"
        )
    for tag in config.tracking.tags:
        if not 1 <= len(tag) <= 64:
            raise ConfigError(f"tracking.tags: {tag!r}: W&B takes tags of 1 to 64 characters")
    if config.hardware.gpus_per_run > 1 and config.hardware.launcher == Launcher.here:
        raise ConfigError(
            f"hardware.gpus_per_run={config.hardware.gpus_per_run}: several processes need "
            "hardware.launcher=local or slurm"
        )
    if config.hardware.sharded:
        if config.hardware.device != Device.cuda:
            raise ConfigError("hardware.sharded=true: only over GPUs; take hardware.device=cuda")
        if config.hardware.compile:
            raise ConfigError("hardware.sharded=true: not together with hardware.compile=true")
        if config.model.weights == Weights.random:
            raise ConfigError("hardware.sharded=true: random weights are built on one GPU only")
    chosen = next(name for name, (schema, _) in KNOB_SCHEMAS.items() if type(config.knob) is schema)
    if config.knob.name != chosen:
        raise ConfigError(f"knob.name={config.knob.name}: choose another knob with knob=NAME")
