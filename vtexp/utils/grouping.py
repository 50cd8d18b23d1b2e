"""Items put together by what they have in common."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable
from typing import Any, TypeVar

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Items by their keys; keys stand in the order in which they first come, items in their own."""
    found: dict[Key, list[Item]] = defaultdict(list)
    for item in items:
        found[key(item)].append(item)
    return dict(found)


def differing(keys: Iterable[str], items: Collection[Any]) -> list[str]:
    """Names of the attributes in which not all items are alike."""
    return [key for key in keys if len({getattr(item, key) for item in items}) > 1]
