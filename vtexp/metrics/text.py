"""Scores that compare a short text with references, and the clean-up of a generated one."""

from __future__ import annotations

import unicodedata
from collections import Counter

from rapidfuzz.distance import Levenshtein

#: Least similarity that ANLS counts; Molmo's code and the paper count more than it only.
ANLS_THRESHOLD = 0.5
#: Largest relative error of a number that relaxed correctness lets pass.
RELAXED_ERROR = 0.05


def composed(text: str) -> str:
    """A text with composed characters (NFC): `e` with an accent is one, however it was typed."""
    return unicodedata.normalize("NFC", text)


def single_spaced(text: str) -> str:
    """A text with composed characters and single spaces, none at its ends."""
    return " ".join(composed(text).split())


def cleaned(text: str) -> str:
    """A text with composed characters, as Molmo's evaluation would clean it."""
    return clean_prediction(composed(text))


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


def folded(text: str) -> str:
    """A text as `exact_match` compares it: in folded case, single spaces, no full stop at the end.

    Folding can take characters apart, so they are composed again.
    """
    return composed(single_spaced(text).casefold()).removesuffix(".").rstrip()


def exact_match_molmo(prediction: str, reference: str) -> bool:
    """Whether two texts are equal in lower case: `em` of Molmo's code."""
    return prediction.lower() == reference.lower()


def anls(prediction: str, reference: str) -> float:
    """Average normalised Levenshtein similarity to one reference as the RRC's script has it.

    In [0, 1]: 1 - edits / longer length where that is 0.5 or more, else 0. Edits are counted in
    lower case with single spaces; the longer length, as there, is that of the texts in capitals
    with all their white space. Two empty texts are alike. Source: the evaluation script of https://rrc.cvc.uab.es/?ch=17&com=mymethods
    (DocVQA, InfographicVQA), as copies of it have it (lmms-eval, huggingface/evaluate).
    """
    found, expected = (" ".join(text.lower().split()) for text in (prediction, reference))
    length = max(len(prediction.upper()), len(reference.upper()))
    similarity = 1 - Levenshtein.distance(found, expected) / length if length else 1.0
    return similarity if similarity >= ANLS_THRESHOLD else 0.0


def anls_molmo(prediction: str, reference: str) -> float:
    """ANLS to one reference as Molmo's code has it, in [0, 1]: above 0.5 only, white space counts.

    Sources: Biten et al. 2019 (https://arxiv.org/abs/1907.00490, equation 1); case as on
    https://rrc.cvc.uab.es/?ch=17&com=tasks. Raises ZeroDivisionError where both are empty.
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
