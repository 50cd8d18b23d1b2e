"""Knobs, geometry and token counts: arithmetic before any image is read; no torch.

The names below are the seed documents' functions in their argument forms, for Molmo v1.
"""

from vtexp.budget.seed_functions import (
    crops_to_tiling,
    image_size_to_tiling,
    resize_for_target_vision_tokens,
    select_tiling,
    tiling_to_resolution,
    tokens_to_crops,
    vision_tokens_to_image_resolution,
)

__all__ = [
    "crops_to_tiling",
    "image_size_to_tiling",
    "resize_for_target_vision_tokens",
    "select_tiling",
    "tiling_to_resolution",
    "tokens_to_crops",
    "vision_tokens_to_image_resolution",
]
