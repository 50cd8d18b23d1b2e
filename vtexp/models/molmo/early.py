"""Molmo v1 whose vision tokens leave within the language model, behind its first blocks.

In two halves with the choice of tokens between them, so that each can be timed, and captured as a
CUDA graph, on its own. Shapes: B prompts, L tokens of the longest one, l of those that stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from vtexp.models.molmo.answering import AnswerCache
from vtexp.models.molmo.blocks import MolmoBlock, PassContext, rotary_of
from vtexp.models.molmo.modeling import ImagePlaces, MolmoForCausalLM
from vtexp.models.prefill_graphs import PromptCache
from vtexp.models.reduced_prompt import ReduciblePrompt
from vtexp.models.reduction.early_layer import early_layer, last_attention

#: Both give back the keys that they got last.
PassCache = PromptCache | AnswerCache


class EarlyRead(NamedTuple):
    """Prompts behind the blocks that read all tokens, `scoring` the last of them; `late` follow.

    x: (B, L, hidden). last_input: (B, 1, hidden), what `scoring` read at the last position of each
    prompt, which is at `last`, int64 (B,).
    """

    scoring: MolmoBlock
    late: Sequence[MolmoBlock]
    x: torch.Tensor
    last_input: torch.Tensor
    last: torch.Tensor
    cache: PassCache


class LateRead(NamedTuple):
    """What stays of prompts for the other blocks: x (B, l, hidden) at positions (B or 1, l)."""

    blocks: Sequence[MolmoBlock]
    x: torch.Tensor
    positions: torch.Tensor
    cache: PassCache


def read_early(
    model: MolmoForCausalLM,
    blocks: Sequence[MolmoBlock],
    layer: int,
    input_ids: torch.Tensor,
    tokens: torch.Tensor,
    places: ImagePlaces,
    cache: PassCache,
    last: torch.Tensor | None = None,
) -> EarlyRead:
    """The first `layer` blocks over prompts (B, L), padded on the right.

    blocks: those of the model that run. tokens (n, hidden): the connector's, for `places`. last
    int64 (B,): where prompts end, None where all do at L - 1.
    """
    x = model.embed(input_ids, None, None, places, tokens)
    batch, length = x.shape[:2]
    if last is None:
        last = torch.full((batch,), length - 1, device=x.device)
    positions = torch.arange(length, device=x.device)[None]
    context = PassContext(rotary_of(positions, model.config), None, cache, is_prompt=True)
    *first, scoring = blocks[:layer]
    for block in first:
        x = block(x, context)
    last_input = x.take_along_dim(last[:, None, None], dim=1)
    return EarlyRead(scoring, blocks[layer:], scoring(x, context), last_input, last, cache)


def reduce_early(
    model: MolmoForCausalLM, prompts: Sequence[ReduciblePrompt], early: EarlyRead
) -> LateRead:
    """Drop the vision tokens of each prompt that the last early block attends to least."""
    keeps = prompts[0].asked.positions == "keep"
    rotary = rotary_of(early.last[:, None], model.config)
    query, _, _ = early.scoring.attention_inputs(early.last_input, rotary)
    key = early.cache.latest_keys(early.x.shape[1])
    rows = []
    for prompt, scores in zip(prompts, last_attention(query, key, early.last), strict=True):
        rows.append(prompt.rows_with(prompt.places[early_layer(scores[prompt.places], prompt.k)]))
    padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    renumbered = torch.arange(padded.shape[1], device=padded.device)[None]
    x = model.model.row_selection(early.x, padded)
    return LateRead(early.late, x, padded if keeps else renumbered, early.cache)


def read_late(
    model: MolmoForCausalLM, late: LateRead, last: torch.Tensor | None = None
) -> torch.Tensor:
    """The other blocks: logits (B, 1, embedding_size) of the position `last` (B,) of each prompt.

    None where that is l - 1 of all: then the last block works on it alone.
    """
    rotary = rotary_of(late.positions, model.config)
    context = PassContext(rotary, None, late.cache, is_prompt=True)
    *blocks, last_block = late.blocks
    x = late.x
    for block in blocks:
        x = block(x, context)
    x = last_block(x, context, last_alone=last is None)
    return model.logits_of(x if last is None else x.take_along_dim(last[:, None, None], dim=1))
