"""Texts of data sets, models and configs as terminals, tables and sentences can take them."""

from __future__ import annotations

import math
import os
import re
import reprlib
import shlex
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any, NoReturn

#: Environment variables whose values are secrets, and the length from which on they are hidden.
_SECRET, _SHORTEST = re.compile("KEY|TOKEN|SECRET|PASSW", re.IGNORECASE), 8

#: A sentence lists at most this many names.
MOST_NAMES = 12

#: A message shows at most this many characters of a value.
MOST_SHOWN = 80
#: Writes the beginning and the end of long or nested values.
_CUT = reprlib.Repr()
_CUT.maxstring = _CUT.maxother = MOST_SHOWN
_CUT.maxlist = _CUT.maxtuple = _CUT.maxdict = 3

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
    """A value for a CSV: control characters are escaped, and a `'` stands before a formula."""
    if not isinstance(value, str):
        return value
    return ("'" if value.startswith(_FORMULA) else "") + visible(value)


def printable(text: str) -> str:
    """A text with control characters escaped: text of files and arguments moves no cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def listed(names: Sequence[str]) -> str:
    """Such as `a, b, c`; of many the first, and how many more there are."""
    told = list(names[:MOST_NAMES])
    if len(names) > MOST_NAMES:
        told.append(f"and {len(names) - MOST_NAMES} more")
    return ", ".join(told)


def listed_of(names: Sequence[str], count: int, noun: str) -> str:
    """Names of some among `count`, as `listed` has them; where they are all, `all budgets`."""
    return f"all {noun}" if len(names) == count > 1 else listed(names)


def natural(text: str) -> list[Any]:
    """A sort key by which numbers in texts count as numbers: 9 before 12."""
    # Digits and other text alternate, so that like is compared with like.
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]


def count_of(number: int, noun: str) -> str:
    """Such as `1 run` or `3 runs`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def shown(value: Any) -> str:
    """A value for a message as Python writes it, in one short line: a cell can hold a megabyte."""
    try:
        return printable(" ".join(_CUT.repr(value).split()))
    except Exception:  # Python writes no whole number of more than 4300 digits
        return f"<{type(value).__name__}>"


def cut(text: str) -> str:
    """A text for a message: its beginning where it is long, without control characters."""
    if len(text) <= MOST_SHOWN:
        return printable(text)
    return f"{printable(text[:MOST_SHOWN])}... ({len(text)} characters)"


def refuse_arguments(parser: ArgumentParser, message: str) -> NoReturn:
    """`ArgumentParser.error` in one line, without the list of arguments."""
    parser.exit(2, f"error: {printable(message)}; see {parser.prog} --help\n")


def public(content: Any) -> Any:
    """JSON content, with `***` in its texts in place of the keys and tokens of this machine.

    These are the values of environment variables that are named like one.
    """
    secrets = {value for name, value in os.environ.items() if _SECRET.search(name)}
    longest_first = sorted(secrets, key=len, reverse=True)  # one can be a part of another
    return _masked(content, [value for value in longest_first if len(value) >= _SHORTEST])


def _masked(content: Any, secrets: list[str]) -> Any:
    if isinstance(content, str):
        for secret in secrets:
            content = content.replace(secret, "***")
        return content
    if isinstance(content, dict):
        return {_masked(key, secrets): _masked(value, secrets) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_masked(value, secrets) for value in content]
    return content


def percent(share: float, digits: int = 0) -> str:
    """A share in percent, such as `83 %` or, with a digit, `4.9 %`."""
    return f"{100 * share:.{digits}f} %"


def chance_text(chance: float) -> str:
    """A chance in percent, such as `83 %`, rounded down: 94.9 % is not 95 %; never 0 or 100."""
    if chance > 0.99:
        return "over 99 %"
    return "under 1 %" if chance < 0.01 else f"{math.floor(100 * chance + 1e-9)} %"


def command_line(words: Sequence[str]) -> str:
    """Words as a command that is typed into a shell."""
    return " ".join(map(shell_word, words))


def shell_word(word: str) -> str:
    """A word as a shell reads it; in double quotes where it has single ones and needs some."""
    plain = shlex.quote(word)
    # In double quotes an interactive bash still looks for its history behind an exclamation mark.
    if plain == word or "'" not in word or "!" in word:
        return plain
    return '"' + re.sub(r'(["\\$`])', r"\\\1", word) + '"'


def three_digits(value: float, *, up: bool | None = None) -> str:
    """Three digits, or all before the point, such as `30.0` and `1313`; `up`: as `bound_text`."""
    if up is not None and value > 0:
        return bound_text(value, max(0, 2 - math.floor(math.log10(value))), up=up)
    return f"{value:.0f}" if round(abs(value), 1) >= 100 else f"{value:#.3g}"


#: A hair by which a number may be beyond its last digit: sums of many numbers are.
_HAIR = 1e-6


def bound_text(
    value: float, digits: int, *, up: bool, beside: float = 0.0, signed: bool = False
) -> str:
    """A bound rounded outward, so that no printed interval claims more than was found.

    `up`: an upper bound. An end that would be rounded onto `beside`, which it is not, has up to two
    digits more: an interval beside 0 is not printed as one that touches 0.
    """
    for more in range(3):
        step = 10 ** (digits + more)
        whole = math.ceil(step * value - _HAIR) if up else math.floor(step * value + _HAIR)
        if (whole / step > beside) == (value > beside) and (whole / step < beside) == (
            value < beside
        ):
            break
    text = f"{whole / step:{'+' if signed else ''}.{digits + more}f}"
    return text if whole else text.lstrip("+-")


#: The level that p-values are read against.
LEVEL = 0.05


def p_value(p: float, at_floor: bool = False) -> str:
    """A p-value with two digits, more where these would carry it over 0.05; `<` at the floor."""
    if p < 0.001:
        return "<0.001"
    text = f"{p:.2g}" if p < 0.1 else f"{p:.2f}"
    for digits in (3, 4, 5):
        if (float(text) < LEVEL) != (p < LEVEL):
            text = f"{p:.{digits}g}"
    return f"<{text}" if at_floor and p < 1 else text


def p_equals(p: float, at_floor: bool = False) -> str:
    """The same in a sentence, such as `p = 0.03` and `p < 0.001`."""
    text = p_value(p, at_floor)
    return f"p < {text[1:]}" if text.startswith("<") else f"p = {text}"
