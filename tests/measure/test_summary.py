"""What is said of a stage's times: whatever was timed, a run can read its own result."""

from __future__ import annotations

from dataclasses import asdict

from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.made_records import latency_row
from vtexp.measure.summary import summarise_times


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
