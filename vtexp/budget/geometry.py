"""Crops, tilings and vision tokens of vision-language models: pure arithmetic, no I/O, no torch.

Sources: `select_tiling` and the overlap layout are those of the public Molmo code
(github.com/allenai/molmo, crop mode "overlap-and-resize-c2"); `tokens_to_crops`,
`crops_to_tiling` and `tiling_to_resolution` are the formulas of the project's seed documents;
`nearest_aspect_tiling` and `pixel_tiling` are the rules of transformers' image processors for
InternVL and Qwen2.5-VL.
Sizes are (height, width) in pixels and tilings (rows, cols), always in that order.
"""

from __future__ import annotations

import functools
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

import numpy as np

from vtexp.errors import ArgumentError, ConfigError
from vtexp.utils.arguments import pair, whole
from vtexp.utils.text import shown

#: More than any image's side; counts of larger ones would take for ever, or overflow.
MOST_PX = 1_000_000


class Size(NamedTuple):
    """Height and width in pixels. Written HxW: `560x336` is 560 high and 336 wide."""

    height: int
    width: int

    @classmethod
    def parse(cls, text: str) -> Size:
        """Read `HxW`. Raises ConfigError for anything but two whole numbers from 1 to MOST_PX."""
        match = re.fullmatch(r"\s*0*(\d{1,9})\s*[xX]\s*0*(\d{1,9})\s*", str(text))
        size = cls(int(match[1]), int(match[2])) if match else cls(0, 0)
        if not (min(size) > 0 and max(size) <= MOST_PX):
            raise ConfigError(
                f"image size {shown(text)} is not HxW: write height x width in pixels, such as "
                f"560x336, each from 1 to {MOST_PX}"
            )
        return size

    @property
    def aspect_ratio(self) -> float:
        """Width over height."""
        return self.width / self.height

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


def size_of(name: str, value: Sequence[int] | str) -> Size:
    """The size that an argument means: (height, width) in px, or text such as `560x336`.

    Raises ArgumentError, naming the argument, for anything else.
    """
    if isinstance(value, str):
        try:
            return Size.parse(value)
        except ConfigError as error:
            raise ArgumentError(f"{name}: {error}") from error
    height, width = pair(name, value, "needs (height, width) in px, or a text such as 560x336")
    return Size(whole(f"{name}[0]", height, most=MOST_PX), whole(f"{name}[1]", width, most=MOST_PX))


class Tiling(NamedTuple):
    """Rows and columns of high-resolution crops; the global crop is not counted."""

    rows: int
    cols: int

    @property
    def num_crops(self) -> int:
        """High-resolution crops, without the global crop."""
        return self.rows * self.cols

    def __str__(self) -> str:
        return f"{self.rows}x{self.cols}"


@dataclass(frozen=True, slots=True)
class Geometry:
    """The numbers and rules of a vision encoder from which every count follows.

    `crop_px` and `patch_px` in pixels; margins in patches, the same for rows and columns
    (left/top, right/bottom); `pool` is the side of the block of patches behind one vision token.
    `global_crop`: with every image, only beside more than one crop, or never. `tiling_rule`: how a
    cap picks a tiling: `select_tiling`, `nearest_aspect_tiling` or `pixel_tiling`; `min_pixels` and
    `max_pixels` are those of the last one's image. `own_max_crops`: the most crops of the model's
    own preprocessing, with which it was trained. `fit`: how images are brought to a canvas where
    the knob does not say. `view_markers`: whether a start and an end token stand around each view
    and a column token after each of its rows; `global_columns`: after those of the global view too.
    """

    crop_px: int
    patch_px: int = 14
    pool: int = 2
    left_margin: int = 4
    right_margin: int = 4
    max_sequence_length: int = 4096
    global_crop: Literal["always", "tiled", "never"] = "always"
    tiling_rule: Literal["scale", "aspect", "pixels"] = "scale"
    min_pixels: int = 1
    max_pixels: int | None = None
    own_max_crops: int | None = None
    fit: str = "letterbox"
    view_markers: bool = True
    global_columns: bool = True

    @property
    def patches_per_side(self) -> int:
        """Patches along one side of a crop."""
        return self.crop_px // self.patch_px

    @property
    def patches_per_crop(self) -> int:
        """Patches the vision encoder reads per crop."""
        return self.patches_per_side**2

    @property
    def tokens_per_side(self) -> int:
        """Vision tokens along one side of a crop (pooling rounds up)."""
        return -(-self.patches_per_side // self.pool)

    @property
    def tokens_per_crop(self) -> int:
        """Vision tokens of one whole crop: 144 for Molmo, 196 for Molmo2."""
        return self.tokens_per_side**2

    @property
    def template_markers(self) -> int:
        """Start and end token that the chat template writes around an image without markers."""
        return 0 if self.view_markers else 2

    @property
    def margin_patches(self) -> int:
        """Both overlap margins together, in patches."""
        return self.left_margin + self.right_margin

    @property
    def window_patches(self) -> int:
        """Patches by which one crop advances over the one before."""
        return self.patches_per_side - self.margin_patches

    @property
    def margin_px(self) -> int:
        """Both overlap margins together, in pixels."""
        return self.margin_patches * self.patch_px

    @property
    def window_px(self) -> int:
        """Pixels by which one crop advances over the one before."""
        return self.window_patches * self.patch_px

    def global_crops(self, num_crops: int) -> int:
        """Global crops, 0 or 1, beside `num_crops` high-resolution ones."""
        if self.global_crop == "tiled":
            return int(num_crops > 1)
        return int(self.global_crop == "always")

    def num_crops(self, encoded: int) -> int:
        """High-resolution crops among all that the encoder read for an image."""
        if self.global_crop == "tiled":
            return max(1, encoded - 1)
        return encoded - int(self.global_crop == "always")


#: allenai/Molmo-*-0924 (CLIP ViT-L/14 at 336 px).
MOLMO = Geometry(crop_px=336, own_max_crops=12)


#: allenai/Molmo2-* (SigLIP2 so400m/14 at 378 px).
MOLMO2 = Geometry(crop_px=378, max_sequence_length=36_864, fit="stretch")


#: OpenGVLab/InternVL3-*-hf: tiles side by side, a thumbnail beside more than one.
INTERNVL = Geometry(
    crop_px=448,
    left_margin=0,
    right_margin=0,
    max_sequence_length=8192,
    global_crop="tiled",
    tiling_rule="aspect",
    fit="stretch",
    view_markers=False,
)


#: Qwen/Qwen2.5-VL-*: the whole image in its own size; a crop is the 28 x 28 px of one vision token.
QWEN2_5_VL = Geometry(
    crop_px=28,
    left_margin=0,
    right_margin=0,
    max_sequence_length=32_768,
    global_crop="never",
    tiling_rule="pixels",
    min_pixels=56 * 56,
    fit="stretch",
    view_markers=False,
)


def theoretical_tokens(num_crops: int, geometry: Geometry = MOLMO) -> int:
    """Vision tokens before overlap is dropped: every crop and the global crop in full."""
    return (num_crops + geometry.global_crops(num_crops)) * geometry.tokens_per_crop


def tokens_to_crops(target_tokens: int, geometry: Geometry = MOLMO) -> int:
    """Largest number of crops whose theoretical tokens stay within the target, at least 1."""
    crops = target_tokens // geometry.tokens_per_crop
    return max(1, crops - int(geometry.global_crop != "never"))


def tiling_to_resolution(tiling: Tiling, geometry: Geometry = MOLMO) -> Size:
    """Pixel size of the canvas that the crops of a tiling cover."""
    rows, cols = tiling
    return Size(
        rows * geometry.window_px + geometry.margin_px,
        cols * geometry.window_px + geometry.margin_px,
    )


def crop_corners(tiling: Tiling, geometry: Geometry) -> list[tuple[int, int]]:
    """Top and left px of each crop on the canvas of a tiling, row by row."""
    return [
        (row * geometry.window_px, col * geometry.window_px)
        for row in range(tiling.rows)
        for col in range(tiling.cols)
    ]


def image_size_to_tiling(size: Size, geometry: Geometry = MOLMO) -> Tiling:
    """Tiling whose canvas is nearest to a size, each side by itself, at least 1x1."""
    return Tiling(
        max(1, round((size.height - geometry.margin_px) / geometry.window_px)),
        max(1, round((size.width - geometry.margin_px) / geometry.window_px)),
    )


def crops_to_tiling(num_crops: int, aspect_ratio: float, geometry: Geometry = MOLMO) -> Tiling:
    """Tiling of exactly `num_crops` crops whose canvas has the W/H nearest to `aspect_ratio`.

    Nearest by the logarithm of the ratio, so that tall images are treated as wide ones are; among
    equals the one with fewer rows.
    """
    pairs = (
        Tiling(rows, num_crops // rows) for rows in range(1, num_crops + 1) if num_crops % rows == 0
    )

    # Of sides in px, exactly: a quotient of floats would decide ties by its rounding.
    wanted = Fraction(aspect_ratio).limit_denominator(100_000) or Fraction(aspect_ratio)

    def distance(tiling: Tiling) -> Fraction:
        height, width = tiling_to_resolution(tiling, geometry)
        ratio = Fraction(width, height) / wanted
        return max(ratio, 1 / ratio)

    return min(pairs, key=distance)


def vision_tokens_to_image_resolution(
    target_tokens: int, aspect_ratio: float, geometry: Geometry = MOLMO
) -> Size:
    """Canvas size for a target of vision tokens at an aspect ratio (W/H): the whole workflow."""
    num_crops = tokens_to_crops(target_tokens, geometry)
    return tiling_to_resolution(crops_to_tiling(num_crops, aspect_ratio, geometry), geometry)


@functools.lru_cache(maxsize=64)
def _candidate_tilings(max_crops: int) -> np.ndarray:
    """All tilings of at most `max_crops` crops, int64 (n, 2), by number of crops, then rows."""
    tilings = [(r, c) for r in range(1, max_crops + 1) for c in range(1, max_crops // r + 1)]
    return np.array(sorted(tilings, key=lambda t: (t[0] * t[1], t[0])), dtype=np.int64)


def tilings_up_to(max_crops: int) -> list[Tiling]:
    """All tilings of at most `max_crops` crops, by number of crops, then rows."""
    return [Tiling(rows, cols) for rows, cols in _candidate_tilings(max_crops).tolist()]


def select_tiling(
    height: float,
    width: float,
    window_px: int,
    max_crops: int,
    *,
    exact_num_crops: int | None = None,
    geometry: Geometry = MOLMO,
) -> Tiling:
    """Tiling for an image, given its sides **less the margin** (`height - margin_px`, ...).

    The tiling with the least upscaling; if each needs downscaling, the least downscaling; ties go
    to fewer crops, then fewer rows. Sides may be zero or negative (image smaller than the
    margin). Computed in float32 as the released preprocessing does: float64 differs.
    With `exact_num_crops`, `max_crops` is ignored and `crops_to_tiling` decides by the aspect
    ratio of the image, margin included.
    """
    if exact_num_crops is not None:
        margin_px = geometry.margin_px
        return crops_to_tiling(
            exact_num_crops, (width + margin_px) / (height + margin_px), geometry
        )
    candidates = _candidate_tilings(max_crops)
    sides = np.array([height, width], dtype=np.float32)
    with np.errstate(divide="ignore"):
        scale = ((candidates * window_px).astype(np.float32) / sides).min(axis=-1)
    if np.all(scale < 1):
        best = int(np.argmax(scale))
    else:
        best = int(np.argmin(np.where(scale < 1, np.float32(10e9), scale)))
    return Tiling(int(candidates[best, 0]), int(candidates[best, 1]))


def nearest_aspect_tiling(size: Size, max_crops: int, geometry: Geometry) -> Tiling:
    """Tiling whose W/H is nearest to the image's (absolute difference): InternVL's rule.

    Among equally near ones the largest whose area is below twice the image's; candidates are tried
    by number of crops, then columns.
    """
    best, least = Tiling(1, 1), math.inf
    for tiling in sorted(tilings_up_to(max_crops), key=lambda t: (t.num_crops, t.cols)):
        distance = abs(size.aspect_ratio - tiling.cols / tiling.rows)
        roomy = 2 * size.height * size.width > tiling.num_crops * geometry.crop_px**2
        if distance < least or (distance == least and roomy):
            best, least = tiling, distance
    return best


def largest_tiling(
    size: Size, max_crops: int, geometry: Geometry, *, max_pixels: int | None = None
) -> Tiling:
    """Largest tiling of at most `max_crops` crops with the image's aspect, sides rounded down.

    `max_pixels`: the most that its canvas may have besides.
    """
    window = geometry.window_px
    pixels = min(max_crops * window**2, max_pixels or sys.maxsize)
    scale = math.sqrt(size.height * size.width / pixels)
    rows = max(1, math.floor(size.height / scale / window))
    cols = max(1, math.floor(size.width / scale / window))
    # A side below one crop takes one; the other may then take all of them, but no more.
    return Tiling(min(rows, max_crops), min(cols, max_crops))


def pixel_tiling(size: Size, max_crops: int, geometry: Geometry) -> Tiling:
    """Tiling nearest to the image's own size, within the cap: Qwen2.5-VL's rule.

    Its `smart_resize` with one crop per 28 x 28 px cell: sides rounded to whole cells; shrunk with
    the aspect kept above the cap or `max_pixels`, enlarged below `min_pixels`. Unlike it, never
    above the cap.
    """
    window = geometry.window_px
    most = min(max_crops * window**2, geometry.max_pixels or sys.maxsize)
    cap = max(1, most // window**2)
    tiling = Tiling(round(size.height / window), round(size.width / window))
    if tiling.num_crops * window**2 > most:
        return largest_tiling(size, cap, geometry, max_pixels=most)
    least = min(geometry.min_pixels, max_crops * window**2)
    if tiling.num_crops * window**2 < least:
        scale = math.sqrt(least / (size.height * size.width))
        tiling = Tiling(
            math.ceil(size.height * scale / window), math.ceil(size.width * scale / window)
        )
    if tiling.num_crops <= max_crops:
        return tiling
    return largest_tiling(size, max_crops, geometry)


def image_tiling(
    size: Size,
    max_crops: int,
    geometry: Geometry = MOLMO,
    *,
    exact_num_crops: int | None = None,
) -> Tiling:
    """Tiling that preprocessing gives an image of `size` under a cap, by the geometry's rule.

    With `exact_num_crops`, that many crops in the factor pair nearest to the image's aspect; under
    the pixel rule as many as its aspect allows (factor pairs would make prime numbers strips).
    """
    if geometry.tiling_rule == "pixels":
        if exact_num_crops is not None:
            return largest_tiling(size, exact_num_crops, geometry)
        return pixel_tiling(size, max_crops, geometry)
    if geometry.tiling_rule == "aspect":
        if exact_num_crops is not None:
            return crops_to_tiling(exact_num_crops, size.aspect_ratio, geometry)
        return nearest_aspect_tiling(size, max_crops, geometry)
    return select_tiling(
        size.height - geometry.margin_px,
        size.width - geometry.margin_px,
        geometry.window_px,
        max_crops,
        exact_num_crops=exact_num_crops,
        geometry=geometry,
    )


@dataclass(frozen=True, slots=True)
class TokenLayout:
    """Tokens that an image occupies in the prompt: of the global view and of the tiled view.

    `column_tokens` close the rows of views, `border_tokens` start and end views.
    """

    tiling: Tiling
    global_side: int
    grid_rows: int
    grid_cols: int
    column_tokens: int
    border_tokens: int

    @property
    def vision_tokens(self) -> int:
        """Pooled tokens that reach the language model (the layout's prediction of `measured`)."""
        return self.global_side**2 + self.grid_rows * self.grid_cols

    @property
    def sequence_length(self) -> int:
        """All image tokens: vision, column, start and end. No BOS."""
        return self.vision_tokens + self.column_tokens + self.border_tokens


def token_layout(
    tiling: Tiling, geometry: Geometry = MOLMO, *, force_full_tokens: bool = False
) -> TokenLayout:
    """Token layout of a tiling: overlap counted once, or every crop in full."""

    def side(num_crops: int) -> int:
        if force_full_tokens:
            return num_crops * geometry.tokens_per_side
        patches = num_crops * geometry.window_patches + geometry.margin_patches
        return -(-patches // geometry.pool)

    has_global = geometry.global_crops(tiling.num_crops)
    global_side = geometry.tokens_per_side * has_global
    rows, cols = side(tiling.rows), side(tiling.cols)
    columns = borders = 0
    if geometry.view_markers:
        columns = rows + (global_side if geometry.global_columns else 0)
        borders = 2 * (1 + has_global)
    return TokenLayout(tiling, global_side, rows, cols, columns, borders)
