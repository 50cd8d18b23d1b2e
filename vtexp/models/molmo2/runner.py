"""Molmo2, by transformers' own class with this project's preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import Molmo2ForConditionalGeneration, PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask

from vtexp.budget.geometry import Tiling
from vtexp.budget.knobs import CropSetting
from vtexp.models.molmo.preprocess import Pixels
from vtexp.models.molmo2.preprocess import Molmo2TokenIds, preprocess_molmo2
from vtexp.models.native import NativeImage, NativeRunner, VisionStages
from vtexp.models.native_reduction import in_heads, mean_attention
from vtexp.models.probe import tiling_of_views
from vtexp.models.processors import HALF
from vtexp.models.reduction.method import Grid
from vtexp.models.runner import PreparedSample


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

    def read_image(self, pixels: Pixels, setting: CropSetting) -> NativeImage:
        """pixel_values (C, P, 588), image_token_pooling (T, 4) and image_grids (1, 4)."""
        start, end, patch, column, global_start = self.tokenizer.image_ids
        ids = Molmo2TokenIds(start, global_start, end, patch, column)
        image = preprocess_molmo2(pixels, setting, ids, self.geometry, self.normalisation or HALF)
        tensors = {
            "pixel_values": image.patches,
            "image_token_pooling": image.pooled_patches,
            "image_grids": torch.tensor([image.grid]),
        }
        layout = (image.tiling, image.grid)
        return NativeImage(tensors, image.image_tokens, layout)

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

    def vision_stages(self, prepared: PreparedSample) -> VisionStages:
        """The tower's layers that are read; attention pooling and projector.

        transformers' adapter looks which tokens pool any patch: here each does.
        """
        model = self.model.model
        adapter, layers = model.multi_modal_projector, self.model.config.adapter_config
        pooled = prepared.image.tensors["image_token_pooling"].cpu()
        pools = pooled >= 0
        mask = create_bidirectional_mask(  # on the host, which reads whether any is masked
            config=adapter.config,
            inputs_embeds=torch.empty(len(pooled), 1, 1, dtype=self.dtype),
            attention_mask=pools,
            encoder_hidden_states=torch.empty(*pooled.shape, 1, dtype=self.dtype),
        )
        mask = None if mask is None else mask.to(self.device)
        there, patches = pools.to(self.device), pooled.clamp(min=0).to(self.device)
        count = there.sum(dim=-1)[:, None, None]

        def encode(pixel_values: torch.Tensor) -> torch.Tensor:
            states = model.vision_tower(pixel_values, output_hidden_states=True).hidden_states
            read = [n + 1 if n >= 0 else n for n in layers.vision_feature_layer]
            return torch.cat([states[n] for n in read], dim=-1)

        def connect(features: torch.Tensor) -> torch.Tensor:
            blocks = features.reshape(-1, features.shape[-1])[patches]
            blocks = blocks * there.to(blocks.dtype)[..., None]
            query = blocks.sum(-2, keepdim=True) / count.to(blocks.dtype)
            pooled_features, _ = adapter.image_pooling_2d(query, blocks, attention_mask=mask)
            return adapter.image_projector(pooled_features.squeeze(1))

        return encode, connect

    def mask(self, length: int, image: slice) -> dict[str, Any]:
        """By which the image's tokens see each other."""
        of_image = torch.full((1, length), -1, device=self.device)
        of_image[:, image] = 0
        mask = create_causal_mask(
            self.model.config.get_text_config(),
            torch.empty(1, length, 1, device=self.device, dtype=self.dtype),
            None,  # no padding
            None,  # no cache, whose name changed in transformers 5.24
            block_sequence_ids=of_image,
        )
        return {"attention_mask": mask}

    def grids(self, image: NativeImage) -> tuple[Grid, ...]:
        """The grid of the global view, and that of all crops together."""
        global_rows, global_cols, rows, cols = image.tensors["image_grids"][0].tolist()
        return Grid(global_rows, global_cols), Grid(rows, cols)

    @property
    def attention_block(self) -> Any:
        """The last of those that are read."""
        layers = self.model.model.vision_tower.layers
        read = self.model.config.adapter_config.vision_feature_layer
        return layers[max(layer % len(layers) for layer in read)]

    def token_scores(self, prepared: PreparedSample) -> Callable[[torch.Tensor], torch.Tensor]:
        """What all patches of a crop pay to each token's patches on average, of (C, P, width)."""
        block, pooled = self.attention_block, prepared.image.tensors["image_token_pooling"]
        pooled = pooled.to(self.device)
        there = (pooled >= 0).float()

        def scores(block_input: torch.Tensor) -> torch.Tensor:
            own, x = block.self_attn, block.layer_norm1(block_input)
            query, key = (in_heads(p(x), own.head_dim) for p in (own.q_proj, own.k_proj))
            key = key.repeat_interleave(own.num_key_value_groups, dim=1)
            received = mean_attention(query, key, own.scaling).flatten().to(self.device)
            return (received[pooled.clamp(min=0)] * there).sum(dim=1) / there.sum(dim=1)

        return scores

    def insert(
        self, embeddings: torch.Tensor, places: torch.Tensor, features: torch.Tensor
    ) -> torch.Tensor:
        """Molmo2 adds vision tokens to the embeddings of their places."""
        return embeddings.index_add(1, places, features[None].to(embeddings.dtype))
