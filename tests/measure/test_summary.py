"""What is said of timings: intervals, beside scipy's, numbers of a stage, and doubts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.helpers.facts import says
from tests.helpers.made_records import latency_row
from vtexp.measure import quality
from vtexp.measure.summary import (
    StageSummary,
    between_processes,
    half_width,
    median_interval,
    summarise_times,
)
from vtexp.measure.timings import LatencyRow

QUIET: dict[str, Any] = {
    "monitor": {
        "other_cores_busy": 0.0, "cores": 2, "busy_share": 0.0, "cpu_throttle_events": 0,
        "gpus": [], "quota_stopped_share": 0.0,
    },
    "reference": [{"prefill_ms": 50.0}], "reference_failure": None,
    "warm": True, "warm_up_rounds": 9, "half_width": 0.01, "stopped_by": "max_half_width",
}  # fmt: skip
ONE_SHAPE, THREE_SHAPES = (4,) * 16, (2,) * 3 + (4,) * 8 + (6,) * 5


@given(
    crops=st.lists(st.integers(1, 3), min_size=1, max_size=5),
    rounds=st.integers(1, 3),
    processes=st.integers(1, 3),
    data=st.data(),
)
def test_no_number_of_a_stage_is_below_zero(
    crops: list[int], rounds: int, processes: int, data: st.DataObject
) -> None:
    """Numbers below zero mark a damaged result. Where a few times lie far apart, too."""
    rows = [
        latency_row(
            data.draw(st.sampled_from([1e-3, 1.0, 1.1, 9.0, 1e6])),
            sample_id=str(image), num_crops=number, process=process, repeat=repeat,
        )
        for process in range(processes)
        for repeat in range(rounds)
        for image, number in enumerate(crops)
    ]  # fmt: skip
    for found in summarise_times(rows).values():
        numbers = asdict(found)
        assert all(number is None or number >= 0 for number in numbers.values()), numbers


def test_the_interval_of_two_times_far_apart_ends_at_zero() -> None:
    """Three images of two timings each, 1 and 9 ms: widened by the root of 2, 1 lies below 0."""
    rows = [latency_row(ms, sample_id=s, num_crops=n) for n, s in enumerate("abc") for ms in (1, 9)]
    found = summarise_times(rows)["prefill_ms"]
    assert found.low == 0 and found.high is not None and found.median <= found.high


def test_the_median_s_interval_is_the_bootstrap_s() -> None:
    """Of one number of crops: scipy's percentiles, but for what 200 timings widen."""
    values = np.random.default_rng(0).lognormal(3, 0.2, 200)
    rows = [latency_row(float(value)) for value in values]
    found = stats.bootstrap((values,), np.median, method="percentile", rng=0).confidence_interval
    expected = np.array([found.low, found.high])
    assert median_interval(rows) == pytest.approx(expected, abs=0.1 * (found.high - found.low))
    width = (found.high - found.low) / 2 / np.median(values)
    assert half_width(rows) == pytest.approx(width, rel=0.15)
    assert half_width(rows[:5]) is None


def test_numbers_of_crops_that_take_other_times_share_their_noise() -> None:
    """The median is of the middle number of crops: the spread between numbers is not its noise."""
    rng = np.random.default_rng(0)
    rows = [
        latency_row(float(ms * rng.normal(1, 0.01)), num_crops=crops)
        for crops, ms in ((2, 10.0), (4, 100.0), (6, 1000.0))
        for _ in range(20)
    ]
    found = median_interval(rows)
    assert found is not None and 98 < found[0] < 100 < found[1] < 102


@pytest.mark.parametrize(
    ("about", "facts"),
    [
        ({"stopped_by": "max_seconds", "half_width": 0.08}, ("±8.0 %", "±3.0 %", "max_seconds")),
        ({"half_width": None}, ("too few timings",)),
        ({"half_width": None, "stopped_by": "max_seconds"}, ("too few timings",)),
        ({"warm": False}, ("9 rounds", "warm-up")),
    ],
)
def test_how_timing_ended_is_told(about: dict[str, Any], facts: tuple[str, ...]) -> None:
    assert quality.timing_warnings([latency_row()], [QUIET], 0.03) == []
    (doubt,) = quality.timing_warnings([latency_row()], [QUIET | about], 0.03)
    assert says(doubt, *facts)


def test_one_noisy_question_among_three_is_no_spread() -> None:
    rows = [
        latency_row(ms, sample_id=name)
        for name, times in (("a", [10.0] * 4), ("b", [20.0] * 4), ("c", [10.0, 10.0, 50.0, 90.0]))
        for ms in times
    ]
    assert quality.timing_warnings(rows, [], 0.03) == []
    (doubt,) = quality.timing_warnings(rows[8:], [], 0.03)
    assert says(doubt, "middle half", "167 %")  # (60 - 10) / 30


def test_a_slow_spell_is_given_by_medians() -> None:
    """One prefill of ten times as long within it changes nothing."""
    spell = [12.0] * 9 + [120.0]
    (doubt,) = quality.drift([10.0] * 10 + spell + [10.0] * 10)
    assert says(doubt, "took 20 % longer")


def timings(values: np.ndarray, crops: Sequence[int]) -> list[LatencyRow]:
    """Rows of times (samples, rounds) of samples with these crops."""
    return [latency_row(v, num_crops=c) for row, c in zip(values, crops, strict=True) for v in row]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "crops"),
    [
        ("normal", ONE_SHAPE), ("log-normal", ONE_SHAPE), ("long tail", ONE_SHAPE),
        ("normal", THREE_SHAPES),
    ],
)  # fmt: skip
def test_intervals_cover_the_median(kind: str, crops: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)

    def noise(*shape: int) -> np.ndarray:
        if kind == "normal":
            return 1 + 0.05 * rng.standard_normal(shape)
        if kind == "log-normal":
            return np.exp(0.1 * rng.standard_normal(shape))
        return 1 + 0.05 * rng.exponential(1, shape)

    base = 100 * 1.4 ** np.array(crops)[:, None]
    true = np.median(base * noise(len(crops), 20_000))
    inside, draws = 0, 1000
    for _ in range(draws):
        interval = median_interval(timings(base * noise(len(crops), 4), crops))
        assert interval is not None
        inside += interval[0] <= true <= interval[1]
    assert 0.93 <= inside / draws <= 0.97


def test_one_timing_of_each_kind_says_nothing_of_the_noise() -> None:
    crops = tuple(range(1, 9))
    assert median_interval(timings(np.arange(1.0, 9.0)[:, None], crops)) is None


def test_intervals_between_processes_are_students() -> None:
    rng = np.random.default_rng(0)
    medians = rng.normal(50, 2, 5)
    rows = [
        latency_row((1 + rank) * (m + shift), rank=rank, process=k)
        for rank in (0, 1) for k, m in enumerate(medians) for shift in (-1.0, 0.0, 1.0)
    ]  # fmt: skip
    found = between_processes(rows)
    assert found is not None and found.n == 5
    logs = np.log(medians)
    expected = stats.t.interval(0.95, 4, loc=logs.mean(), scale=stats.sem(logs))
    assert (found.low, found.high) == pytest.approx(np.exp(expected))
    assert 0 < found.next_low < found.low < found.mean < found.high < found.next_high
    assert between_processes([row for row in rows if row.process == 0]) is None


def test_percentiles_only_where_the_sample_supports_them() -> None:
    def summary(n: int) -> StageSummary:
        rows = [latency_row(float(i + 1)) for i in range(n)]
        return summarise_times(rows)["prefill_ms"]

    assert summary(5).low is None and summary(6).low is not None
    assert summary(63).p90 is None and summary(64).p90 is not None
    assert summary(661).p99 is None
    assert summary(662).p99 == pytest.approx(np.percentile(np.arange(1, 663), 99))
