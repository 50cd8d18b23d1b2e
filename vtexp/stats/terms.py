"""How well the coefficients of a cost model and its predictions are known.

The model is a sum of terms, such as milliseconds per crop and per token; errors are relative.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vtexp.stats.times import Estimate, estimated

#: Condition index from which terms are nearly dependent, and the share of a variance that shows
#: which (Belsley, Kuh and Welsch 1980).
DEPENDENT_INDEX = 30.0
DEPENDENT_SHARE = 0.5


@dataclass(frozen=True)
class Coefficients:
    """(p,) estimates, none negative, with 95 % intervals, and which of them go together.

    low, high: from 0 on; high is infinite where there are not more settings than terms. together:
    indices of terms that the data cannot tell apart: only what they add up to is known. Empty where
    it can.
    """

    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    together: tuple[int, ...]


def coefficients(terms: np.ndarray, values: np.ndarray, settings: np.ndarray) -> Coefficients:
    """Fit values (n,) above 0 by terms (n, p); settings (n,) say which values share an error.

    Estimates: least squares of relative errors, none negative (Lawson and Hanson 1974). Intervals:
    jackknife over the settings (Efron 1982) without that condition, Student's t with settings - p
    degrees of freedom; they hold the estimate in any case.
    """
    from scipy.optimize import nnls
    from scipy.special import stdtrit

    scale = _scale(terms)
    relative = terms / scale / values[:, None]
    estimate, _ = nnls(relative, np.ones(len(values)))
    together = _together(relative)
    names = np.unique(settings)
    freedom = len(names) - terms.shape[1]
    if freedom < 1:
        low, high = np.zeros_like(estimate), np.full_like(estimate, np.inf)
        return Coefficients(estimate / scale, low, high, together)
    left_out = np.array([_free(relative[settings != name]) for name in names])
    spread = left_out - left_out.mean(axis=0)
    reach = -stdtrit(freedom, 0.025) * np.sqrt(
        (len(names) - 1) / len(names) * (spread**2).sum(axis=0)
    )
    free = _free(relative)
    low = np.clip(np.minimum(free - reach, estimate), 0.0, None)
    high = np.maximum(free + reach, estimate)
    return Coefficients(estimate / scale, low / scale, high / scale, together)


def least_relative_errors(terms: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(p,) coefficients of values (n,) above 0 by terms (n, p), none negative.

    With the least sum of squared relative errors (Lawson and Hanson 1974, algorithm NNLS).
    """
    from scipy.optimize import nnls

    scale = _scale(terms)
    solution, _ = nnls(terms / scale / values[:, None], np.ones(len(values)))
    return solution / scale


def _scale(terms: np.ndarray) -> np.ndarray:
    """(p,) largest value of each term: squares of tokens are millions of times a constant's 1."""
    scale = np.abs(terms).max(axis=0)
    scale[scale == 0] = 1.0
    return scale


@dataclass(frozen=True)
class Uncertainty:
    """What is known of the errors of a fit's predictions.

    left_out: (settings, p) coefficients without each setting. misfit: by how much a setting lies
    off the fit (standard deviation of relative errors), NaN where there are not more settings than
    terms in use. freedom: its degrees of freedom.
    """

    left_out: np.ndarray
    misfit: float
    freedom: int


def uncertainty(terms: np.ndarray, values: np.ndarray, settings: np.ndarray) -> Uncertainty:
    """That of `least_relative_errors`; settings (n,) say which values share an error."""
    estimate, names = least_relative_errors(terms, values), np.unique(settings)
    off = (terms @ estimate) / values - 1
    of_setting = np.array([off[settings == name].mean() for name in names])
    freedom = len(names) - int((estimate > 0).sum())
    others = [settings != name for name in names]
    return Uncertainty(
        np.array([least_relative_errors(terms[own], values[own]) for own in others]),
        float(np.sqrt((of_setting**2).sum() / freedom)) if freedom > 0 else float("nan"),
        max(freedom, 0),
    )


def prediction(at: np.ndarray, estimate: np.ndarray, known: Uncertainty) -> Estimate:
    """The value of a new setting of terms `at` (p,), with its 95 % interval.

    Errors are those of the coefficients, by a jackknife over the settings, and the misfit of a
    setting of its own; Student's t of the logarithm. NaN ends without a misfit.
    """
    value = float(at @ estimate)
    without, count = known.left_out @ at / value, len(known.left_out)
    of_fit = (count - 1) / count * ((without - without.mean()) ** 2).sum()
    return estimated(value, known.misfit**2 + of_fit, known.freedom)


def _free(relative: np.ndarray) -> np.ndarray:
    """Coefficients of the least relative errors, of any sign."""
    return np.linalg.lstsq(relative, np.ones(len(relative)), rcond=None)[0]


def _together(relative: np.ndarray) -> tuple[int, ...]:
    """Terms that have most of their variance in directions that hardly any value shows."""
    length = np.linalg.norm(relative, axis=0)
    used = np.flatnonzero(length > 0)
    _, singular, directions = np.linalg.svd(relative[:, used] / length[used], full_matrices=False)
    singular = np.maximum(singular, singular[0] * 1e-12)
    of_variance = (directions / singular[:, None]) ** 2
    share = of_variance / of_variance.sum(axis=0)
    dependent = singular[0] / singular >= DEPENDENT_INDEX
    if not dependent.any():
        return ()
    found = used[share[dependent].sum(axis=0) > DEPENDENT_SHARE]
    return tuple(int(i) for i in found)
