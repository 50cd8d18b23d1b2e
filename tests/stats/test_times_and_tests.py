"""Times, processes, warm-up, cost terms, p-values at the floor, and what a decision may say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp, ttest_ind
from statsmodels.regression.linear_model import OLS, WLS
from statsmodels.stats.multitest import multipletests

from vtexp.stats.decision import decide
from vtexp.stats.paired import mcnemar_p_value
from vtexp.stats.permutation import PValues, holm, sign_flip_tests, sign_flips_against
from vtexp.stats.terms import (
    coefficients,
    least_relative_errors,
    prediction,
    uncertainty,
)
from vtexp.stats.times import (
    SURE,
    between_processes,
    chances_in_turn,
    drawn_mean_times,
    mean_time,
    speed_up,
    speed_up_between_processes,
)
from vtexp.stats.trend import settled

NAN = float("nan")

# --- times ---------------------------------------------------------------------------------------


def test_images_of_few_and_many_crops_cost_their_mean() -> None:
    """Medians of 31.2 and 31.1 ms hid means of 49.7 and 102.2."""
    rng = np.random.default_rng(0)
    few, some, many = (np.full((9, 1), 31.1), np.full((7, 1), 73.6), np.full((7, 1), 193.6))
    noise = rng.lognormal(0, 0.01, (16, 8))
    small, large = np.concatenate([few, some]) * noise, np.concatenate([few, many]) * noise
    assert np.median(small) == pytest.approx(np.median(large), rel=0.02)
    assert mean_time(small).value == pytest.approx(49.7, rel=0.01)
    assert mean_time(large).value == pytest.approx(102.2, rel=0.01)
    found = speed_up(large, small)
    assert found.value == pytest.approx(102.2 / 49.7, rel=0.01)
    assert found.low < found.value < found.high


def test_what_a_question_and_a_round_cost_both_budgets_is_in_no_speed_up() -> None:
    rng = np.random.default_rng(0)
    times = rng.lognormal(0, 1, (16, 1)) * rng.lognormal(0, 1, (1, 4))
    found = speed_up(3 * times, times)
    assert (found.low, found.value, found.high) == pytest.approx((3, 3, 3))


@pytest.mark.parametrize("disturbed", [0.0, 0.2])
def test_speed_up_at_the_default_rounds_holds_the_truth(disturbed: float) -> None:
    """16 questions, 4 rounds; intervals of medians covered 82 to 87 % of disturbed rounds."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(600):
        question = rng.lognormal(0, 0.3, (16, 1))
        both = [
            level * question * rng.lognormal(0, 0.05, (16, 4)) * rng.lognormal(0, disturbed, (1, 4))
            for level in (1.5, 1.0)
        ]
        found = speed_up(*both)
        held += found.low <= 1.5 <= found.high
    assert 0.92 <= held / 600 <= 0.985


def test_missing_rounds_and_more_rounds_of_one_budget_do_no_harm() -> None:
    rng = np.random.default_rng(0)
    times = rng.lognormal(0, 0.1, (16, 8))
    base, other = 2 * times, times[:, :5].copy()
    base[3, 7], other[3, 2] = NAN, NAN
    found = speed_up(base, other)
    assert (found.low, found.value, found.high) == pytest.approx((2, 2, 2))
    assert mean_time(base).low < mean_time(base).value < mean_time(base).high


def test_nothing_repeated_has_no_interval() -> None:
    found = speed_up(np.array([[2.0]]), np.array([[1.0]]))
    assert found.value == 2 and np.isnan([found.low, found.high]).all()
    one_round = np.random.default_rng(0).lognormal(0, 0.1, (16, 1))
    assert np.isnan([speed_up(2 * one_round, one_round).low, mean_time(one_round).high]).all()
    with pytest.raises(ValueError, match="same ones"):
        speed_up(np.ones((3, 2)), np.ones((2, 2)))


def test_drawn_means_are_paired_and_spread_as_means_do() -> None:
    times = np.random.default_rng(0).lognormal(0, 0.3, (40, 6))
    drawn = drawn_mean_times([times, 2 * times, np.where(times > 2, NAN, times)], draws=4000)
    assert drawn[:, 1] == pytest.approx(2 * drawn[:, 0])
    assert drawn[:, 0].mean() == pytest.approx(times.mean(), rel=0.01)
    by_question, by_round = times.mean(axis=1), times.mean(axis=0)
    own = by_question.var() / 40 + by_round.var() / 6
    assert own < drawn[:, 0].var() < own + 2 * times.var() / 240
    assert not np.isnan(drawn).any()


def test_processes_are_students_on_the_logarithm() -> None:
    values = np.array([31.0, 36.0, 29.0, 44.0])
    expected = ttest_1samp(np.log(values), 0).confidence_interval()
    found = between_processes(values)
    assert (found.low, found.high) == pytest.approx(tuple(np.exp(expected)))
    assert found.mean == pytest.approx(np.exp(np.log(values).mean()))
    assert found.next_low < found.low < found.high < found.next_high
    assert np.isnan(between_processes(values[:1]).low)


def test_the_next_process_has_the_prediction_interval_of_statsmodels() -> None:
    logs = np.log([31.0, 36.0, 29.0, 44.0, 33.0])
    fitted = OLS(logs, np.ones(5)).fit()
    expected = fitted.get_prediction(np.ones((1, 1))).conf_int(obs=True)[0]
    found = between_processes(np.exp(logs))
    assert (found.next_low, found.next_high) == pytest.approx(tuple(np.exp(expected)))


def test_two_unlike_processes_have_no_negative_time() -> None:
    found = between_processes(np.array([1.0, 300.0]))
    assert 0 < found.next_low < found.low


def test_speed_up_of_different_processes_is_welchs() -> None:
    base, other = np.array([31.0, 36.0, 29.0]), np.array([10.0, 14.0, 12.0, 12.5])
    expected = ttest_ind(np.log(base), np.log(other), equal_var=False).confidence_interval()
    found = speed_up_between_processes(base, other)
    assert (found.low, found.high) == pytest.approx(tuple(np.exp(expected)))


def test_a_budget_among_many_that_is_surely_within_a_limit_is_beyond_it_in_five_percent() -> None:
    """12 that take equally long, 0.1 % beyond: picked out of all, one was called sure in 46 %."""
    rng, any_sure, in_turn = np.random.default_rng(0), 0, 0
    for _ in range(300):
        rounds = 10.01 * rng.lognormal(0, 0.05, (12, 1, 4)) * rng.lognormal(0, 0.03, (12, 16, 4))
        chances = [mean_time(own).chance_at_most(10.0) for own in rounds]
        any_sure += max(chances) >= SURE
        in_turn += max(chances_in_turn(chances)) >= SURE
    assert any_sure > 0.3 * 300 and in_turn <= 0.09 * 300
    some = chances_in_turn([0.99, NAN, 0.9, 0.97])
    assert some == pytest.approx([0.99, NAN, 0.9, 0.9], nan_ok=True)


def test_the_chance_of_a_budget_picked_out_of_many_is_about_right() -> None:
    """12 budgets 2 % apart that are known to 2.5 %: by its own times alone 76 %, but 56 % were."""
    rng, true, alone, said, kept = np.random.default_rng(0), 10 * 1.02 ** np.arange(12), [], [], []
    for _ in range(300):
        rounds = rng.lognormal(0, 0.05, (12, 1, 4)) * rng.lognormal(0, 0.03, (12, 16, 4))
        found = [mean_time(ms * own) for ms, own in zip(true, rounds, strict=True)]
        limit = 10 * 1.02 ** rng.uniform(0, 11)
        if within := [i for i, own in enumerate(found) if own.value <= limit]:
            chances = [own.chance_at_most(limit) for own in found]
            alone.append(chances[within[-1]])
            said.append(chances_in_turn(chances)[within[-1]])
            kept.append(true[within[-1]] <= limit)
    assert np.mean(alone) > np.mean(kept) + 0.1
    assert np.mean(said) == pytest.approx(np.mean(kept), abs=0.08)


# --- warm-up -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shapes", [1, 3, 6])
@pytest.mark.parametrize("noise", [0.01, 0.05])
def test_a_fall_by_half_over_ten_rounds_is_not_warm_before_its_end(
    shapes: int, noise: float
) -> None:
    """It passed after 2 to 4 rounds."""
    rng = np.random.default_rng(0)
    level = 0.5 ** (np.minimum(np.arange(21.0), 10) / 10)
    for _ in range(50):
        series = level * rng.lognormal(0, noise, (shapes, 21))
        stopped = next((n for n in range(1, 21) if settled(series[:, :n].tolist())), 20)
        assert stopped >= 10


def test_steady_times_are_warm_after_few_rounds() -> None:
    rng = np.random.default_rng(0)
    stopped = []
    for _ in range(100):
        series = rng.lognormal(0, 0.03, (3, 20))
        stopped.append(next(n for n in range(1, 21) if settled(series[:, :n].tolist())))
    assert np.median(stopped) == 6 and max(stopped) < 15


# --- cost terms ----------------------------------------------------------------------------------


def test_coefficients_hold_the_truth_and_exact_times_are_exact() -> None:
    crops = np.repeat([1.0, 2, 4, 6, 9, 12, 12, 4], 3)
    tokens = np.repeat([300.0, 420, 700, 800, 1300, 1500, 2500, 1700], 3)
    settings = np.repeat(np.arange(8), 3)
    terms, true = np.column_stack([np.ones(24), crops, tokens]), np.array([5.0, 2.0, 0.01])
    exact = coefficients(terms, terms @ true, settings)
    assert exact.estimate == pytest.approx(true) and exact.low == pytest.approx(exact.high)
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        found = coefficients(terms, terms @ true * rng.lognormal(0, 0.03, 8)[settings], settings)
        held += ((found.low <= true) & (true <= found.high)).mean()
        assert (found.low >= 0).all() and not found.together
    assert 0.92 <= held / 300 <= 0.99


def test_intervals_of_coefficients_are_efrons_jackknife() -> None:
    """Over five settings of two values each, of statsmodels' weighted least squares."""
    rng, settings = np.random.default_rng(0), np.repeat(np.arange(5), 2)
    terms = np.column_stack([np.ones(10), np.repeat([1.0, 3, 4, 8, 12], 2)])
    values = terms @ [5.0, 2.0] * rng.lognormal(0, 0.02, 10)

    def fitted(own: np.ndarray) -> np.ndarray:
        return WLS(values[own], terms[own], weights=values[own] ** -2.0).fit().params

    without = np.array([fitted(settings != i) for i in range(5)])
    error = np.sqrt(4 / 5 * ((without - without.mean(axis=0)) ** 2).sum(axis=0))
    found, estimate = coefficients(terms, values, settings), fitted(settings >= 0)
    assert found.estimate == pytest.approx(estimate)
    assert found.high - estimate == pytest.approx(t.isf(0.025, 3) * error)
    assert estimate - found.low == pytest.approx(t.isf(0.025, 3) * error)


def test_crops_and_tokens_that_grow_together_cannot_be_told_apart() -> None:
    crops = np.array([1.0, 4, 9, 12, 6])
    tokens = 150 + 144 * crops
    terms = np.column_stack([np.ones(5), crops, tokens])
    found = coefficients(terms, 5 + 2 * crops + 0.01 * tokens, np.arange(5))
    assert found.together == (0, 1, 2)


def terms_of(crops: np.ndarray) -> np.ndarray:
    """Constant, crops and tokens, two lengths of each setting."""
    crops = np.repeat(crops, 2)
    return np.column_stack(
        [np.ones(len(crops)), crops, 200 + 100 * crops + 30 * (np.arange(len(crops)) % 2)]
    )


@pytest.mark.parametrize("count", [5, 8, 12])
def test_predictions_of_new_settings_know_their_error(count: int) -> None:
    """Intervals hold, and chances to keep a limit are not larger than they are right."""
    rng, true, held, said, kept = (
        np.random.default_rng(count),
        np.array([5.0, 4.0, 0.02]),
        [],
        [],
        [],
    )
    settings = np.repeat(np.arange(count), 2)
    for _ in range(400):
        crops = np.sort(rng.choice(np.arange(1.0, 13), count, replace=False))
        terms = terms_of(crops)
        values = terms @ true * rng.lognormal(0, 0.03, count)[settings]
        at = terms_of(rng.uniform(crops[0], crops[-1], 1)).mean(axis=0)
        truth, limit = at @ true * rng.lognormal(0, 0.03), at @ true * rng.uniform(0.7, 1.3)
        found = prediction(
            at, least_relative_errors(terms, values), uncertainty(terms, values, settings)
        )
        held.append(found.low <= truth <= found.high)
        said.append(found.chance_at_most(limit))
        kept.append(truth <= limit)
    assert np.mean(held) >= 0.93
    for low, high in ((0.5, 0.9), (0.9, 1.0)):
        chosen = (np.array(said) > low) & (np.array(said) <= high)
        assert np.array(kept)[chosen].mean() >= np.array(said)[chosen].mean() - 0.07


def test_predictions_of_exact_times_are_exact_and_of_three_settings_open() -> None:
    true, settings = np.array([5.0, 4.0, 0.02]), np.repeat(np.arange(6), 2)
    terms = terms_of(np.array([1.0, 2, 4, 6, 9, 12]))
    found = prediction(terms[4], true, uncertainty(terms, terms @ true, settings))
    assert (found.value, found.low, found.high) == pytest.approx((terms[4] @ true,) * 3)
    terms, settings = terms[:6], settings[:6]
    open_ended = prediction(terms[4], true, uncertainty(terms, terms @ true, settings))
    assert open_ended.value == found.value and np.isnan(open_ended.low)


def test_three_settings_know_no_interval_of_three_terms() -> None:
    terms = np.column_stack([np.ones(3), [1.0, 4, 12], [300.0, 900, 1200]])
    found = coefficients(terms, np.array([10.0, 20, 40]), np.arange(3))
    assert np.isinf(found.high).all() and (found.low == 0).all()


# --- p-values ------------------------------------------------------------------------------------


def test_sign_flips_are_mcnemars_exact_test() -> None:
    scores = (np.random.default_rng(0).random((120, 3)) < [0.6, 0.7, 0.72]).astype(float)
    found = sign_flip_tests(scores, comparisons=100)
    wins, losses = ((s * (scores[:, 0] - scores[:, 1]) > 0).sum() for s in (1, -1))
    exact = mcnemar_p_value(int(wins), int(losses))
    assert found.value[0, 1] == pytest.approx(exact, abs=0.015)


def test_a_large_difference_among_many_pairs_is_found_and_marked_as_at_the_floor() -> None:
    """73.7 points among 210 pairs had 0.052, the least that 4000 draws can give."""
    rng = np.random.default_rng(0)
    scores = (rng.random((100, 2)) < [0.2, 0.94]).astype(float)
    found = sign_flip_tests(scores, comparisons=210)
    assert found.at_floor[0, 1] and 210 * found.value[0, 1] <= 0.005
    assert not found.at_floor[0, 0] and found.value[0, 0] == 1


def test_a_difference_at_the_floor_stays_significant_among_all_pairs() -> None:
    """At 0.005 or less, whatever 28 pairs are corrected for."""
    sums = np.column_stack([np.zeros(60), *[np.ones(60)] * 7])
    found = sign_flip_tests(sums)
    assert found.at_floor[0, 1:].all() and 28 * found.value[0, 1] <= 0.005


def test_holm_is_that_of_statsmodels_and_keeps_the_marks() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 2, 28):
        p = rng.random(size) ** 3
        found = holm(PValues(p, p < 0.01))
        assert found.value == pytest.approx(multipletests(p, method="holm")[1])
        assert found.at_floor.tolist() == (p < 0.01).tolist()


def test_sign_flips_against_one_budget_are_those_of_its_pairs() -> None:
    scores = (np.random.default_rng(0).random((150, 4)) < [0.6, 0.7, 0.72, 0.9]).astype(float)
    pairs, against = sign_flip_tests(scores), sign_flips_against(scores, 2, 100)
    assert against.value == pytest.approx(pairs.value[:, 2], abs=0.015)


def test_sign_flips_against_a_budget_that_the_data_chose_count_all_pairs() -> None:
    """8 equal budgets: with 7 tests against the chosen best alone, one was below 0.05 in 8.7 %."""
    rng, found = np.random.default_rng(0), []
    for _ in range(100):
        scores = (rng.normal(size=(100, 1)) + 0.5 * rng.normal(size=(100, 8)) > -0.5).astype(float)
        best = int(scores.mean(axis=0).argmax())
        tests = sign_flips_against(scores, best, 28)
        others = PValues(np.delete(tests.value, best), np.delete(tests.at_floor, best))
        found.append(bool((holm(others, 28).value < 0.05).any()))
    assert np.mean(found) <= 0.08


# --- decisions -----------------------------------------------------------------------------------


def test_a_budget_is_needed_only_where_all_smaller_ones_were_measured_and_lose() -> None:
    at_most, at_least = np.array([0.4, 0.2, 0.005, 0.0]), np.array([0.3, 0.1, 0.0, 0.0])
    found = decide(at_most, at_least, 0.01)
    assert (found.smallest, found.needed, found.not_enough) == (2, True, (0, 1))
    for missing in (0, 1):
        at_most_now, at_least_now = at_most.copy(), at_least.copy()
        at_most_now[missing] = at_least_now[missing] = NAN
        found = decide(at_most_now, at_least_now, 0.01)
        assert (found.smallest, found.needed, found.missing) == (2, False, (missing,))


def test_smaller_budgets_of_which_the_data_cannot_tell_are_no_reason_for_needed() -> None:
    found = decide(np.array([0.4, 0.02, 0.005]), np.array([0.3, 0.0, 0.0]), 0.01)
    assert (found.smallest, found.needed) == (2, False)
    assert (found.not_enough, found.unknown) == ((0,), (1,))


def test_the_smallest_measured_is_enough_but_not_needed() -> None:
    found = decide(np.array([0.005, 0.0]), np.zeros(2), 0.01)
    assert (found.smallest, found.needed) == (0, False)
    none = decide(np.array([0.5, NAN, 0.4]), np.array([0.1, NAN, 0.0]), 0.01)
    assert none.smallest is None and none.missing == (1,) and none.unknown == (2,)


def test_larger_budgets_that_are_worse_are_said_so() -> None:
    highest = np.array([[0.0, -0.1, 0.2], [0.3, 0.0, 0.4], [-0.02, -0.2, 0.0]])
    at_most = np.array([0.4, 0.0, 0.3])
    assert decide(at_most, np.zeros(3), 0.01, highest).worse_larger == (2,)
