"""Intervals and bounds of means of bounded scores, by images: they count one unseen full change.

What was seen says nothing of a change that was not: 120 scores of 1.0 have no variance, and one of
0.97 beside them has next to none, yet a twentieth of such draws come from a mean 2.5 points lower.
So each bound is a quantile of the mean under random weights of the questions (the Bayesian
bootstrap, Rubin 1981) with one pseudo-question at the end of the score's range that the bound looks
towards. For a bound to one side this is Gaffke's (2005; Learned-Miller and Thomas 2019): for 0/1
scores exactly that of Clopper and Pearson (1934), and no distribution is known for which it fails.
For a two-sided interval the pseudo-question stands at one end or the other with a chance of one
half each: for 0/1 scores Clopper and Pearson's with mid-P (Lancaster 1961).

Images: questions about one image are right or wrong together. The variance is clustered, unbiased
under the correlation of questions (CR2: Bell and McCaffrey 2002), with Satterthwaite's degrees of
freedom. The pseudo-question weighs as many questions as one image's correlation makes one of.

The random mean is not drawn: its first three moments are known, and a gamma distribution with these
(Pearson's type III) gives its quantiles. For 0/1 scores they are off by less than 3 % of an
interval.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from vtexp.utils.text import count_of, percent

#: Fewest effective images (Kish 1965) of an interval, and the largest share of one image.
LEAST_EFFECTIVE_IMAGES = 8
LARGEST_SHARE = 0.2
#: Share of the error on each side of a two-sided interval. With one half, mid-P holds a truth of
#: which one draw in twenty shows no failure at all, such as 97 % of 100, in 92 % of draws only.
TAIL = 0.455
#: Of two-sided intervals.
CONFIDENCE = 0.95
#: Skewness below which a distribution is taken for normal.
_NO_SKEW = 1e-3
#: Halvings that bring an end of an interval down to a millionth of a millionth of the range.
_HALVINGS = 40


@dataclass(frozen=True)
class Images:
    """How many questions each of G images has: sizes (G,), each 1 or more."""

    sizes: np.ndarray

    @cached_property
    def questions(self) -> int:
        """Questions of all images."""
        return int(self.sizes.sum())

    @cached_property
    def typical_size(self) -> float:
        """Mean size of the image of a question: large images count by their questions."""
        return float((self.sizes.astype(float) ** 2).sum() / self.questions)

    @property
    def effective(self) -> float:
        """How many images of one size would carry as much where images decide (Kish 1965)."""
        return self.questions / self.typical_size

    @property
    def too_few(self) -> str | None:
        """Why these images carry no interval; None where they do."""
        largest = self.sizes.max() / self.questions
        counts = "counts" if self.questions == 1 else "count"
        if self.effective < LEAST_EFFECTIVE_IMAGES * (1 - 1e-9):
            return (
                f"{count_of(self.questions, 'question')} about "
                f"{count_of(len(self.sizes), 'image')} {counts} as {self.effective:.1f} effective "
                f"images; an interval needs {LEAST_EFFECTIVE_IMAGES}"
            )
        if largest > LARGEST_SHARE:
            return (
                f"one image has {percent(largest)} of the questions; an interval needs "
                f"{percent(LARGEST_SHARE)} or less"
            )
        return None

    @cached_property
    def leverage(self) -> np.ndarray:
        """(G,) what the square of an image's residual counts in the variance of the mean."""
        return 1 / (1 - self.sizes / self.questions) / self.questions**2

    @cached_property
    def traces(self) -> np.ndarray:
        """(3, 3): of correlations 0, 1/2 and 1 of an image's questions: see `_traces`."""
        return np.array([_traces(self, correlation) for correlation in (0.0, 0.5, 1.0)])


def _traces(images: Images, correlation: float) -> tuple[float, float, float]:
    """Trace of the variance estimator's matrix, of its square, and the variance of the mean.

    For questions of variance 1 that are so correlated within an image. The matrix is diagonal but
    for two ranks, so that no (G, G) matrix is needed.
    """
    sizes, counted = images.sizes.astype(float), images.leverage
    share = sizes / images.questions
    own = (1 - correlation) * sizes + correlation * sizes**2
    total = own.sum()
    rest = -2 * share * own + total * share**2
    uu, ww = (counted * share**2).sum(), (counted * own**2).sum()
    uw = (counted * share * own).sum()
    of_square = (
        (counted**2 * own * (own + 2 * rest)).sum()
        + 2 * (uu * ww + uw**2)
        + total * uu * (total * uu - 4 * uw)
    )
    return (counted * (own + rest)).sum(), of_square, total / images.questions**2


@dataclass(frozen=True)
class ClusteredMeans:
    """Means of scores and what their errors need; arrays of one shape.

    variance: clustered, for independent images. third: third central moment of the mean. between,
    within: sums of squared residuals of images and of questions.
    """

    images: Images
    mean: np.ndarray
    variance: np.ndarray
    third: np.ndarray
    between: np.ndarray
    within: np.ndarray

    def per_unseen(self, end: float, changes: np.ndarray | float) -> np.ndarray:
        """Questions that one unseen change to `end` would take with it: 1 to an image's.

        The design effect (Kish 1965) of the questions seen and of `changes` images that change
        wholly: where hardly anything is seen to change, it is the whole image.
        """
        typical = self.images.typical_size
        change = changes * (end - self.mean) ** 2
        seen = self.within + typical * change
        effect = (self.between + typical**2 * change) / np.where(seen > 0, seen, np.inf)
        return np.where(seen > 0, np.clip(effect, 1.0, typical), typical)

    def unbiased(self, per_unseen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Variance of the mean, and its degrees of freedom, at the correlation of `per_unseen`."""
        typical = self.images.typical_size
        rho = (per_unseen - 1) / (typical - 1) if typical > 1 else np.zeros_like(self.mean)
        none, half, full = self.images.traces
        trace, total = ((1 - rho) * none[i] + rho * full[i] for i in (0, 2))
        square = (
            none[1] * (1 - rho) * (1 - 2 * rho)
            + half[1] * 4 * rho * (1 - rho)
            + full[1] * rho * (2 * rho - 1)
        )
        return self.variance * total / trace, trace**2 / square


def clustered_means(sums: np.ndarray, squares: np.ndarray, images: Images) -> ClusteredMeans:
    """From sums (..., G) of each image's scores, and sums of squares (...) of all questions."""
    questions = images.questions
    mean = sums.sum(axis=-1) / questions
    residuals = sums - mean[..., None] * images.sizes
    return ClusteredMeans(
        images=images,
        mean=mean,
        variance=(residuals**2 * images.leverage).sum(axis=-1),
        third=(residuals**3).sum(axis=-1) / questions**3,
        between=(residuals**2).sum(axis=-1),
        within=np.clip(squares - questions * mean**2, 0.0, None),
    )


class Observed(NamedTuple):
    """`number` independent observations: their mean, variance and third central moment."""

    number: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    third: np.ndarray


class Moments(NamedTuple):
    """Mean, variance and third central moment of a distribution."""

    mean: np.ndarray
    variance: np.ndarray
    third: np.ndarray


def observed(
    means: ClusteredMeans, end: float, level: np.ndarray | float, changes: np.ndarray | float
) -> Observed:
    """As many independent observations as an unseen change to `end` is one of.

    The variance is widened to Student's distribution at `level` (one tail), in so far as it rests
    on more questions than images; where it does not, the pseudo-question widens enough.
    """
    from scipy.special import ndtri, stdtrit

    per_unseen = means.per_unseen(end, changes)
    count = means.images.questions / per_unseen
    variance, freedom = means.unbiased(per_unseen)
    wider = (stdtrit(freedom, level) / ndtri(level)) ** 2
    by_question = 1 - per_unseen / means.images.typical_size
    widened = variance * (1 + by_question * (wider - 1))
    return Observed(count, means.mean, count * widened, means.third * count**2)


def with_unseen(seen: Observed, end: float) -> Moments:
    """Moments of the mean under random weights of what was seen and one unseen change to `end`.

    Weights are Dirichlet's with all parameters 1.
    """
    count = seen.number
    shift = (end - seen.mean) / (count + 1)
    rest = end - seen.mean - shift
    second = count * (seen.variance + shift**2) + rest**2
    third = count * (seen.third - 3 * seen.variance * shift - shift**3) + rest**3
    return Moments(
        seen.mean + shift,
        second / ((count + 1) * (count + 2)),
        2 * third / ((count + 1) * (count + 2) * (count + 3)),
    )


def quantile_above(moments: Moments, level: np.ndarray | float) -> np.ndarray:
    """What Pearson's type III distribution with these moments exceeds with the chance `level`."""
    from scipy.special import gammainccinv, gammaincinv, ndtri

    spread, shape, side = _standard(moments)
    upper = np.where(side > 0, gammainccinv(shape, level), gammaincinv(shape, level))
    skewed = side * (upper - shape) / np.sqrt(shape)
    return moments.mean + spread * np.where(side == 0, -ndtri(level), skewed)


def chances_above(moments: Moments) -> Callable[[np.ndarray], np.ndarray]:
    """Chance that Pearson's type III distribution with these moments exceeds a value."""
    from scipy.special import gammainc, gammaincc, ndtr

    spread, shape, side = _standard(moments)
    certain = spread <= 1e-12
    width, root = np.where(certain, 1.0, spread), np.sqrt(shape)

    def above(value: np.ndarray) -> np.ndarray:
        z = (value - moments.mean) / width
        place = np.clip(shape + side * z * root, 0.0, None)
        chance = np.where(side > 0, gammaincc(shape, place), gammainc(shape, place))
        chance = np.where(side == 0, ndtr(-z), chance)
        return np.where(certain, value < moments.mean - 1e-12, chance)

    return above


def _standard(moments: Moments) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Standard deviation, shape of the gamma distribution, and its side (0: normal)."""
    spread = np.sqrt(np.clip(moments.variance, 0.0, None))
    skew = moments.third / np.where(spread > 1e-12, spread, np.inf) ** 3
    side = np.where(np.abs(skew) < _NO_SKEW, 0.0, np.sign(skew))
    return spread, 4 / np.maximum(np.abs(skew), _NO_SKEW) ** 2, side


def observed_to_one_side(means: ClusteredMeans, end: float, level: np.ndarray | float) -> Observed:
    """What a bound at `level` to one side rests on.

    With the chance `level`, as many images as -log(level) could be lost wholly and none be drawn.
    The design effect counts four times as many: so a bound holds in 94 % or more also where 2 to
    5 % of 60 images are lost whole while many single questions change (benchmarks/coverage.py).
    """
    return observed(means, end, level, -4 * np.log(level))


def upper_bound(means: ClusteredMeans, end: float, level: np.ndarray | float) -> np.ndarray:
    """Largest mean of scores up to `end` that agrees with these, but for the chance `level`."""
    seen = observed_to_one_side(means, end, level)
    return np.minimum(quantile_above(with_unseen(seen, end), level), end)


def interval(means: ClusteredMeans, ends: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Two-sided 95 % interval of means of scores within `ends`: low and high.

    Quantiles of an even mixture of the two distributions with an unseen change to either end.
    """
    level = TAIL * (1 - CONFIDENCE)
    changes = -np.log(2 * level)
    # In the many halvings, what follows from the moments alone is computed once.
    either = [chances_above(with_unseen(observed(means, end, level, changes), end)) for end in ends]

    def crossing(chance: float) -> np.ndarray:
        low, high = np.full_like(means.mean, ends[0]), np.full_like(means.mean, ends[1])
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            above = sum(chance_above(middle) for chance_above in either) / 2 > chance
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        return (low + high) / 2

    return crossing(1 - level), crossing(level)
