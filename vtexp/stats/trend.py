"""Is there a trend? Kendall's test over one or more series, and how large the trend is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def kendall_z(series: Sequence[Sequence[float]]) -> float:
    """Standard score of a common trend of several series: below 0 they fall, above they rise.

    The sum of Kendall's scores of the series, each compared with itself alone, over the root of
    the sum of their variances without ties, 1 taken off for continuity (seasonal Kendall test,
    Hirsch, Slack and Smith 1982). 0 where no series has two values.
    """
    score, variance = 0, 0.0
    for values in series:
        n = len(values)
        later = np.triu(np.ones((n, n), dtype=bool), k=1)
        signs = np.sign(np.subtract.outer(values, values).T)
        score += int(signs[later].sum())
        variance += n * (n - 1) * (2 * n + 5) / 18
    if score == 0:
        return 0.0
    return (score - math.copysign(1, score)) / math.sqrt(variance)


def relative_change(values: Sequence[float]) -> float:
    """Change from the first to the last value along a straight line, by their median.

    The line's slope is the median of those between all pairs (Theil 1950, Sen 1968).
    """
    x = np.arange(len(values))
    i, j = np.triu_indices(len(values), k=1)
    if len(i) == 0:
        return 0.0
    y = np.asarray(values, dtype=float)
    slope = np.median((y[j] - y[i]) / (x[j] - x[i]))
    return float(slope * (len(values) - 1) / np.median(y))


#: Fewest rounds that tell a fall from noise.
LEAST_ROUNDS = 6
#: Falls over these rounds that count as one: seen at all, and certain by Kendall's test at 5 %.
SEEN_FALL, CERTAIN_FALL = 0.05, 0.01
_Z_FALLING = -1.645


def settled(series: Sequence[Sequence[float]]) -> bool:
    """Whether times have stopped falling: series of equally many rounds, such as one per shape.

    Over the later half of the rounds, 6 at least, the mean of the series' logarithms falls by 5 %
    at most (Theil and Sen's slope), or by 1 % where Kendall's test is sure that they fall. The test
    alone passes a fall of 50 % of which it has seen too few rounds. False below 6 rounds.
    """
    rounds = len(series[0])
    if rounds < LEAST_ROUNDS:
        return False
    window = max(LEAST_ROUNDS, rounds // 2)
    latest = np.log(np.array([own[-window:] for own in series], dtype=float))
    certain = kendall_z(latest.tolist()) <= _Z_FALLING
    fall = -relative_change(np.exp(latest.mean(axis=0)).tolist())
    return fall <= (CERTAIN_FALL if certain else SEEN_FALL)
