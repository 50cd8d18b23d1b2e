"""Where an image lands on the canvas of its crops: stretched, letterboxed or cut."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vtexp.budget.geometry import Size
from vtexp.errors import DataError


class Placement(NamedTuple):
    """Where an image lands inside a padded target: its scaled size and its top-left corner."""

    scaled: Size
    top_pad: int
    left_pad: int


def letterbox(size: Size, target: Size) -> Placement:
    """Aspect-preserving size within `target` and the centring pads (floor on top and left).

    Scale and product in float32, truncated, as the released preprocessing does: about one in
    eight awkward sizes comes out one pixel different in float64. A scaled side can be 0 for very
    flat images; such an image cannot be resized.
    """
    height, width = np.float32(size.height), np.float32(size.width)
    scale = min(np.float32(target.height) / height, np.float32(target.width) / width)
    scaled = Size(int(height * scale), int(width * scale))
    return Placement(
        scaled, (target.height - scaled.height) // 2, (target.width - scaled.width) // 2
    )


def placement_of(size: Size, target: Size, fit: str) -> Placement:
    """Where an image lands on a canvas of `target` px.

    stretch: both sides scaled by themselves. letterbox: aspect kept, zero padding. crop: scaled
    to cover the canvas, its centre kept; pads are negative then.
    """
    if fit == "stretch":
        return Placement(target, 0, 0)
    if fit == "letterbox":
        placement = letterbox(size, target)
        if 0 in placement.scaled:
            raise DataError(
                f"an image of {size} px is too flat to fit {target}: one side would shrink to 0"
            )
        return placement
    scale = max(target.height / size.height, target.width / size.width)
    cover = Size(
        max(target.height, round(size.height * scale)), max(target.width, round(size.width * scale))
    )
    return Placement(
        cover, -((cover.height - target.height) // 2), -((cover.width - target.width) // 2)
    )
