"""Resizing on the device that an image lies on: a GPU does in fractions of a ms what takes the host
tens of them.

An image is a uint8 tensor (H, W, 3) on any device. The host computes which pixels each row or
column of the result reads, and with what weights; one copy sends them. On the device every step is
one operation on the whole image, and nothing waits for the device.

All sums are in float64, in which Pillow's whole numbers are exact and torch's float32 steps can be
rounded one by one. Neither TF32 nor autocast touches float64. Shapes: L pixels along a side become
N, in B blocks of as many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import PIL
import torch

from vtexp.budget.geometry import Size
from vtexp.budget.placement import Placement
from vtexp.models.host_resize import windows

#: Most float64 values that are read at a time (64 MB): large images are resized in parts.
MOST_VALUES = 2**23
#: Pixels of a block where the canvas has no patches to follow.
BLOCK = 14
#: Pillow's coefficients are whole numbers of 2 ** -22 (Resample.c, PRECISION_BITS).
PILLOW_BITS = 22
#: How far Pillow's bicubic filter reaches, in pixels of the smaller of both images.
BICUBIC_REACH = 2.0


# --- host: what each block of the result reads ----------------------------------------------------


class Window(NamedTuple):
    """What each block of a resized side reads.

    reads: int64 (B, taps), pixels of the side; weights: float32 or float64 (B, N / B, taps). Arrays
    on the host, tensors on a device.
    """

    reads: Any
    weights: Any


@dataclass(frozen=True, slots=True)
class Parcel:
    """Host arrays in one buffer, so that one copy sends them all.

    places: dtype, shape, and first and last byte of each.
    """

    buffer: torch.Tensor
    places: tuple[tuple[torch.dtype, tuple[int, ...], int, int], ...]

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray], device: torch.device) -> Parcel:
        """Pack arrays for a device, in memory that a GPU reads itself."""
        # Each starts at a multiple of 8 bytes, the size of the largest items.
        ends = list(accumulate((array.nbytes + -array.nbytes % 8 for array in arrays), initial=0))
        buffer = torch.empty(ends[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
        packed, places = buffer.numpy(), []
        for array, first in zip(arrays, ends, strict=False):
            last = first + array.nbytes
            packed[first:last].view(array.dtype).reshape(array.shape)[...] = array
            places.append((torch.from_numpy(array).dtype, array.shape, first, last))
        return cls(buffer, tuple(places))

    def sent(self, device: torch.device) -> list[torch.Tensor]:
        """The arrays as tensors on a device. The host does not wait for them."""
        sent = self.buffer.to(device, non_blocking=True, copy=True)
        return [
            sent[first:last].view(dtype).view(shape) for dtype, shape, first, last in self.places
        ]


def antialiased_windows(
    size: Size, placement: Placement, target: Size, block: int
) -> tuple[Window, Window]:
    """Rows and columns of torch's antialiased bilinear resize to a place on a canvas."""
    (height, width), top, left = placement
    sides = (
        (size.height, height, top, target.height),
        (size.width, width, left, target.width),
    )
    found = []
    for side in sides:
        starts, weights = windows(*side, block)
        found.append(Window(starts[:, None] + np.arange(weights.shape[2]), weights))
    return found[0], found[1]


def pillow_window(side: int, length: int) -> Window:
    """Pillow's bicubic resize of `side` px to `length` px, in blocks that may end beyond `length`.

    `precompute_coeffs` and `normalize_coeffs_8bpc` of Pillow's Resample.c, the same operations in
    the same order, float64.
    """
    scale = side / length
    filter_scale = max(scale, 1.0)
    reach = BICUBIC_REACH * filter_scale
    places = np.arange(-(-length // BLOCK) * BLOCK).clip(None, length - 1)
    centres = (places + 0.5) * scale
    first = (centres - reach + 0.5).astype(int).clip(0)
    beyond = (centres + reach + 0.5).astype(int).clip(None, side)
    starts = np.minimum.reduceat(first, np.arange(0, len(places), BLOCK))
    taps = int((np.maximum.reduceat(beyond, np.arange(0, len(places), BLOCK)) - starts).max())
    starts = starts.clip(None, side - taps)

    pixels = np.arange(taps)[:, None] + np.repeat(starts, BLOCK)
    weights = _bicubic((pixels - centres + 0.5) * (1 / filter_scale))
    weights *= (pixels >= first) & (pixels < beyond)
    weights /= np.add.reduce(weights, axis=0)  # one after the other, as there
    weights *= 1 << PILLOW_BITS
    weights = np.trunc(weights + np.copysign(0.5, weights)) / (1 << PILLOW_BITS)
    return Window(starts[:, None] + np.arange(taps), weights.T.reshape(-1, BLOCK, taps))


def _bicubic(distances: np.ndarray) -> np.ndarray:
    """Pillow's bicubic filter (a = -0.5) of float64 distances, in its order of operations."""
    x, a = np.abs(distances), -0.5
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def bilinear_neighbours(side: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Torch's bilinear resize without antialiasing: pixels int64 (2, N), weights float32 (2, N).

    `compute_source_index_and_lambda` of ATen's UpSampleKernel.cpp as compiled with FMA: the place
    of a pixel is rounded to float32 once.
    """
    places = np.arange(length)
    if side == length:
        return np.stack([places] * 2), np.array([[1], [0]], np.float32).repeat(side, axis=1)
    scale = np.float64(np.float32(side) / np.float32(length))
    sources = (scale * (places + 0.5) - 0.5).astype(np.float32).clip(0)
    first = sources.astype(int).clip(None, side - 1)
    second_weight = (sources - first.astype(np.float32)).clip(0, 1)
    reads = np.stack([first, (first + 1).clip(None, side - 1)])
    weights = np.stack([1 - second_weight, second_weight])
    return reads, weights


# --- device ---------------------------------------------------------------------------------------


def weighted_rows(image: torch.Tensor, window: Window) -> torch.Tensor:
    """float64 (N, *) rows of an image (L, *), each the weighted sum of those that it reads."""
    part = max(1, MOST_VALUES // (window.reads.shape[1] * image[0].numel()))
    sums = []
    weights_in_parts = window.weights.to(torch.float64).split(part)
    for reads, weights in zip(window.reads.split(part), weights_in_parts, strict=True):
        rows = image.index_select(0, reads.flatten()).to(torch.float64)
        sums.append(torch.bmm(weights, rows.view(*reads.shape, -1)))
    resized = sums[0] if len(sums) == 1 else torch.cat(sums)
    return resized.view(-1, *image.shape[1:])


def antialiased(image: torch.Tensor, rows: Window, columns: Window) -> torch.Tensor:
    """float64 (3, H, W) canvas of an image, values up to 255, 0 beyond the image."""
    return weighted_rows(weighted_rows(image, rows).transpose(0, 1), columns).permute(2, 1, 0)


def pillow_bicubic(image: torch.Tensor, size: Size) -> torch.Tensor:
    """uint8 (height, width, 3): Pillow's bicubic resize, bit for bit.

    Each of its two passes rounds, and is left out where its side keeps its length.
    """
    before = Size(*image.shape[:2])
    changed = [side != length for side, length in zip(before, size, strict=True)]
    if not any(changed):
        return image
    tensors = iter(_pillow_parcel(before, size, image.device).sent(image.device))
    rows, columns = (Window(next(tensors), next(tensors)) if side else None for side in changed)
    if rows is not None and rows_first(before, size):
        image, rows = _rounded(weighted_rows(image, rows)[: size.height]), None
    if columns is not None:
        image = _rounded(weighted_rows(image.transpose(0, 1), columns)[: size.width]).transpose(
            0, 1
        )
    if rows is not None:
        image = _rounded(weighted_rows(image, rows)[: size.height])
    return image


def rows_first(size: Size, target: Size) -> bool:
    """Whether the installed Pillow resizes rows before columns.

    Pillow 13 does where the height loses over twice as many pixels as the width (its pull request
    9549; found by experiment), Pillow 12 where a height above 100 widths shrinks (9524).
    """
    lost_height, lost_width = (side - length for side, length in zip(size, target, strict=True))
    if int(PIL.__version__.split(".")[0]) >= 13:
        return lost_height > max(0, 2 * lost_width)
    return lost_height > 0 and size.height > 100 * size.width


def _rounded(sums: torch.Tensor) -> torch.Tensor:
    """uint8 of weighted sums, rounded half up and clipped."""
    return sums.add_(0.5).clamp_(0, 255).to(torch.uint8)


def _pillow_parcel(size: Size, target: Size, device: torch.device) -> Parcel:
    sides = zip(size, target, strict=True)
    found = [pillow_window(side, length) for side, length in sides if side != length]
    return Parcel.of([array for window in found for array in window], device)


def bilinear(image: torch.Tensor, size: Size) -> torch.Tensor:
    """float32 (3, height, width), whole numbers: torch's bilinear resize without antialiasing,
    rounded.

    Each step is that of torch's kernel for channels last on one thread of an x86 CPU with FMA: four
    products, each but the second added by an FMA. A product of an FMA is exact in float64, so that
    rounding the sum to float32 rounds once.
    """
    parcel = _bilinear_parcel(Size(*image.shape[:2]), size, image.device)
    rows, row_weights, columns, column_weights = parcel.sent(image.device)
    pixels = image[rows[:, None, :, None], columns[:, None, :]]  # (2, 2, height, width, 3)
    weights = row_weights[:, None, :, None] * column_weights[:, None, :]
    exact = weights.to(torch.float64)[..., None]
    total = weights[0, 1, ..., None] * pixels[0, 1]
    for row, column in ((0, 0), (1, 0), (1, 1)):
        total = (exact[row, column] * pixels[row, column]).add_(total).to(torch.float32)
    return total.round_().permute(2, 0, 1)


def _bilinear_parcel(size: Size, target: Size, device: torch.device) -> Parcel:
    sides = zip(size, target, strict=True)
    found = [bilinear_neighbours(side, length) for side, length in sides]
    return Parcel.of([array for pair in found for array in pair], device)


@lru_cache(maxsize=64)
def constants(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """float32 values on a device, sent once: each sending would wait for a GPU.

    By a tensor of its own a GPU divides as the host does; by a number it multiplies with 1 / it.
    """
    return torch.tensor(values, device=device)
