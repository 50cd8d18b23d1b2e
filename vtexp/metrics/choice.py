"""Multiple choice: which option an answer means.

Source: Molmo's evaluation (github.com/allenai/molmo, olmo/eval/vqa.py) and that of Molmo2.
"""

from __future__ import annotations

from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from vtexp.metrics.vqa import same_answer

#: The options of every multiple-choice question of RealWorldQA.
REAL_WORLD_QA_NAMES = ("A", "B", "C", "D")


def select_option(prediction: str, names: Sequence[str]) -> int:
    """Index of the option that a prediction means; `names` are what options are called.

    The name that is equal; else the only one that holds the prediction; else the first of the
    fewest edits. Case and surrounding white space do not count. Raises ValueError where names are
    equal then.
    """
    text, plain = _plain(prediction, names)
    if text in plain:
        return plain.index(text)
    return _only([text in name for name in plain], _nearest(text, plain))


def select_option_molmo2(prediction: str, names: Sequence[str]) -> int:
    """As `select_option`, for answers such as `A. red`.

    After the equal name comes the only one that starts the prediction, then the only one that the
    prediction starts, then the rest.
    """
    text, plain = _plain(prediction, names)
    if text in plain:
        return plain.index(text)
    index = _only([text in name for name in plain], _nearest(text, plain))
    index = _only([name.startswith(text) for name in plain], index)
    return _only([text.startswith(name) for name in plain], index)


def _plain(prediction: str, names: Sequence[str]) -> tuple[str, list[str]]:
    plain = [name.lower().strip() for name in names]
    if len(set(plain)) < len(plain):
        raise ValueError(f"two options have one name: {', '.join(names)}")
    return prediction.lower().strip(), plain


def _only(fits: Sequence[bool], otherwise: int) -> int:
    """Index of the only one that fits."""
    return fits.index(True) if sum(fits) == 1 else otherwise


def _nearest(text: str, names: Sequence[str]) -> int:
    edits = [Levenshtein.distance(text, name) for name in names]
    return edits.index(min(edits))


def real_world_qa(prediction: str, reference: str, *, multiple_choice: bool) -> bool:
    """Whether an answer to RealWorldQA is right.

    Its multiple-choice questions have the options A to D in their text; other answers are compared
    normalised as for VQA. Raises ValueError where the reference is none of the options.
    """
    if multiple_choice:
        chosen = select_option(prediction, REAL_WORLD_QA_NAMES)
        return chosen == REAL_WORLD_QA_NAMES.index(reference)
    return same_answer(prediction, reference)
