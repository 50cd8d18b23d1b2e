"""Cost and speed-up from times: means over the images as they come, and how well they are known.

Times are (questions, rounds) in any unit, NaN where a question was timed less often. A median over
images of few and of many crops hides what the many cost; what a service pays is the mean. All
intervals are taken on the logarithm, so that none reaches below zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

#: Fewest rounds or processes whose spread is known well enough for Satterthwaite's freedom.
LEAST_COLUMNS = 4
#: From this chance on a time is called surely within a limit.
SURE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A positive number with its 95 % interval; NaN ends where nothing was repeated.

    `error`: standard error of the logarithm, with `freedom` degrees of freedom.
    """

    value: float
    low: float
    high: float
    error: float = float("nan")
    freedom: float = float("inf")

    def chance_at_most(self, limit: float) -> float:
        """Chance that the true value is `limit` or less, above 0; NaN without an interval.

        By the distribution that the interval is of, Student's t of the logarithm: 0.975 at `high`.
        """
        from scipy.special import stdtr

        distance = np.log(limit / self.value)
        if np.isnan(self.error) or self.error == 0:
            return float("nan") if np.isnan(self.error) else float(distance >= 0)
        return float(stdtr(self.freedom, distance / self.error))


def chances_in_turn(chances: Sequence[float]) -> np.ndarray:
    """Chances of several budgets to keep a limit, each no higher than those before it.

    Their order must be fixed before they are timed, such as by tokens; NaN where one has none. A
    budget that is picked out of many by the same times was more likely timed too fast. Tried in
    turn until one fails, tests need no correction (Maurer, Hothorn and Lehmacher 1995): one beyond
    the limit has 95 % only if the first such one has, in 5 % at most, however many there are.
    """
    known = np.asarray(chances, dtype=np.float64)
    return np.where(np.isnan(known), np.nan, np.fmin.accumulate(known))


def mean_time(times: np.ndarray) -> Estimate:
    """Mean time of an image as they come, over questions (Q, R) of R rounds; in the times' unit.

    The interval is of other questions of the same kind and other rounds of the same process; where
    each round is a process (its means, `by_process`), of other processes. NaN ends for one round.
    """
    mean = float(np.nanmean(times, axis=1).mean())
    return _estimate(mean, _two_way(times / mean))


def by_process(processes: Sequence[np.ndarray]) -> np.ndarray:
    """(Q, P) mean times of P processes that each timed the same Q questions, (Q, R) each.

    In the place of rounds they give `mean_time` and `speed_up` between processes: two processes
    that differ are no more alike for having many rounds.
    """
    return np.column_stack([np.nanmean(times, axis=1) for times in processes])


def speed_up(baseline: np.ndarray, other: np.ndarray) -> Estimate:
    """How many times as fast `other` is: ratio of the mean times over the same Q questions.

    baseline (Q, R), other (Q, S). What a question costs, and what disturbs a round of both, stays
    out: questions and rounds are paired. Times without a partner are left out, such as those of
    rounds that only one of the two has. Raises ValueError where the questions are not as many.
    """
    if len(baseline) != len(other):
        raise ValueError(f"{len(baseline)} and {len(other)} questions: the same ones are needed")
    rounds = min(baseline.shape[1], other.shape[1])
    pairs = [times[:, :rounds] for times in (baseline, other)]
    lacking = np.isnan(pairs[0]) | np.isnan(pairs[1])
    pairs = [np.where(lacking, np.nan, times) for times in pairs]
    means = [np.nanmean(times, axis=1).mean() for times in pairs]
    relative = pairs[0] / means[0] - pairs[1] / means[1]
    return _estimate(float(means[0] / means[1]), _two_way(relative))


def drawn_mean_times(times: Sequence[np.ndarray], draws: int = 1000) -> np.ndarray:
    """(draws, k) mean times of k budgets, each (Q, R) over the same questions: a bootstrap.

    Questions and rounds are both drawn, the same ones for all budgets (with as many rounds), as by
    Owen (2007). For the chance that one budget is faster than another; `speed_up` has the interval.
    """
    rng = np.random.default_rng(0)
    questions = len(times[0])
    weights = rng.multinomial(questions, np.full(questions, 1 / questions), size=draws) / questions
    places = rng.random((draws, max(own.shape[1] for own in times)))
    found = []
    for own in times:
        filled = np.where(np.isnan(own), np.nanmean(own, axis=1, keepdims=True), own)
        rounds = (places[:, : own.shape[1]] * own.shape[1]).astype(int)
        found.append(np.take_along_axis(weights @ filled, rounds, axis=1).mean(axis=1))
    return np.column_stack(found)


class _Spread(NamedTuple):
    """Variance of a mean over cells, and its degrees of freedom."""

    variance: float
    freedom: float


def _two_way(cells: np.ndarray) -> _Spread:
    """The spread of the mean of cells (Q, R), which share their question's and their round's part.

    The variance of the questions' means and that of the rounds' means both hold the cells' own
    noise, which is taken off once (Cameron, Gelbach and Miller 2011).
    """
    complete = cells[:, ~np.isnan(cells).any(axis=0)]
    by_question = _of_mean(np.nanmean(cells, axis=1))
    by_round = _of_mean(complete.mean(axis=0))
    if np.isnan(by_round.variance):  # what disturbs a whole round cannot be seen in one
        return by_round
    parts = [part for part in (by_question, by_round) if not np.isnan(part.variance)]
    both = _added(parts)
    largest = max(part.variance for part in parts)
    found = _Spread(max(both.variance - _own_noise(complete), largest), both.freedom)
    return _widened(found, parts) if complete.shape[1] < LEAST_COLUMNS else found


def _widened(found: _Spread, parts: Sequence[_Spread]) -> _Spread:
    """With a variance at which Student's reach is that of the parts' reaches, as squares added.

    (Howe 1974.) Two or three values say too little of a variance for Satterthwaite's freedom.
    """
    reach = sum(_student(part.freedom) ** 2 * part.variance for part in parts)
    return found._replace(variance=max(found.variance, reach / _student(found.freedom) ** 2))


def _added(parts: Sequence[_Spread]) -> _Spread:
    """The spread of a sum of independent parts (Satterthwaite 1946)."""
    variance = sum(part.variance for part in parts)
    weights = sum(part.variance**2 / part.freedom for part in parts)
    return _Spread(variance, variance**2 / weights if weights > 0 else np.inf)


def _of_mean(values: np.ndarray) -> _Spread:
    """The spread of the mean of independent values; its variance is NaN for a single one."""
    if len(values) < 2:
        return _Spread(np.nan, np.inf)
    return _Spread(float(values.var(ddof=1)) / len(values), len(values) - 1)


def _own_noise(cells: np.ndarray) -> float:
    """Variance of the mean of cells (Q, R) by what neither question nor round explains."""
    questions, rounds = cells.shape
    if questions < 2 or rounds < 2:
        return 0.0
    rest = cells - cells.mean(axis=1, keepdims=True) - cells.mean(axis=0) + cells.mean()
    return float((rest**2).sum() / ((questions - 1) * (rounds - 1))) / cells.size


def _estimate(value: float, spread: _Spread) -> Estimate:
    return estimated(value, spread.variance, spread.freedom)


def estimated(value: float, variance: float, freedom: float) -> Estimate:
    """A number with the variance of its logarithm: its interval by Student's t."""
    error = float(np.sqrt(variance))
    reach = np.exp(_student(freedom) * error)
    return Estimate(value, float(value / reach), float(value * reach), error, freedom)


@dataclass(frozen=True)
class BetweenProcesses:
    """Times of `n` repeated processes: their geometric mean and two 95 % intervals.

    low, high: of the mean of ever more processes. next_low, next_high: of one new process. All four
    are NaN for a single process.
    """

    n: int
    mean: float
    low: float
    high: float
    next_low: float
    next_high: float


def between_processes(values: np.ndarray) -> BetweenProcesses:
    """From one number above 0 per process (a mean time, a speed-up), by Student's t of logarithms.

    A speed-up whose two budgets were timed in the same processes is paired so: hand in each
    process's own ratio.
    """
    logs = np.log(np.asarray(values, dtype=np.float64))
    n, centre = len(logs), logs.mean()
    if n < 2:
        return BetweenProcesses(n, float(np.exp(centre)), *[float("nan")] * 4)
    spread = logs.std(ddof=1)
    reach = _student(n - 1) * spread * np.array([1 / np.sqrt(n), np.sqrt(1 + 1 / n)])
    low, next_low = np.exp(centre - reach)
    high, next_high = np.exp(centre + reach)
    found = (np.exp(centre), low, high, next_low, next_high)
    return BetweenProcesses(n, *(float(value) for value in found))


def speed_up_between_processes(baseline: np.ndarray, other: np.ndarray) -> Estimate:
    """Speed-up between budgets that were timed in different processes, one number per process.

    Welch's interval (1947) of the difference of logarithms; NaN ends where either has one process.
    """
    logs = [np.log(np.asarray(values, dtype=np.float64)) for values in (baseline, other)]
    ratio = float(np.exp(logs[0].mean() - logs[1].mean()))
    return _estimate(ratio, _added([_of_mean(own) for own in logs]))


def _student(freedom: float) -> float:
    from scipy.special import stdtrit

    return float(-stdtrit(freedom, 0.025))
