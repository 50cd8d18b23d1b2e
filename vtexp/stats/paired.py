"""Paired budgets: bootstrap draws, McNemar's test, and the Pareto front.

Everything random is drawn from one seed: the same records give the same numbers.
"""

from __future__ import annotations

import numpy as np

from vtexp.stats.chunks import chunks

#: Bootstrap draws; a share of them is known to 0.8 points at 50 %.
DRAWS = 4000
SEED = 0


def bootstrap_means(sums: np.ndarray, sizes: np.ndarray, draws: int = DRAWS) -> np.ndarray:
    """(draws, k) means of bootstrap draws of whole images, the same images for all budgets.

    sums: (G, k) scores added up by image; sizes: (G,) questions per image.

    Images with the same sums are drawn together, as a multinomial count: the same distribution,
    in less time (Efron and Tibshirani 1993, chapter 8, for draws of clusters).
    """
    rng = np.random.default_rng(SEED)
    kinds, counts = np.unique(np.column_stack([sums, sizes]), axis=0, return_counts=True)
    totals = [
        rng.multinomial(len(sizes), counts / len(sizes), size=size) @ kinds
        for size in chunks(draws, len(kinds))
    ]
    found = np.concatenate(totals)
    return found[:, :-1] / found[:, -1:]


def mcnemar_p_value(wins: int, losses: int) -> float:
    """McNemar's exact test (1947) of questions that only one of two budgets answered rightly.

    Two-sided binomial; takes questions as independent, also those about one image.
    """
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(wins, losses), wins + losses, 0.5)))


def on_front(accuracy: np.ndarray, *costs: np.ndarray) -> np.ndarray:
    """(..., k) whether no other budget is at least as good in all, and better in one.

    Of k budgets' accuracy and costs, such as time and memory, each (..., k).
    """
    better = np.stack([accuracy, *(-cost for cost in costs)])
    more = better[..., :, None] - better[..., None, :]
    dominates = (more >= 0).all(axis=0) & (more > 0).any(axis=0)
    return ~dominates.any(axis=-2)
