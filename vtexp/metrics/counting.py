"""Counting: the number that an answer ends with or announces.

Source: Molmo's evaluation of CountBench and PixMo-Count (github.com/allenai/molmo, PointCountEval
in olmo/eval/evaluators.py).
"""

from __future__ import annotations

import re

#: Words for numbers that are read, each at its number.
WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    *("nineteen", "twenty"),
)


def counted(prediction: str) -> int | None:
    """The number that an answer gives; None where it gives none.

    Its last word as digits or as a word up to twenty, else what follows `a total of` in its first
    line. (The reference means to read `none` as 0, but its pattern cannot match.)
    """
    text = prediction.strip().lower().rstrip(".").strip()
    last = text.split()[-1] if text else ""
    try:
        return int(last)
    except ValueError:
        if last in WORDS:
            return WORDS.index(last)
    total = re.match(".*a total of ([0-9]+)", text)
    return int(total[1]) if total else None
