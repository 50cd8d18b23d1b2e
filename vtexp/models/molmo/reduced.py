"""Token reduction in Molmo v1: behind the connector and before the language model.

`early.py` has the one within it.

What stays of a prompt has a fixed length, whatever the tokens: a CUDA graph can capture it, and
nothing here waits for the device. Shapes: n vision tokens of an image, k kept, L tokens of its
prompt, l that stay, N crops with the global crop first, P patches of a crop.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from vtexp.budget.geometry import Geometry, Tiling, token_layout
from vtexp.models.reduced_prompt import ReduciblePrompt
from vtexp.models.reduction.method import Encoded, Grid
from vtexp.models.reduction.methods import method_of


def view_grids(tiling: Tiling, geometry: Geometry, *, full: bool) -> tuple[Grid, ...]:
    """Grids of the global view and of the crops together; `full`: no overlap is dropped."""
    layout = token_layout(tiling, geometry, force_full_tokens=full)
    side = geometry.tokens_per_side
    return Grid(side, side), Grid(layout.grid_rows, layout.grid_cols)


class Connected(NamedTuple):
    """What encoder and connector give: vision tokens (n, hidden) of all images, one after the
    other, and what the encoder's last block read, (N, 1 + P, width), on the encoder's device."""

    tokens: torch.Tensor
    last_input: torch.Tensor


class ReducedPrompts(NamedTuple):
    """B prompts after their reduction.

    features (sum of k, hidden) stand at `places` of (B * L, hidden); source (sum of k,): which of
    all pooled tokens they took the place of. rows int64 (B, most l): what stays of each prompt,
    padded with 0; positions (B, most l), or None where they are 0, 1, 2.
    """

    features: torch.Tensor
    places: torch.Tensor
    source: torch.Tensor
    rows: torch.Tensor
    positions: torch.Tensor | None


def reduce_prompts(
    model: nn.Module,
    prompts: list[ReduciblePrompt],
    connected: Connected,
    input_ids: torch.Tensor,
) -> ReducedPrompts:
    """Reduce each image of a batch. model: MolmoModel; input_ids (B, L), padded on the right."""
    tokens = connected.tokens.split([len(prompt.order) for prompt in prompts])
    inputs = connected.last_input.split([prompt.crops for prompt in prompts])
    features, places, sources, rows = [], [], [], []
    for row, (prompt, own, last_input) in enumerate(zip(prompts, tokens, inputs, strict=True)):
        encoded = _encoded(model, prompt, own, last_input, input_ids[row])
        method = method_of(prompt.asked)
        reduced = model.token_reduction(method, encoded, prompt.k, prompt.source)
        kept_places = prompt.places[reduced.indices]
        features.append(reduced.features)
        places.append(kept_places + row * input_ids.shape[1])
        sources.append(prompt.source[reduced.indices])
        rows.append(prompt.rows_with(kept_places))
    padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return ReducedPrompts(
        torch.cat(features),
        torch.cat(places),
        torch.cat(sources),
        padded,
        padded if prompts[0].asked.positions == "keep" else None,
    )


def _encoded(
    model: nn.Module,
    prompt: ReduciblePrompt,
    tokens: torch.Tensor,
    last_input: torch.Tensor,
    input_ids: torch.Tensor,
) -> Encoded:
    backbone = model.vision_backbone

    def attention() -> torch.Tensor:
        of_patches = backbone.image_vit.cls_attention(last_input)
        return backbone.pooled_scores(of_patches).flatten().to(tokens.device)[prompt.source]

    return Encoded(
        tokens[prompt.order],
        prompt.grids,
        attention,
        model.transformer.wte(input_ids[None, prompt.text])[0],
    )
