"""Bounds and p-values as text: no printed number claims more than was found."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtexp.analysis.answer import at_most, points_interval, ratio_ends
from vtexp.utils.text import bound_text, chance_text, p_equals, p_value, three_digits

NUMBERS = st.floats(-50, 50).map(lambda value: round(value, 5))


@given(NUMBERS, st.integers(0, 3))
def test_bounds_are_rounded_outward_by_less_than_their_last_digit(
    value: float, digits: int
) -> None:
    low, high = (float(bound_text(value, digits, up=up)) for up in (False, True))
    assert low - 2e-6 <= value <= high + 2e-6
    assert high - low <= 10.0**-digits + 1e-9


@given(NUMBERS)
def test_a_bound_beside_zero_does_not_touch_it(value: float) -> None:
    if abs(value) >= 1e-3:
        for up in (False, True):
            assert math.copysign(1, value) * float(bound_text(value, 1, up=up)) > 0
    assert bound_text(0.0, 1, up=False, signed=True) == bound_text(-0.0, 1, up=True) == "0.0"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (at_most(0.0204), "2.1"),  # 2.0 would be within a margin of 2 points, of which it is not
        (at_most(0.0196), "2.0"),
        (at_most(0.02), "2.0"),
        (at_most(0.1 + 0.2), "30.0"),  # a hair more than 0.3 is 0.3
        (points_interval(0.0004, 0.0312, signed=True), "+0.04 to +3.2"),
        (points_interval(-0.0312, -0.0004, signed=True), "-3.2 to -0.04"),
        (points_interval(-0.0006, 0.0006), "-0.1 to 0.1"),
        (ratio_ends(1.002, 1.016), "1.002 to 1.02"),
        (ratio_ends(0.981, 0.998), "0.98 to 0.998"),
        (three_digits(30.04, up=True), "30.1"),
        (three_digits(99.97, up=False), "99.9"),
        (three_digits(1313.2, up=True), "1314"),
        (chance_text(0.949), "94 %"),
        (chance_text(0.95), "95 %"),
    ],
)
def test_bounds_and_chances_do_not_contradict_what_is_beside_them(
    found: str, expected: str
) -> None:
    assert found == expected


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0496, "0.0496"), (0.05, "0.05"), (0.031, "0.031"), (0.996, "1.00")],
)
def test_p_values_stay_on_their_side_of_five_percent(p: float, text: str) -> None:
    assert p_value(p) == text
    assert p_equals(p) == f"p = {text}" and p_equals(p, at_floor=True) == f"p < {text}"
    assert p_equals(0.0002) == "p < 0.001"
