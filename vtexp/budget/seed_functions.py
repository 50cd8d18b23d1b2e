"""The functions of the seed documents under their names and argument forms, for Molmo v1.

Sizes are (height, width) and tilings (rows, cols); results are named tuples, equal to plain ones.
The arithmetic is `geometry.py`'s; invalid arguments raise ValueError. docs/knobs.md says where
results differ from the documents' own and why.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Sequence

from PIL import Image

from vtexp.budget import geometry
from vtexp.budget.geometry import MOLMO, Geometry, Size, Tiling

#: Candidates of a tiling are listed one by one: more crops than this would take minutes.
MOST_CROPS = 100_000

Pair = Sequence[int]


def tokens_to_crops(target_tokens: int) -> int:
    """Crops for a target of theoretical tokens: `max(1, target // 144 - 1)`."""
    return geometry.tokens_to_crops(_whole("target_tokens", target_tokens))


def crops_to_tiling(num_crops: int, aspect_ratio: float = 1.0) -> Tiling:
    """Tiling (rows, cols) of exactly `num_crops` crops nearest to a shape (width / height)."""
    return geometry.crops_to_tiling(_crops("num_crops", num_crops), _ratio(aspect_ratio))


def tiling_to_resolution(
    tiling: Pair,
    crop_window_size: int = MOLMO.window_px,
    total_margin_pixels: int = MOLMO.margin_px,
) -> Size:
    """Size (height, width) in px of the canvas of a tiling."""
    own = _geometry(crop_window_size, total_margin_pixels)
    return geometry.tiling_to_resolution(Tiling(*_pair("tiling", tiling)), own)


def vision_tokens_to_image_resolution(
    target_tokens: int,
    original_aspect_ratio: float,
    crop_window_size: int = MOLMO.window_px,
    total_margin_pixels: int = MOLMO.margin_px,
) -> Size:
    """Size (height, width) in px to which an image of a shape is resized for a target of tokens."""
    own = _geometry(crop_window_size, total_margin_pixels)
    num_crops = _crops("target_tokens // 144 - 1", tokens_to_crops(target_tokens))
    tiling = geometry.crops_to_tiling(num_crops, _ratio(original_aspect_ratio), own)
    return geometry.tiling_to_resolution(tiling, own)


def resize_for_target_vision_tokens(
    image: Image.Image, target_tokens: int, preserve_aspect_ratio: bool = True
) -> Image.Image:
    """The image resized (bilinear) to the canvas for a target of tokens.

    The canvas is the one nearest to the image's shape, or without `preserve_aspect_ratio` to a
    square. Both sides are scaled by themselves, so the shape is kept as far as tilings allow.
    """
    if not isinstance(image, Image.Image):
        raise ValueError(f"image: needs a PIL image, not {type(image).__name__}")
    if 0 in image.size:
        raise ValueError(f"image: {image.height}x{image.width} px has no pixels")
    ratio = image.width / image.height if preserve_aspect_ratio else 1.0
    height, width = vision_tokens_to_image_resolution(target_tokens, ratio)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def image_size_to_tiling(
    size: Pair | str,
    crop_window_size: int = MOLMO.window_px,
    total_margin_pixels: int = MOLMO.margin_px,
) -> Tiling:
    """Tiling (rows, cols) of an image size: (height, width) in px, or text such as `560x336`."""
    own = _geometry(crop_window_size, total_margin_pixels)
    return geometry.image_size_to_tiling(Size(*_pair("size", _parsed(size))), own)


def select_tiling(
    h: float, w: float, patch_size: int, max_num_crops: int, exact_num_crops: int | None = None
) -> Tiling:
    """Tiling (rows, cols) that the released preprocessing gives an image.

    `h` and `w` are the image's sides **less the margin** of 112 px, 0 or less for small images;
    `patch_size` is the window, 224 px. With `exact_num_crops`, `max_num_crops` is ignored.
    """
    for name, side in (("h", h), ("w", w)):
        _number(name, side)
    own = _geometry(_whole("patch_size", patch_size), MOLMO.margin_px)
    most = _crops("max_num_crops", max_num_crops)
    if exact_num_crops is not None:
        _crops("exact_num_crops", exact_num_crops)
        if min(h, w) <= -own.margin_px:
            raise ValueError(
                f"h={h}, w={w}: no image has such sides; give its height and width less "
                f"{own.margin_px}"
            )
    return geometry.select_tiling(
        h, w, own.window_px, most, exact_num_crops=exact_num_crops, geometry=own
    )


# --- arguments ----------------------------------------------------------------------------------


def _geometry(window_px: int, margin_px: int) -> Geometry:
    """Crops of any window and margin in px: of patches of one pixel."""
    window = _whole("crop_window_size", window_px)
    margin = _whole("total_margin_pixels", margin_px, least=0)
    return Geometry(crop_px=window + margin, patch_px=1, left_margin=margin, right_margin=0)


def _whole(name: str, value: int, least: int = 1) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise ValueError(f"{name}={value!r}: needs a whole number of at least {least}")
    return number


def _crops(name: str, value: int) -> int:
    number = _whole(name, value)
    if number > MOST_CROPS:
        raise ValueError(f"{name}={number}: at most {MOST_CROPS} crops can be laid out")
    return number


def _pair(name: str, value: Pair) -> tuple[int, int]:
    try:
        first, second = value
    except (TypeError, ValueError):
        raise ValueError(f"{name}={value!r}: needs two whole numbers, such as (2, 3)") from None
    return _whole(f"{name}[0]", first), _whole(f"{name}[1]", second)


def _parsed(size: Pair | str) -> Pair:
    if not isinstance(size, str):
        return size
    match = re.fullmatch(r"\s*(\d+)\s*[xX]\s*(\d+)\s*", size)
    if match is None:
        raise ValueError(f"size={size!r}: write height x width in pixels, such as 560x336")
    return int(match[1]), int(match[2])


def _ratio(value: float) -> float:
    number = _number("aspect_ratio", value)
    if number <= 0:
        raise ValueError(f"aspect_ratio={value!r}: must be width / height, above 0")
    return number


def _number(name: str, value: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or isinstance(value, str | bytes | bool):
        raise ValueError(f"{name}={value!r}: needs a finite number")
    return number
