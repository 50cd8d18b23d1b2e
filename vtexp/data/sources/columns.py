"""What a YAML file says of a column: its name, a field within it, or text with columns in it.

`question`, `answers.answer`, `COCO_{image_id:012d}.jpg`, `=What is shown?` (a text as it is).
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from vtexp.errors import DataError

#: {column}, {column:lower}, or {column:012d} with a format as in Python; nothing is evaluated.
_FIELD = re.compile(r"\{([^{}:]+)(?::([^{}]*))?\}")

#: Half of a character of UTF-16.
_HALF = re.compile("[\ud800-\udfff]")

Row = Mapping[str, Any]


class Unreadable:
    """What stands in a row for a cell that Python has no value for, and why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


def names_in(expression: str) -> list[str]:
    """The columns or fields that an expression reads, such as `answers.answer`."""
    found = [match[0] for match in _FIELD.findall(expression)]
    return found if found or expression.startswith("=") else [expression]


def missing_from(expression: str, names: Iterable[str]) -> str | None:
    """The first column that an expression reads and `names` lack; None if they have all."""
    known = set(names)
    for name in names_in(expression):
        if name not in known and name.split(".")[0] not in known:
            return name
    return None


def value_of(row: Row, expression: str) -> Any:
    """Value of an expression in a row; None where a column or field is missing or empty.

    `answers.answer` of a list of records is the list of their `answer`s. A template gives text.
    Raises DataError where a cell is unreadable, where a value is missing in a template or does not
    fit its format.
    """
    if "{" not in expression and not expression.startswith("="):
        return _field(row, expression)

    def text(match: re.Match[str]) -> str:
        value, form = _field(row, match[1]), match[2] or ""
        if value is None:
            raise DataError(f"{match[1]} is empty")
        if form == "lower":
            return text_of(value).lower()
        try:
            return format(value, form) if form else text_of(value)
        except (TypeError, ValueError) as error:
            raise DataError(f"{match[1]}={value!r} does not fit {match[0]} ({error})") from error

    return _FIELD.sub(text, expression.removeprefix("="))


def _field(row: Row, name: str) -> Any:
    first, *rest = name.split(".")
    cell = row[name] if name in row else row.get(first)
    if isinstance(cell, Unreadable):
        raise DataError(f"{name}: {cell.reason}")
    value = cell if name in row else _within(cell, rest)
    return None if isinstance(value, float) and math.isnan(value) else value  # as pandas writes it


def _within(value: Any, path: list[str]) -> Any:
    if not path or value is None:
        return value
    if isinstance(value, list):
        return [_within(item, path) for item in value]
    if isinstance(value, Mapping):
        return _within(value.get(path[0]), path[1:])
    return None


def text_of(value: Any) -> str:
    """A cell as text: whole numbers without a point.

    Raises DataError for lists and records, and for text that no encoding can write.
    """
    if isinstance(value, str):
        if _HALF.search(value):  # JSON can say so; no tokenizer takes it
            raise DataError(f"{value[:40]!r} holds half a character (a lone surrogate)")
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if value is None or isinstance(value, list | Mapping):
        raise DataError(f"{value!r} is no text; name a field of it, such as answers.answer")
    return str(value)


def texts_of(value: Any) -> list[str]:
    """A cell as a list of texts: of its items that are not null, or of itself."""
    items = value if isinstance(value, list) else [value]
    return [text_of(item) for item in items if item is not None]


def list_in_text(value: Any) -> Any:
    """A Python or JSON list that is written as text, such as "['a', 'b']"; a list is left as it is.

    Raises DataError for text that is no list.
    """
    if not isinstance(value, str):
        return value
    try:
        found = ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        found = None
    if not isinstance(found, list | tuple):
        raise DataError(f"{value!r} is no list written as text")
    return list(found)


def nested_items(value: Any) -> list[Any]:
    """Items of a nested column: of a list of records, or of a record of lists of one length.

    Raises DataError for anything else.
    """
    if isinstance(value, Mapping):
        try:
            rows = zip(*(items or [] for items in value.values()), strict=True)
            return [dict(zip(value, row, strict=True)) for row in rows]
        except (TypeError, ValueError):
            pass
    elif value is None or isinstance(value, list):
        return list(value or [])
    raise DataError(f"{value!r} is no list of records, nor a record of lists of one length")
