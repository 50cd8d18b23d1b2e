"""Images to model inputs: crops, padding mask, image tokens and where each pooled token goes.

Matches the released Molmo v1 preprocessing (crop mode "overlap-and-resize-c2", OpenAI CLIP
normalisation) and extends it with exact crops, fixed image sizes and full tokens.

An image is uint8 (H, W, 3): an array, preprocessed on the host, or a tensor, preprocessed on the
device that it lies on (`vtexp.models.device_resize`).

Shapes: C crops with the global crop first, P patches per crop (576), T pooled tokens per crop
(144), D values per patch (14 x 14 x 3 = 588, channel fastest).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from vtexp.budget.geometry import Geometry, Size, Tiling, tiling_to_resolution
from vtexp.budget.knobs import CropSetting
from vtexp.budget.placement import Placement, placement_of
from vtexp.models.device_resize import (
    Parcel,
    Window,
    antialiased,
    antialiased_windows,
    constants,
    pillow_bicubic,
)
from vtexp.models.host_resize import one_thread, resized_bands, resized_cells
from vtexp.models.processors import CLIP

#: As preprocessor_config.json of the published checkpoints says.
IMAGE_MEAN, IMAGE_STD = CLIP
_MEAN, _STD = torch.tensor(IMAGE_MEAN), torch.tensor(IMAGE_STD)
#: A byte times the first plus the second is the normalised value of its channel.
_SCALE = 1 / (255 * _STD)
_SHIFT = -_MEAN / _STD
#: The same in the type in which a device sums.
_SCALE_AND_SHIFT = ((1 / (255 * _STD.double())).numpy(), (-_MEAN.double() / _STD.double()).numpy())

#: A decoded image, uint8 (H, W, 3): on the host, or on a device.
Pixels = np.ndarray | torch.Tensor

#: How an image is resized on the host. exact: the released preprocessing, bit for bit. products:
#: the same but for the order of sums, so that patches are off by up to 1.5e-6, a thousandth of what
#: 16 bits resolve.
Resize = Literal["exact", "products"]

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

    patches: float32 (C, P, D), normalised; padding_mask: float32 (C, P), share of image pixels in
    each patch, with the row of -1 for the global crop **last** as the released checkpoints read it;
    image_tokens: int64 (S,); image_input_idx: int32 (C, T), position of each pooled token in
    image_tokens, negative where it is dropped; tiling: of the high-resolution crops. The first two
    are on the image's device, the others on the host.
    """

    patches: torch.Tensor
    padding_mask: torch.Tensor
    image_tokens: torch.Tensor
    image_input_idx: torch.Tensor
    tiling: Tiling


class View(NamedTuple):
    """Where an image lies on a canvas of `target` px, and the crops that the canvas is cut into."""

    placement: Placement
    target: Size
    tiling: Tiling


def _image_shares(placement: Placement, target: Size, geometry: Geometry) -> torch.Tensor:
    """float32 (patch rows, patch columns): share of image pixels in each patch of a canvas."""
    (height, width), top, left = placement
    px = geometry.patch_px
    counts = []
    for length, scaled, pad in ((target.height, height, top), (target.width, width, left)):
        starts = np.arange(0, length, px)
        inside = np.minimum(starts + px, pad + scaled) - np.maximum(starts, pad)
        counts.append(torch.from_numpy(inside.clip(0)))
    return torch.outer(*counts) / px**2


def _lay_out(
    bands: Iterable[torch.Tensor],
    crops: torch.Tensor,
    geometry: Geometry,
    shift: torch.Tensor | int = 0,
) -> None:
    """Write a canvas, plus `shift`, into its overlapping crops (rows, cols, side, side, *values).

    The canvas comes in bands of cells (patch columns, patch rows, *values), from the top.
    """
    side, step = geometry.patches_per_side, geometry.window_patches
    band_top = 0
    for cells in bands:
        of_cols = cells.unfold(0, side, step).movedim(-1, 2)
        for number, row_of_crops in enumerate(crops):
            top = number * step - band_top
            first, last = max(0, top), min(cells.shape[1], top + side)
            if first < last:
                out = row_of_crops[:, first - top : last - top]
                torch.add(of_cols[:, first:last], shift, out=out)
        band_top += cells.shape[1]


def _write_view(
    pixels: torch.Tensor,
    placement: Placement,
    target: Size,
    crops: torch.Tensor,
    geometry: Geometry,
) -> None:
    """Bring an image to its place on a canvas of `target` px, and write the canvas's crops.

    pixels: float32 in [0, 1], resized by torch, or uint8, resized by products; crops: float32
    (rows, cols, side, side, px, px * 3), normalised.
    """
    px = geometry.patch_px
    if pixels.dtype == torch.uint8:
        bands = resized_bands(pixels, placement, target, px, _SCALE)
        _lay_out(bands, crops, geometry, _SHIFT.repeat(px, px))
        return
    cells = resized_cells(pixels, placement, target, px)
    cells.sub_(_MEAN.repeat(px)).div_(_STD.repeat(px))
    _lay_out([cells], crops, geometry)


def shaped(image: Pixels, target: Size, fit: str) -> Pixels:
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
    if isinstance(image, torch.Tensor):
        return F.pad(image, (0, 0, left, cols - width - left, top, rows - height - top))
    padded = np.zeros((rows, cols, 3), np.uint8)
    padded[top : top + height, left : left + width] = image
    return padded


def resize_bicubic(image: Pixels, size: Size) -> torch.Tensor:
    """Pillow's bicubic resize of a uint8 image (H, W, 3), as float32 (3, height, width) in [0, 1].

    For models whose published preprocessing is Pillow's; rounded to uint8 as there, and equal to it
    on a device too.
    """
    if isinstance(image, torch.Tensor):
        resized = pillow_bicubic(image, size)
    else:
        pillow = Image.fromarray(image).resize((size.width, size.height), Image.Resampling.BICUBIC)
        resized = torch.from_numpy(np.array(pillow))
    return resized.permute(2, 0, 1).to(torch.float32) / constants((255.0,), resized.device)


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
    of_channels = (constants(values, images.device)[:, None, None] for values in (mean, std))
    return (images - next(of_channels)) / next(of_channels)


def _places(count: int, geometry: Geometry, force_full_tokens: bool) -> np.ndarray:
    """Row (or column) of the tiled view of each pooled row of `count` crops, int (count, side).

    -1 where it is dropped: the margins between crops go to their neighbours.
    """
    side, crops = np.arange(geometry.tokens_per_side), np.arange(count)[:, None]
    if force_full_tokens:
        return crops * len(side) + side
    dropped = (crops > 0) & (side < geometry.left_margin // geometry.pool)
    dropped |= (crops < count - 1) & (side >= len(side) - geometry.right_margin // geometry.pool)
    return np.where(dropped, -1, crops * (geometry.window_patches // geometry.pool) + side)


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
    tiled_rows, tiled_cols = (_places(n, geometry, force_full_tokens) for n in tiling)
    grid_rows, grid_cols = int(tiled_rows.max()) + 1, int(tiled_cols.max()) + 1
    global_tokens = _view_tokens(side, side, ids)
    tiled_tokens = _view_tokens(grid_rows, grid_cols, ids)

    rows, cols = np.divmod(np.arange(side * side), side)
    global_idx = 1 + rows * (side + 1) + cols
    rows, cols = tiled_rows[:, None, :, None], tiled_cols[:, None]
    tiled_idx = len(global_tokens) + 1 + rows * (grid_cols + 1) + cols
    tiled_idx = np.where((rows < 0) | (cols < 0), DROPPED, tiled_idx).reshape(tiling.num_crops, -1)
    return (
        np.concatenate([global_tokens, tiled_tokens]),
        np.concatenate([global_idx[None], tiled_idx]).astype(np.int32),
    )


@lru_cache(maxsize=256)
def _tokens(
    tiling: Tiling, geometry: Geometry, ids: ImageTokenIds, force_full_tokens: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """`image_token_sequence` as tensors, which many images share: to be cloned, not changed."""
    found = image_token_sequence(tiling, geometry, ids, force_full_tokens=force_full_tokens)
    return torch.from_numpy(found[0]), torch.from_numpy(found[1])


def _views(size: Size, setting: CropSetting, geometry: Geometry) -> tuple[View, View]:
    """The global crop and the canvas of an image. Raises DataError for images too flat to resize.

    The global crop comes from the original image, letterboxed as released, or stretched where the
    setting stretches, so that no view is padded then.
    """
    tiling = setting.tiling(size, geometry)
    canvas = tiling_to_resolution(tiling, geometry)
    placement = placement_of(size, canvas, setting.fit)
    whole = Size(geometry.crop_px, geometry.crop_px)
    whole_fit = "stretch" if setting.fit == "stretch" else "letterbox"
    whole_placement = placement_of(size, whole, whole_fit)
    return View(whole_placement, whole, ONE_CROP), View(placement, canvas, tiling)


def _padding_mask(view: View, geometry: Geometry) -> torch.Tensor:
    """float32 (C, P): share of image pixels in each patch of a view's crops, then a row of -1."""
    side, step = geometry.patches_per_side, geometry.window_patches
    shares = _image_shares(view.placement, view.target, geometry)
    mask = shares.unfold(0, side, step).unfold(1, side, step).flatten(2).flatten(0, 1)
    return torch.cat([mask, torch.full((1, side * side), -1.0)])


@one_thread()
def _host_patches(
    image: np.ndarray, views: tuple[View, View], geometry: Geometry, resize: Resize
) -> torch.Tensor:
    """Patches (C, P, D) of an image's views."""
    pixels = torch.from_numpy(image)
    if resize == "exact":
        pixels = pixels.to(torch.float32).div_(255)
    whole, canvas = views
    side, px = geometry.patches_per_side, geometry.patch_px
    patches = torch.empty(1 + canvas.tiling.num_crops, side, side, px, px * 3)
    _write_view(pixels, whole.placement, whole.target, patches[None, :1], geometry)
    if canvas == whole:
        patches[1] = patches[0]
    else:
        crops = patches[1:].unflatten(0, canvas.tiling)
        _write_view(pixels, canvas.placement, canvas.target, crops, geometry)
    return patches.flatten(3).flatten(1, 2)


def _parcel(
    size: Size, views: tuple[View, View], geometry: Geometry, device: torch.device
) -> Parcel:
    """All that the device needs to know of an image: scale and shift of the channels, the padding
    mask, then what each view's rows and columns read.

    Made for each image, not kept by size: a pass is timed as that of an image not yet seen.
    """
    arrays = [*_SCALE_AND_SHIFT, _padding_mask(views[1], geometry).numpy()]
    for placement, target, _ in dict.fromkeys(views):
        for window in antialiased_windows(size, placement, target, geometry.patch_px):
            arrays += window
    return Parcel.of(arrays, device)


def _device_patches(
    image: torch.Tensor, views: tuple[View, View], geometry: Geometry
) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches (C, P, D) of an image's views and their padding mask (C, P), on its device."""
    parcel = _parcel(Size(*image.shape[:2]), views, geometry, image.device)
    scale, shift, padding_mask, *windows = parcel.sent(image.device)
    scale, shift = scale[:, None, None], shift[:, None, None]
    patches = []
    for view in dict.fromkeys(views):
        rows, columns, windows = Window(*windows[:2]), Window(*windows[2:4]), windows[4:]
        canvas = torch.addcmul(shift, antialiased(image, rows, columns), scale)
        patches.append(to_patches(canvas.to(torch.float32), view.tiling, geometry))
    return torch.cat(patches * (3 - len(patches))), padding_mask


def preprocess_image(
    image: Pixels,
    setting: CropSetting,
    geometry: Geometry,
    ids: ImageTokenIds,
    *,
    resize: Resize = "exact",
) -> ProcessedImage:
    """Crop, resize, normalise and lay out one uint8 (H, W, 3) image under a crop setting.

    On a device there is one way of resizing, off by at most 2e-6 from `exact`. Raises DataError for
    images too flat to resize.
    """
    views = _views(Size(*image.shape[:2]), setting, geometry)
    if isinstance(image, torch.Tensor):
        patches, padding_mask = _device_patches(image, views, geometry)
    else:
        patches = _host_patches(image, views, geometry, resize)
        padding_mask = _padding_mask(views[1], geometry)
    tokens, index = _tokens(views[1].tiling, geometry, ids, setting.force_full_tokens)
    return ProcessedImage(patches, padding_mask, tokens.clone(), index.clone(), views[1].tiling)
