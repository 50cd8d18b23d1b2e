"""The functions of the seed documents under their names and argument forms, for Molmo v1.

Sizes are (height, width) and tilings (rows, cols); results are named tuples, equal to plain ones.
The arithmetic is `geometry.py`'s; a wrong argument raises ArgumentError, a ValueError that names
it. docs/knobs.md says where results differ from the documents' own and why.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from PIL import Image

from vtexp.budget import geometry
from vtexp.budget.geometry import MOLMO, MOST_PX, Geometry, Size, Tiling, size_of
from vtexp.errors import ArgumentError
from vtexp.utils.arguments import finite, flag, pair, refuse, whole

#: Candidates of a tiling are listed one by one: more crops than this would take minutes.
MOST_CROPS = 100_000

#: Pixels up to which Pillow opens images: twice its `MAX_IMAGE_PIXELS`.
MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or sys.maxsize)

Pair = Sequence[int]


def tokens_to_crops(target_tokens: int) -> int:
    """Crops for a target of theoretical tokens: `max(1, target // 144 - 1)`."""
    return geometry.tokens_to_crops(whole("target_tokens", target_tokens))


def crops_to_tiling(num_crops: int, aspect_ratio: float = 1.0) -> Tiling:
    """Tiling (rows, cols) of exactly `num_crops` crops nearest to a shape (width / height)."""
    crops = whole("num_crops", num_crops, most=MOST_CROPS)
    return geometry.crops_to_tiling(crops, _ratio("aspect_ratio", aspect_ratio))


def tiling_to_resolution(
    tiling: Pair,
    crop_window_size: int = MOLMO.window_px,
    total_margin_pixels: int = MOLMO.margin_px,
) -> Size:
    """Size (height, width) in px of the canvas of a tiling."""
    own = _geometry(crop_window_size, total_margin_pixels)
    return geometry.tiling_to_resolution(_tiling(tiling), own)


def vision_tokens_to_image_resolution(
    target_tokens: int,
    original_aspect_ratio: float,
    crop_window_size: int = MOLMO.window_px,
    total_margin_pixels: int = MOLMO.margin_px,
) -> Size:
    """Size (height, width) in px to which an image of a shape is resized for a target of tokens."""
    own = _geometry(crop_window_size, total_margin_pixels)
    most = (MOST_CROPS + 1) * MOLMO.tokens_per_crop
    num_crops = tokens_to_crops(whole("target_tokens", target_tokens, most=most))
    ratio = _ratio("original_aspect_ratio", original_aspect_ratio)
    tiling = geometry.crops_to_tiling(num_crops, ratio, own)
    return geometry.tiling_to_resolution(tiling, own)


def resize_for_target_vision_tokens(
    image: Image.Image, target_tokens: int, preserve_aspect_ratio: bool = True
) -> Image.Image:
    """The image resized (bilinear) to the canvas for a target of tokens.

    The canvas is the one nearest to the image's shape, or without `preserve_aspect_ratio` to a
    square. Both sides are scaled by themselves, so the shape is kept as far as tilings allow. An
    image with a palette comes back as RGB or RGBA, one of black and white as L.
    """
    if not isinstance(image, Image.Image):
        refuse("image", image, "needs a PIL image")
    if 0 in image.size:
        raise ArgumentError(f"image: {image.height}x{image.width} px has no pixels")
    keep = flag("preserve_aspect_ratio", preserve_aspect_ratio)
    canvas = vision_tokens_to_image_resolution(
        target_tokens, image.width / image.height if keep else 1.0
    )
    if canvas.height * canvas.width > MOST_PIXELS:
        refuse("target_tokens", target_tokens, f"a canvas of {canvas} px is too large for an image")
    try:
        return _mixable(image).resize((canvas.width, canvas.height), Image.Resampling.BILINEAR)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds for broken files
        raise ArgumentError(f"image: cannot be decoded ({' '.join(str(error).split())})") from error


def image_size_to_tiling(
    size: Pair | str,
    crop_window_size: int = MOLMO.window_px,
    total_margin_pixels: int = MOLMO.margin_px,
) -> Tiling:
    """Tiling (rows, cols) of an image size: (height, width) in px, or text such as `560x336`."""
    own = _geometry(crop_window_size, total_margin_pixels)
    return geometry.image_size_to_tiling(size_of("size", size), own)


def select_tiling(
    h: float, w: float, patch_size: int, max_num_crops: int, exact_num_crops: int | None = None
) -> Tiling:
    """Tiling (rows, cols) that the released preprocessing gives an image.

    `h` and `w` are the image's sides **less the margin** of 112 px, 0 or less for small images;
    `patch_size` is the window, 224 px. With `exact_num_crops`, `max_num_crops` is ignored.
    """
    height, width = _side("h", h), _side("w", w)
    own = _geometry(whole("patch_size", patch_size, most=MOST_PX), MOLMO.margin_px)
    most = whole("max_num_crops", max_num_crops, most=MOST_CROPS)
    if exact_num_crops is None:
        return geometry.select_tiling(height, width, own.window_px, most, geometry=own)
    exact = whole("exact_num_crops", exact_num_crops, most=MOST_CROPS)
    if min(height, width) <= -own.margin_px:
        raise ArgumentError(
            f"h={height:g}, w={width:g}: no image has such sides; give its height and width less "
            f"{own.margin_px}"
        )
    return geometry.select_tiling(
        height, width, own.window_px, most, exact_num_crops=exact, geometry=own
    )


# --- arguments ----------------------------------------------------------------------------------


def _geometry(window_px: int, margin_px: int) -> Geometry:
    """Crops of any window and margin in px: of patches of one pixel."""
    window = whole("crop_window_size", window_px, most=MOST_PX)
    margin = whole("total_margin_pixels", margin_px, least=0, most=MOST_PX)
    return Geometry(crop_px=window + margin, patch_px=1, left_margin=margin, right_margin=0)


def _tiling(value: Pair) -> Tiling:
    rows, cols = pair("tiling", value, "needs two whole numbers, rows and columns, such as (2, 3)")
    most = {"most": MOST_CROPS}
    return Tiling(whole("tiling[0]", rows, **most), whole("tiling[1]", cols, **most))


def _side(name: str, value: float) -> float:
    side = finite(name, value)
    if abs(side) > MOST_PX:
        refuse(name, value, f"no image has sides of more than {MOST_PX} px")
    return side


def _ratio(name: str, value: float) -> float:
    number = finite(name, value)
    if number <= 0:
        refuse(name, value, "must be width / height, above 0")
    return number


def _mixable(image: Image.Image) -> Image.Image:
    """An image between whose colours there are others: Pillow would mix places of a palette."""
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("P", "PA"):
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    return image
