"""Hooks that count what Molmo v1 reads."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

from vtexp.budget.geometry import Geometry
from vtexp.errors import CountMismatchError
from vtexp.models.molmo.modeling import MolmoModel
from vtexp.models.probe import Probe, Seen, tiling_of_views


class MolmoProbe(Probe):
    """Crops are those whose tokens entered the language model, tokens the rows it added.

    In a reduced image, crops are those whose tokens could be chosen, tokens the image's rows that
    stay in the prompt. Each block of the language model is seen, and how many of the rows that it
    reads are the image's.
    """

    def __init__(self, geometry: Geometry, parts: MolmoModel, image_ids: tuple[int, ...]) -> None:
        super().__init__(geometry)
        self._parts, self._image_ids = parts, image_ids
        self._input_ids: torch.Tensor | None = None
        self._reduced_crops: list[int] = []
        self._rows = 0

    def _hooks(self) -> list[RemovableHandle]:
        parts = self._parts
        return [
            parts.vision_backbone.image_vit.register_forward_hook(self._on_encode),
            parts.transformer.wte.register_forward_hook(self._on_embed),
            parts.token_reduction.register_forward_hook(self._on_reduce),
            parts.image_insertion.register_forward_hook(self._on_insert),
            parts.row_selection.register_forward_hook(self._on_select),
            *(b.register_forward_pre_hook(self._on_block) for b in parts.transformer.blocks),
        ]

    def reset(self) -> None:
        """As of any probe."""
        super().reset()
        self._reduced_crops = []

    def _on_encode(self, _: Any, inputs: tuple[torch.Tensor, ...], __: Any) -> None:
        self._encoded += len(inputs[0])

    def _on_embed(self, _: Any, inputs: tuple[torch.Tensor, ...], __: Any) -> None:
        self._input_ids = inputs[0]

    def _on_reduce(self, _: Any, inputs: tuple[Any, ...], __: Any) -> None:
        source = inputs[3].cpu()
        self._reduced_crops.append(len((source // self._geometry.tokens_per_crop).unique()))

    def _on_select(self, _: Any, inputs: tuple[torch.Tensor, ...], __: Any) -> None:
        """What stays: the image's rows among those that the blocks read."""
        assert self._input_ids is not None and self._seen is not None
        patch = self._image_ids[2]
        staying = (self._input_ids.take_along_dim(inputs[1], dim=1) == patch).sum(dim=1).tolist()
        crops = self._reduced_crops or [one.crops for one in self._seen]
        self._rows = inputs[1].shape[1]
        self._seen = [
            one._replace(tokens=count, crops=read)
            for one, count, read in zip(self._seen, staying, crops, strict=True)
        ]

    def _on_block(self, _: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        """One more block that reads the prompts' rows; further tokens of answers are not asked."""
        rows = inputs[0].shape[1]
        if self._seen is None or rows == 1:
            return
        if rows != self._rows:
            raise CountMismatchError(
                f"a block of the language model read {rows} positions, not {self._rows}"
            )
        self._seen = [one._replace(by_block=(*one.by_block, one.tokens)) for one in self._seen]

    def _on_insert(self, _: Any, inputs: tuple[torch.Tensor, ...], __: Any) -> None:
        embeddings, _, places, source = inputs
        batch, length = embeddings.shape[:2]
        self._rows = length
        rows, crops = (places // length).cpu(), source.cpu() // self._geometry.tokens_per_crop
        assert self._input_ids is not None
        tokens = torch.bincount(rows, minlength=batch).tolist()
        encoded = [len(crops[rows == row].unique()) for row in range(batch)]
        encoded = self._reduced_crops or encoded
        self._seen = [
            Seen(count, read, tiling_of_views(ids, read, self._image_ids, self._geometry))
            for count, read, ids in zip(tokens, encoded, self._input_ids.tolist(), strict=True)
        ]
