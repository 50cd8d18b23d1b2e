"""Which budget is enough: accuracies of the same questions under several budgets, compared.

`compare` is the whole test on plain arrays. The parts behind it take `Scores`: the answers of n
questions about G images under k budgets, from the smallest budget to the largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vtexp.stats.bounded import (
    ClusteredMeans,
    Images,
    clustered_means,
    interval,
    observed_to_one_side,
    upper_bound,
    with_unseen,
)

#: Chance that a statement about all budgets at once is wrong.
ERROR = 0.05
#: Draws of the critical value against the best; it is known to 1 %.
_DRAWS = 10_000
_SEED = 0


@dataclass(frozen=True)
class Scores:
    """Scores (n, k) of n questions under k budgets, codes (n,) of their images, 0 to G - 1.

    Scores are scaled to 0 to 1; `scale` is what a whole change is in the metric's unit.
    """

    scores: np.ndarray
    codes: np.ndarray
    scale: float = 1.0

    @cached_property
    def images(self) -> Images:
        """Questions of each image."""
        return Images(np.bincount(self.codes))

    @cached_property
    def score_means(self) -> np.ndarray:
        """(k,) means in the metric's unit, without its lowest score: see `mean_scores`."""
        return mean_scores(self.scale * self.scores)

    @cached_property
    def sums(self) -> np.ndarray:
        """(G, k) scores added up by image."""
        return np.column_stack([np.bincount(self.codes, weights=own) for own in self.scores.T])

    @cached_property
    def means(self) -> ClusteredMeans:
        """(k,) of the budgets."""
        return clustered_means(self.sums.T, (self.scores**2).sum(axis=0), self.images)

    @cached_property
    def losses(self) -> ClusteredMeans:
        """(k, k) of the differences [i, j]: score under budget j minus score under budget i."""
        products = self.scores.T @ self.scores
        own = np.diag(products)
        squares = own[:, None] + own[None, :] - 2 * products
        rows = [
            clustered_means((self.sums - self.sums[:, i : i + 1]).T, squares[i], self.images)
            for i in range(len(own))
        ]
        parts = ("mean", "variance", "third", "between", "within")
        stacked = {name: np.stack([getattr(row, name) for row in rows]) for name in parts}
        return ClusteredMeans(images=self.images, **stacked)

    @cached_property
    def covariance(self) -> np.ndarray:
        """(k, k) covariances of the means, clustered by image."""
        residuals = self.sums - np.outer(self.images.sizes, self.means.mean)
        return (residuals * self.images.leverage[:, None]).T @ residuals

    @cached_property
    def loss_variance(self) -> np.ndarray:
        """(k, k) variances of the losses' means, unseen changes counted in."""
        seen = observed_to_one_side(self.losses, 1.0, ERROR)
        return with_unseen(seen, 1.0).variance


def mean_scores(scores: np.ndarray) -> np.ndarray:
    """(...) means of scores (n, ...) to 12 digits.

    Sums of parts of a point differ by their order, and budgets that scored alike must tie.
    """
    return np.round(scores.mean(axis=0), 12)


def paired_scores(
    scores: np.ndarray | Sequence[Sequence[float]],
    image_ids: np.ndarray | Sequence[object],
    score_range: tuple[float, float] = (0.0, 1.0),
) -> Scores:
    """Scores (n, k) of n questions about the images (n,), each score within `score_range`.

    Raises ValueError where shapes do not match, a score is missing or out of range, or k or n is 0.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2 or not values.size or len(values) != len(image_ids):
        raise ValueError(
            f"scores {values.shape} of {len(image_ids)} image ids: (questions, budgets) and one id "
            "per question are needed"
        )
    lowest, highest = score_range
    if not lowest < highest:
        raise ValueError(f"score_range {score_range}: the first number must be below the second")
    if not (np.isfinite(values).all() and (lowest <= values).all() and (values <= highest).all()):
        raise ValueError(f"scores: every score must be a number from {lowest:g} to {highest:g}")
    places: dict[object, int] = {}  # numpy would copy all ids, which may be long paths
    codes = np.array([places.setdefault(image, len(places)) for image in image_ids])
    scale = highest - lowest
    return Scores((values - lowest) / scale, codes, scale)


@dataclass(frozen=True)
class Accuracy:
    """Mean of scores with its clustered standard error and 95 % interval, in the scores' unit.

    standard_error, low and high are None where the images carry no interval; `reason` says why.
    """

    mean: float
    standard_error: float | None
    low: float | None
    high: float | None
    questions: int
    images: int
    reason: str | None = None


def accuracy(
    scores: np.ndarray | Sequence[float],
    image_ids: np.ndarray | Sequence[object],
    score_range: tuple[float, float] = (0.0, 1.0),
) -> Accuracy:
    """Accuracy of one budget: scores (n,) within `score_range` of questions about images (n,).

    The interval is the one that `compare` gives. Raises ValueError on arrays that do not fit.
    """
    one = paired_scores(np.asarray(scores, dtype=np.float64)[:, None], image_ids, score_range)
    mean = float(mean_scores(np.asarray(scores, dtype=np.float64)))
    counts = len(one.scores), len(one.images.sizes)
    reason = one.images.too_few
    if reason is not None:
        return Accuracy(mean, None, None, None, *counts, reason)
    variance, _ = one.means.unbiased(np.ones(1))
    error = one.scale * float(np.sqrt(variance[0]))
    low, high = interval(one.means, (0.0, 1.0))
    lowest = score_range[0]
    return Accuracy(mean, error, lowest + one.scale * low[0], lowest + one.scale * high[0], *counts)


@dataclass(frozen=True)
class Comparison:
    """k budgets from the smallest to the largest, in the scores' unit; arrays are (k,).

    mean, low, high: accuracy and its 95 % interval, each by itself. at_most_worse, at_least_worse:
    bounds of the accuracy lost against the truly best budget, whichever it is; each holds for all
    budgets at once with 95 % confidence. enough: at_most_worse is within the margin.
    smallest_enough: index of the smallest such budget, None without one. reason: why the data
    carries no interval (bounds are NaN then, and no budget is enough); None where it does.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    at_most_worse: np.ndarray
    at_least_worse: np.ndarray
    enough: np.ndarray
    smallest_enough: int | None
    reason: str | None = None


def compare(
    scores: np.ndarray | Sequence[Sequence[float]],
    image_ids: np.ndarray | Sequence[object],
    margin: float,
    score_range: tuple[float, float] = (0, 1),
) -> Comparison:
    """Which budgets lose at most `margin` against the best one, by paired scores.

    scores: (n, k), of the same n questions under k budgets from the smallest to the largest.
    image_ids: (n,), which image each question is about. margin: in the scores' unit, from 0.
    score_range: lowest and highest possible score, which is what an unseen change may be.

    Intervals and bounds: `vtexp.stats.bounded`. The best budget is unknown, and several budgets
    are tried: simultaneous comparisons with the best (Hsu 1984), see `at_most_worse`. Where images
    are too few or too uneven, see `Comparison.reason`. Raises ValueError on arrays that do not fit.
    """
    if not margin >= 0:
        raise ValueError(f"margin {margin}: it must be a number from 0 on")
    paired = paired_scores(scores, image_ids, score_range)
    mean = score_range[0] + paired.score_means
    reason = paired.images.too_few
    if reason is not None:
        unknown = np.full(len(mean), np.nan)
        none = np.zeros(len(mean), dtype=bool)
        return Comparison(mean, unknown, unknown, unknown, unknown, none, None, reason)
    low, high = (score_range[0] + paired.scale * end for end in interval(paired.means, (0.0, 1.0)))
    at_most = paired.scale * at_most_worse(paired)
    enough = at_most <= margin
    return Comparison(
        mean=mean,
        low=low,
        high=high,
        at_most_worse=at_most,
        at_least_worse=paired.scale * at_least_worse(paired),
        enough=enough,
        smallest_enough=int(np.argmax(enough)) if enough.any() else None,
    )


def at_most_worse(paired: Scores) -> np.ndarray:
    """(k,) upper bounds, from 0 to 1, of what each budget loses against the truly best one.

    The largest of its bounds against each other budget j, at the level at which the k - 1 bounds
    against j hold together (Dunnett 1955, with the correlations seen): whichever j is the best,
    all k bounds hold with a chance of 95 % (Hsu 1984).
    """
    bounds = upper_bound(paired.losses, 1.0, loss_levels(paired, ERROR)[None, :])
    np.fill_diagonal(bounds, 0.0)
    return np.clip(bounds, 0.0, 1.0).max(axis=1)


def loss_levels(paired: Scores, error: float) -> np.ndarray:
    """(k,) level of each bound against budget j at which all k - 1 bounds against j hold together.

    For the correlations seen, see `loss_correlation`.
    """
    budgets = paired.scores.shape[1]
    everyone = np.arange(budgets)
    return np.array(
        [
            level_of_all(loss_correlation(paired, best, np.delete(everyone, best)), error)
            for best in range(budgets)
        ]
    )


def loss_correlation(paired: Scores, centre: int, others: np.ndarray) -> np.ndarray:
    """(others, others) correlations of the differences between `others` and one budget.

    The part of a variance that stands for unseen changes is independent, since budgets may lose on
    different questions. A loss without any variance, of all questions wholly, goes with no other.
    """
    with_centre = paired.covariance[others, centre]
    seen = paired.covariance[np.ix_(others, others)] - with_centre[:, None] - with_centre
    seen = seen + paired.covariance[centre, centre]
    whole = np.maximum(paired.loss_variance[others, centre], np.diag(seen))
    seen = seen + np.diag(whole - np.diag(seen))
    sure = whole <= 1e-12
    whole, seen[sure, sure] = np.where(sure, 1.0, whole), 1.0
    return seen / np.sqrt(np.outer(whole, whole))


def level_of_all(correlation: np.ndarray, error: float) -> float:
    """Level of each of several one-sided bounds at which all hold with a chance of 1 - error.

    For normal errors with these correlations (Dunnett 1955), by draws; not beyond Bonferroni's.
    """
    from scipy.special import ndtr

    if len(correlation) < 2:
        return error
    largest = correlated_normals(correlation).max(axis=1)
    level = float(ndtr(-np.quantile(largest, 1 - error)))
    return min(max(level, error / len(correlation)), error)


def correlated_normals(correlation: np.ndarray) -> np.ndarray:
    """(draws, m) standard normal numbers with these correlations, the same at each call."""
    values, vectors = np.linalg.eigh(correlation)
    # The symmetric root: another one turns with the eigenvectors, which rounding decides.
    root = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
    return np.random.default_rng(_SEED).standard_normal((_DRAWS, len(correlation))) @ root


def at_least_worse(paired: Scores) -> np.ndarray:
    """(k,) lower bounds, from 0 to 1, of what each budget loses against the truly best one.

    All hold together with a chance of 95 %: Bonferroni's over the k (k - 1) ordered pairs.
    """
    budgets = paired.scores.shape[1]
    if budgets < 2:
        return np.zeros(budgets)
    # A loss of i against j is at least what j cannot exceed against i.
    bounds = -upper_bound(paired.losses, 1.0, ERROR / (budgets * (budgets - 1))).T
    np.fill_diagonal(bounds, 0.0)
    return np.clip(bounds, 0.0, 1.0).max(axis=1)


@dataclass(frozen=True)
class Differences:
    """(k, k) differences of means [i, j] = budget i minus budget j, with low and high ends.

    In the scores' unit. NaN ends where the data carries no interval.
    """

    difference: np.ndarray
    low: np.ndarray
    high: np.ndarray


def differences(paired: Scores, *, simultaneous: bool = False) -> Differences:
    """95 % intervals of all differences between budgets: each by itself, or all at once.

    Where the same data chose a pair, such as a budget and the one that scored highest, only the
    simultaneous interval holds (Bonferroni's, of one-sided bounds).
    """
    means = paired.score_means
    difference, budgets = means[:, None] - means, len(means)
    if paired.images.too_few is not None:
        unknown = np.full((budgets, budgets), np.nan)
        return Differences(difference, unknown, unknown)
    losses = paired.losses
    if simultaneous:
        high = upper_bound(losses, 1.0, ERROR / max(1, budgets * (budgets - 1))).T
    else:
        high = interval(losses, (-1.0, 1.0))[1].T
    np.fill_diagonal(high, 0.0)
    return Differences(difference, -paired.scale * high.T, paired.scale * high)
