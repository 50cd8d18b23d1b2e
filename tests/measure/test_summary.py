"""What is said of timings: the median's interval, beside scipy's, and doubts in exact numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from tests.helpers.facts import says
from tests.helpers.made_records import latency_row
from vtexp.measure import quality
from vtexp.measure.summary import half_width, median_interval

QUIET: dict[str, Any] = {
    "monitor": {
        "other_cores_busy": 0.0, "cores": 2, "busy_share": 0.0, "cpu_throttle_events": 0,
        "gpus": [], "quota_stopped_share": 0.0,
    },
    "reference": [{"prefill_ms": 50.0}], "reference_failure": None,
    "warm": True, "warm_up_rounds": 9, "half_width": 0.01, "stopped_by": "max_half_width",
}  # fmt: skip


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
