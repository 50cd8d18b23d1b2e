"""MathVista without a network: what the official metric leaves to a language model is left out.

Officially GPT-4 extracts the answer from a response (github.com/lupantech/MathVista). This is the
path of Molmo's evaluation without it (github.com/allenai/molmo, olmo/eval/vqa.py with
use_api=False): the response itself is the answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase

from rapidfuzz.distance import Levenshtein

from vtexp.metrics.choice import select_option


def math_vista_no_network(
    prediction: str,
    reference: str,
    options: Sequence[str],
    answer_type: str,
    precision: int | None,
) -> bool:
    """Whether a response, taken as the answer, is the reference.

    With options it is the option that the response means. Else it is read as `answer_type` says:
    `integer` without decimals, `float` rounded to `precision` decimals, any other as it is.
    """
    return _answer(prediction, options, answer_type, precision) == reference


def _answer(
    response: str, options: Sequence[str], answer_type: str, precision: int | None
) -> str | None:
    """The answer as its reference would be written; None where it is no such number."""
    if options:
        return _named_option(options[select_option(response, _letters(options))].strip(), options)
    try:
        if answer_type == "integer":
            return str(int(float(response)))
        if answer_type == "float":
            return str(round(float(response), precision))
    except (ValueError, OverflowError, TypeError):  # no number; infinite; a broken precision
        return None
    return response


def _named_option(text: str, options: Sequence[str]) -> str:
    """The option that a text names by `A:` or A, else the first of the fewest edits.

    The text is an option already; it is read once more because the reference does, so an option
    that itself looks like a letter can lead to another one.
    """
    if letter := re.search(r"([a-zA-Z]):", text):
        text = letter[1].upper()
    if text in _letters(options):
        return options[_letters(options).index(text)]
    edits = [Levenshtein.distance(text, option) for option in options]
    return options[edits.index(min(edits))]


def _letters(options: Sequence[str]) -> list[str]:
    return list(ascii_uppercase[: len(options)])
