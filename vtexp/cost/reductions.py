"""What the scores of a token reduction cost: products of matrices in closed form. No torch here."""

from __future__ import annotations

from vtexp.budget.reduction import Reduction, contextual_tokens


def similarity_flops(asked: Reduction, tokens: int, kept: int, width: int) -> float:
    """FLOPs of comparing vision tokens of a width with each other and with the question.

    max_min: all pairs. conditional: all pairs, the question's mean, and per token kept the products
    with those before. cls_attention with `merge`: each of the rest with each target, and the sums
    of those merged into one. A method of the user's own is not known, and counts as none.
    """
    if asked.method == "max_min":
        return 2 * tokens**2 * width
    if asked.method == "conditional":
        return 2 * tokens**2 * width + 2 * tokens * width + tokens * kept * (kept - 1)
    if asked.method == "cls_attention" and asked.merge:
        targets = contextual_tokens(kept, tokens)
        return 4 * (tokens - kept + targets) * targets * width
    return 0


def last_query_flops(width: int, inner: int, kv_width: int, length: int) -> float:
    """FLOPs of `early_layer`: query, key and value of the last position, made once more, and the
    query's products with the keys of all positions."""
    return 2 * (width * (inner + 2 * kv_width) + length * inner)


def attention_flops(crops: int, positions: int, width: int, inner: int) -> float:
    """FLOPs of CLS's attention, computed once more: keys of all positions, one query a crop."""
    return 2 * crops * (positions * width * inner + width * inner + positions * inner)


def received_flops(positions: int, pairs: int, width: int, inner: int, keys: int) -> float:
    """FLOPs of what all patches attend to, computed once more: queries of the width `inner` and
    keys of the width `keys` of all positions, and so many products of a query and a key."""
    return 2 * (positions * width * (inner + keys) + pairs * inner)
