"""Qwen2.5-VL, by transformers' own class: one image of any size, 28 x 28 px a vision token.

Where other families count crops, this one counts those cells: each is encoded and gives one token.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision
from transformers.vision_utils import (
    get_vision_cu_seqlens,
    get_vision_position_ids,
    get_vision_window_index,
)

from vtexp.budget.geometry import Size, Tiling, tiling_to_resolution
from vtexp.budget.knobs import CropSetting
from vtexp.errors import VtexpError
from vtexp.models.molmo.preprocess import (
    Pixels,
    normalised,
    resize_bicubic,
    shaped,
    to_crops,
)
from vtexp.models.native import NativeImage, NativeRunner, VisionStages
from vtexp.models.native_reduction import mean_attention
from vtexp.models.processors import CLIP
from vtexp.models.reduced_prompt import ReduciblePrompt
from vtexp.models.reduction.method import Grid
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

    def vision_stages(self, prepared: PreparedSample) -> VisionStages:
        """The tower's blocks; the merger, and cells back in their order.

        The lengths of windows stay on the host, where torch's attention reads them.
        """
        grid = prepared.image.tensors["image_grid_thw"].cpu()
        tower, order, whole = (
            self.model.model.visual,
            self._window_order(grid),
            get_vision_cu_seqlens(grid),
        )

        def encode(pixel_values: torch.Tensor) -> torch.Tensor:
            states = tower.patch_embed(pixel_values)
            states = tower.permute_input_for_window_attn(states, order.cells, seq_len=len(states))
            rotary = order.rotary(tower)
            for number, block in enumerate(tower.blocks):
                lengths = whole if number in tower.config.fullatt_block_indexes else order.windows
                states = block(states, cu_seqlens=lengths, position_embeddings=rotary)
            return states

        return encode, lambda states: tower.merger(states)[order.back]

    def _window_order(self, grid: torch.Tensor) -> _WindowOrder:
        tower = self.model.model.visual
        cells, windows = get_vision_window_index(
            grid,
            spatial_merge_size=tower.spatial_merge_size,
            window_size=tower.window_size,
            patch_size=tower.patch_size,
        )
        positions = get_vision_position_ids(grid, tower.spatial_merge_size)
        placed, device = positions.to(self.device), self.device
        return _WindowOrder(placed, cells.to(device), cells.argsort().to(device), windows)

    def positions(self, prepared: PreparedSample) -> torch.Tensor:
        """Positions (3, 1, L) in three axes: image tokens have those of their grid."""
        ids, first = prepared.input_ids[None], prepared.image_at
        types = torch.zeros_like(ids)
        types[:, first : first + len(prepared.image.image_tokens)] = 1
        grid = prepared.image.tensors["image_grid_thw"].cpu()
        positions, _ = self.model.model.get_rope_index(
            ids, mm_token_type_ids=types, image_grid_thw=grid
        )
        return positions.to(self.device)

    def renumbered(
        self, prompt: ReduciblePrompt, indices: torch.Tensor, order: torch.Tensor
    ) -> torch.Tensor:
        """Positions (3, 1, l): rows and columns of the grid without any token are closed up.

        Text goes on behind as many positions as there are rows or columns left, the larger of both.
        """
        (grid,) = prompt.grids
        rows, rows_left = _ranks(indices // grid.cols, grid.rows)
        cols, cols_left = _ranks(indices % grid.cols, grid.cols)
        behind = prompt.fixed > prompt.places[-1]
        text = torch.arange(len(behind), device=self.device)
        text = text + behind * torch.maximum(rows_left, cols_left)
        image = torch.stack([torch.zeros_like(rows), rows, cols]) + (~behind).sum()
        return torch.cat([text.expand(3, -1), image], dim=1)[:, None, order]

    def grids(self, image: NativeImage) -> tuple[Grid, ...]:
        """The grid of the one view."""
        _, rows, cols = image.tensors["image_grid_thw"][0].tolist()
        return (Grid(rows // self.geometry.pool, cols // self.geometry.pool),)

    @property
    def attention_block(self) -> Any:
        """The last one in which all patches see each other; the last one, if none does."""
        tower = self.model.model.visual
        return tower.blocks[max(_whole_blocks(tower), default=-1)]

    def token_scores(self, prepared: PreparedSample) -> Callable[[torch.Tensor], torch.Tensor]:
        """What all patches pay to each token's patches on average, of (P, width) window by window.

        Raises VtexpError where no block sees the whole image.
        """
        tower = self.model.model.visual
        own, norm = self.attention_block.attn, self.attention_block.norm1
        grid = prepared.image.tensors["image_grid_thw"].cpu()
        order = cache(lambda: self._window_order(grid))  # a graph is captured behind a pass

        def scores(block_input: torch.Tensor) -> torch.Tensor:
            if not _whole_blocks(tower):
                raise VtexpError("no block of this encoder attends to the whole image")
            weights = own.qkv.weight[: 2 * own.dim], own.qkv.bias[: 2 * own.dim]
            query, key = F.linear(norm(block_input), *weights).chunk(2, dim=-1)
            query, key = (t.unflatten(-1, (own.num_heads, -1)) for t in (query, key))
            rotary = (part.to(query.device) for part in order().rotary(tower))
            query, key = apply_rotary_pos_emb_vision(query, key, *rotary)
            query, key = (t.transpose(0, 1)[None] for t in (query, key))
            received = mean_attention(query, key, own.scaling).to(self.device)
            return received.view(-1, self.geometry.patches_per_crop).mean(dim=1)[order().back]

        return scores


class _WindowOrder(NamedTuple):
    """The patches of an image as the tower reads them, window by window.

    positions int64 (P, 2) in the order of cells; cells int64 (C,), in the order of windows, and
    back; windows: where they begin and end, on the host.
    """

    positions: torch.Tensor
    cells: torch.Tensor
    back: torch.Tensor
    windows: torch.Tensor

    def rotary(self, tower: Any) -> tuple[torch.Tensor, ...]:
        """Cosines and sines of the positions, window by window."""
        parts = tower.rotary_pos_emb(self.positions, self.positions)
        count = len(self.positions)
        return tuple(
            tower.permute_input_for_window_attn(part, self.cells, seq_len=count) for part in parts
        )


def _whole_blocks(tower: Any) -> list[int]:
    """Blocks in which every patch attends to all of its image."""
    return sorted(n for n in tower.config.fullatt_block_indexes if n < len(tower.blocks))


def _ranks(places: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Places (k,) below a length without the gaps between them, and how many places are taken."""
    taken = torch.zeros(length, dtype=torch.long, device=places.device).index_fill(0, places, 1)
    return (taken.cumsum(0) - 1)[places], taken.sum()
