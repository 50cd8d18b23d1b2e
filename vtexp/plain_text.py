"""Texts of data sets, models and configs as terminals, tables and sentences can take them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

#: So many names does a sentence list.
MOST_NAMES = 12

#: What moves a terminal's cursor, sets its title or turns the order of its letters; not \t or \n.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
#: A cell that starts so is a formula to a spreadsheet.
_FORMULA = tuple("=+-@\t\r")


def visible(text: str) -> str:
    """A text with its control characters as escapes, such as `\\x1b`; lines stay lines."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def csv_cell(value: Any) -> Any:
    """A value for a CSV: of texts no control characters, and a `'` before what begins a formula."""
    if not isinstance(value, str):
        return value
    return ("'" if value.startswith(_FORMULA) else "") + visible(value)


def printable(text: str) -> str:
    """A text without control characters: what stands in a file or an argument moves no cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def listed(names: Sequence[str]) -> str:
    """Such as `a, b, c`; of many the first, and how many more there are."""
    told = list(names[:MOST_NAMES])
    if len(names) > MOST_NAMES:
        told.append(f"and {len(names) - MOST_NAMES} more")
    return ", ".join(told)
