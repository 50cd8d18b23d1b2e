"""Paired tests by flipping signs, with the p-values that so many draws can tell apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vtexp.stats.chunks import chunks

#: Fewest and most draws, and draws for each comparison that p-values are corrected for.
LEAST_DRAWS, MOST_DRAWS = 4000, 200_000
DRAWS_PER_COMPARISON = 200
_SEED = 0


@dataclass(frozen=True)
class PValues:
    """p-values, and which of them are as small as the draws allow: there the true one is smaller.

    A value at the floor is an upper bound, to be written with `<`.
    """

    value: np.ndarray
    at_floor: np.ndarray


def sign_flip_tests(sums: np.ndarray, comparisons: int | None = None) -> PValues:
    """(k, k) two-sided p-values of no difference between budgets; sums (G, k) of images' scores.

    Signs of the images' differences are flipped at random: exact but for the number of draws
    (Fisher 1935; the data counts as one draw, Phipson and Smyth 2010). comparisons: how many
    p-values are corrected together, k (k - 1) / 2 by default; draws are so many that a value at
    the floor is 0.005 at most after Bonferroni's or Holm's correction for up to 1 000 of them.
    """
    k = sums.shape[1]
    pairs = k * (k - 1) // 2 if comparisons is None else comparisons
    return _tested(sums - sums[:, :1], pairs, _all_pairs)


def sign_flips_against(sums: np.ndarray, baseline: int, comparisons: int) -> PValues:
    """(k,) p-values of no difference from one budget; else as `sign_flip_tests`."""
    return _tested(sums - sums[:, [baseline]], comparisons, lambda values: values)


def _tested(
    changes: np.ndarray, comparisons: int, of: Callable[[np.ndarray], np.ndarray]
) -> PValues:
    """p-values of what `of` makes of sums (..., k) of changes (G, k), signs of images flipped."""
    rng = np.random.default_rng(_SEED)
    draws = min(max(LEAST_DRAWS, DRAWS_PER_COMPARISON * comparisons), MOST_DRAWS)
    kinds, counts = np.unique(changes[changes.any(axis=1)], axis=0, return_counts=True)
    observed = np.abs(of(changes.sum(axis=0)))
    reached = np.ones(observed.shape, dtype=np.int64)
    for size in chunks(draws, max(1, len(kinds), observed.size)):
        flips = 2 * rng.binomial(counts, 0.5, size=(size, len(counts))) - counts
        reached += (np.abs(of(flips @ kinds)) >= observed - 1e-9).sum(axis=0)
    return PValues(reached / (draws + 1), reached == 1)


def holm(p_values: PValues, comparisons: int | None = None) -> PValues:
    """p-values corrected for their number (Holm 1979); those at the floor stay marked.

    comparisons: of how many they are a part, such as those with a budget that the same data chose:
    all others might have been chosen. The other p-values are taken for larger than these.
    """
    flat = p_values.value.ravel()
    count = len(flat) if comparisons is None else comparisons
    order = np.argsort(flat, kind="stable")
    stepped = np.maximum.accumulate(flat[order] * (count - np.arange(len(flat))))
    corrected = np.empty_like(flat)
    corrected[order] = np.minimum(stepped, 1.0)
    return PValues(corrected.reshape(p_values.value.shape), p_values.at_floor)


@dataclass(frozen=True)
class PairTest:
    """p-value of no difference in one pair of several, and Holm's for all of these.

    `at_floor`: both are upper bounds.
    """

    value: float
    holm: float
    at_floor: bool


def pair_tests(pairs: Sequence[np.ndarray]) -> list[PairTest]:
    """Tests of several pairs of budgets, each the (G, 2) sums of its own images' scores."""
    tests = [sign_flip_tests(sums, len(pairs)) for sums in pairs]
    value = np.array([test.value[0, 1] for test in tests])
    at_floor = np.array([test.at_floor[0, 1] for test in tests])
    corrected = holm(PValues(value, at_floor)).value
    numbers = zip(value.tolist(), corrected.tolist(), at_floor.tolist(), strict=True)
    return [PairTest(*own) for own in numbers]


def _all_pairs(values: np.ndarray) -> np.ndarray:
    """(..., k, k) of (..., k): value i minus value j."""
    return values[..., :, None] - values[..., None, :]
