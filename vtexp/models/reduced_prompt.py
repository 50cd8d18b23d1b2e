"""What every family's token reduction shares: running a method, and what stays of a prompt.

Shapes: n vision tokens of an image, k kept, L tokens of its prompt, l that stay, N crops.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from vtexp.budget.reduction import Reduction
from vtexp.errors import VtexpError
from vtexp.models.reduction.method import Encoded, Grid, Method, Reduced


class TokenReduction(nn.Module):
    """Runs a method. Its hook sees the image that is reduced and what comes out."""

    def forward(self, method: Method, encoded: Encoded, k: int, source: torch.Tensor) -> Reduced:
        """k tokens of an image. `source` (n,): which pooled tokens of its N crops they are.

        Raises VtexpError where the method, which may be a user's own, gives another number.
        """
        reduced = method(encoded, k)
        shapes = tuple(reduced.features.shape), tuple(reduced.indices.shape)
        if shapes != ((k, encoded.features.shape[1]), (k,)):
            raise VtexpError(
                f"a reduction to {k} tokens gave features and indices of the shapes {shapes[0]} "
                f"and {shapes[1]}"
            )
        return reduced


class RowSelection(nn.Module):
    """Takes the rows of prompts that stay. Its hook sees which."""

    def forward(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """x (B, L, hidden), rows int64 (B, l) -> (B, l, hidden)."""
        return x.take_along_dim(rows[..., None], dim=1)


class ReduciblePrompt(NamedTuple):
    """What a reduction must know of one prompt, from its layout alone.

    order: int64 (n,), the connector's tokens in the order of the prompt; source: int64 (n,), which
    pooled tokens they are in that order; places: int64 (n,), their rows, ascending; fixed: int64,
    rows that stay in any case. grids: of the views. text: where the text behind the image is.
    """

    asked: Reduction
    k: int
    crops: int
    length: int
    order: torch.Tensor
    source: torch.Tensor
    places: torch.Tensor
    fixed: torch.Tensor
    grids: tuple[Grid, ...]
    text: slice

    @property
    def layer(self) -> int:
        """Blocks of the language model that read all tokens."""
        return self.asked.layer or 0

    @property
    def kept_length(self) -> int:
        """l: tokens of the prompt that stay."""
        return len(self.fixed) + self.k

    def rows_with(self, kept_places: torch.Tensor) -> torch.Tensor:
        """Rows that stay, int64 (l,), ascending, with those of the vision tokens kept, (k,)."""
        return torch.cat([self.fixed, kept_places]).sort().values

    def to(self, device: torch.device) -> ReduciblePrompt:
        """The same with its tensors on a device."""
        names = ("order", "source", "places", "fixed")
        return self._replace(**{name: getattr(self, name).to(device) for name in names})


def reducible_prompt(
    asked: Reduction, index: torch.Tensor, length: int, image: slice, grids: tuple[Grid, ...]
) -> ReduciblePrompt:
    """From a prompt of `length` tokens, of which `image` are the image's.

    index (N, T): the places of pooled tokens in it, negative where they are dropped.
    """
    flat = index.flatten().long()
    source = (flat >= 0).nonzero().squeeze(-1)
    places, order = flat[source].sort()
    stays = torch.ones(length, dtype=torch.bool)
    stays[image if asked.structure_tokens == "drop" else places] = False
    return ReduciblePrompt(
        asked=asked,
        k=asked.kept_of(len(places)),
        crops=len(index),
        length=length,
        order=order,
        source=source[order],
        places=places,
        fixed=stays.nonzero().squeeze(-1),
        grids=grids,
        text=slice(image.stop, length),
    )
