"""Checks of what Python code hands to the API; each raises ArgumentError that names the argument.

Whole numbers and numbers may be numpy's or torch's; a bool is no number, a text no list of texts.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from vtexp.errors import ArgumentError
from vtexp.utils.text import listed, shown

#: Characters of a path that Linux takes.
MOST_OF_A_PATH = 4096


def refuse(name: str, value: Any, wanted: str) -> NoReturn:
    """Raise ArgumentError for an argument: its name, its value, and what it must be."""
    raise ArgumentError(f"{name}={shown(value)}: {wanted}")


def whole(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """A whole number from `least` to `most`."""
    wanted = f"needs a whole number of at least {least}"
    if most is not None:
        wanted = f"needs a whole number from {least} to {most}"
    try:
        number = None if _is_flag(value) else operator.index(value)
    except Exception:  # of any library's numbers
        number = None
    if number is None or number < least or (most is not None and number > most):
        refuse(name, value, wanted)
    return number


def finite(name: str, value: Any) -> float:
    """A number, neither infinite nor NaN."""
    try:
        number = math.nan if _is_flag(value) or isinstance(value, str | bytes) else float(value)
    except Exception:  # of any library's numbers
        number = math.nan
    if not math.isfinite(number):
        refuse(name, value, "needs a finite number")
    return number


def flag(name: str, value: Any) -> bool:
    """True or False: of a text or a number it would be a guess."""
    if not _is_flag(value):
        refuse(name, value, "needs True or False")
    return bool(value)


def text(name: str, value: Any) -> str:
    """A text that can be encoded."""
    try:
        if isinstance(value, str) and value.encode() is not None:
            return str(value)
    except UnicodeEncodeError:
        refuse(name, value, "has characters that are no Unicode text")
    refuse(name, value, "needs a text")


def texts(name: str, value: Any) -> tuple[str, ...]:
    """Several texts in their order; one text alone is no list of its letters."""
    if isinstance(value, str | bytes | Mapping | set | frozenset) or not _is_iterable(value):
        refuse(name, value, "needs a list of texts")
    try:
        items = list(value)
    except Exception:  # of any library's arrays
        refuse(name, value, "needs a list of texts")
    return tuple(text(f"{name}[{place}]", own) for place, own in enumerate(items))


def path(name: str, value: Any) -> Path:
    """A path from a text or a path."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    found = text(name, value)
    if not found or "\0" in found or len(found) > MOST_OF_A_PATH:
        refuse(name, value, "needs the path of a file or folder")
    return Path(found)


def pair(name: str, value: Any, wanted: str) -> tuple[int, int]:
    """Two whole numbers in their order, of a tuple, a list or an array; of any sign."""
    ordered = isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)
    try:
        if ordered or getattr(value, "ndim", 0) == 1:
            first, second = value
            if not (_is_flag(first) or _is_flag(second)):
                return operator.index(first), operator.index(second)
    except Exception:  # of any library's arrays
        pass
    refuse(name, value, wanted)


def no_others(given: Iterable[str], known: Sequence[str], what: str) -> None:
    """Raise ArgumentError for the first name that is not known."""
    for name in given:
        if name not in known:
            raise ArgumentError(f"{name}: no such argument; {what} takes {listed(known)}")


def _is_flag(value: Any) -> bool:
    """Whether a value is a bool of Python's, numpy's or torch's."""
    kind = str(getattr(value, "dtype", ""))
    return isinstance(value, bool) or (kind in ("bool", "torch.bool") and value.ndim == 0)


def _is_iterable(value: Any) -> bool:
    return isinstance(value, Iterable) and getattr(value, "ndim", 1) == 1
