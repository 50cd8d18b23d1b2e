"""One budget for several data sets: what it loses on average over them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vtexp.stats.bounded import upper_bound
from vtexp.stats.comparison import ERROR, Scores


def average_at_most_worse(parts: Sequence[Scores]) -> np.ndarray:
    """(k,) bounds of what each of k budgets loses on average against the truly best on average.

    parts: the scores of each data set, k budgets in the same order; data sets count alike, however
    many questions they have. In the scores' unit.

    The bound of a pair's average loss is that of a sum of independent estimates (MOVER, Zou and
    Donner 2008) from the bounds of each data set, which count unseen full changes. The level is
    Bonferroni's over the other budgets: all k bounds hold at once, whichever is the best. NaN where
    a data set carries no interval.
    """
    budgets = parts[0].scores.shape[1]
    if any(part.images.too_few is not None for part in parts):
        return np.full(budgets, np.nan)
    if budgets < 2:
        return np.zeros(budgets)
    level = ERROR / (budgets - 1)
    losses = np.array([part.scale * part.losses.mean for part in parts])
    uppers = np.array([part.scale * upper_bound(part.losses, 1.0, level) for part in parts])
    reach = np.sqrt(((uppers - losses) ** 2).sum(axis=0))
    bounds = losses.mean(axis=0) + reach / len(parts)
    np.fill_diagonal(bounds, 0.0)
    return np.clip(bounds, 0.0, None).max(axis=1)
