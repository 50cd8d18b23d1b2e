"""Accuracies and their differences (paired.py): against scipy and statsmodels, by simulation."""

from __future__ import annotations

import time

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap, norm, t, ttest_rel
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import proportion_confint

from vtexp.stats.paired import (
    Z_95,
    bootstrap_means,
    bootstrap_medians,
    clustered_mean,
    critical_values,
    detectable_difference,
    difference_intervals,
    holm,
    images_for_margin,
    mcnemar_p_value,
    on_front,
    paired_scores,
    sign_flip_p_values,
    students,
    upper_bound,
    worse_than_best,
)


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


# --- against scipy and statsmodels ---------------------------------------------------------------


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


def true_means(levels: list[float]) -> np.ndarray:
    """Accuracies that `correlated` draws from."""
    return norm.cdf(np.array(levels) / np.sqrt(1 + 3 / 4))


def test_errors_of_differences_are_those_of_a_regression_clustered_by_image() -> None:
    scores, images = correlated(0, 40, 5, [0.0, 0.3, 0.9])
    errors = paired_scores(scores, images).errors()
    for i, j in ((0, 1), (0, 2), (1, 2)):
        model = sm.OLS(scores[:, i] - scores[:, j], np.ones(len(scores)))
        fitted = model.fit(cov_type="cluster", cov_kwds={"groups": images, "use_correction": False})
        expected = fitted.bse[0] * np.sqrt(40 / 39)
        assert errors[i, j] == pytest.approx(expected) == errors[j, i]


def test_interval_of_many_images_is_students() -> None:
    scores, images = correlated(1, 300, 1, [0.0, 0.4])
    paired = paired_scores(scores, images)
    drawn = bootstrap_means(paired, draws=20_000)
    difference, low, high = difference_intervals(paired, critical_values(paired, drawn))
    expected = ttest_rel(scores[:, 1], scores[:, 0]).confidence_interval()
    width = expected.high - expected.low
    assert difference[1, 0] == pytest.approx(scores[:, 1].mean() - scores[:, 0].mean())
    assert (low[1, 0], high[1, 0]) == pytest.approx(tuple(expected), abs=0.02 * width)
    assert (low[0, 1], high[0, 1]) == pytest.approx((-high[1, 0], -low[1, 0]))


def test_bound_where_no_image_changes_is_wilsons() -> None:
    paired = paired_scores(np.ones((50, 2)), np.arange(50))
    error, lump = paired.errors(), paired.lumps()
    found = upper_bound(np.zeros((2, 2)), error, lump, Z_95, 50)[0, 1]
    assert found == pytest.approx(proportion_confint(0, 50, method="wilson")[1], rel=1e-3)


def test_two_budgets_are_compared_with_the_best_as_one_sided() -> None:
    scores, images = correlated(2, 300, 1, [0.4, 0.0])
    paired = paired_scores(scores, images)
    critical = critical_values(paired, bootstrap_means(paired, draws=20_000))
    _, at_most = worse_than_best(paired, critical)
    test = ttest_rel(scores[:, 0], scores[:, 1], alternative="less")
    expected = test.confidence_interval().high
    assert at_most[1] == pytest.approx(expected, rel=0.03)
    assert at_most[0] == 0


def test_bootstrap_has_the_clustered_errors() -> None:
    scores, images = correlated(3, 80, 3, [0.0, 0.5])
    paired = paired_scores(scores, images)
    drawn = bootstrap_means(paired, draws=8000)
    spread = (drawn[:, 1] - drawn[:, 0]).std()
    assert spread == pytest.approx(paired.errors()[0, 1] * np.sqrt(79 / 80), rel=0.04)
    of_image = (scores[:, 1] - scores[:, 0]).reshape(80, 3).mean(axis=1)
    other = bootstrap((of_image,), np.mean, n_resamples=4000, rng=0).standard_error
    assert spread == pytest.approx(other, rel=0.06)


def test_sign_flips_are_mcnemars_exact_test_with_a_question_an_image() -> None:
    scores, images = correlated(4, 120, 1, [0.0, 0.3, 0.35])
    found = sign_flip_p_values(paired_scores(scores, images), draws=40_000)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        wins = int((scores[:, i] > scores[:, j]).sum())
        losses = int((scores[:, i] < scores[:, j]).sum())
        exact = mcnemar([[0, wins], [losses, 0]], exact=True).pvalue
        assert mcnemar_p_value(wins, losses) == pytest.approx(exact)
        assert found[i, j] == pytest.approx(exact, abs=4 * np.sqrt(exact / 40_000) + 1e-4)
    assert mcnemar_p_value(0, 0) == 1.0


def test_holm_is_that_of_statsmodels() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 28):
        p_values = rng.random(size) ** 3
        assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])
    assert holm([0.03, 0.01, 0.04]).tolist() == pytest.approx([0.06, 0.03, 0.06])


def test_detectable_difference_is_that_of_the_power_of_a_test() -> None:
    solved = NormalIndPower().solve_power(nobs1=400, ratio=0, alpha=0.05, power=0.8)
    assert detectable_difference(1 / np.sqrt(400), 1.0, 400) == pytest.approx(solved, rel=1e-3)


def test_where_no_image_changes_power_is_that_of_wilsons_bound() -> None:
    """As many images as bring the bound of no change at all down to the margin."""
    needed = int(np.ceil(images_for_margin(0.0, 1.0, 1.645, 2, 0.01)))
    bounds = [
        float(upper_bound(np.zeros(1), np.zeros(1), np.ones(1), 1.645, images)[0])
        for images in (needed - 1, needed)
    ]
    assert bounds[0] > 0.01 >= bounds[1]
    assert 0.5 < detectable_difference(0.0, 1.0, 2) < 1


@pytest.mark.parametrize(
    ("images", "per_image", "a", "b"), [(10, 1, 500, 500), (5, 20, 2, 1), (200, 1, 20, 980)]
)
def test_interval_of_few_images_covers_the_truth(
    images: int, per_image: int, a: float, b: float
) -> None:
    """Also near 0; with five images roughly."""
    rng = np.random.default_rng(0)
    names = [str(i) for i in range(images) for _ in range(per_image)]
    covered = 0
    for _ in range(1000):
        ability = np.repeat(rng.beta(a, b, size=images), per_image)
        found = clustered_mean((rng.random(len(names)) < ability).astype(float), names)
        assert found.interval is not None
        low, high = found.interval
        covered += low <= a / (a + b) <= high
    assert 0.93 <= covered / 1000 <= 0.995


def test_students_quantile_is_the_normal_one_with_many_images() -> None:
    assert students(Z_95, 10**6) == pytest.approx(Z_95, rel=1e-4)
    assert students(1.959964, 20) == pytest.approx(t.ppf(0.975, 19), rel=1e-5)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=6))
def test_the_front_is_what_nothing_dominates(budgets: list[tuple[int, int]]) -> None:
    accuracy, cost = np.array(budgets).T
    expected = [
        not any((a >= own and c <= own_c and (a > own or c < own_c)) for a, c in budgets)
        for own, own_c in budgets
    ]
    assert on_front(accuracy, cost).tolist() == expected


def test_medians_are_drawn_together() -> None:
    """Twice the times of the same questions have twice the median in each draw."""
    times = np.random.default_rng(0).lognormal(size=(20, 4))
    drawn = bootstrap_medians([times, 2 * times], draws=500)
    assert drawn[:, 1] == pytest.approx(2 * drawn[:, 0])
    assert np.median(drawn[:, 0]) == pytest.approx(np.median(times), rel=0.1)


def test_draws_of_rounds_that_a_budget_lacks_are_left_out() -> None:
    """Two questions of uneven rounds: some draws would have nothing but gaps."""
    times = [np.array([[1.0, np.nan, np.nan], [2.0, 3.0, np.nan]]), np.ones((2, 3))]
    drawn = bootstrap_medians(times)
    assert 300 < len(drawn) < 1000 and not np.isnan(drawn).any()


def test_a_metric_from_0_to_10_only_scales_all() -> None:
    scores, images = correlated(5, 60, 2, [0.0, 0.2, 0.4])
    one, ten = (paired_scores(scores * top, images, top) for top in (1.0, 10.0))
    bounds = [
        worse_than_best(paired, critical_values(paired, bootstrap_means(paired, draws=500)))
        for paired in (one, ten)
    ]
    assert np.array(bounds[1]) == pytest.approx(10 * np.array(bounds[0]))
    assert sign_flip_p_values(ten, draws=500) == pytest.approx(sign_flip_p_values(one, draws=500))


def test_ten_thousand_questions_take_a_second_or_so() -> None:
    scores, images = correlated(6, 10_000, 1, [0.1 * i for i in range(8)])
    began = time.process_time()
    paired = paired_scores(scores, images)
    critical = critical_values(paired, bootstrap_means(paired))
    difference_intervals(paired, critical)
    worse_than_best(paired, critical)
    sign_flip_p_values(paired)
    assert time.process_time() - began < 5


# --- by simulation -------------------------------------------------------------------------------


def simulated(
    levels: list[float], images: int, per_image: int, margin: float, times: int
) -> dict[str, float]:
    """Shares of simulated comparisons: intervals that hold the truth, false alarms, answers."""
    truth = true_means(levels)
    gap = truth.max() - truth
    pairs = np.triu_indices(len(levels), 1)
    differences = truth[:, None] - truth[None, :]
    equal = np.abs(differences[pairs]) < 1e-12
    found = {"covered": 0.0, "bounds": 0.0, "not_enough": 0.0, "not_worse": 0.0, "unequal": 0.0}
    for seed in range(times):
        paired = paired_scores(*correlated(seed, images, per_image, levels))
        critical = critical_values(paired, bootstrap_means(paired, 1000, seed))
        _, low, high = difference_intervals(paired, critical)
        covered = (low <= differences) & (differences <= high)
        found["covered"] += float(covered[pairs].mean()) / times
        at_least, at_most = worse_than_best(paired, critical)
        found["bounds"] += float((at_most >= gap).all()) / times
        enough = np.flatnonzero(at_most <= margin)
        found["not_enough"] += float(len(enough) > 0 and gap[enough[0]] > margin) / times
        found["not_worse"] += float((at_least > gap + 1e-12).any()) / times
        corrected = holm(sign_flip_p_values(paired, 1000, seed)[pairs])
        found["unequal"] += float((corrected[equal] <= 0.05).any()) / times
    return found


#: Accuracies of 400 simulations: the share of a true 95 % is 93 to 97 % in 19 of 20 tries.
SIMULATIONS = {
    "a question an image": ([0.0, 0.3], 200, 1, 0.03),
    "few images": ([0.0, 0.3], 20, 10, 0.03),
    "many equal budgets": ([0.0] * 6, 100, 3, 0.05),
    "many just not enough": ([-0.2] * 3 + [0.0], 200, 2, None),
    "hardly any wrong": ([2.4, 2.6, 2.7], 300, 1, None),
}


def simulate_kind(name: str, times: int) -> dict[str, float]:
    """`simulated` of one of SIMULATIONS."""
    levels, images, per_image, margin = SIMULATIONS[name]
    if margin is None:  # as bad as it gets: the worst budget is a hair beyond the margin
        truth = true_means(levels)
        margin = float(truth.max() - truth[0]) - 1e-9
    return simulated(levels, images, per_image, margin, times)


@pytest.mark.slow
@pytest.mark.parametrize("name", SIMULATIONS)
def test_coverage_and_false_alarms(name: str) -> None:
    found = simulate_kind(name, 400)
    assert 0.93 <= found["covered"] <= 0.97
    assert found["bounds"] >= 0.93
    # 5 % and what 400 simulations are off by.
    for alarm in ("not_enough", "not_worse", "unequal"):
        assert found[alarm] <= 0.05 + 0.02, alarm


@pytest.mark.slow
@pytest.mark.parametrize("rounds_disturbed", [0.0, 0.2])
def test_ratio_of_medians_is_covered(rounds_disturbed: float) -> None:
    """Times of a question share what the question costs, those of a round what disturbs it.

    Undisturbed, the interval is wider than need be: medians of draws with replacement jump.
    """
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(300):
        question = rng.lognormal(0, 0.3, size=(16, 1))
        times = [
            level * question * rng.lognormal(0, 0.1, size=(16, 16))
            * rng.lognormal(0, rounds_disturbed, size=(1, 16))
            for level in (1.0, 1.5)
        ]  # fmt: skip
        drawn = bootstrap_medians(times, draws=300, seed=seed)
        low, high = np.quantile(drawn[:, 1] / drawn[:, 0], (0.025, 0.975))
        covered += low <= 1.5 <= high
    assert covered / 300 >= 0.92
