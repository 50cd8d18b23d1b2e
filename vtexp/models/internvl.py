"""InternVL, by transformers' own class: tiles side by side, then a thumbnail of the whole image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import InternVLForConditionalGeneration, PreTrainedModel

from vtexp.budget.geometry import Size, tiling_to_resolution
from vtexp.budget.knobs import CropSetting
from vtexp.models.molmo.preprocess import Pixels, normalised, resize_bicubic, shaped, to_crops
from vtexp.models.native import NativeImage, NativeRunner
from vtexp.models.processors import IMAGENET
from vtexp.models.runner import PreparedSample


class InternVLRunner(NativeRunner):
    """Every tile gives 256 tokens in a row: a prompt shows how many there are, not how they lie."""

    vision_tower = "model.vision_tower"
    connector = "model.multi_modal_projector"
    vision_inputs = ("pixel_values",)
    token_types = False

    @classmethod
    def model_class(cls, config: dict[str, Any]) -> type[PreTrainedModel]:
        """One class for all sizes."""
        return InternVLForConditionalGeneration

    def read_image(self, pixels: Pixels, setting: CropSetting) -> NativeImage:
        """pixel_values float32 (C, 3, 448, 448) where the pixels are, the thumbnail last."""
        geometry = self.geometry
        tiling = setting.tiling(Size(*pixels.shape[:2]), geometry)
        size = tiling_to_resolution(tiling, geometry)
        canvas = resize_bicubic(shaped(pixels, size, setting.fit), size)
        crops = to_crops(canvas, tiling, geometry)
        if geometry.global_crops(tiling.num_crops):
            whole = resize_bicubic(pixels, Size(geometry.crop_px, geometry.crop_px))
            crops = torch.cat([crops, whole[None]])
        tokens = torch.full((len(crops) * geometry.tokens_per_crop,), self.tokenizer.image_ids[0])
        return NativeImage(
            {"pixel_values": normalised(crops, *(self.normalisation or IMAGENET))},
            tokens,
            len(crops),
        )

    def vision_stages(
        self, prepared: PreparedSample
    ) -> tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]:
        """The tower without its class token; pixel shuffle and projector."""
        model, config = self.model.model, self.model.config
        layer = config.vision_feature_layer

        def encode(pixel_values: torch.Tensor) -> torch.Tensor:
            read = model.vision_tower(pixel_values=pixel_values, output_hidden_states=layer != -1)
            features = read.last_hidden_state if layer == -1 else read.hidden_states[layer]
            return features[:, 1:]

        def connect(features: torch.Tensor) -> torch.Tensor:
            crops, patches, width = features.shape
            side = int(patches**0.5)
            grid = model.pixel_shuffle(
                features.reshape(crops, side, side, width), scale_factor=config.downsample_ratio
            )
            return model.multi_modal_projector(grid.reshape(crops, -1, grid.shape[-1])).flatten(
                0, 1
            )

        return encode, connect
