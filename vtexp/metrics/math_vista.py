"""MathVista without a network: what the official metric leaves to a language model is left out.

Officially GPT-4 extracts the answer from a response (github.com/lupantech/MathVista); here the
response itself is the answer. The parsers of Molmo's and Molmo2's evaluation (olmo/eval/vqa.py of
github.com/allenai/molmo and molmo2, with use_api=False) are here too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase

from rapidfuzz.distance import Levenshtein

from vtexp.metrics.choice import Select, select_option


def typed_answer(response: str, answer_type: str, precision: int | None) -> str | None:
    """A response as its reference would be written; None if it is not such a number.

    `integer`: without decimals; `float`: rounded to `precision` decimals; any other as it is.
    """
    try:
        if answer_type == "integer":
            return str(int(float(response)))
        if answer_type == "float":
            return str(round(float(response), precision))
    except (ValueError, OverflowError, TypeError):  # no number; infinite; no precision
        return None
    return response


def math_vista_molmo(
    response: str,
    reference: str,
    options: Sequence[str],
    answer_type: str,
    precision: int | None,
    select: Select = select_option,
) -> bool:
    """Whether a response is the reference, as Molmo's code without its network finds it.

    With options it is the one whose letter `select` takes the response for: Molmo's or Molmo2's.
    """
    if not options:
        return typed_answer(response, answer_type, precision) == reference
    texts = dict(zip(ascii_uppercase, options, strict=False))
    chosen = list(texts)[select(response, list(texts))]
    return _named_option(texts[chosen].strip(), texts) == reference


def _named_option(text: str, texts: dict[str, str]) -> str:
    """The option that a text names by `A:` or A, else the first of the fewest edits.

    The text is an option already; it is read once more because the reference does, so an option
    that itself looks like a letter can lead to another one.
    """
    if letter := re.search(r"([a-zA-Z]):", text):
        text = letter[1].upper()
    if text in texts:
        return texts[text]
    return min(texts.values(), key=lambda option: Levenshtein.distance(text, option))
