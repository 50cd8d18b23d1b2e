"""Token reduction of transformers' own classes: they read a shorter prompt with fewer image tokens.

Nothing here waits for the device. Shapes: k vision tokens kept of an image, l tokens of its prompt
that stay; H heads of width d, Q queries, P patches that see each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from vtexp.models.reduced_prompt import ReduciblePrompt, RowSelection, TokenReduction
from vtexp.models.reduction.method import Encoded
from vtexp.models.reduction.methods import method_of

#: Products of a query and a key held at once while attention is computed once more.
MOST_PRODUCTS = 2**25


class NativeEncoded(NamedTuple):
    """Encoded images whose tokens are to be reduced: transformers' own output, and what the block
    whose attention counts read, crop after crop or patch after patch."""

    output: Any
    block_input: torch.Tensor


class NativeReducible(NamedTuple):
    """What a reduction must know of one prompt, from its layout alone, on the device.

    whole_positions: of the whole prompt, its length last; None where what stays is renumbered.
    block_rows: of what the block read, those that are this image's; scores: attention to each
    token's patches, (n,), of these rows. kept_image: where the image's tokens are in what stays.
    """

    prompt: ReduciblePrompt
    whole_positions: torch.Tensor | None
    block_rows: int
    scores: Callable[[torch.Tensor], torch.Tensor]
    kept_image: slice


class ReducedPrompt(NamedTuple):
    """One prompt after its reduction.

    features (k, hidden); indices int64 (k,), which of the image's tokens they stand for; rows int64
    (l,), ascending, what stays of the prompt; places int64 (k,), where in these rows features go;
    positions (1, l), or (3, 1, l) where the model has them in three axes.
    """

    features: torch.Tensor
    indices: torch.Tensor
    rows: torch.Tensor
    places: torch.Tensor
    positions: torch.Tensor


def reduce_prompt(
    module: TokenReduction,
    own: NativeReducible,
    encoded: Encoded,
    renumbered: Callable[[ReduciblePrompt, torch.Tensor, torch.Tensor], torch.Tensor],
) -> ReducedPrompt:
    """Reduce a prompt's image; `renumbered` gives positions of kept indices and the order of rows.

    Raises what the method raises.
    """
    prompt = own.prompt
    features, indices = module(method_of(prompt.asked), encoded, prompt.k, prompt.source)
    staying = torch.cat([prompt.fixed, prompt.places[indices]])
    order = staying.argsort()
    rows, places = staying[order], order.argsort()[len(prompt.fixed) :]
    if own.whole_positions is not None:
        return ReducedPrompt(features, indices, rows, places, own.whole_positions[..., rows])
    return ReducedPrompt(features, indices, rows, places, renumbered(prompt, indices, order))


def shorter_prompts(
    inputs: dict[str, Any],
    reduced: Sequence[ReducedPrompt],
    lengths: Sequence[int],
    select: RowSelection,
    pad_id: int,
) -> dict[str, torch.Tensor]:
    """What stays of a batch of prompts of these lengths; both are padded on the left."""
    ids = inputs["input_ids"]
    firsts = [ids.shape[1] - length for length in lengths]
    rows = _left_padded([own.rows + first for own, first in zip(reduced, firsts, strict=True)])
    mask = _left_padded([torch.ones_like(own.rows) for own in reduced])
    found = {
        "input_ids": select(ids[..., None], rows)[..., 0].masked_fill(mask == 0, pad_id),
        "attention_mask": mask,
        "position_ids": _left_padded([own.positions.squeeze(-2) for own in reduced]),
    }
    if "mm_token_type_ids" in inputs:
        types = inputs["mm_token_type_ids"].take_along_dim(rows, dim=1)
        found["mm_token_type_ids"] = types * mask
    return found


def _left_padded(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Parts (..., l), padded with zeros on the left to the longest, as one tensor (..., B, l)."""
    longest = max(part.shape[-1] for part in parts)
    return torch.stack([F.pad(part, (longest - part.shape[-1], 0)) for part in parts], dim=-2)


@contextmanager
def input_of(module: nn.Module) -> Iterator[list[torch.Tensor]]:
    """A list of the first arguments of a module's calls inside."""
    seen: list[torch.Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        yield seen
    finally:
        handle.remove()


def mean_attention(query: torch.Tensor, key: torch.Tensor, scale: float) -> torch.Tensor:
    """What each key gets, mean over heads and queries: float32 (B, P).

    query (B, H, Q, d), key (B, H, P, d). Some queries at a time, so that long images take little
    memory.
    """
    batch, heads, queries, _ = query.shape
    keys = key.shape[2]
    step = max(1, MOST_PRODUCTS // (batch * heads * keys))
    received = torch.zeros(batch, keys, device=query.device)
    for some in query.split(step, dim=2):
        products = (some @ key.transpose(-1, -2)).float() * scale
        received += products.softmax(dim=-1).sum(dim=(1, 2))
    return received / (heads * queries)


def in_heads(x: torch.Tensor, head_dim: int) -> torch.Tensor:
    """(B, P, H * d) -> (B, H, P, d)."""
    return x.unflatten(-1, (-1, head_dim)).transpose(1, 2)
