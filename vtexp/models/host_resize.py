"""An image brought to its place on a canvas, in the cells that its patches are made of.

Either by torch's antialiased bilinear resize, bit for bit, or by the same weights in another order
of sums: every pixel of the canvas weighs the few pixels of the image around it, down and across by
themselves. The weights of a row of patches, then of a column, are a small dense matrix, so that all
is products of matrices, several times as fast, and neither the image nor the canvas is ever held
as floats.

Shapes: an image is uint8 (H, W, 3). Cells are (patch columns, patch rows, patch_px, patch_px * 3),
channel fastest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.nn import functional as F

from vtexp.budget.geometry import Size
from vtexp.budget.placement import Placement

#: Most rows of patches that are resized at a time.
BAND_ROWS = 24


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread, for many small operations and for results that no thread count changes.

    With more, each operation would wait for all threads: hundreds of times as long beside a
    process that keeps a core busy.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def windows(
    side: int, scaled: int, pad: int, length: int, block: int
) -> tuple[np.ndarray, np.ndarray]:
    """What each block of canvas pixels reads of a side: from which pixel on, and with what weights.

    The side is scaled to `scaled` px, `pad` px into a canvas of `length` px. First pixels: int64
    (blocks,). Weights: float32 (blocks, block, taps), 0 for canvas pixels beyond the image. They
    are rounded where torch rounds and end where its end: a pixel at the very end would else be off
    by up to 5e-5 of its value.
    """
    scale = np.float32(side / scaled)
    reach = max(scale, np.float32(1))  # half the filter's width: wider where the image shrinks
    places = np.arange(length) - pad
    inside = (places >= 0) & (places < scaled)
    centres = scale * (places.clip(0, scaled - 1).astype(np.float32) + np.float32(0.5))
    first = np.floor(centres - reach + 0.5).clip(0)
    beyond = np.floor(centres + reach + 0.5).clip(None, side)
    taps = int((beyond[block - 1 :: block] - first[::block]).max())
    starts = first[::block].astype(int).clip(None, side - taps)

    # (taps, length): numpy is slow along short last axes.
    pixels = np.arange(taps, dtype=np.float32)[:, None] + np.repeat(starts, block).astype(
        np.float32
    )
    weights = pixels - centres
    weights += 0.5
    np.abs(weights, out=weights)
    weights *= -1 / reach
    weights += 1
    np.maximum(weights, 0, out=weights)
    weights *= (pixels >= first) & (pixels < beyond)
    weights *= inside / weights.sum(axis=0)
    return starts, weights.T.reshape(-1, block, taps)


def resized_bands(
    image: torch.Tensor, placement: Placement, target: Size, patch_px: int, scale: torch.Tensor
) -> Iterator[torch.Tensor]:
    """float32 cells of a canvas of `target` px, each channel times its `scale`; 0 beyond the image.

    They come in bands of patch rows from the top, one buffer holding each in turn: a whole canvas
    of floats would be fetched from memory, not from the cache. Weights are not negative and sum to
    1, so that nothing needs to be clipped.
    """
    (height, width), top, left = placement
    pixels = image.flatten(1)
    row_reads, row_weights = _slices(*windows(len(image), height, top, target.height, patch_px))
    col_reads, col_weights = _slices(*windows(image.shape[1], width, left, target.width, patch_px))
    matrices = _of_pixels(col_weights, scale).unbind()
    row_parts = list(zip(row_reads, row_weights.unbind(), strict=True))

    band_rows = math.ceil(len(row_parts) / math.ceil(len(row_parts) / BAND_ROWS))
    taps = torch.empty(row_weights.shape[2], pixels.shape[1])
    rows = torch.empty(band_rows * patch_px, pixels.shape[1])
    cells = torch.empty(len(matrices), len(rows), 3 * patch_px)
    patch_rows, patch_cols = rows.split(patch_px), cells.unbind()
    reads = [rows[:, 3 * read.start : 3 * read.stop] for read in col_reads]
    for first in range(0, len(row_parts), band_rows):
        band = row_parts[first : first + band_rows]
        for (read, weights), out in zip(band, patch_rows, strict=False):
            torch.mm(weights, taps.copy_(pixels[read]), out=out)
        for col_read, matrix, out in zip(reads, matrices, patch_cols, strict=True):
            torch.mm(col_read, matrix, out=out)
        yield cells.unflatten(1, (-1, patch_px))[:, : len(band)]


def _slices(starts: np.ndarray, weights: np.ndarray) -> tuple[list[slice], torch.Tensor]:
    """Which pixels each block of `windows` reads, and its weights."""
    taps = weights.shape[2]
    return [slice(start, start + taps) for start in starts.tolist()], torch.from_numpy(weights)


def _of_pixels(weights: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Matrices (blocks, taps * 3, block * 3) that apply weights to 3 interleaved channels.

    Two thirds of them are 0; to multiply with those costs less than to part the channels.
    """
    blocks, block, taps = weights.shape
    matrices = torch.zeros(blocks, block, 3, taps, 3)
    torch.mul(weights[..., None], scale, out=matrices.diagonal(dim1=2, dim2=4))
    return matrices.view(blocks, 3 * block, 3 * taps).mT


def resized_cells(
    image: torch.Tensor, placement: Placement, target: Size, patch_px: int
) -> torch.Tensor:
    """Cells of a canvas of `target` px, 0 beyond the image: torch's own resize.

    image: float32 in [0, 1]; what rounding takes beyond is clipped.
    """
    scaled, top, left = placement
    if tuple(image.shape[:2]) != tuple(scaled):
        batch = image[None].permute(0, 3, 1, 2)  # in this order, torch keeps channels last
        resized = F.interpolate(batch, tuple(scaled), mode="bilinear", antialias=True)
        image = resized[0].permute(1, 2, 0).clamp_(0, 1)
    canvas = torch.zeros((*target, 3))
    to_rows, from_rows = _overlap(scaled.height, top, target.height)
    to_cols, from_cols = _overlap(scaled.width, left, target.width)
    canvas[to_rows, to_cols] = image[from_rows, from_cols]
    cells = canvas.view(-1, patch_px, target.width // patch_px, patch_px * 3)
    return cells.permute(2, 0, 1, 3)


def _overlap(side: int, pad: int, length: int) -> tuple[slice, slice]:
    """Where a side lies on a canvas of `length` px that it begins `pad` px into, and what of it."""
    first, last = max(0, pad), min(length, pad + side)
    return slice(first, last), slice(first - pad, last - pad)
