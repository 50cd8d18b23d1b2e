"""Items by a key keep every item once, in order."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from vtexp.utils.grouping import differing, grouped


@given(st.lists(st.integers(-20, 20)))
def test_groups_hold_each_item_once_and_in_order(items: list[int]) -> None:
    found = grouped(items, lambda item: item % 3)
    assert found == {
        key: [item for item in items if item % 3 == key] for key in {item % 3 for item in items}
    }
    assert list(found) == list(dict.fromkeys(item % 3 for item in items))


def test_attributes_that_differ_are_named_in_the_order_asked() -> None:
    items = [SimpleNamespace(a=1, b=2, c=3), SimpleNamespace(a=1, b=0, c=4)]
    assert differing(("c", "a", "b"), items) == ["c", "b"]
    assert differing(("c", "a", "b"), items[:1]) == differing(("a",), []) == []
