"""Scores that compare a short text with references, and the clean-up of a generated one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

#: From this share of edits on, ANLS counts nothing.
ANLS_THRESHOLD = 0.5
#: Largest relative error of a number that relaxed correctness lets pass.
RELAXED_ERROR = 0.05


def clean_prediction(text: str) -> str:
    """A generated text as Molmo's evaluation hands it to its metrics.

    What follows the first `Answer:`, as it is; else of several lines the most frequent one (the
    first of those), with single spaces; else the text with single spaces. Source:
    github.com/allenai/molmo, VqaEval in olmo/eval/evaluators.py.
    """
    text = text.strip()
    if "Answer:" in text:
        return text.split("Answer:")[1].strip()
    lines = [" ".join(line.split()) for line in text.split("\n")]
    return Counter(lines).most_common(1)[0][0]  # equal counts stay in the order of the lines


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1.0 if the prediction equals a reference in folded case, else 0.0; this project's own.

    Compared with single spaces and without a full stop at the end.
    """
    return float(_plain(prediction) in map(_plain, references))


def exact_match_molmo(prediction: str, references: Sequence[str]) -> float:
    """1.0 if the prediction equals a reference in lower case, else 0.0: `em` of Molmo's code."""
    return float(prediction.lower() in (reference.lower() for reference in references))


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().casefold().removesuffix(".").rstrip()


def anls(prediction: str, reference: str) -> float:
    """Average normalised Levenshtein similarity to one reference, in [0, 1].

    1 - edits / longer length where that share of edits is below 0.5, else 0; case does not count,
    spaces do. Sources: Biten et al. 2019 (https://arxiv.org/abs/1907.00490, equation 1); case as
    on https://rrc.cvc.uab.es/?ch=17&com=tasks. Raises ZeroDivisionError where both are empty.
    """
    edits = Levenshtein.distance(prediction.lower(), reference.lower())
    share = edits / max(len(prediction), len(reference))
    return 1 - share if share < ANLS_THRESHOLD else 0.0


def relaxed_correctness(prediction: str, reference: str) -> bool:
    """Whether a number is within 5 % of the reference, or another text equal in lower case.

    `12%` is read as 0.12. Where the reference is 0, only the same text is right. Source: ChartQA
    (https://arxiv.org/abs/2203.10244, section 5.1), as google-research/pix2struct computes it.
    """
    found, expected = _number(prediction), _number(reference)
    if found is not None and expected:
        return abs(found - expected) / abs(expected) <= RELAXED_ERROR
    return prediction.lower() == reference.lower()


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
