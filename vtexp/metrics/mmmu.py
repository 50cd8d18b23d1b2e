"""MMMU: the option or the text that a whole response gives as its answer.

Source: MMMU's evaluation (github.com/MMMU-Benchmark/MMMU, eval_utils.py), as Molmo's evaluation
uses it (github.com/allenai/molmo, olmo/eval/mmmu_eval_utils.py), and Molmo2's change of it
(github.com/allenai/molmo2, the same file).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from string import ascii_uppercase

#: Words after which a response gives its answer; in its last line also an equals sign.
KEYS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
#: Numbers with commas, in scientific notation, and others.
NUMBERS = (
    r"-?\b\d{1,3}(?:,\d{3})+\b",
    r"-?\d+(?:\.\d+)?[eE][+-]?\d+",
    r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])",
)


#: Forms of a letter: those that MMMU's program looks for one after the other, and Molmo2's.
FORMS = ("({})", " {} ")
FORMS_MOLMO2 = ("({})", "{})", "{}.", "{}:", " {} ")


def chosen_letter(
    response: str, options: Sequence[str], forms: Sequence[str] = FORMS
) -> str | None:
    """Letter of the option that a response names last; None where it names none.

    Looked for in the first of the `forms` that there is, else, in responses of more than five
    words, by the option's text. An empty text has no letter; the others keep theirs.
    """
    for mark in ",.!?;:'":
        response = response.strip(mark)
    text = f" {response} "
    lettered = zip(ascii_uppercase, options, strict=False)
    texts = {letter: option for letter, option in lettered if option}
    for form in forms:
        if last := _last({letter: text.rfind(form.format(letter)) for letter in texts}):
            return last
    if len(text.split()) <= 5:
        return None
    lowered = text.lower()
    return _last({letter: lowered.rfind(option.lower()) for letter, option in texts.items()})


def _last(places: dict[str, int]) -> str | None:
    """Letter of the last place (-1: not found); the first letter of those at one place."""
    found = {letter: place for letter, place in places.items() if place >= 0}
    return max(found, key=lambda letter: found[letter]) if found else None


def open_answer_is_right(response: str, references: Iterable[str]) -> bool:
    """Whether a response to an open question gives one of the references.

    A number is right if equal when rounded to two decimals; a text if it holds the reference,
    which, if it is one character, must have a space before or after it.
    """
    expected = {part for reference in references for part in _normalised(reference)}
    for answer in _answers(response):
        for found in _normalised(answer):
            if isinstance(found, float):
                if found in expected:
                    return True
            elif any(isinstance(part, str) and part in found for part in expected):
                return True
    return False


def _answers(response: str) -> list[str]:
    """The parts of a response that give its answer, or all of it, and the numbers in them."""
    text = response.strip().strip(".").lower()
    lines = text.split("\n")
    keys = [_key_part(line, KEYS) for line in lines[:-1]] + [_key_part(lines[-1], (*KEYS, "="))]
    parts = [key for key in keys if key not in ("", ":", ",", ".", "!", "?", ";", "'")] or [text]
    return parts + [
        number for part in parts for form in NUMBERS for number in re.findall(form, part)
    ]


def _key_part(line: str, keys: Sequence[str]) -> str:
    """The shortest of what follows the last of each key; a later key replaces an empty part."""
    shortest = ""
    for key in keys:
        if key in line:
            part = line.split(key)[-1].strip()
            if not shortest or len(part) < len(shortest):
                shortest = part
    return shortest


def _normalised(text: str) -> list[str | float]:
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
    return [f" {text}", f"{text} "] if len(text) == 1 else [text]
