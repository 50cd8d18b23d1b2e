"""Per-question scores and their mean with a standard error that knows questions share images."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from vtexp.errors import ConfigError


def clean(text: str) -> str:
    """Lower case, single spaces, no full stop at the end: what exact match compares."""
    return re.sub(r"\s+", " ", text).strip().casefold().removesuffix(".").rstrip()


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1.0 if the cleaned prediction equals any cleaned reference, else 0.0."""
    return float(clean(prediction) in {clean(reference) for reference in references})


METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {"exact_match": exact_match}


def metric(name: str) -> Callable[[str, Sequence[str]], float]:
    """The metric `dataset.metric` names. Raises ConfigError for an unknown name."""
    if name not in METRICS:
        raise ConfigError(f"dataset.metric={name}: metrics are {', '.join(METRICS)}")
    return METRICS[name]


#: Normal quantile of a 95 % interval.
Z_95 = 1.96


class Mean(NamedTuple):
    """Mean of n scores over `images` images; the standard error is None for a single image."""

    mean: float
    standard_error: float | None
    n: int
    images: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval within [0, 1]; None for a single image.

        Normal, from the standard error; where every score is 0 or every score is 1, that would
        have no width: then Clopper and Pearson's bound over the images (1934).
        """
        if self.standard_error is None:
            return None
        if self.mean in (0.0, 1.0):
            reach = 1 - 0.025 ** (1 / self.images)
            return (0.0, reach) if self.mean == 0.0 else (1 - reach, 1.0)
        half = Z_95 * self.standard_error
        return max(0.0, self.mean - half), min(1.0, self.mean + half)


def clustered_mean(scores: Sequence[float], image_ids: Sequence[str]) -> Mean:
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
        return Mean(mean, None, len(values), groups)
    total = sum(r * r for r in residuals.values()) * groups / (groups - 1)
    return Mean(mean, float(np.sqrt(total) / len(values)), len(values), groups)
