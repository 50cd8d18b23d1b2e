"""The few things that schemas of published data sets force: named in YAML, `dataset.transforms`.

Each changes a question in place. Where it follows Molmo's evaluation code, this is
olmo/data/academic_datasets.py of github.com/allenai/molmo.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from vtexp.data.sample import MULTIPLE_CHOICE, NO_LETTERS
from vtexp.data.sources.columns import Row, read, text_of, value_of
from vtexp.errors import DataError
from vtexp.utils.text import shown


@dataclass
class QuestionDraft:
    """A question on its way from a row to a sample.

    `answer_index` is the place of the right option; `lettered` says whether options are shown, and
    answered, with letters.
    """

    question: str
    question_type: str
    references: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    answer_index: int | None = None
    lettered: bool = True
    style: str | None = None
    attributes: dict[str, float | str] = field(default_factory=dict)
    unusable: str | None = None


class Transform(NamedTuple):
    """A change to a question, and the columns of the row that it reads besides."""

    apply: Callable[[QuestionDraft, Row], None]
    columns: tuple[str, ...] = ()


def _hint_first(asked: QuestionDraft, row: Row) -> None:
    """ScienceQA: the hint, where there is one, on a line before the question."""
    if hint := _hint(row):
        asked.question = f"{hint}\n{asked.question}"


def _hint_twice(asked: QuestionDraft, row: Row) -> None:
    """ScienceQA as Molmo is evaluated: the hint twice, in place of the question."""
    if hint := _hint(row):
        asked.question = f"{hint}\n{hint}"


def _hint(row: Row) -> str:
    """The row's hint; empty where it has none."""
    return read(row, "hint", lambda hint: "" if hint is None else text_of(hint))


def _math_vista(asked: QuestionDraft, row: Row) -> None:
    """MathVista: the question without the hint that says how to answer; options where chosen."""
    asked.question = asked.question.split("Question:")[-1].split("Hint:")[0].strip()
    if asked.question_type != "multi_choice":
        asked.options = []


#: What RealWorldQA's questions end with.
_ONE_WORD = "Please answer directly with a single word or number."
_LETTER = "Please answer directly with only the letter of the correct option and nothing else."


def _real_world_qa(asked: QuestionDraft, row: Row) -> None:
    """RealWorldQA: the type from the instruction, which short answers lose (their first line)."""
    if _ONE_WORD in asked.question:
        asked.question_type = "short_answer"
        asked.question = asked.question.split("\n")[0]
    elif _LETTER in asked.question:
        asked.question_type = MULTIPLE_CHOICE
    else:
        raise DataError("the question has none of RealWorldQA's two instructions")


def _mmmu(asked: QuestionDraft, row: Row) -> None:
    """MMMU: options for multiple choice only; unusable where several options are images."""
    if asked.question_type != "multiple-choice":
        asked.options = []
    if sum(re.match("<img='(.*?)'>", option) is not None for option in asked.options) > 1:
        asked.unusable = "its options are images, so that none is shown with the question"


def _without_repeated(options: list[str]) -> list[str]:
    """Each option once; empty places stay, so that letters do not move."""
    return [o for place, o in enumerate(options) if not o or o not in options[:place]]


def _ai2d(asked: QuestionDraft, row: Row) -> None:
    """AI2D: empty and repeated options go; options that are letters in the diagram get no others.

    Questions without such letters become a type of their own, "no letters". The columns `abc_label`
    and `option_is_abc` say which options are letters; in rows without them, single letters are.
    """
    right = None if asked.answer_index is None else asked.options[asked.answer_index]
    kept = _without_repeated([o for o in asked.options if o != "{}"])
    if right is not None and right not in kept:
        raise DataError(f"the right option is {right}, an empty one")
    is_letter = value_of(row, "option_is_abc")
    if not isinstance(is_letter, list | None) or not {*map(type, is_letter or [])} <= {bool, int}:
        raise DataError(f"option_is_abc={shown(is_letter)} is not a list of true and false")
    if is_letter is None or len(is_letter) != len(kept):
        is_letter = [re.fullmatch("[A-Za-z]", option.strip()) is not None for option in kept]
    asked.options = kept
    asked.answer_index = None if right is None else kept.index(right)
    if row.get("abc_label", True) and sum(is_letter) >= sum(map(bool, kept)) - 1:
        pairs = zip(kept, is_letter, strict=True)
        asked.options = [option.upper() if letter else option for option, letter in pairs]
        asked.lettered, asked.style = False, NO_LETTERS
    else:
        asked.question_type = "no letters"


TRANSFORMS: dict[str, Transform] = {
    "hint_first": Transform(_hint_first, ("hint",)),
    "hint_twice": Transform(_hint_twice, ("hint",)),
    "math_vista": Transform(_math_vista),
    "real_world_qa": Transform(_real_world_qa),
    "mmmu": Transform(_mmmu),
    "ai2d": Transform(_ai2d, ("abc_label", "option_is_abc")),
}
