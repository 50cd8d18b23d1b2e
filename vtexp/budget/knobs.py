"""The knobs: what a value means for the crops of an image. Pure arithmetic, no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from vtexp.budget.geometry import (
    Geometry,
    Size,
    Tiling,
    image_size_to_tiling,
    image_tiling,
    theoretical_tokens,
    token_layout,
    tokens_to_crops,
)
from vtexp.budget.llm import LlmSetting
from vtexp.budget.reduction import RESIZE, Reduction, nearest_tiling
from vtexp.errors import ConfigError

#: Knobs whose values are no crops: one cap stands beside them.
WITH_CAP = ("kept_tokens", "moe_top_k", "transformer_blocks")
#: More tokens of crops than any model reads (1000 crops of Molmo v1); plans get slow beyond.
MOST_TOKENS = 144_000


@dataclass(frozen=True, slots=True)
class CropSetting:
    """What the preprocessor gets: how many crops, in what shape, and how an image fits them.

    Where crops are forced, `max_crops` and `exact_num_crops` are equal (seed "Why set max_crops =
    num_crops"): no code path can then read another cap. `image_size` fixes the tiling for all
    images. `reduction`: fewer vision tokens than the crops give. `llm`: fewer experts or blocks of
    the language model than published.
    """

    max_crops: int
    exact_num_crops: int | None = None
    image_size: Size | None = None
    fit: str = "letterbox"
    force_full_tokens: bool = False
    reduction: Reduction | None = None
    llm: LlmSetting | None = None

    def tiling(self, size: Size, geometry: Geometry) -> Tiling:
        """Tiling that an image of `size` gets."""
        if self.image_size is not None:
            return image_size_to_tiling(self.image_size, geometry)
        own = image_tiling(size, self.max_crops, geometry, exact_num_crops=self.exact_num_crops)
        if self.reduction is None or self.reduction.method != RESIZE:
            return own
        wanted = self.reduction.kept_of(token_layout(own, geometry).vision_tokens)
        return nearest_tiling(size, wanted, own, geometry)

    @property
    def behind_connector(self) -> Reduction | None:
        """The reduction of tokens that the model makes; None where it makes none."""
        own = self.reduction
        return None if own is None or own.method == RESIZE else own


@dataclass(frozen=True, slots=True)
class KnobValue:
    """One setting of one knob: `name` is the knob, `value` as the user wrote it (560x336, 432).

    `fit` None: as the model's own preprocessing does. `reduction` is of `kept_tokens` alone,
    `max_crops` of the knobs WITH_CAP.
    """

    name: str
    value: str
    fit: str | None = None
    force_full_tokens: bool = False
    reduction: Reduction | None = None
    max_crops: int | None = None

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """Read the `run` part of a run's config.yaml; its other keys are ignored."""
        found = {one.name: plain[one.name] for one in fields(cls) if one.name in plain}
        if found.get("reduction") is not None:
            found["reduction"] = Reduction(**found["reduction"])
        return cls(**found)

    @property
    def label(self) -> str:
        """Short unique text for tables, folders and plots, such as `image_size=560x336`."""
        suffix = ",full" if self.force_full_tokens else ""
        return f"{self.name}={self.value}{suffix}"

    def crop_setting(self, geometry: Geometry) -> CropSetting:
        """What the preprocessor gets under this value. Raises ConfigError for a bad value."""
        fit, full = self.fit or geometry.fit, self.force_full_tokens
        num_crops = self._num_crops(geometry)
        most = MOST_TOKENS // geometry.tokens_per_crop
        if num_crops > most:
            raise ConfigError(f"{self.label} asks for {num_crops} crops; give at most {most}")
        if self.reduction is not None and self.reduction.method == RESIZE:
            fit = "stretch"  # padding would cost the floor what no method pays
        if self.name in ("max_crops", *WITH_CAP):
            return CropSetting(num_crops, fit=fit, force_full_tokens=full, reduction=self.reduction)
        size = Size.parse(self.value) if self.name == "image_size" else None
        return CropSetting(num_crops, num_crops, size, fit, full)

    def _num_crops(self, geometry: Geometry) -> int:
        if self.name == "image_size":
            return image_size_to_tiling(Size.parse(self.value), geometry).num_crops
        if self.max_crops is not None:
            return self.max_crops
        number = _whole_number(self.name, self.value)
        if self.name == "vision_tokens":
            least = theoretical_tokens(1, geometry)
            if number < least:
                and_global = " and the global crop" if geometry.global_crops(1) else ""
                raise ConfigError(
                    f"a target of {number} vision tokens is below the least possible, {least} "
                    f"(one crop{and_global}, {geometry.tokens_per_crop} tokens each)"
                )
            return tokens_to_crops(number, geometry)
        if number < 1:
            raise ConfigError(f"knob.max_crops: {number} is below the least possible cap, 1")
        return number


def _whole_number(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise ConfigError(f"{name} value {value!r} is not a whole number") from None


def tiling_summary(tilings: Sequence[Tiling | str]) -> str:
    """`2x1` where all images have one tiling, else `mixed, mostly 2x1`."""
    counts = Counter(str(tiling) for tiling in tilings).most_common()
    return counts[0][0] if len(counts) == 1 else f"mixed, mostly {counts[0][0]}"


def same_inputs(fingerprints: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Labels with the inputs of an earlier one, from (label, inputs fingerprint) pairs in order."""
    first: dict[str, str] = {}
    same: dict[str, str] = {}
    for label, inputs in fingerprints:
        if first.setdefault(inputs, label) != label:
            same[label] = first[inputs]
    return same
