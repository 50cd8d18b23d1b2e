"""Mean of per-question scores, with a standard error that knows which questions share an image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

#: Normal quantile of a 95 % interval.
Z_95 = 1.96


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

        Normal, from the standard error; where every score is 0 or every score the highest, that
        would have no width: then Clopper and Pearson's bound over the images (1934).
        """
        if self.standard_error is None:
            return None
        if self.mean in (0.0, self.highest):
            reach = self.highest * (1 - 0.025 ** (1 / self.images))
            return (0.0, reach) if self.mean == 0.0 else (self.highest - reach, self.highest)
        half = Z_95 * self.standard_error
        return max(0.0, self.mean - half), min(self.highest, self.mean + half)


def clustered_mean(scores: Sequence[float], image_ids: Sequence[str], highest: float = 1.0) -> Mean:
    """Mean score with the standard error clustered by image.

    Questions about one image are right or wrong together, so the plain standard error is too
    small. Ratio estimator over clusters with the G / (G - 1) correction (Liang and Zeger 1986).
    """
    if not scores:
        raise ValueError("no scores")
    values = np.asarray(scores, dtype=np.float64)
    mean = float(values.mean())
    residuals: dict[str, float] = defaultdict(float)
    for value, image in zip(values, image_ids, strict=True):
        residuals[image] += value - mean
    groups = len(residuals)
    if groups < 2:
        return Mean(mean, None, len(values), groups, highest)
    total = sum(r * r for r in residuals.values()) * groups / (groups - 1)
    return Mean(mean, float(np.sqrt(total) / len(values)), len(values), groups, highest)
