"""What a reduction method is given, and what it gives back.

Shapes: n vision tokens in the order of the prompt, k kept of them, t tokens of the question.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional as F


class Grid(NamedTuple):
    """Rows and columns of one view's tokens, row-major; views in the order of the prompt."""

    rows: int
    cols: int

    @property
    def tokens(self) -> int:
        """Tokens of the view."""
        return self.rows * self.cols


class Encoded(NamedTuple):
    """One encoded image and its question, as a method may use them.

    features: (n, hidden), the connector's output. grids: of the views that the n tokens fill, in
    order. attention(): float32 (n,), what the encoder's CLS token, or where it has none all patches
    on average, pays to each token's patches in the last block that counts; computed when it is
    called. question: (t, hidden), the embeddings of the text behind the image.
    """

    features: torch.Tensor
    grids: tuple[Grid, ...]
    attention: Callable[[], torch.Tensor]
    question: torch.Tensor


class Reduced(NamedTuple):
    """The tokens that enter the language model.

    features: (k, hidden); indices: int64 (k,), ascending, whose places in the prompt they take.
    """

    features: torch.Tensor
    indices: torch.Tensor


#: Reduces an encoded image to k tokens. Works on the device of its input and never waits for it.
Method = Callable[[Encoded, int], Reduced]


def kept(encoded: Encoded, indices: torch.Tensor) -> Reduced:
    """Tokens unchanged, by their indices in any order."""
    indices = indices.sort().values
    return Reduced(encoded.features[indices], indices)


def unit(features: torch.Tensor) -> torch.Tensor:
    """Rows of float32 length 1, so that their products are cosines; rows of zeros stay."""
    return F.normalize(features.float(), dim=-1)


def spread_evenly(n: int, k: int) -> list[int]:
    """k of n places, evenly spread: the middles of k equal parts, rounded down."""
    return [(2 * i + 1) * n // (2 * k) for i in range(k)]
