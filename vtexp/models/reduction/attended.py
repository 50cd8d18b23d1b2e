"""Tokens that the vision encoder attends to most, as VisionZip and VisPruner take them.

Yang et al., VisionZip: Longer is Better but Not Necessary in Vision Language Models
(arXiv:2412.04467): dominant tokens by attention, and contextual ones into which the rest is merged.
Zhang et al., VisPruner (arXiv:2412.01818): attention of the CLS token. Written from the papers.
What differs: scores of patches are averaged over the patches of a pooled token, and tokens are
merged by the likeness of their features behind the connector (VisionZip: of the encoder's keys).
Encoders without a CLS token score a patch by the attention that it gets from all patches, as
VisionZip does for them.
"""

from __future__ import annotations

import torch

from vtexp.budget.reduction import contextual_tokens
from vtexp.models.reduction.floors import spread
from vtexp.models.reduction.method import Encoded, Reduced, kept, unit


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
    places = spread(len(features), count, features.device)
    likeness = unit(features) @ unit(features[places]).T
    # A target is its own: above all likeness.
    own = 3 * torch.eye(count, device=features.device) - 1
    likeness = likeness.index_copy(0, places, own)
    target = likeness.argmax(dim=1)
    # Not by `index_add`: a GPU adds what it finds in any order, and each pass differs a little.
    members = (target == torch.arange(count, device=features.device)[:, None]).float()
    means = members @ features.float() / members.sum(dim=1, keepdim=True)
    return Reduced(means.to(features.dtype), places)
