"""Tokens that are diverse and relevant to the question: CDPruner's conditional DPP.

Zhang et al., Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in
MLLMs (arXiv:2506.10967): the kernel of a determinantal point process is scaled by relevance, and
its likeliest set of k is found greedily (Chen et al. 2018, arXiv:1709.05135). Written from the
papers. What differs: relevance is the cosine between a token behind the connector and the mean of
the question's token embeddings, as no family has a text tower beside its language model.
"""

from __future__ import annotations

import torch

from vtexp.models.reduction.method import Encoded, Reduced, kept, unit

#: Least relevance and least gain, so that no token is impossible and no root of 0 is divided by.
LEAST = 1e-6


def relevance(encoded: Encoded) -> torch.Tensor:
    """Float32 (n,) from LEAST to 1: cosine to the question, scaled to its own range."""
    question = encoded.question.float().mean(dim=0, keepdim=True)
    cosine = (unit(encoded.features) @ unit(question).T).squeeze(-1)
    low, high = cosine.min(), cosine.max()
    return ((cosine - low) / (high - low).clamp(min=LEAST)).clamp(min=LEAST)


def conditional(encoded: Encoded, k: int) -> Reduced:
    """The k tokens of the greedy most likely set."""
    directions, scale = unit(encoded.features), relevance(encoded)
    kernel = scale[:, None] * (directions @ directions.T) * scale[None, :]
    gain = kernel.diagonal()
    rows = kernel.new_zeros((k, len(kernel)))
    found: list[torch.Tensor] = []
    for step in range(k):
        best = gain.argmax(keepdim=True)
        found.append(best)
        root = gain.index_select(0, best).clamp(min=LEAST**2).sqrt()
        before = rows[:step].index_select(1, best)[:, 0] @ rows[:step]
        rows[step] = (kernel.index_select(0, best)[0] - before) / root
        gain = (gain - rows[step] ** 2).clamp(min=0).index_fill(0, torch.cat(found), -torch.inf)
    return kept(encoded, torch.cat(found))
