"""VQA accuracy: agreement with the answers of several people.

Sources: the VQA challenge (https://visualqa.org/evaluation.html and its program,
github.com/GT-Vision-Lab/VQA), A-OKVQA (github.com/allenai/aokvqa) and Molmo's evaluation
(github.com/allenai/molmo, olmo/eval/vqa.py). The tables of words and marks are the challenge's.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

#: Marks that normalising takes out.
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = frozenset({"a", "an", "the"})
NUMBERS = {
    "none": "0",
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
_NUMBER_WITH_COMMA = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")


@cache
def contractions() -> dict[str, str]:
    """Contractions as they are mistyped, and as they are compared."""
    path = Path(__file__).parents[1] / "assets" / "vqa_contractions.json"
    return json.loads(path.read_text())["contractions"]


def normalise(answer: str) -> str:
    """An answer as the VQA challenge compares it.

    Lower case, no punctuation, number words up to ten as digits, no articles, contractions with
    their apostrophe. A mark becomes nothing where it borders on a space anywhere in the answer, or
    where a number has a comma, else a space. A full stop goes unless a digit follows.
    """
    text = _trimmed(answer).lower()
    tight = _NUMBER_WITH_COMMA.search(text) is not None
    marks: dict[str, str | int | None] = {
        mark: "" if tight or f"{mark} " in text or f" {mark}" in text else " "
        for mark in PUNCTUATION
    }
    # The official program passes re.UNICODE, 32, where the count belongs: 32 full stops, not all.
    text = _FULL_STOP.sub("", text.translate(str.maketrans(marks)), count=32)
    words = (NUMBERS.get(word, word) for word in text.split())
    return " ".join(contractions().get(word, word) for word in words if word not in ARTICLES)


def same_answer(prediction: str, reference: str) -> bool:
    """Whether two answers are equal once normalised."""
    return normalise(prediction) == normalise(reference)


def vqa_accuracy(prediction: str, references: Sequence[str]) -> float:
    """Official VQA accuracy: mean over the leave-one-out subsets of min(matches / 3, 1).

    In [0, 1]; 1 needs four matching references. In closed form: each of the m matching references
    leaves m - 1 matches when it is left out, each of the others leaves m. As in the official
    program, answers are compared as they are, without outer white space, where all references are
    one text; else normalised. Raises ZeroDivisionError without references.
    """
    found, *expected = (_trimmed(text) for text in (prediction, *references))
    if len(set(expected)) > 1:
        found, *expected = map(normalise, (found, *expected))
    matches = expected.count(found)
    total = matches * min((matches - 1) / 3, 1.0) + (len(expected) - matches) * min(
        matches / 3, 1.0
    )
    return total / len(expected)


def _trimmed(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def vqa_accuracy_molmo(prediction: str, references: Sequence[str] | str) -> float:
    """VQA accuracy of Molmo's evaluation: min(matches / 3, 1) over all references. In [0, 1].

    A single text in their place is not normalised, as in its code: 1.0 if the normalised
    prediction is that text, else 0.0.
    """
    if isinstance(references, str):
        return float(normalise(prediction) == references)
    counts = Counter(map(normalise, references))
    return min(counts[normalise(prediction)] / 3, 1.0)


def a_okvqa_direct(prediction: str, references: Sequence[str]) -> float:
    """Official A-OKVQA direct-answer accuracy: min(matches / 3, 1), texts equal. In [0, 1]."""
    return min(list(references).count(prediction) / 3, 1.0)


def a_okvqa_direct_molmo(prediction: str, references: Sequence[str]) -> float:
    """As `a_okvqa_direct`, but in lower case and without surrounding white space. In [0, 1]."""
    plain = [reference.lower().strip() for reference in references]
    return a_okvqa_direct(prediction.lower().strip(), plain)
