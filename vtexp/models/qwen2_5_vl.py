"""Qwen2.5-VL, by transformers' own class: one image of any size, 28 x 28 px a vision token.

Where other families count crops, this one counts those cells: each is encoded and gives one token.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, Qwen2_5_VLForConditionalGeneration

from vtexp.budget.geometry import Size, Tiling, tiling_to_resolution
from vtexp.budget.knobs import CropSetting
from vtexp.models.molmo.preprocess import (
    IMAGE_MEAN,
    IMAGE_STD,
    normalised,
    resize_bicubic,
    shaped,
    to_crops,
)
from vtexp.models.native import NativeImage, NativeRunner

#: Frames behind a patch: an image is read as a film of two equal ones.
FRAMES = 2


class Qwen2_5_VLRunner(NativeRunner):
    """Positions of image tokens are those of a grid, which the model is told in patches."""

    vision_tower = "model.visual"
    connector = "model.visual.merger"
    vision_inputs = ("pixel_values", "image_grid_thw")
    token_types = True

    @classmethod
    def model_class(cls, config: dict[str, Any]) -> type[PreTrainedModel]:
        """One class for all sizes."""
        return Qwen2_5_VLForConditionalGeneration

    def read_image(self, pixels: np.ndarray, setting: CropSetting) -> NativeImage:
        """pixel_values float32 (P, 3 * 2 * 14 * 14), cell by cell; image_grid_thw (1, 3)."""
        geometry = self.geometry
        tiling = setting.tiling(Size(*pixels.shape[:2]), geometry)
        size = tiling_to_resolution(tiling, geometry)
        canvas = resize_bicubic(shaped(pixels, size, setting.fit), size)
        cells = to_crops(normalised(canvas, IMAGE_MEAN, IMAGE_STD), tiling, geometry)
        pool, patch = geometry.pool, geometry.patch_px
        patches = cells.view(-1, 3, pool, patch, pool, patch).permute(0, 2, 4, 1, 3, 5)
        patches = patches.flatten(0, 2).unsqueeze(2).expand(-1, -1, FRAMES, -1, -1)
        grid = torch.tensor([[1, tiling.rows * pool, tiling.cols * pool]])
        tokens = torch.full((tiling.num_crops,), self.tokenizer.image_ids[0])
        return NativeImage({"pixel_values": patches.flatten(1), "image_grid_thw": grid}, tokens)

    def crops_read(self, tower: dict[str, Any]) -> int:
        """Cells of 2 x 2 patches."""
        return len(tower["hidden_states"]) // self.geometry.patches_per_crop

    def tilings(
        self, ids: list[list[int]], crops: list[int], tower: dict[str, Any]
    ) -> list[Tiling | None]:
        """From the grids of patches that the vision tower was told."""
        pool = self.geometry.pool
        return [Tiling(rows // pool, cols // pool) for _, rows, cols in tower["grid_thw"].tolist()]
