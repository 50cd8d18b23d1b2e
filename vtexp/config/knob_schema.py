"""Schemas of the group `knob`: each knob's list of values, and how a value is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING, DictConfig

from vtexp.budget.geometry import Size
from vtexp.budget.knobs import MOST_TOKENS
from vtexp.config.choices import Fit
from vtexp.config.fields import number
from vtexp.errors import ConfigError

#: More experts and blocks than any model has.
MOST_EXPERTS = 10_000
MOST_BLOCKS = 1000


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
