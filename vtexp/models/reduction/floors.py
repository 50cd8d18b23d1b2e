"""Floors: what every method must beat. They look at no pixel.

None is a published method; `pool` is the mean pooling that many papers compare with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import torch

from vtexp.models.reduction.method import Encoded, Grid, Reduced, kept, spread_evenly


def random(encoded: Encoded, k: int, seed: int = 0) -> Reduced:
    """k tokens drawn without replacement: the same places for all images of n tokens and a seed."""
    return kept(encoded, _drawn(len(encoded.features), k, seed, encoded.features.device))


def stride(encoded: Encoded, k: int) -> Reduced:
    """k tokens at even distances in the order of the prompt."""
    return kept(encoded, spread(len(encoded.features), k, encoded.features.device))


def pool(encoded: Encoded, k: int) -> Reduced:
    """Means over k cells that tile the views' grids; each stands at the middle token of its cell.

    Views get cells by their share of the tokens, at least one each. With fewer cells than views
    the last views get them (in Molmos, the one that shows the most detail), and the others none.
    """
    features = encoded.features
    tokens, counted, middles = _cell_tokens(encoded.grids, k, features.device)
    sums = (features.float()[tokens] * counted[..., None]).sum(dim=1)
    return Reduced((sums / counted.sum(dim=1, keepdim=True)).to(features.dtype), middles)


# Kept on the device for good: a CUDA graph goes on reading them where they lie.


@cache
def _drawn(n: int, k: int, seed: int, device: torch.device) -> torch.Tensor:
    drawn = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:k]
    return drawn.to(device)


@cache
def spread(n: int, k: int, device: torch.device) -> torch.Tensor:
    """k of n places at even distances, int64 (k,)."""
    return torch.tensor(spread_evenly(n, k), device=device)


@cache
def _cell_tokens(
    grids: tuple[Grid, ...], k: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """k cells by their middles: tokens, int64 (k, most of a cell), padded with the first one; 1.0
    where one counts and 0.0 where it is padding; and the middles (k,)."""
    cells = sorted(pool_cells(grids, k), key=lambda cell: cell.middle)
    most = max(len(cell.tokens) for cell in cells)
    padded = [cell.tokens + cell.tokens[:1] * (most - len(cell.tokens)) for cell in cells]
    counted = [[1.0] * len(cell.tokens) + [0.0] * (most - len(cell.tokens)) for cell in cells]
    middles = [cell.middle for cell in cells]
    return tuple(torch.tensor(part, device=device) for part in (padded, counted, middles))  # type: ignore[return-value]


class Cell(NamedTuple):
    """Tokens that become one, and the one among them whose place it takes."""

    tokens: list[int]
    middle: int


def pool_cells(grids: Sequence[Grid], k: int) -> list[Cell]:
    """k cells of nearly equal size that tile grids of tokens, as square as k allows."""
    found, first = [], 0
    for grid, cells in zip(grids, _shares(grids, k), strict=True):
        if cells:
            found += [
                Cell([first + token for token in cell.tokens], first + cell.middle)
                for cell in _grid_cells(grid, cells)
            ]
        first += grid.tokens
    return found


def _shares(grids: Sequence[Grid], k: int) -> list[int]:
    """How many of k cells each grid gets: largest remainders, at least one where k allows."""
    if k < len(grids):
        return [0] * (len(grids) - k) + [1] * k
    total = sum(grid.tokens for grid in grids)
    exact = [k * grid.tokens / total for grid in grids]
    shares = [max(1, math.floor(share)) for share in exact]
    while sum(shares) != k:
        step = 1 if sum(shares) < k else -1
        open_ = [i for i, grid in enumerate(grids) if 1 <= shares[i] + step <= grid.tokens]
        shares[max(open_, key=lambda i: step * (exact[i] - shares[i]))] += step
    return shares


def _grid_cells(grid: Grid, k: int) -> Iterator[Cell]:
    """Bands of rows, each cut into columns; k is at most the number of tokens."""
    wanted = round(math.sqrt(k * grid.rows / grid.cols))
    bands = min(grid.rows, k, max(-(-k // grid.cols), wanted))
    for rows, cells in zip(_parts(grid.rows, bands), _sizes(k, bands), strict=True):
        for cols in _parts(grid.cols, cells):
            tokens = [row * grid.cols + col for row in rows for col in cols]
            middle = rows[len(rows) // 2] * grid.cols + cols[len(cols) // 2]
            yield Cell(tokens, middle)


def _parts(length: int, count: int) -> list[range]:
    """A length cut into parts of nearly equal size."""
    borders = [i * length // count for i in range(count + 1)]
    return [range(start, end) for start, end in pairwise(borders)]


def _sizes(length: int, count: int) -> list[int]:
    return [len(part) for part in _parts(length, count)]
