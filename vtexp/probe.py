"""Counting what a model really reads: hooks on its encoder, its embedding and its insertion.

Nothing here is derived from the image or the knob: crops are those whose tokens entered the
language model, vision tokens are the rows added to its embeddings, and the tiling is the one whose
layout is the rows and columns of patch tokens that the embedding looked up.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple

import torch

from vtexp.errors import CountMismatchError
from vtexp.geometry import Geometry, Tiling, token_layout
from vtexp.models.molmo.modeling import MolmoForCausalLM
from vtexp.prompts import PromptTokenizer


class Counts(NamedTuple):
    """Crops (without the global one), vision tokens and tiling of one sample."""

    num_crops: int
    vision_tokens: int
    tiling: Tiling | None


@dataclass
class _Insertion:
    """What the hooks saw in one prompt: per sample, tokens and crops; and crops encoded in all."""

    input_ids: torch.Tensor
    tokens: list[int]
    crops: list[int]


class ModelProbe:
    """Context manager around prefills; `take()` gives the counts of the last batch."""

    def __init__(
        self, model: MolmoForCausalLM, tokenizer: PromptTokenizer, geometry: Geometry
    ) -> None:
        self._parts = model.model
        self._tokenizer, self._geometry = tokenizer, geometry
        self._handles: list[Any] = []
        self._encoded_crops = 0
        self._input_ids: torch.Tensor | None = None
        self._insertion: _Insertion | None = None

    def __enter__(self) -> ModelProbe:
        parts = self._parts
        self._handles = [
            parts.vision_backbone.image_vit.register_forward_hook(self._on_encode),
            parts.transformer.wte.register_forward_hook(self._on_embed),
            parts.image_insertion.register_forward_hook(self._on_insert),
        ]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _on_encode(self, _: Any, inputs: tuple[torch.Tensor, ...], __: Any) -> None:
        self._encoded_crops += len(inputs[0])

    def _on_embed(self, _: Any, inputs: tuple[torch.Tensor, ...], __: Any) -> None:
        self._input_ids = inputs[0]

    def _on_insert(self, _: Any, inputs: tuple[torch.Tensor, ...], __: Any) -> None:
        embeddings, features, source, places = inputs
        batch, length = embeddings.shape[:2]
        rows, crops = (places // length).cpu(), (source // features.shape[1]).cpu()
        assert self._input_ids is not None
        self._insertion = _Insertion(
            input_ids=self._input_ids.cpu(),
            tokens=torch.bincount(rows, minlength=batch).tolist(),
            crops=[len(crops[rows == row].unique()) for row in range(batch)],
        )

    def reset(self) -> None:
        """Forget what was counted so far."""
        self._insertion, self._encoded_crops = None, 0

    def take(self) -> list[Counts]:
        """Counts of each sample since the last call, which must have been one batch.

        Raises CountMismatchError if the encoder read other crops than those that gave tokens.
        """
        seen, encoded = self._insertion, self._encoded_crops
        self.reset()
        if seen is None:
            raise CountMismatchError("the model read no image at all")
        if sum(seen.crops) != encoded:
            raise CountMismatchError(
                f"the vision encoder read {encoded} crops, but {sum(seen.crops)} gave vision tokens"
            )
        return [
            Counts(crops - 1, tokens, self._tiling(ids.tolist(), crops - 1))
            for ids, tokens, crops in zip(seen.input_ids, seen.tokens, seen.crops, strict=True)
        ]

    def _tiling(self, ids: list[int], num_crops: int) -> Tiling | None:
        """Tiling of `num_crops` whose layout has the rows and columns of the second image view."""
        start, end, patch, column = self._tokenizer.image_ids
        first = ids.index(start, ids.index(start) + 1)
        view = ids[first + 1 : ids.index(end, first)]
        rows = view.count(column)
        cols = view.count(patch) // max(1, rows)
        for count in range(1, num_crops + 1):
            if num_crops % count:
                continue
            tiling = Tiling(count, num_crops // count)
            for full in (False, True):
                layout = token_layout(tiling, self._geometry, force_full_tokens=full)
                if (layout.grid_rows, layout.grid_cols) == (rows, cols):
                    return tiling
        return None
