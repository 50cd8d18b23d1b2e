"""Tokens that the vision encoder attends to most, as VisionZip and VisPruner take them.

Yang et al., VisionZip: Longer is Better but Not Necessary in Vision Language Models
(arXiv:2412.04467): dominant tokens by attention, and contextual ones into which the rest is merged.
Zhang et al., VisPruner (arXiv:2412.01818): attention of the CLS token. Written from the papers.
What differs: scores of patches are averaged over the patches of a pooled token, and tokens are
merged by the likeness of their features behind the connector (VisionZip: of the encoder's keys).
"""

from __future__ import annotations

import torch

from vtexp.budget.reduction import contextual_tokens
from vtexp.models.reduction.method import Encoded, Reduced, kept, spread_evenly, unit


def cls_attention(encoded: Encoded, k: int, merge: bool = False) -> Reduced:
    """The k tokens with the highest attention; with `merge` some of them hold means of the rest."""
    contextual = contextual_tokens(k, len(encoded.features)) if merge else 0
    ranked = encoded.attention().argsort(descending=True, stable=True)
    dominant = ranked[: k - contextual].sort().values
    if not contextual:
        return kept(encoded, dominant)
    rest = ranked[k - contextual :].sort().values
    merged = _merged(encoded.features[rest], contextual)
    indices = torch.cat([dominant, rest[merged.indices]])
    features = torch.cat([encoded.features[dominant], merged.features])
    order = indices.argsort()
    return Reduced(features[order], indices[order])


def _merged(features: torch.Tensor, count: int) -> Reduced:
    """`count` evenly spread tokens, each the mean of itself and of those most like it."""
    places = torch.tensor(spread_evenly(len(features), count), device=features.device)
    likeness = unit(features) @ unit(features[places]).T
    likeness[places] = -1.0
    likeness[places, torch.arange(count, device=features.device)] = 2.0  # a target is its own
    target = likeness.argmax(dim=1)
    sums = torch.zeros(count, features.shape[1], device=features.device)
    sums.index_add_(0, target, features.float())
    counts = torch.zeros(count, device=features.device).index_add_(
        0, target, torch.ones(len(features), device=features.device)
    )
    return Reduced((sums / counts[:, None]).to(features.dtype), places)
