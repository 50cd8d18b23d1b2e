"""How many questions a margin takes, and what margin so many questions carry.

For a budget that is as good as the best: the chance that `compare` calls it enough, with all k
budgets compared. Its loss must look small against each of them at once, so that more budgets
take more questions twice over: by the bounds' level, and by the largest of several errors.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vtexp.stats.bounded import (
    ClusteredMeans,
    Images,
    Observed,
    observed_to_one_side,
    quantile_above,
    with_unseen,
)
from vtexp.stats.comparison import (
    ERROR,
    Scores,
    at_least_worse,
    correlated_normals,
    level_of_all,
    loss_correlation,
    loss_levels,
)

POWER = 0.8
#: More questions than this are no advice.
MOST_QUESTIONS = 1_000_000


def questions_needed(paired: Scores, margin: float) -> int | None:
    """About how many questions show with a power of 80 % that an equal budget is within the margin.

    margin: as a part of the range of scores. The budget is the smallest that is not shown to be
    worse; those that are shown to be are taken to stay so, all others to be equal. With the errors,
    correlations and questions per image of these scores. None for more than a million questions,
    and where the scores carry no interval.
    """
    if paired.images.too_few is not None or paired.scores.shape[1] < 2 or margin <= 0:
        return None
    questions = paired.images.questions
    low, high = np.log(1 / questions), np.log(MOST_QUESTIONS / questions)
    race = _race(paired)
    if race.margin(float(np.exp(high))) > margin:
        return None
    for _ in range(20):
        middle = (low + high) / 2
        short = race.margin(float(np.exp(middle))) > margin
        low, high = (middle, high) if short else (low, middle)
    return int(np.ceil(questions * np.exp(high)))


def margin_of(paired: Scores) -> float:
    """The smallest margin within which these questions show an equal budget to be, as a part of 1.

    With a power of 80 %, and as in `questions_needed`. NaN where the scores carry no interval.
    """
    if paired.images.too_few is not None or paired.scores.shape[1] < 2:
        return float("nan")
    return _race(paired).margin(1.0)


def planned_margin(images: Images, budgets: int, changed: float) -> float:
    """The smallest margin that a plan can show, as a part of 1: before there is any score.

    changed: share of the questions that two equal budgets score differently, by a full change and
    as often to either side, whatever their image; 0 for budgets that answer alike, which gives the
    least of all margins. NaN where the images carry no interval.
    """
    if images.too_few is not None:
        return float("nan")
    others = budgets - 1
    seen = observed_to_one_side(_changing(images, changed, others), 1.0, ERROR)
    correlation = np.full((others, others), 0.5) + 0.5 * np.eye(others)
    level = np.full(others, level_of_all(correlation, ERROR))
    if changed == 0:  # equal answers: no error to allow for
        return float(quantile_above(with_unseen(seen, 1.0), level).max())
    return _Race(seen, level, correlated_normals(correlation)).margin(1.0)


def _changing(images: Images, changed: float, others: int) -> ClusteredMeans:
    """Losses against so many others, where questions change with a chance of `changed` each."""
    none, squares = np.zeros(others), np.full(others, changed * images.questions)
    return ClusteredMeans(images, none, squares / images.questions**2, none, squares, squares)


class _Race(NamedTuple):
    """An equal budget against others (j,): what was seen of its losses, and (draws, j) errors."""

    seen: Observed
    level: np.ndarray
    normals: np.ndarray

    def margin(self, times: float) -> float:
        """The margin that its bounds keep with a power of 80 %, at so many times the questions."""
        moments = with_unseen(self.seen._replace(number=times * self.seen.number), 1.0)
        reach = quantile_above(moments, self.level)
        largest = (self.normals * np.sqrt(moments.variance) + reach).max(axis=1)
        return float(np.quantile(largest, POWER))


def _race(paired: Scores) -> _Race:
    contenders = np.flatnonzero(at_least_worse(paired) <= 0)
    candidate = int(contenders[0])
    others = contenders[1:] if len(contenders) > 1 else np.array([1 - min(candidate, 1)])
    seen = observed_to_one_side(paired.losses, 1.0, ERROR)
    own = Observed(*(part[candidate, others] for part in seen))
    return _Race(
        own._replace(mean=np.zeros(len(others))),
        loss_levels(paired, ERROR)[others],
        correlated_normals(loss_correlation(paired, candidate, others)),
    )
