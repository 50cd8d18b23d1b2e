"""What a YAML file says of a column: its name, a field within it, or text with columns in it.

`question`, `answers.answer`, `COCO_{image_id:012d}.jpg`, `=What is shown?` (a text as it is).
Values of cells stand cut in messages: one can be a megabyte of base64.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any, TypeVar

from vtexp.errors import DataError
from vtexp.utils.text import cut, shown

#: {column}, {column:lower}, or {column:012d} with a format as in Python; nothing is evaluated.
_FIELD = re.compile(r"\{([^{}:]+)(?::([^{}]*))?\}")

#: Half of a character of UTF-16.
_HALF = re.compile("[\ud800-\udfff]")

#: What a cell's text may be made of.
_TEXTUAL = (str, int, float, Decimal, date, time, timedelta)

Row = Mapping[str, Any]
Read = TypeVar("Read")


class CellError(DataError):
    """A cell that holds another kind of value than its column is for; the message names it."""


class Unreadable:
    """In place of a cell that Python cannot represent: the reason."""

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


def read(row: Row, expression: str, convert: Callable[[Any], Read]) -> Read:
    """Value of an expression in a row, converted. Raises CellError."""
    try:
        return convert(value_of(row, expression))
    except DataError as error:
        raise CellError(f"column {expression}: {error}") from error


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
            raise DataError(
                f"{match[1]}={shown(value)} does not fit {match[0]} ({cut(str(error))})"
            ) from error

    return _FIELD.sub(text, expression.removeprefix("="))


def _field(row: Row, name: str) -> Any:
    first, *rest = name.split(".")
    cell = row[name] if name in row else row.get(first)
    if isinstance(cell, Unreadable):
        raise DataError(cell.reason)
    value = cell if name in row else _within(cell, rest)
    return None if is_null(value) else value


def is_null(value: Any) -> bool:
    """Whether a cell or an item of a list is empty: null, or NaN as pandas writes it."""
    return value is None or (isinstance(value, float | Decimal) and math.isnan(value))


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
    if isinstance(value, list | Mapping):
        raise DataError(f"{shown(value)} is not text; name a field of it, such as answers.answer")
    if not isinstance(value, _TEXTUAL):
        raise DataError(f"{shown(value)} is not text but {type(value).__name__}")
    return str(value)


def texts_of(value: Any) -> list[str]:
    """A cell as a list of texts: of its items that are not null, or of itself."""
    items = value if isinstance(value, list) else [value]
    return [text_of(item) for item in items if not is_null(item)]


def options_of(value: Any) -> list[str]:
    """A cell as a list of options: an empty text for each null, so that the others stay in place.

    Raises DataError where it is not a list.
    """
    if value is None:
        return []
    if not isinstance(value, list):
        hint = "; lists that are written as text are named in dataset.lists_as_text"
        raise DataError(f"{shown(value)} is not a list{hint if isinstance(value, str) else ''}")
    return ["" if is_null(item) else text_of(item) for item in value]


def list_in_text(value: Any) -> Any:
    """A Python or JSON list that is written as text, such as "['a', null]"; a list stays as it is.

    Raises DataError for text that is not a list.
    """
    if not isinstance(value, str):
        return value
    try:
        written = ast.parse(value.strip(), mode="eval").body
        if isinstance(written, ast.List | ast.Tuple):
            return [_item(item) for item in written.elts]
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        pass
    raise DataError(f"{shown(value)} is not a list written as text")


def _item(written: ast.expr) -> Any:
    """An item of a list that is written as text; null and nan are names to Python."""
    if isinstance(written, ast.Name) and written.id.lower() in ("null", "nan"):
        return None
    return ast.literal_eval(written)


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
    raise DataError(
        f"{shown(value)} is neither a list of records nor a record of lists of equal length"
    )
