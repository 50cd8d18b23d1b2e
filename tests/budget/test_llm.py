"""Which blocks stay: properties, and what cannot be, in one line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtexp.budget.llm import (
    LlmSetting,
    LlmSizes,
    blocks_left,
    listed_blocks,
    middle_first,
    setting_of,
)
from vtexp.errors import ConfigError


@given(layers=st.integers(2, 100))
def test_the_middle_leaves_first_and_the_ends_never(layers: int) -> None:
    order = middle_first(layers)
    assert sorted(order) == list(range(1, layers - 1))
    off = [abs(2 * block - (layers - 1)) for block in order]
    assert off == sorted(off)


@given(st.data())
def test_blocks_leave_in_order(data: st.DataObject) -> None:
    layers = data.draw(st.integers(2, 30))
    order = data.draw(st.permutations(range(1, layers - 1)))
    count = data.draw(st.integers(2, layers))
    left = blocks_left(count, order, layers)
    assert len(left) == count and left == tuple(sorted(set(left)))
    assert left[0] == 0 and left[-1] == layers - 1
    assert set(range(layers)) - set(left) == set(order[: layers - count])
    if count > 2:  # the next smaller number loses one more, and no other
        assert set(left) - set(blocks_left(count - 1, order, layers)) == {order[layers - count]}


@given(st.data())
def test_a_list_of_blocks_is_taken_in_any_order(data: st.DataObject) -> None:
    layers = data.draw(st.integers(2, 30))
    middle = data.draw(st.sets(st.integers(1, layers - 2))) if layers > 2 else set()
    blocks = data.draw(st.permutations(sorted({0, *middle, layers - 1})))
    assert listed_blocks(blocks, layers) == tuple(sorted(blocks))


@pytest.mark.parametrize("count", [-1, 0, 1, 6])
def test_a_number_that_cannot_stay_is_refused(count: int) -> None:
    with pytest.raises(ConfigError, match="2 to 5 blocks"):
        blocks_left(count, middle_first(5), 5)


@pytest.mark.parametrize(
    ("blocks", "says"),
    [
        ([0, 5], "no block 5"),
        ([-1, 0, 4], "no block -1"),
        ([0, 2, 2, 4], "block 2 is given twice"),
        ([1, 4], "block 0 is missing"),
        ([0, 1], "block 4 is missing"),
        ([], "block 0 is missing"),
    ],
)
def test_a_list_that_cannot_be_is_refused(blocks: list[int], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        listed_blocks(blocks, 5)


def test_the_published_numbers_are_no_setting() -> None:
    sizes = LlmSizes(layers=4, experts=8, top_k=3)
    assert setting_of(sizes) is None
    assert setting_of(sizes, 3, (0, 1, 2, 3), first_as_published=True) is None
    assert setting_of(sizes, 2) == LlmSetting(2)
    assert setting_of(sizes, 2, first_as_published=True) == LlmSetting(2, 3)
    assert setting_of(sizes, None, (0, 3), first_as_published=True) == LlmSetting(blocks=(0, 3))
    assert setting_of(sizes, 3, (0, 3)) == LlmSetting(blocks=(0, 3))


def test_the_first_block_can_have_another_number_of_experts() -> None:
    setting = LlmSetting(top_k=2, first_top_k=3)
    assert [setting.top_k_of(block) for block in range(3)] == [3, 2, 2]
    assert [LlmSetting(top_k=2).top_k_of(block) for block in range(2)] == [2, 2]
