"""Of paired budgets: bootstrap draws, McNemar's test, and the Pareto front.

Everything random is drawn from one seed: the same records give the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

#: Bootstrap draws; a share of them is known to 0.8 points at 50 %.
DRAWS = 4000
#: Draws of times, of which there may be tens of thousands.
TIME_DRAWS = 1000
SEED = 0


def bootstrap_means(
    sums: np.ndarray, sizes: np.ndarray, draws: int = DRAWS, seed: int = SEED
) -> np.ndarray:
    """(draws, k) means of bootstrap draws of whole images, the same images for all budgets.

    sums: (G, k) scores added up by image; sizes: (G,) questions per image.

    Images with the same sums are drawn together, as a multinomial count: the same distribution,
    in less time (Efron and Tibshirani 1993, chapter 8, for draws of clusters).
    """
    rng = np.random.default_rng(seed)
    kinds, counts = np.unique(np.column_stack([sums, sizes]), axis=0, return_counts=True)
    totals = [
        rng.multinomial(len(sizes), counts / len(sizes), size=size) @ kinds
        for size in _chunks(draws, len(kinds))
    ]
    found = np.concatenate(totals)
    return found[:, :-1] / found[:, -1:]


def _chunks(draws: int, width: int) -> Iterator[int]:
    """Sizes that add up to `draws`, so that a chunk of that width has some 10 million numbers."""
    size = max(1, 10_000_000 // width)
    for start in range(0, draws, size):
        yield min(size, draws - start)


def mcnemar_p_value(wins: int, losses: int) -> float:
    """McNemar's exact test (1947) of questions that only one of two budgets answered rightly.

    Two-sided binomial; takes questions as independent, also those about one image.
    """
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def on_front(accuracy: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """(..., k) whether no other budget is at least as accurate and as cheap, and better in one."""
    more = accuracy[..., :, None] - accuracy[..., None, :]
    less = cost[..., None, :] - cost[..., :, None]
    dominates = (more >= 0) & (less >= 0) & ((more > 0) | (less > 0))
    return ~dominates.any(axis=-2)


def bootstrap_medians(
    times: Sequence[np.ndarray], draws: int = TIME_DRAWS, seed: int = SEED
) -> np.ndarray:
    """(draws, k) medians of the times of k budgets, each (questions, rounds), NaN where missing.

    Questions and rounds are both drawn, since what disturbs a round disturbs all its questions; the
    same questions for all budgets, and the same rounds for those that have as many (a two-way
    bootstrap: Owen 2007). A draw in which a budget was never timed is left out, so that there may
    be fewer than `draws`.
    """
    rng = np.random.default_rng(seed)
    questions = len(times[0])
    found = np.empty((draws, len(times)))
    done = 0
    for size in _chunks(draws, max(block.size for block in times)):
        chosen = rng.integers(questions, size=(size, questions, 1))
        share = rng.random((size, 1, max(block.shape[1] for block in times)))
        for column, block in enumerate(times):
            rounds = block.shape[1]
            drawn = block[chosen, (share[..., :rounds] * rounds).astype(int)].reshape(size, -1)
            found[done : done + size, column] = _medians(drawn)
        done += size
    return found[~np.isnan(found).any(axis=1)]


def _medians(drawn: np.ndarray) -> np.ndarray:
    """(size,) medians of (size, n) but for the NaN; NaN where there is nothing else."""
    missing = np.isnan(drawn)
    if not missing.any():
        return np.median(drawn, axis=1)
    found = np.full(len(drawn), np.nan)
    some = ~missing.all(axis=1)
    found[some] = np.nanmedian(drawn[some], axis=1)
    return found
