"""Multiple choice as Molmo's and Molmo2's evaluation read it, and RealWorldQA's options.

Sources: olmo/eval/vqa.py of github.com/allenai/molmo and of github.com/allenai/molmo2. The default
reading of answers is in `extraction`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from rapidfuzz.distance import Levenshtein

from vtexp.metrics.vqa import same_answer

#: The options of every multiple-choice question of RealWorldQA.
REAL_WORLD_QA_NAMES = ("A", "B", "C", "D")

Select = Callable[[str, Sequence[str]], int]


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
    index = select_option(prediction, names)
    text, plain = _plain(prediction, names)
    if text in plain:
        return index
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


def real_world_qa_molmo(
    prediction: str, reference: str, *, multiple_choice: bool, select: Select = select_option
) -> bool:
    """Whether an answer to RealWorldQA is right, as Molmo's and Molmo2's code finds it.

    Its multiple-choice questions have the options A to D in their text; other answers are compared
    normalised as for VQA. Raises ValueError where the reference is none of the options.
    """
    if multiple_choice:
        chosen = select(prediction, REAL_WORLD_QA_NAMES)
        return chosen == REAL_WORLD_QA_NAMES.index(reference)
    return same_answer(prediction, reference)


#: An option in a question's own text: `A. red` or `(B) blue` on a line.
_OPTION_LINE = re.compile(r"^\s*\(?([A-Z])[.:)]\s*(\S.*)$", re.MULTILINE)


def options_in(question: str) -> dict[str, str]:
    """The options that a question's text lists in lines, by letter; empty where it lists none."""
    return {letter: text.strip() for letter, text in _OPTION_LINE.findall(question)}
