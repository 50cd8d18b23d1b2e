"""Tokens that are as unlike each other as possible: the max-min objective of DivPrune.

Alvar et al., DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models
(arXiv:2503.02175), solved greedily as there: start with the token farthest from its nearest
neighbour, then add the one farthest from all chosen. Written from the paper. What differs: the
features are those behind the connector.
"""

from __future__ import annotations

import torch

from vtexp.models.reduction.method import Encoded, Reduced, kept, unit


def max_min(encoded: Encoded, k: int) -> Reduced:
    """The k tokens of the greedy max-min solution, by cosine distance of their features."""
    directions = unit(encoded.features)
    cosine = directions @ directions.T
    distance = 1 - (cosine + cosine.T) / 2  # equal both ways, so that nearest neighbours tie
    others = distance.clone().fill_diagonal_(torch.inf)
    chosen = others.min(dim=1).values.argmax(keepdim=True)
    found, nearest = [chosen], distance.index_select(0, chosen)[0]
    for _ in range(k - 1):
        nearest = nearest.index_fill(0, chosen, -torch.inf)  # chosen once
        chosen = nearest.argmax(keepdim=True)
        found.append(chosen)
        nearest = torch.minimum(nearest, distance.index_select(0, chosen)[0])
    return kept(encoded, torch.cat(found))
