"""Qwen2.5-VL, by transformers' own class: one image of any size, 28 x 28 px a vision token.

Where other families count crops, this one counts those cells: each is encoded and gives one token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel, Qwen2_5_VLForConditionalGeneration
from transformers.vision_utils import (
    get_vision_cu_seqlens,
    get_vision_position_ids,
    get_vision_window_index,
)

from vtexp.budget.geometry import Size, Tiling, tiling_to_resolution
from vtexp.budget.knobs import CropSetting
from vtexp.models.molmo.preprocess import (
    Pixels,
    normalised,
    resize_bicubic,
    shaped,
    to_crops,
)
from vtexp.models.native import NativeImage, NativeRunner
from vtexp.models.processors import CLIP
from vtexp.models.runner import PreparedSample

#: Frames behind a patch: an image is read as a film of two equal ones.
FRAMES = 2


class Qwen2_5_VLRunner(NativeRunner):
    """Positions of image tokens are those of a grid, which the model takes in patches."""

    vision_tower = "model.visual"
    connector = "model.visual.merger"
    vision_inputs = ("pixel_values", "image_grid_thw")
    token_types = True

    @classmethod
    def model_class(cls, config: dict[str, Any]) -> type[PreTrainedModel]:
        """One class for all sizes."""
        return Qwen2_5_VLForConditionalGeneration

    def read_image(self, pixels: Pixels, setting: CropSetting) -> NativeImage:
        """pixel_values float32 (P, 3 * 2 * 14 * 14), cell by cell; image_grid_thw (1, 3)."""
        geometry = self.geometry
        tiling = setting.tiling(Size(*pixels.shape[:2]), geometry)
        size = tiling_to_resolution(tiling, geometry)
        canvas = resize_bicubic(shaped(pixels, size, setting.fit), size)
        cells = to_crops(normalised(canvas, *(self.normalisation or CLIP)), tiling, geometry)
        pool, patch = geometry.pool, geometry.patch_px
        patches = cells.view(-1, 3, pool, patch, pool, patch).permute(0, 2, 4, 1, 3, 5)
        patches = patches.flatten(0, 2).unsqueeze(2).expand(-1, -1, FRAMES, -1, -1)
        grid = torch.tensor([[1, tiling.rows * pool, tiling.cols * pool]])
        tokens = torch.full((tiling.num_crops,), self.tokenizer.image_ids[0])
        return NativeImage(
            {"pixel_values": patches.flatten(1), "image_grid_thw": grid}, tokens, tiling
        )

    def crops_read(self, tower: dict[str, Any]) -> int:
        """Cells of 2 x 2 patches."""
        return len(tower["hidden_states"]) // self.geometry.patches_per_crop

    def tilings(
        self, ids: list[list[int]], crops: list[int], tower: dict[str, Any]
    ) -> list[Tiling | None]:
        """From the grids of patches that the vision tower was told."""
        pool = self.geometry.pool
        return [Tiling(rows // pool, cols // pool) for _, rows, cols in tower["grid_thw"].tolist()]

    def vision_stages(
        self, prepared: PreparedSample
    ) -> tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]:
        """The tower's blocks; the merger, and cells back in their order.

        The lengths of windows stay on the host, where torch's attention reads them.
        """
        tower, grid = self.model.model.visual, prepared.image.tensors["image_grid_thw"].cpu()
        config, merge = tower.config, tower.spatial_merge_size
        position_ids = get_vision_position_ids(grid, merge).to(self.device)
        whole = get_vision_cu_seqlens(grid)
        order, windows = get_vision_window_index(
            grid,
            spatial_merge_size=merge,
            window_size=tower.window_size,
            patch_size=tower.patch_size,
        )
        back, order = order.argsort().to(self.device), order.to(self.device)

        def encode(pixel_values: torch.Tensor) -> torch.Tensor:
            states = tower.patch_embed(pixel_values)
            count = len(states)
            states = tower.permute_input_for_window_attn(states, order, seq_len=count)
            rotary = tuple(
                tower.permute_input_for_window_attn(part, order, seq_len=count)
                for part in tower.rotary_pos_emb(states, position_ids)
            )
            for number, block in enumerate(tower.blocks):
                lengths = whole if number in config.fullatt_block_indexes else windows
                states = block(states, cu_seqlens=lengths, position_embeddings=rotary)
            return states

        return encode, lambda states: tower.merger(states)[back]

    def prompt_constants(self, prepared: PreparedSample) -> dict[str, Any]:
        """Positions in three axes: image tokens have those of their grid."""
        ids, first = prepared.input_ids[None], prepared.image_at
        types = torch.zeros_like(ids)
        types[:, first : first + len(prepared.image.image_tokens)] = 1
        grid = prepared.image.tensors["image_grid_thw"].cpu()
        positions, _ = self.model.model.get_rope_index(
            ids, mm_token_type_ids=types, image_grid_thw=grid
        )
        return {"position_ids": positions.to(self.device)}
