"""Facts in what a user reads: names, values and numbers, however the sentence is worded."""

from __future__ import annotations

import re

#: Where a sentence or an item of a list ends.
_END = re.compile(r"(?<=[.!?;])\s+|\n")


def says(text: str, *facts: str) -> bool:
    """Whether one sentence of a text holds all facts, each as whole words or whole numbers."""
    found = [re.compile(_whole(fact)) for fact in facts]
    return any(all(fact.search(one) for fact in found) for one in _END.split(text))


def _whole(fact: str) -> str:
    """A pattern of a fact that is no part of a longer word or number: 30.0 is not in 130.0."""
    before = r"(?<!\w)(?<!\d\.)" if fact[0].isalnum() else ""
    after = r"(?!\w)(?!\.\d)" if fact[-1].isalnum() else ""
    return before + re.escape(fact) + after
