"""From what Hydra composed, or a run's folder keeps, to a typed config that a run can use."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from vtexp.config.booleans import strict_booleans
from vtexp.config.choices import Device, Launcher, ReductionMethod, Weights
from vtexp.config.fields import require_allowed
from vtexp.config.knob_schema import KNOB_SCHEMAS, MOST_BLOCKS, CapKnob, KeptTokensKnob, values_key
from vtexp.config.schema import GROUP_SCHEMAS, OF_NO_NUMBER, Config, to_plain
from vtexp.errors import ConfigError
from vtexp.utils.own_code import require_form


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
    _require_utf8(config)
    require_allowed(config)
    _require_fitting(config)
    return config


def from_plain(plain: dict[str, Any]) -> Config:
    """The checked config of what `to_plain` gave. Raises ConfigError, or OmegaConf's errors."""
    typed = _typed(plain["knob"]["name"])
    plain = _literal(plain)
    # Configs of earlier versions lack groups that came later.
    kept = {key: plain[key] for key in (f.name for f in fields(Config)) if key in plain}
    with strict_booleans():
        raw = OmegaConf.merge(typed, kept)
    assert isinstance(raw, DictConfig)
    return from_hydra(raw)


@cache
def _typed(knob: str) -> DictConfig:
    """All groups with their defaults; `OmegaConf.merge` leaves it as it is."""
    schemas: dict[str, type] = {**GROUP_SCHEMAS, "knob": KNOB_SCHEMAS[knob][0]}
    return OmegaConf.create({g: OmegaConf.structured(schema) for g, schema in schemas.items()})


def with_keys(config: Config, keys: Sequence[str]) -> Config:
    """The config with other values of `hardware` keys that do not affect a run's numbers.

    `keys`: such as `hardware.slurm.partition=gpu`. Raises ConfigError for others, or OmegaConf's
    errors.
    """
    allowed = [f"{group}.{key}" for group, key in OF_NO_NUMBER if group == "hardware"]
    for key in keys:
        name = key.partition("=")[0]
        if ".".join(name.split(".")[:2]) not in allowed:
            raise ConfigError(
                f"{key}: cannot change in a sweep that exists; {', '.join(allowed)} can"
            )
    plain = OmegaConf.create(_literal(to_plain(config)))
    plain.merge_with_dotlist(list(keys))
    resolved: Any = OmegaConf.to_container(plain, resolve=True)
    return from_plain(resolved)


def _literal(value: Any) -> Any:
    """The same with `${` escaped: text that was resolved, maybe by a stranger, stays text."""
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


def _require_utf8(config: Config) -> None:
    """Raises ConfigError for text that is not UTF-8, or a number such as NaN."""
    try:
        json.dumps(to_plain(config), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        near = error.object[max(0, error.start - 20) : error.end + 20]
        raise ConfigError(f"{near!r}: not UTF-8, so it cannot be written down") from error


def _require_fitting(config: Config) -> None:
    """Raises ConfigError where several keys do not fit together; each alone is checked before."""
    for check in (_lengths, _free_numbers, _hardware, _knob, _language_model, _reduction):
        for found in check(config):
            raise ConfigError(found)


def _lengths(config: Config) -> Iterator[str]:
    tokens, most = config.measure.decode_tokens, config.model.max_sequence_length
    if tokens != 0 and not 2 <= tokens < most:
        yield (
            f"measure.decode_tokens={tokens}: 0 for none, or at least 2 (the time per token is "
            f"read off the first and the last) and less than model.max_sequence_length={most}"
        )


def _free_numbers(config: Config) -> Iterator[str]:
    """Numbers in free-form mappings that JSON cannot hold."""
    for key, mapping in (
        ("dataset.where", config.dataset.where),
        ("hardware.slurm.extra", config.hardware.slurm.extra),
    ):
        for name, value in mapping.items():
            if isinstance(value, float) and not math.isfinite(value):
                yield f"{key}.{name}={value}: must be finite"


def _hardware(config: Config) -> Iterator[str]:
    hardware, on_gpu = config.hardware, config.hardware.device == Device.cuda
    if hardware.gpus_per_run > 1 and hardware.launcher == Launcher.here:
        yield (
            f"hardware.gpus_per_run={hardware.gpus_per_run}: several processes need "
            "hardware.launcher=local or slurm"
        )
    if hardware.cuda_graphs and not on_gpu:
        yield "hardware.cuda_graphs=true: only on a GPU; take hardware.device=cuda"
    if hardware.dtype.is_float8 and not on_gpu:
        yield "hardware.dtype=float8: only on a GPU; take float32 or bfloat16"
    if hardware.sharded and not on_gpu:
        yield "hardware.sharded=true: only over GPUs; take hardware.device=cuda"
    if hardware.sharded and hardware.compile:
        yield "hardware.sharded=true: not together with hardware.compile=true"
    if hardware.sharded and config.model.weights == Weights.random:
        yield "hardware.sharded=true: random weights are built on one GPU only"


def _knob(config: Config) -> Iterator[str]:
    chosen = next(name for name, (schema, _) in KNOB_SCHEMAS.items() if type(config.knob) is schema)
    if config.knob.name != chosen:
        yield f"knob.name={config.knob.name}: choose another knob with knob=NAME"
    if isinstance(config.knob, CapKnob) and len(config.knob.max_crops) != 1:
        yield (
            f"knob.max_crops={config.knob.max_crops}: one cap stands beside "
            f"{values_key(config.knob)}; start a sweep for each"
        )


def _language_model(config: Config) -> Iterator[str]:
    """Experts and blocks; whether the model has them says its checkpoint."""
    model, knob = config.model, config.knob.name
    blocks = model.active_blocks
    numbers = blocks if isinstance(blocks, list) else [] if blocks is None else [blocks]
    if not all(type(number) is int and 0 <= number <= MOST_BLOCKS for number in numbers):
        yield (
            f"model.active_blocks={blocks!s:.60}: a number of blocks, such as 12, or a list of "
            "their indices"
        )
    if knob == "moe_top_k" and model.moe_top_k is not None:
        yield f"model.moe_top_k={model.moe_top_k}: knob=moe_top_k varies it; leave it null"
    if knob == "transformer_blocks" and blocks is not None:
        yield f"model.active_blocks={blocks}: knob=transformer_blocks varies it; leave it null"


def _reduction(config: Config) -> Iterator[str]:
    own, knob = config.reduction, config.knob
    if not isinstance(knob, KeptTokensKnob):
        if own.method is not ReductionMethod.none:
            yield f"reduction={own.method.value}: needs knob=kept_tokens, not knob={knob.name}"
        return
    if own.method is ReductionMethod.none:
        methods = ", ".join(m.value for m in ReductionMethod if m is not ReductionMethod.none)
        yield f"knob=kept_tokens: choose how with reduction=NAME ({methods})"
    is_python = own.method is ReductionMethod.python
    if is_python != (own.function is not None):
        yield "reduction.function: goes with reduction=python, and that with it (module:function)"
    if own.function is not None:
        require_form("reduction.function", own.function)
    if own.method is ReductionMethod.resize and config.force_full_tokens:
        yield "reduction=resize: not together with force_full_tokens=true"
