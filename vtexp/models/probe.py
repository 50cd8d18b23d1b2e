"""Counting what a model really reads, with hooks on its encoder, embedding and insertion.

Nothing here is derived from the image or the knob. Each family's probe has its own hooks; what
they saw is checked and counted the same way for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Self

from vtexp.budget.geometry import Geometry, Tiling, token_layout
from vtexp.budget.reduction import mean_over_blocks
from vtexp.errors import CountMismatchError

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

#: Tiling of image tokens whose rows and columns are those of no layout.
NO_TILING = Tiling(0, 0)


class Counts(NamedTuple):
    """Crops (without the global one), vision tokens and tiling of one sample.

    `tiling` is None where a model's inputs do not show it. `vision_tokens` are those that enter the
    language model; where its blocks read unlike numbers, `by_block`, their mean over the blocks.
    """

    num_crops: int
    vision_tokens: float
    tiling: Tiling | None
    by_block: tuple[int, ...] = ()


class Seen(NamedTuple):
    """What hooks saw of one sample: vision tokens inserted, crops behind them, and tiling.

    `crops` counts the global crop too, where there is one. `by_block`: vision tokens that each
    block of the language model read, where hooks see them.
    """

    tokens: int
    crops: int
    tiling: Tiling | None
    by_block: tuple[int, ...] = ()

    def counts(self, geometry: Geometry) -> Counts:
        """As they are compared and recorded."""
        crops = geometry.num_crops(self.crops)
        if len(set(self.by_block)) < 2:
            return Counts(crops, self.tokens, self.tiling)
        return Counts(crops, mean_over_blocks(self.by_block), self.tiling, self.by_block)


class Probe(ABC):
    """Context manager around prefills; `take()` gives the counts of the last batch.

    A family's hooks add the crops that the encoder read to `_encoded`, and write to `_seen` what
    entered the language model, per sample.
    """

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._handles: list[RemovableHandle] = []
        self._encoded = 0
        self._seen: list[Seen] | None = None

    @abstractmethod
    def _hooks(self) -> list[RemovableHandle]:
        """Register the hooks."""

    def __enter__(self) -> Self:
        self._handles = self._hooks()
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def reset(self) -> None:
        """Forget what was counted so far."""
        self._seen, self._encoded = None, 0

    def take(self) -> list[Counts]:
        """Counts of each sample since the last call, which must have been one batch.

        Raises CountMismatchError if the encoder read other crops than those that gave tokens.
        """
        seen, encoded = self._seen, self._encoded
        self.reset()
        if seen is None:
            raise CountMismatchError("the model read no image at all")
        used = sum(sample.crops for sample in seen)
        if used != encoded:
            raise CountMismatchError(
                f"the vision encoder read {encoded} crops, but {used} gave vision tokens"
            )
        return [sample.counts(self._geometry) for sample in seen]


def tiling_of_views(
    ids: Sequence[int], crops: int, image_ids: Sequence[int], geometry: Geometry
) -> Tiling:
    """Tiling whose layout has the rows and columns of the last image view in a prompt.

    For Molmos: `ids` of the prompt, `image_ids` start, end, patch and column first; `crops` with
    the global one. NO_TILING where none fits.
    """
    start, end, patch, column = image_ids[:4]
    first = len(ids) - list(reversed(ids)).index(start)
    view = ids[first : ids.index(end, first)]
    rows = view.count(column)
    cols = view.count(patch) // max(1, rows)
    num_crops = geometry.num_crops(crops)
    for count in range(1, num_crops + 1):
        if num_crops % count:
            continue
        tiling = Tiling(count, num_crops // count)
        for full in (False, True):
            layout = token_layout(tiling, geometry, force_full_tokens=full)
            if (layout.grid_rows, layout.grid_cols) == (rows, cols):
                return tiling
    return NO_TILING
