"""What a checkpoint's processor files say of its images: honoured, or refused by name. No torch.

Rules and defaults are those of transformers' image processors (version 5.23).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vtexp.utils.typed import is_number, is_whole_number

#: Where a config has what its folder's files say of images.
IMAGES = "image_processor"


class Normalisation(NamedTuple):
    """Mean and standard deviation of each channel, for pixels in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


CLIP = Normalisation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
#: Numbers of Pillow's filters.
BILINEAR, BICUBIC = 2, 3


@dataclass(frozen=True)
class ImageRules:
    """How a family reads what its image processor's file says.

    `published`: the normalisation of published checkpoints, for a folder without the file;
    `default`: where the file leaves it out. `fixed`: the one value that can run of each key, which
    files may leave out. `side`: of a crop, where the file says `size`. `own_cap`: the key of its
    own most crops. `normalises`: whether it can be normalised otherwise.
    """

    published: Normalisation
    default: Normalisation
    fixed: Mapping[str, Any] = field(default_factory=dict)
    side: int | None = None
    own_cap: str = "max_crops"
    normalises: bool = True

    def problem(self, said: object) -> str:
        """Why images cannot be read as a file says, by its key; empty where they can."""
        if not isinstance(said, dict):
            return f"{IMAGES} is not an object"
        for key, expected in self.fixed.items():
            found = said.get(key)
            if found is not None and found != expected:
                return f"{key} is {found}; only {expected} is supported"
        if self.side is not None and not _is_square(said.get("size"), self.side):
            return f"size is {said['size']}; only {self.side} x {self.side} is supported"
        cap = said.get(self.own_cap)
        if cap is not None and not (is_whole_number(cap) and cap > 0):
            return f"{self.own_cap} is {cap}, which is not a number of crops"
        return self._wrong_normalisation(said) or self._other_normalisation(said)

    def normalisation(self, said: Mapping[str, Any] | None) -> Normalisation:
        """The normalisation of pixels in [0, 1] by a file without a problem (None: no file)."""
        if said is None:
            return self.published
        factor = said.get("rescale_factor") or 1 / 255
        scale = 255 * factor if _is_on(said, "do_rescale") else 255.0
        mean, std = _channels(said.get("image_mean")), _channels(said.get("image_std"))
        mean, std = mean or self.default.mean, std or self.default.std
        if not _is_on(said, "do_normalize"):
            mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        if math.isclose(scale, 1.0, rel_tol=1e-6):
            return Normalisation(mean, std)
        return Normalisation(_over(mean, scale), _over(std, scale))

    def own_max_crops(self, said: Mapping[str, Any] | None) -> int | None:
        """Most crops of its own preprocessing, where its file says."""
        return None if said is None else said.get(self.own_cap)

    def _wrong_normalisation(self, said: Mapping[str, Any]) -> str:
        for key in ("image_mean", "image_std"):
            values = _channels(said.get(key))
            if said.get(key) is not None and values is None:
                return f"{key} is {said[key]}, neither a number nor three"
            if key == "image_std" and values is not None and min(values) <= 0:
                return f"{key} is {said[key]}; it must be above 0"
        factor = said.get("rescale_factor")
        if factor is not None and not (_is_finite(factor) and factor > 0):
            return f"rescale_factor is {factor}, which is not a number above 0"
        for key in ("do_rescale", "do_normalize"):
            if said.get(key) not in (None, True, False):
                return f"{key} is {said[key]}, neither true nor false"
        return ""

    def _other_normalisation(self, said: Mapping[str, Any]) -> str:
        """Which key changes the normalisation of a family that has one only."""
        if self.normalises:
            return ""
        for key in ("image_mean", "image_std", "rescale_factor", "do_rescale", "do_normalize"):
            if said.get(key) is None:
                continue
            for found, own in zip(
                self.normalisation({key: said[key]}), self.published, strict=True
            ):
                if any(abs(a - b) > 1e-4 for a, b in zip(found, own, strict=True)):
                    return f"{key} is {said[key]}; other normalisations are not supported"
        return ""


def pixel_limits(said: Mapping[str, Any] | None) -> tuple[int, int] | None:
    """Least and most pixels of Qwen2.5-VL's image by its file; None without a file.

    (0, 0) where what it says is no limit. `min_pixels` and `max_pixels` go before `size`.
    """
    if said is None:
        return None
    size = said.get("size")
    if size is None:
        size = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}
    of_edges: dict[str, Any] = size if isinstance(size, dict) else {}

    def pixels(key: str, edge: str) -> int:
        found: Any = of_edges.get(edge) if said.get(key) is None else said[key]
        return found if is_whole_number(found) and found > 0 else 0

    limits = pixels("min_pixels", "shortest_edge"), pixels("max_pixels", "longest_edge")
    return (0, 0) if 0 in limits else limits


def _is_on(said: Mapping[str, Any], key: str) -> bool:
    return said.get(key) is None or bool(said[key])


def _is_finite(value: object) -> bool:
    return is_number(value) and math.isfinite(value)


def _channels(value: object) -> tuple[float, float, float] | None:
    """Three numbers of a file, which may have written one for all; None where they are none."""
    values: list[Any] = value if isinstance(value, list) else [value] * 3
    if len(values) != 3 or not all(_is_finite(number) for number in values):
        return None
    red, green, blue = (float(number) for number in values)
    return red, green, blue


def _over(values: tuple[float, float, float], scale: float) -> tuple[float, float, float]:
    red, green, blue = (value / scale for value in values)
    return red, green, blue


def _is_square(size: object, side: int) -> bool:
    """Whether a file's `size` is the one side; it may leave it out."""
    if isinstance(size, dict):
        return (size.get("height"), size.get("width")) == (side, side)
    return size in (None, side, [side, side])
