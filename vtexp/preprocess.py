"""Images to model inputs: crops, padding mask, image tokens and where each pooled token goes.

Matches the released Molmo v1 preprocessing (crop mode "overlap-and-resize-c2", OpenAI CLIP
normalisation) and extends it with exact crops, fixed image sizes and full tokens.

Shapes: C crops with the global crop first, P patches per crop (576), T pooled tokens per crop
(144), D values per patch (14 x 14 x 3 = 588, channel fastest).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from PIL import Image

from vtexp.errors import DataError
from vtexp.geometry import Geometry, Placement, Size, Tiling, letterbox, tiling_to_resolution
from vtexp.knobs import CropSetting

#: OpenAI CLIP's mean and standard deviation per RGB channel (preprocessor_config.json of the
#: published checkpoints).
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)

#: Value of a dropped pooled token in `image_input_idx` (any negative number means dropped).
DROPPED = -100
ONE_CROP = Tiling(1, 1)


@dataclass(frozen=True, slots=True)
class ImageTokenIds:
    """Ids of the four image tokens, read from the tokenizer, never constants."""

    start: int
    end: int
    patch: int
    column: int


@dataclass(frozen=True, slots=True)
class ProcessedImage:
    """One image as the model reads it.

    patches: float32 (C, P, D), normalised, or uint8 as they are; padding_mask: float32 (C, P),
    share of image pixels in each patch, with the row of -1 for the global crop **last** as the
    released checkpoints read it; image_tokens: int64 (S,); image_input_idx: int32 (C, T), position
    of each pooled token in image_tokens, negative where it is dropped; tiling: of the
    high-resolution crops.
    """

    patches: torch.Tensor
    padding_mask: torch.Tensor
    image_tokens: torch.Tensor
    image_input_idx: torch.Tensor
    tiling: Tiling


def _resize(pixels: torch.Tensor, size: Size) -> torch.Tensor:
    """Antialiased bilinear resize of float32 (3, H, W) in [0, 1], clipped; or of uint8."""
    if tuple(pixels.shape[1:]) != tuple(size):
        pixels = torch.nn.functional.interpolate(
            pixels[None], tuple(size), mode="bilinear", antialias=True, align_corners=False
        )[0]
    return pixels if pixels.dtype == torch.uint8 else pixels.clamp(0, 1)


def _fit(pixels: torch.Tensor, target: Size, fit: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Bring (3, H, W) to a target size: the view (3, h, w) and the mask (h, w) of image pixels.

    stretch: both sides scaled by themselves. letterbox: aspect kept, zero padding. crop: scaled
    to cover the target, the centre kept.
    """
    size = Size(*pixels.shape[1:])
    if fit == "letterbox":
        return _letterbox(pixels, target, letterbox(size, target))
    mask = torch.ones(tuple(target))
    if fit == "stretch":
        return _resize(pixels, target), mask
    scale = max(target.height / size.height, target.width / size.width)
    cover = Size(
        max(target.height, round(size.height * scale)), max(target.width, round(size.width * scale))
    )
    top, left = (cover.height - target.height) // 2, (cover.width - target.width) // 2
    view = _resize(pixels, cover)
    return view[:, top : top + target.height, left : left + target.width], mask


def _letterbox(
    pixels: torch.Tensor, target: Size, placement: Placement
) -> tuple[torch.Tensor, torch.Tensor]:
    scaled, top, left = placement
    if 0 in scaled:
        raise DataError(
            f"an image of {Size(*pixels.shape[1:])} px is too flat to fit {target}: "
            "one side would shrink to 0"
        )
    view = torch.zeros((3, *target), dtype=pixels.dtype)
    mask = torch.zeros(tuple(target))
    rows, cols = slice(top, top + scaled.height), slice(left, left + scaled.width)
    view[:, rows, cols] = _resize(pixels, scaled)
    mask[rows, cols] = 1
    return view, mask


def shaped(image: np.ndarray, target: Size, fit: str) -> np.ndarray:
    """A uint8 image (H, W, 3) in the shape of a target, for models that stretch to their canvas.

    stretch: left as it is. letterbox: black borders added. crop: cut, the centre kept.
    """
    if fit == "stretch":
        return image
    height, width = image.shape[:2]
    pick = max if fit == "letterbox" else min
    rows = max(1, pick(height, round(width / target.aspect_ratio)))
    cols = max(1, pick(width, round(height * target.aspect_ratio)))
    top, left = abs(rows - height) // 2, abs(cols - width) // 2
    if fit == "crop":
        return image[top : top + rows, left : left + cols]
    padded = np.zeros((rows, cols, 3), np.uint8)
    padded[top : top + height, left : left + width] = image
    return padded


def resize_bicubic(image: np.ndarray, size: Size) -> torch.Tensor:
    """Pillow's bicubic resize of a uint8 image (H, W, 3), as float32 (3, height, width) in [0, 1].

    For models whose published preprocessing is Pillow's; rounded to uint8 as there.
    """
    resized = Image.fromarray(image).resize((size.width, size.height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).to(torch.float32) / 255


def to_crops(view: torch.Tensor, tiling: Tiling, geometry: Geometry) -> torch.Tensor:
    """Overlapping crops (rows * cols, channels, px, px) of a canvas (channels, H, W)."""
    size, step = geometry.crop_px, geometry.window_px
    crops = view.unfold(1, size, step).unfold(2, size, step)
    return crops.permute(1, 2, 0, 3, 4).reshape(tiling.num_crops, -1, size, size)


def to_patches(view: torch.Tensor, tiling: Tiling, geometry: Geometry) -> torch.Tensor:
    """Patches (rows * cols, P, patch_px * patch_px * channels), channel fastest, of the
    overlapping crops of a canvas (channels, H, W): copied once."""
    size, step = geometry.crop_px, geometry.window_px
    side, patch = geometry.patches_per_side, geometry.patch_px
    crops = view.unfold(1, size, step).unfold(2, size, step)
    cells = crops.unflatten(4, (side, patch)).unflatten(3, (side, patch))
    return cells.permute(1, 2, 3, 5, 4, 6, 0).reshape(
        tiling.num_crops, geometry.patches_per_crop, -1
    )


def normalised(
    images: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]
) -> torch.Tensor:
    """Images (..., 3, H, W) in [0, 1] less the mean and over the deviation of each channel."""
    return (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def normalised_bytes(patches: torch.Tensor) -> torch.Tensor:
    """float32 patches (..., D) as the model reads them, of uint8 ones, on their device."""
    mean, std = _byte_statistics(patches.device, patches.shape[-1] // 3)
    return (patches.to(torch.float32) - mean) / std


@cache
def _byte_statistics(device: torch.device, pixels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation (pixels * 3,) of bytes, sent once: each sending would wait for a GPU."""
    mean, std = (
        (255 * torch.tensor(v, device=device)).repeat(pixels) for v in (IMAGE_MEAN, IMAGE_STD)
    )
    return mean, std


def _kept(index: int, count: int, geometry: Geometry) -> slice:
    """Pooled rows (or columns) that crop `index` of `count` keeps: its margins go to neighbours."""
    left, right = geometry.left_margin // geometry.pool, geometry.right_margin // geometry.pool
    first = 0 if index == 0 else left
    last = geometry.tokens_per_side - (0 if index == count - 1 else right)
    return slice(first, last)


def _tiled_places(tiling: Tiling, geometry: Geometry, force_full_tokens: bool) -> np.ndarray:
    """Place of each pooled token of each crop in the tiled view, int (num_crops, side, side, 2).

    The last axis is (row, col) in the grid of all kept tokens; -1 where a token is dropped.
    """
    side = geometry.tokens_per_side
    step = side if force_full_tokens else geometry.window_patches // geometry.pool
    places = np.full((tiling.rows, tiling.cols, side, side, 2), -1)
    for row in range(tiling.rows):
        for col in range(tiling.cols):
            rows = slice(0, side) if force_full_tokens else _kept(row, tiling.rows, geometry)
            cols = slice(0, side) if force_full_tokens else _kept(col, tiling.cols, geometry)
            grid = np.stack([*np.mgrid[rows, cols]], axis=-1)
            places[row, col, rows, cols] = np.add(grid, (row * step, col * step))
    return places.reshape(tiling.num_crops, side, side, 2)


def _view_tokens(rows: int, cols: int, ids: ImageTokenIds) -> np.ndarray:
    """Start token, rows of patch tokens each closed by a column token, end token."""
    grid = np.full((rows, cols + 1), ids.patch)
    grid[:, -1] = ids.column
    return np.concatenate([[ids.start], grid.ravel(), [ids.end]])


def image_token_sequence(
    tiling: Tiling, geometry: Geometry, ids: ImageTokenIds, *, force_full_tokens: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Image tokens (S,) int64 and image_input_idx (C, T) int32 of a tiling, global crop first."""
    side = geometry.tokens_per_side
    places = _tiled_places(tiling, geometry, force_full_tokens)
    grid_rows, grid_cols = (places.reshape(-1, 2).max(axis=0) + 1).tolist()
    global_tokens = _view_tokens(side, side, ids)
    tiled_tokens = _view_tokens(grid_rows, grid_cols, ids)

    rows, cols = np.divmod(np.arange(side * side), side)
    global_idx = 1 + rows * (side + 1) + cols
    tiled_idx = len(global_tokens) + 1 + places[..., 0] * (grid_cols + 1) + places[..., 1]
    tiled_idx = np.where(places[..., 0] < 0, DROPPED, tiled_idx).reshape(tiling.num_crops, -1)
    return (
        np.concatenate([global_tokens, tiled_tokens]),
        np.concatenate([global_idx[None], tiled_idx]).astype(np.int32),
    )


def preprocess_image(
    image: np.ndarray,
    setting: CropSetting,
    geometry: Geometry,
    ids: ImageTokenIds,
    *,
    uint8: bool = False,
) -> ProcessedImage:
    """Crop, resize, normalise and lay out one uint8 (H, W, 3) image under a crop setting.

    The resize runs on float32 in [0, 1] (uint8 or Pillow resizing is off by up to 0.015). The
    global crop comes from the original image, letterboxed as released, or stretched where the
    setting stretches, so that no view is padded then. With `uint8`, the resize runs on bytes, and
    patches are left as they are, to be normalised where they are used: a quarter of the bytes, and
    off by that much. Raises DataError for images too flat to resize.
    """
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    if not uint8:
        pixels = pixels.to(torch.float32) / 255
    tiling = setting.tiling(Size(*image.shape[:2]), geometry)
    canvas, canvas_mask = _fit(pixels, tiling_to_resolution(tiling, geometry), setting.fit)
    global_fit = "stretch" if setting.fit == "stretch" else "letterbox"
    global_view, _ = _fit(pixels, Size(geometry.crop_px, geometry.crop_px), global_fit)

    if not uint8:
        canvas, global_view = (normalised(v, IMAGE_MEAN, IMAGE_STD) for v in (canvas, global_view))
    patches = torch.cat(
        [to_patches(global_view, ONE_CROP, geometry), to_patches(canvas, tiling, geometry)]
    )
    mask = to_patches(canvas_mask[None], tiling, geometry).mean(dim=-1)
    padding_mask = torch.cat([mask, torch.full((1, geometry.patches_per_crop), -1.0)])
    tokens, index = image_token_sequence(
        tiling, geometry, ids, force_full_tokens=setting.force_full_tokens
    )
    return ProcessedImage(
        patches, padding_mask, torch.from_numpy(tokens), torch.from_numpy(index), tiling
    )
