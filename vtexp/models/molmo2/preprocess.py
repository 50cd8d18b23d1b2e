"""Images to Molmo2's inputs: crops, which patches each vision token pools, and the image tokens.

Matches transformers' Molmo2ImageProcessor (which knows only `max_crops`) and extends it with exact
crops, fixed image sizes, other fits and full tokens. Unlike v1: images are stretched to the
canvas, resized without antialiasing and rounded to uint8; the patches of all crops are put
together to one grid, overlap counted once, before 2 x 2 of them are pooled.

An image is uint8 (H, W, 3): an array, preprocessed on the host, or a tensor, preprocessed on the
device that it lies on, to the same pixels.

Shapes: C crops with the global crop first, P patches per crop (729), T vision tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional as F

from vtexp.budget.geometry import MOLMO2, Geometry, Size, Tiling, tiling_to_resolution
from vtexp.budget.knobs import CropSetting
from vtexp.models.device_resize import bilinear
from vtexp.models.host_resize import one_thread
from vtexp.models.molmo.preprocess import ONE_CROP, Pixels, normalised, shaped, to_patches
from vtexp.models.processors import HALF, Normalisation


@dataclass(frozen=True, slots=True)
class Molmo2TokenIds:
    """Ids of the image tokens, read from the tokenizer, never constants."""

    start: int
    global_start: int
    end: int
    patch: int
    column: int


@dataclass(frozen=True, slots=True)
class Molmo2Image:
    """One image as Molmo2 reads it.

    patches: float32 (C, P, 588) in [-1, 1]; pooled_patches: int64 (T, 4), the patches (numbered
    through all crops) behind each vision token, -1 where there is none; image_tokens: int64 (S,);
    grid: rows and columns of the global and of the tiled view's tokens; tiling of the crops.
    Patches are on the image's device, all else on the host.
    """

    patches: torch.Tensor
    pooled_patches: torch.Tensor
    image_tokens: torch.Tensor
    grid: tuple[int, int, int, int]
    tiling: Tiling


def _resize(image: Pixels, size: Size) -> torch.Tensor:
    """Bilinear resize to whole numbers, float32 (3, height, width), without antialiasing."""
    return bilinear(image, size) if isinstance(image, torch.Tensor) else _host_resize(image, size)


@one_thread()
def _host_resize(image: np.ndarray, size: Size) -> torch.Tensor:
    """`_resize` by torch.

    On one thread, as transformers' golden values were made: with more, torch sums in another order,
    and where a value lies between two whole numbers the pixel would differ by 1 of 255.
    """
    pixels = torch.from_numpy(image).permute(2, 0, 1).float()
    resized = F.interpolate(
        pixels[None], tuple(size), mode="bilinear", antialias=False, align_corners=False
    )
    return resized[0].round().clamp(0, 255)


def _kept_patches(crops: int, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Along one side: for each patch of the canvas, its crop and its place in that crop.

    The overlap of two crops is split at the margins.
    """
    size = geometry.patches_per_side
    owners: list[int] = []
    places: list[int] = []
    for crop in range(crops):
        first = 0 if crop == 0 else geometry.left_margin
        last = size if crop == crops - 1 else size - geometry.right_margin
        owners += [crop] * (last - first)
        places += range(first, last)
    return np.array(owners), np.array(places)


def _patch_grid(tiling: Tiling, geometry: Geometry) -> np.ndarray:
    """Number of the patch shown at each place of the canvas; crops count from 0, row by row."""
    side = geometry.patches_per_side
    crop_rows, rows = _kept_patches(tiling.rows, geometry)
    crop_cols, cols = _kept_patches(tiling.cols, geometry)
    crops = crop_rows[:, None] * tiling.cols + crop_cols
    return (crops * side + rows[:, None]) * side + cols


def _pool(grid: np.ndarray, pool: int) -> np.ndarray:
    """Blocks (rows, cols, pool * pool) of a grid of patches, -1 beyond its edges.

    Where a side is odd, the missing patches are split between both edges, the larger half last.
    """
    pads = [(-length % pool // 2, -(-(-length % pool) // 2)) for length in grid.shape]
    padded = np.pad(grid, pads, constant_values=-1)
    rows, cols = padded.shape[0] // pool, padded.shape[1] // pool
    blocks = padded.reshape(rows, pool, cols, pool).transpose(0, 2, 1, 3)
    return blocks.reshape(rows, cols, pool * pool)


def pooled_patches(tiling: Tiling, geometry: Geometry, *, force_full_tokens: bool) -> np.ndarray:
    """Patches behind each token of the tiled view, int (rows, cols, 4); crops count from 0.

    With `force_full_tokens`, every crop gives all its tokens, each at its own crop's place.
    """
    if not force_full_tokens:
        return _pool(_patch_grid(tiling, geometry), geometry.pool)
    one = _pool(_patch_grid(ONE_CROP, geometry), geometry.pool)
    view = [
        [
            np.where(one < 0, -1, one + (row * tiling.cols + col) * geometry.patches_per_crop)
            for col in range(tiling.cols)
        ]
        for row in range(tiling.rows)
    ]
    return np.concatenate([np.concatenate(row, axis=1) for row in view])


def _view_tokens(
    start: int, rows: int, cols: int, ids: Molmo2TokenIds, *, columns: bool = True
) -> np.ndarray:
    """Start token, rows of patch tokens each closed by a column token if any, end token."""
    grid = np.full((rows, cols + int(columns)), ids.patch)
    if columns:
        grid[:, -1] = ids.column
    return np.concatenate([[start], grid.ravel(), [ids.end]])


@lru_cache(maxsize=256)
def _layout(
    tiling: Tiling, ids: Molmo2TokenIds, geometry: Geometry, force_full_tokens: bool
) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int, int, int]]:
    """Pooled patches, image tokens and grid, which many images share: to be cloned, not changed."""
    whole_view = _pool(_patch_grid(ONE_CROP, geometry), geometry.pool)
    tiled_view = pooled_patches(tiling, geometry, force_full_tokens=force_full_tokens)
    tiled_view = np.where(tiled_view < 0, -1, tiled_view + geometry.patches_per_crop)
    pooled = [view.reshape(-1, view.shape[-1]) for view in (whole_view, tiled_view)]
    (low_rows, low_cols), (rows, cols) = whole_view.shape[:2], tiled_view.shape[:2]
    tokens = [
        _view_tokens(ids.global_start, low_rows, low_cols, ids, columns=geometry.global_columns),
        _view_tokens(ids.start, rows, cols, ids),
    ]
    return (
        torch.from_numpy(np.concatenate(pooled)),
        torch.from_numpy(np.concatenate(tokens)),
        (low_rows, low_cols, rows, cols),
    )


def preprocess_molmo2(
    image: Pixels,
    setting: CropSetting,
    ids: Molmo2TokenIds,
    geometry: Geometry = MOLMO2,
    normalisation: Normalisation = HALF,
) -> Molmo2Image:
    """Crop, resize, normalise and lay out one uint8 (H, W, 3) image under a crop setting.

    The global crop is the whole image, stretched whatever the fit.
    """
    tiling = setting.tiling(Size(*image.shape[:2]), geometry)
    size = tiling_to_resolution(tiling, geometry)
    canvas = _resize(shaped(image, size, setting.fit), size)
    whole = _resize(image, Size(geometry.crop_px, geometry.crop_px))
    views = ((whole, ONE_CROP), (canvas, tiling))
    # Of bytes, as in transformers, not of shares: `normalised` takes any numbers.
    mean, std = (tuple(255 * value for value in of_shares) for of_shares in normalisation)
    patches = torch.cat([to_patches(normalised(v, mean, std), t, geometry) for v, t in views])
    pooled, tokens, grid = _layout(tiling, ids, geometry, setting.force_full_tokens)
    return Molmo2Image(patches, pooled.clone(), tokens.clone(), grid, tiling)
