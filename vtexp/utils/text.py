"""Texts of data sets, models and configs as terminals and tables of numbers can take them."""

from __future__ import annotations

import re
from typing import Any

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
