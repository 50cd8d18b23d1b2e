"""The mean of scores, and a standard error that knows which questions share an image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtexp.statistics import clustered_mean


@given(st.lists(st.sampled_from([0.0, 0.3, 1.0]), min_size=2, max_size=40))
def test_one_question_per_image_is_the_plain_standard_error(scores: list[float]) -> None:
    found = clustered_mean(scores, [str(i) for i in range(len(scores))])
    assert found.mean == pytest.approx(np.mean(scores))
    plain = np.std(scores, ddof=1) / np.sqrt(len(scores))
    assert found.standard_error == pytest.approx(plain, abs=1e-12)


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=20), st.integers(2, 5))
def test_copies_of_a_question_add_no_certainty(scores: list[float], copies: int) -> None:
    images = [str(i) for i in range(len(scores))]
    once = clustered_mean(scores, images)
    many = clustered_mean(scores * copies, images * copies)
    assert many.standard_error == pytest.approx(once.standard_error, abs=1e-12)
    assert (many.n, many.images) == (copies * once.n, once.images)


def test_interval_covers_the_truth() -> None:
    """95 % intervals of clustered answers hold the true mean about 95 times in 100."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        ability = rng.beta(2, 1, size=60)  # true mean 2/3; questions of an image share it
        scores = [float(rng.random() < p) for p in ability for _ in range(8)]
        found = clustered_mean(scores, [str(i) for i in range(60) for _ in range(8)])
        covered += abs(found.mean - 2 / 3) < 1.96 * found.standard_error
    assert 0.92 <= covered / 400 <= 0.98


def test_one_image_has_no_standard_error() -> None:
    assert clustered_mean([1.0, 0.0], ["a", "a"]).standard_error is None


#: Scores such as there are: of floats as small as 1e-200, the squares of differences vanish.
SCORES = st.integers(0, 1000).map(lambda thousandths: thousandths / 1000)


@given(st.lists(SCORES, min_size=2, max_size=20))
def test_another_range_only_scales_the_interval(scores: list[float]) -> None:
    images = [str(i) for i in range(len(scores))]
    one = clustered_mean(scores, images)
    ten = clustered_mean([10 * score for score in scores], images, highest=10.0)
    assert ten.interval == pytest.approx([10 * end for end in one.interval], abs=1e-12)
