"""The resize into cells against torch's own, which the released preprocessing uses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.helpers.closeness import OF_PIXELS, assert_close_to_spread
from vtexp.budget.geometry import Size
from vtexp.budget.placement import Placement
from vtexp.models.host_resize import one_thread, resized_bands, resized_cells

PATCH_PX = 14
SCALE = torch.tensor([1 / 255, 2 / 255, 3 / 255])
WHITE = 3.0  # in the last channel: an image may be too small to spread
sides = st.integers(1, 400)


def noise(height: int, width: int) -> torch.Tensor:
    """An image with nothing smooth in it."""
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def pasted(resized: torch.Tensor, placement: Placement, target: Size) -> torch.Tensor:
    """A canvas (H, W, 3) of zeros with a resized image (h, w, 3) at its place, cut where beyond."""
    (height, width), top, left = placement
    room = 100  # around the canvas, more than any pad
    wide = torch.zeros((room + 600, room + 600, 3), dtype=resized.dtype)
    wide[room + top : room + top + height, room + left : room + left + width] = resized
    return wide[room : room + target.height, room : room + target.width]


def interpolated(image: torch.Tensor, size: Size) -> torch.Tensor:
    """Torch's antialiased bilinear resize (h, w, 3) of a float32 image."""
    batch = image.permute(2, 0, 1)[None].contiguous()
    resized = F.interpolate(batch, tuple(size), mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0)


def canvas_of(cells: torch.Tensor) -> torch.Tensor:
    """The canvas (H, W, 3) that cells were cut from."""
    cols, rows, px, _ = cells.shape
    return cells.permute(1, 2, 0, 3).reshape(rows * px, cols * px, 3)


@one_thread()
def product_canvas(image: torch.Tensor, placement: Placement, target: Size) -> torch.Tensor:
    """The canvas (H, W, 3) that bands are cut from; their buffer is used again and again."""
    bands = resized_bands(image, placement, target, PATCH_PX, SCALE)
    return torch.cat([canvas_of(band) for band in bands])


# Scaled to at least 2 px of width: for 1, torch 2.13's own does not resize the height.
@given(sides, sides, sides, st.integers(2, 400), st.integers(-60, 60), st.integers(-60, 60))
@settings(max_examples=60)
def test_bands_are_torchs_resize(
    height: int, width: int, scaled_height: int, scaled_width: int, top: int, left: int
) -> None:
    image, target = noise(height, width), Size(11 * PATCH_PX, 6 * PATCH_PX)
    placement = Placement(Size(scaled_height, scaled_width), top, left)
    canvas = product_canvas(image, placement, target)
    resized = interpolated(image.to(torch.float32) / 255, placement.scaled)
    expected = pasted(resized, placement, target) * (255 * SCALE)
    assert_close_to_spread(canvas, expected, OF_PIXELS, spread=WHITE)


def test_bands_of_large_images_are_torchs_resize() -> None:
    image, target = noise(3000, 1100), Size(1008, 784)
    canvas = product_canvas(image, Placement(Size(1008, 369), 0, 207), target)
    resized = interpolated(image.to(torch.float32) / 255, Size(1008, 369))
    expected = torch.zeros((*target, 3))
    expected[:, 207:576] = resized * (255 * SCALE)
    assert_close_to_spread(canvas, expected, OF_PIXELS, spread=WHITE)


@pytest.mark.parametrize(
    "placement",
    [
        Placement(Size(56, 84), 0, 0),
        Placement(Size(40, 84), 8, 0),
        Placement(Size(56, 50), 0, 17),
        Placement(Size(100, 84), -22, 0),
        Placement(Size(90, 70), 0, 0),
    ],
)
def test_resized_cells_are_torchs_resize(placement: Placement) -> None:
    image, target = noise(90, 70).to(torch.float32) / 255, Size(4 * PATCH_PX, 6 * PATCH_PX)
    cells = resized_cells(image, placement, target, PATCH_PX)
    expected = pasted(interpolated(image, placement.scaled).clamp(0, 1), placement, target)
    assert torch.equal(canvas_of(cells), expected)
