"""Times between processes: columns of processes in the place of rounds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from vtexp.stats.times import Estimate, by_process, mean_time, speed_up


def processes(
    rng: np.random.Generator, count: int, spread: float, question: np.ndarray
) -> list[np.ndarray]:
    """Times of processes that differ by `spread`, each of 6 rounds of these questions."""
    levels = rng.lognormal(-(spread**2) / 2, spread, count)
    noise = rng.lognormal(-(0.03**2) / 2, 0.03, (count, len(question), 6))
    return list(levels[:, None, None] * question[:, None] * noise)


@pytest.mark.parametrize("count", [2, 3, 4, 8])
@pytest.mark.parametrize("mixed", [0.0, 0.3])
def test_intervals_between_processes_hold_the_truth(count: int, mixed: float) -> None:
    """Of a mean and of a ratio; with two processes they may be wider than they need to be."""
    rng, hits, tries = np.random.default_rng(count), np.zeros(2), 400
    for _ in range(tries):
        question = rng.lognormal(-(mixed**2) / 2, mixed, 16)
        slow = by_process(processes(rng, count, 0.05, 10 * question))
        fast = by_process(processes(rng, count, 0.05, 5 * question))
        for i, (found, true) in enumerate(((mean_time(slow), 10), (speed_up(slow, fast), 2))):
            hits[i] += found.low <= true <= found.high
    error = 3 * np.sqrt(0.05 * 0.95 / tries)
    assert (hits / tries > 0.94 - error).all()
    assert (hits / tries < (1.0 if count < 4 else 0.975 + error)).all()


def test_rounds_do_not_make_two_processes_better_known() -> None:
    """1 and 2 ms in every round: the rounds are sure, the processes are not."""
    blocks = [np.full((16, 50), 1.0), np.full((16, 50), 2.0)]
    found = mean_time(by_process(blocks))
    assert found.value == pytest.approx(1.5)
    assert 0 < found.low < 0.1 and found.high > 30


def test_chance_is_that_of_the_interval() -> None:
    found = mean_time(np.random.default_rng(0).lognormal(0, 0.1, (16, 8)))
    assert found.chance_at_most(found.high) == pytest.approx(0.975)
    assert found.chance_at_most(found.low) == pytest.approx(0.025)
    assert found.chance_at_most(found.value) == pytest.approx(0.5)
    one = Estimate(10.0, 8.0, 12.5, error=0.1, freedom=5.0)
    assert one.chance_at_most(11.0) == pytest.approx(stats.t.cdf(np.log(1.1) / 0.1, 5))
    assert np.isnan(Estimate(10.0, np.nan, np.nan).chance_at_most(11.0))


def test_chances_are_right_as_often_as_they_say() -> None:
    """Of limits at random around the truth, those given 90 % and more hold in as many cases."""
    rng, said, held = np.random.default_rng(1), [], []
    for _ in range(1500):
        found = mean_time(by_process(processes(rng, 4, 0.05, np.full(16, 10.0))))
        limit = 10 * rng.lognormal(0, 0.05)
        said.append(found.chance_at_most(limit))
        held.append(limit >= 10)
    for low, high in ((0.0, 0.1), (0.1, 0.5), (0.5, 0.9), (0.9, 1.0)):
        chosen = (np.array(said) >= low) & (np.array(said) <= high)
        expected = np.array(said)[chosen].mean()
        assert np.array(held)[chosen].mean() == pytest.approx(expected, abs=0.07)
