"""Molmo2, by transformers' own class with this project's preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import Molmo2ForConditionalGeneration, PreTrainedModel

from vtexp.budget.geometry import Tiling
from vtexp.budget.knobs import CropSetting
from vtexp.models.molmo2.preprocess import Molmo2TokenIds, preprocess_molmo2
from vtexp.models.native import NativeImage, NativeRunner
from vtexp.models.probe import tiling_of_views


class Molmo2Runner(NativeRunner):
    """All image tokens of a prompt attend to each other: they must be told from text."""

    vision_tower = "model.vision_tower"
    connector = "model.multi_modal_projector"
    vision_inputs = ("pixel_values", "image_token_pooling", "image_grids")
    token_types = True

    @classmethod
    def model_class(cls, config: dict[str, Any]) -> type[PreTrainedModel]:
        """One class for all sizes."""
        return Molmo2ForConditionalGeneration

    def read_image(self, pixels: np.ndarray, setting: CropSetting) -> NativeImage:
        """pixel_values (C, P, 588), image_token_pooling (T, 4) and image_grids (1, 4)."""
        start, end, patch, column, global_start = self.tokenizer.image_ids
        ids = Molmo2TokenIds(start, global_start, end, patch, column)
        image = preprocess_molmo2(pixels, setting, ids, self.geometry)
        tensors = {
            "pixel_values": image.patches,
            "image_token_pooling": image.pooled_patches,
            "image_grids": torch.tensor([image.grid]),
        }
        return NativeImage(tensors, image.image_tokens)

    def join(self, images: Sequence[NativeImage]) -> dict[str, torch.Tensor]:
        """Patches are numbered through all images of the batch."""
        tensors, first = super().join(images), 0
        pooling = []
        for image in images:
            own = image.tensors["image_token_pooling"]
            pooling.append(torch.where(own < 0, own, own + first))
            first += image.tensors["pixel_values"].shape[:2].numel()
        return tensors | {"image_token_pooling": torch.cat(pooling)}

    def token_sources(self, connector: dict[str, Any], output: torch.Tensor) -> torch.Tensor:
        """Crops (T, 4) of the patches that each token pools."""
        patches = connector["pooled_patches_idx"]
        return patches.div(self.geometry.patches_per_crop, rounding_mode="floor")

    def tilings(
        self, ids: list[list[int]], crops: list[int], tower: dict[str, Any]
    ) -> list[Tiling | None]:
        """From the column tokens of each prompt's tiled view."""
        image_ids, geometry = self.tokenizer.image_ids, self.geometry
        return [
            tiling_of_views(row, read, image_ids, geometry)
            for row, read in zip(ids, crops, strict=True)
        ]
