"""From what Hydra composed, or a run's folder keeps, to a typed config that a run can use."""

from __future__ import annotations

import json
import math
import re
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf

from vtexp.config.schema import (
    GROUP_SCHEMAS,
    KNOB_SCHEMAS,
    Config,
    Device,
    Launcher,
    Weights,
    to_plain,
)
from vtexp.errors import ConfigError


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
    plain = _literal(plain)
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
        if not any(_is_of(value, kind) for kind in kinds):
            raise ConfigError(f"{key}: {value!s:.60} is nothing that it can be")
        if is_dataclass(value):
            _require_kinds(value, f"{key}.")


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of a field's kind, such as `list[str]`; of lists each item."""
    if get_origin(kind) in (list, dict):
        items = value.values() if isinstance(value, dict) else value
        item = get_args(kind)[-1]
        return isinstance(value, get_origin(kind)) and all(_is_of(own, item) for own in items)
    return kind is Any or isinstance(value, kind)


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
    if config.hardware.cuda_graphs and config.hardware.device != Device.cuda:
        raise ConfigError("hardware.cuda_graphs=true: only on a GPU; take hardware.device=cuda")
    if config.hardware.dtype.is_float8 and config.hardware.device != Device.cuda:
        raise ConfigError("hardware.dtype=float8: only on a GPU; take float32 or bfloat16")
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
