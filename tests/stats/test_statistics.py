"""Bootstrap draws, McNemar's test and the Pareto front (paired.py): against scipy, statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap
from statsmodels.stats.contingency_tables import mcnemar

from vtexp.stats.paired import bootstrap_means, mcnemar_p_value, on_front


def correlated(
    seed: int, images: int, per_image: int, levels: list[float]
) -> tuple[np.ndarray, np.ndarray]:
    """0/1 scores (n, k) that questions of an image and budgets of a question share, and images."""
    rng = np.random.default_rng(seed)
    shape = (images * per_image, len(levels))
    ability = rng.normal(size=(images, 1)).repeat(per_image, 0) + rng.normal(size=(shape[0], 1)) / 2
    by_image = rng.normal(size=(images, shape[1])).repeat(per_image, 0) / 2
    latent = ability + by_image + np.array(levels) + rng.normal(size=shape) / 2
    return (latent > 0).astype(float), np.arange(images).repeat(per_image)


def test_bootstrap_has_the_clustered_errors() -> None:
    scores, _ = correlated(3, 80, 3, [0.0, 0.5])
    drawn = bootstrap_means(scores.reshape(80, 3, 2).sum(axis=1), np.full(80, 3), draws=8000)
    spread = (drawn[:, 1] - drawn[:, 0]).std()
    of_image = (scores[:, 1] - scores[:, 0]).reshape(80, 3).mean(axis=1)
    assert spread == pytest.approx(of_image.std() / np.sqrt(80), rel=0.04)
    other = bootstrap((of_image,), np.mean, n_resamples=4000, rng=0).standard_error
    assert spread == pytest.approx(other, rel=0.06)


def test_mcnemar_is_that_of_statsmodels() -> None:
    for wins, losses in ((0, 1), (3, 9), (40, 41)):
        exact = mcnemar([[0, wins], [losses, 0]], exact=True).pvalue
        assert mcnemar_p_value(wins, losses) == pytest.approx(exact)
    assert mcnemar_p_value(0, 0) == 1.0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6))
def test_the_front_is_what_nothing_dominates(budgets: list[tuple[int, int]]) -> None:
    accuracy, cost = np.array(budgets).T
    expected = [
        not any((a >= own and c <= own_c and (a > own or c < own_c)) for a, c in budgets)
        for own, own_c in budgets
    ]
    assert on_front(accuracy, cost).tolist() == expected
