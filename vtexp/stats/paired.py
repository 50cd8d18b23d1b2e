"""Accuracies and their differences, with errors that know which questions share an image.

n questions about G images, k budgets. Everything random is drawn from one seed: the same records
give the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

#: Normal quantiles of a 95 % interval, of a bound with 95 % confidence, and of 80 % power.
Z_95 = 1.96
Z_ONE_SIDED = 1.645
Z_POWER = 0.842
#: Bootstrap draws, and sign flips; a share of them is known to 0.8 points at 50 %.
DRAWS = 4000
#: Draws of times, of which there may be tens of thousands.
TIME_DRAWS = 1000
SEED = 0


class Mean(NamedTuple):
    """Mean of n scores over `images` images; the standard error is None for a single image.

    Scores are from 0 to `highest`.
    """

    mean: float
    standard_error: float | None
    n: int
    images: int
    highest: float = 1.0

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval within [0, highest]; None for a single image.

        Wilson's (1927) of the number of independent questions that would have this standard error,
        with Student's quantile of images - 1 degrees of freedom. Where every score is 0 or every
        score the highest, Clopper and Pearson's bound over the images (1934).
        """
        if self.standard_error is None:
            return None
        if self.mean in (0.0, self.highest):
            reach = self.highest * (1 - 0.025 ** (1 / self.images))
            return (0.0, reach) if self.mean == 0.0 else (self.highest - reach, self.highest)
        share = self.mean / self.highest
        variance = (self.standard_error / self.highest) ** 2
        spread = share * (1 - share)
        if variance < 1e-18:  # all images alike: no error is seen but that of rounding
            variance = spread / self.images
        b = students(Z_95, self.images) ** 2 * variance / spread
        centre = (share + b / 2) / (1 + b)
        half = np.sqrt(b * spread + b**2 / 4) / (1 + b)
        return float(self.highest * (centre - half)), float(self.highest * (centre + half))


def clustered_mean(
    scores: Sequence[float] | np.ndarray,
    image_ids: Sequence[str] | np.ndarray,
    highest: float = 1.0,
) -> Mean:
    """Mean score with the standard error clustered by image.

    Questions about one image are right or wrong together, so the plain standard error is too
    small. Ratio estimator over clusters with the G / (G - 1) correction (Liang and Zeger 1986).
    """
    values = np.asarray(scores, dtype=np.float64)
    if not len(values) or len(values) != len(image_ids):
        raise ValueError(f"{len(values)} scores of {len(image_ids)} questions")
    mean = float(values.mean())
    places: dict[Any, int] = {}  # numpy would copy all ids, which may be long paths
    codes = np.array([places.setdefault(image, len(places)) for image in image_ids])
    residuals = np.bincount(codes, weights=values - mean)
    groups = len(residuals)
    if groups < 2:
        return Mean(mean, None, len(values), groups, highest)
    total = residuals @ residuals * groups / (groups - 1)
    return Mean(mean, float(np.sqrt(total) / len(values)), len(values), groups, highest)


@dataclass(frozen=True)
class PairedScores:
    """Scores of the same n questions under k budgets, added up by image (G images).

    sums: (G, k), sizes: (G,) questions per image; scores are from 0 to `highest`.
    """

    sums: np.ndarray
    sizes: np.ndarray
    highest: float = 1.0

    @property
    def images(self) -> int:
        """G, of which there must be two for any error."""
        return len(self.sizes)

    @property
    def means(self) -> np.ndarray:
        """(k,) mean scores over the questions."""
        return self.sums.sum(axis=0) / self.sizes.sum()

    def errors(self) -> np.ndarray:
        """(k, k) standard errors of the differences of means, clustered as in `clustered_mean`."""
        residuals = self.sums - np.outer(self.sizes, self.means)
        shared = residuals.T @ residuals * self.images / (self.images - 1) / self.sizes.sum() ** 2
        own = np.diag(shared)
        return np.sqrt(np.clip(own[:, None] + own[None, :] - 2 * shared, 0, None))

    def lumps(self) -> np.ndarray:
        """(k, k) score that an image which changes between two budgets typically gains or loses.

        Per mean questions of an image, and weighted by the change; `highest` where none changes.
        """
        lumps = np.full((self.sums.shape[1],) * 2, self.highest)
        for i, j in zip(*np.triu_indices(len(lumps), 1), strict=True):
            change = np.abs(self.sums[:, i] - self.sums[:, j])
            if total := change.sum():
                lumps[i, j] = lumps[j, i] = change @ change / total / self.sizes.mean()
        return lumps


def paired_scores(scores: np.ndarray, images: np.ndarray, highest: float = 1.0) -> PairedScores:
    """Scores (n, k) of n questions on the images (n,), added up by image."""
    _, codes = np.unique(images, return_inverse=True)
    columns = [np.bincount(codes, weights=column) for column in scores.T]
    return PairedScores(np.column_stack(columns), np.bincount(codes), highest)


def bootstrap_means(paired: PairedScores, draws: int = DRAWS, seed: int = SEED) -> np.ndarray:
    """(draws, k) means of bootstrap draws of whole images, the same images for all budgets.

    Images with the same sums are drawn together, as a multinomial count: the same distribution,
    in less time (Efron and Tibshirani 1993, chapter 8, for draws of clusters).
    """
    rng = np.random.default_rng(seed)
    kinds, counts = np.unique(
        np.column_stack([paired.sums, paired.sizes]), axis=0, return_counts=True
    )
    totals = [
        rng.multinomial(paired.images, counts / paired.images, size=size) @ kinds
        for size in _chunks(draws, len(kinds))
    ]
    found = np.concatenate(totals)
    return found[:, :-1] / found[:, -1:]


def _chunks(draws: int, width: int) -> Iterator[int]:
    """Sizes that add up to `draws`, so that a chunk of that width has some 10 million numbers."""
    size = max(1, 10_000_000 // width)
    for start in range(0, draws, size):
        yield min(size, draws - start)


class Critical(NamedTuple):
    """What standard errors of differences are multiplied by for 95 % confidence.

    single: (k, k), two-sided, each difference by itself. from_best: one-sided, all budgets against
    the truly best one at once, whichever it is (Hsu 1984): the largest over i of the quantile of
    the largest of the k - 1 differences from budget i (Dunnett's). Both by bootstrap, so that they
    know how budgets are correlated. all_pairs: two-sided, all pairs at once (Bonferroni's, since
    the bootstrap's had 6 % of false alarms among six equal budgets).
    """

    single: np.ndarray
    from_best: float
    all_pairs: float


def critical_values(paired: PairedScores, drawn: np.ndarray) -> Critical:
    """Critical values from bootstrap means (draws, k).

    Not below the normal ones of a single difference, and widened from the normal to Student's
    distribution with G - 1 degrees of freedom.
    """
    from scipy.stats import norm

    errors = paired.errors()
    scale = np.where(errors > 0, errors, np.inf)
    single = np.full_like(errors, Z_95)
    from_best = Z_ONE_SIDED
    for i in range(len(errors)):
        from_i = (drawn[:, i : i + 1] - drawn) - (paired.means[i] - paired.means)
        studentised = from_i / scale[i]
        single[i] = np.maximum(Z_95, np.quantile(np.abs(studentised), 0.95, axis=0))
        from_best = max(from_best, float(np.quantile((-studentised).max(axis=1), 0.95)))
    pairs = len(errors) * (len(errors) - 1) / 2
    all_pairs = float(norm.isf(0.025 / max(1.0, pairs)))
    wider = (students(value, paired.images) for value in (single, from_best, all_pairs))
    return Critical(next(wider), float(next(wider)), float(next(wider)))


def students(normal: np.ndarray | float, images: int) -> np.ndarray:
    """Student's quantiles with the tail of these normal ones, G - 1 degrees of freedom."""
    from scipy.stats import norm, t

    return t.isf(norm.sf(normal), images - 1)


def upper_bound(
    difference: np.ndarray,
    error: np.ndarray,
    lump: np.ndarray,
    critical: np.ndarray | float,
    images: int,
) -> np.ndarray:
    """Largest true difference that agrees with an observed one.

    d + c SE, or, where few images change and SE is blind to what was not seen, the largest u with
    (u - d)^2 <= c^2 (lump u - u^2) / G: if the truth were u, at least u / lump of the images would
    change, which alone makes that variance. For one question an image and none that changes this is
    Wilson's bound (1927); for 0/1 scores it is near Tango's (1998).
    """
    plain = difference + critical * error
    b = critical**2 / images
    half = difference + b * lump / 2
    inside = half**2 - difference**2 * (1 + b)
    score = (half + np.sqrt(np.clip(inside, 0, None))) / (1 + b)
    return np.where((inside >= 0) & (score > 0), np.maximum(plain, score), plain)


def _upper_bounds(paired: PairedScores, critical: np.ndarray | float) -> np.ndarray:
    """(k, k) upper bounds of the differences of means [i, j] = i minus j."""
    difference = _all_pairs(paired.means)
    bounds = upper_bound(difference, paired.errors(), paired.lumps(), critical, paired.images)
    np.fill_diagonal(bounds, 0.0)
    return np.minimum(bounds, paired.highest)


def difference_intervals(
    paired: PairedScores, critical: Critical
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Differences of means [i, j] = i minus j, low and high ends of their 95 % intervals: (k, k).

    Each interval by itself: for several at once see `worse_than_best` and `sign_flip_p_values`.
    """
    high = _upper_bounds(paired, critical.single)
    return _all_pairs(paired.means), -high.T, high


def worse_than_best(paired: PairedScores, critical: Critical) -> tuple[np.ndarray, np.ndarray]:
    """(k,) how much each budget is worse than the truly best one: at least, and at most.

    Each of the two holds for all budgets at once with 95 % confidence, whichever is the best and
    whichever budget is picked for its bound: simultaneous comparisons with the best (Hsu 1984) for
    the upper bounds, all pairs at once for the lower ones.
    """
    at_most = _upper_bounds(paired, critical.from_best).max(axis=0)
    at_least = (-_upper_bounds(paired, critical.all_pairs).T).max(axis=0)
    return np.clip(at_least, 0.0, None), np.clip(at_most, 0.0, None)


def sign_flip_p_values(paired: PairedScores, draws: int = DRAWS, seed: int = SEED) -> np.ndarray:
    """(k, k) two-sided p-values of no difference: signs of images' differences flipped at random.

    Exact but for the number of draws where two budgets are alike (Fisher 1935; the share counts
    the data as one draw, Phipson and Smyth 2010). With one 0/1 question an image this is McNemar's
    exact test; with several it keeps the questions of an image together.
    """
    rng = np.random.default_rng(seed)
    changes = paired.sums - paired.sums[:, :1]
    k = paired.sums.shape[1]
    draws = max(draws, 100 * k * (k - 1))  # or a correction for all pairs could find none
    kinds, counts = np.unique(changes[changes.any(axis=1)], axis=0, return_counts=True)
    observed = np.abs(_all_pairs(changes.sum(axis=0)))
    reached = np.ones((k, k))
    for size in _chunks(draws, max(1, len(kinds), k * k)):
        flips = 2 * rng.binomial(counts, 0.5, size=(size, len(counts))) - counts
        reached += (np.abs(_all_pairs(flips @ kinds)) >= observed - 1e-9).sum(axis=0)
    return reached / (draws + 1)


def _all_pairs(values: np.ndarray) -> np.ndarray:
    """(..., k, k) of (..., k): value i minus value j."""
    return values[..., :, None] - values[..., None, :]


def mcnemar_p_value(wins: int, losses: int) -> float:
    """McNemar's exact test (1947) of questions that only one of two budgets answered rightly.

    Two-sided binomial; takes questions as independent, also those about one image.
    """
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """p-values corrected for their number (Holm 1979): the family-wise error is kept."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


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


def detectable_difference(error: float, lump: float, images: int) -> float:
    """Smallest true difference that a two-sided test at 5 % finds with 80 % power.

    z SE, or, where few images change, the d whose images alone make the variance (lump d - d^2) / G
    that it is z times the root of (see `upper_bound`).
    """
    z = Z_95 + Z_POWER
    return float(max(z * error, z**2 * lump / (images + z**2)))


def images_for_margin(
    error: float, lump: float, critical: float, images: int, margin: float
) -> float:
    """About how many images show with 80 % power that two equal budgets are within the margin.

    Infinite for a margin of 0. `error` is that of `images` images; where it is blind to what was
    not seen, the images that bring `upper_bound` of no difference down to the margin.
    """
    if margin <= 0:
        return np.inf
    plain = images * ((critical + Z_POWER) * error / margin) ** 2
    return float(max(plain, critical**2 * (lump - margin) / margin))
