"""InternVL, by transformers' own class: tiles side by side, then a thumbnail of the whole image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import InternVLForConditionalGeneration, PreTrainedModel

from vtexp.budget.geometry import Size, tiling_to_resolution
from vtexp.budget.knobs import CropSetting
from vtexp.models.molmo.preprocess import Pixels, normalised, resize_bicubic, shaped, to_crops
from vtexp.models.native import NativeImage, NativeRunner, VisionStages
from vtexp.models.native_reduction import in_heads, mean_attention
from vtexp.models.processors import IMAGENET
from vtexp.models.reduction.method import Grid
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
        values = normalised(crops, *(self.normalisation or IMAGENET))
        return NativeImage({"pixel_values": values}, tokens, len(crops))

    def vision_stages(self, prepared: PreparedSample) -> VisionStages:
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

    def grids(self, image: NativeImage) -> tuple[Grid, ...]:
        """The grid of each tile, and last that of the thumbnail."""
        side = self.geometry.tokens_per_side
        return (Grid(side, side),) * len(image.tensors["pixel_values"])

    @property
    def attention_block(self) -> Any:
        """The block that makes what is read."""
        layers = self.model.model.vision_tower.encoder.layer
        read = self.model.config.vision_feature_layer % (len(layers) + 1)  # 0: the embedding
        return layers[max(0, read - 1)]

    def token_scores(self, prepared: PreparedSample) -> Callable[[torch.Tensor], torch.Tensor]:
        """What the class token pays to each token's patches, of (C, 1 + P, width)."""
        block, pool = self.attention_block, self.geometry.pool
        side = self.geometry.tokens_per_side

        def scores(block_input: torch.Tensor) -> torch.Tensor:
            own, x = block.attention, block.layernorm_before(block_input)
            query = in_heads(own.q_norm(own.q_proj(x[:, :1])), own.head_dim)
            key = in_heads(own.k_norm(own.k_proj(x)), own.head_dim)
            of_patches = mean_attention(query, key, own.scale)[:, 1:].to(self.device)
            cells = of_patches.unflatten(1, (side, pool, side, pool))
            return cells.mean(dim=(2, 4)).flatten()

        return scores
