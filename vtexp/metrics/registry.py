"""The metrics by name, what each needs of a sample, and which texts it is given.

A name without an ending is the official definition, or this project's own where there is none; a
name that ends in `_molmo` or `_molmo2` is that of Molmo's or Molmo2's evaluation;
`module:function` is a metric of the user's own. Predictions come as the model wrote them. Each
metric puts predictions and references through one function: the former kinds compose characters
(NFC) and collapse white space, the latter also clean as Molmo's evaluator does.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vtexp.data.sample import MULTIPLE_CHOICE, NO_LETTERS, Sample
from vtexp.errors import ConfigError, DataError, error_line
from vtexp.metrics import captions, choice, counting, math_vista, mmmu, text, vqa
from vtexp.metrics.extraction import Named, is_empty, named_options
from vtexp.metrics.text import cleaned, composed, single_spaced
from vtexp.prompts.wording import LETTERS, option_names
from vtexp.utils.own_code import own_function, require_form
from vtexp.utils.text import cut

#: Score of a prediction for a sample, from 0 to the metric's `highest`.
Score = Callable[[str, Sample], float]

#: Fewest references with which the official VQA accuracy can be 1.
LEAST_FOR_VQA = 4
_KEY = "dataset.metric"
#: What MathVista's `answer_type` may be.
MATH_VISTA_TYPES = ("integer", "float", "list", "text")
#: More decimals than any number of Python's has.
MOST_DECIMALS = 400


@dataclass(frozen=True)
class Metric:
    """One way to score answers, from 0 to `highest`.

    `lacks` says what a sample lacks to be scored, empty if nothing; `build` makes the score for the
    samples of a run.
    """

    name: str
    build: Callable[[Sequence[Sample]], Score]
    lacks: Callable[[Sample], str]
    highest: float = 1.0

    def prepare(self, samples: Sequence[Sample]) -> Score:
        """The score for answers to these samples.

        Raises DataError for the first sample that cannot be scored.
        """
        for sample in samples:
            if lack := self.lacks(sample):
                raise DataError(f"dataset.metric={self.name}: sample {sample.sample_id} {lack}")
        return self.build(samples)


def metric(name: str) -> Metric:
    """The metric `dataset.metric` names; one of the user's own is imported when it is prepared.

    Raises ConfigError for an unknown name.
    """
    if ":" in name:
        require_form(_KEY, name)
        return Metric(name, lambda samples: _own(name, samples), lambda _: "")
    if name not in METRICS:
        names = ", ".join(METRICS)
        raise ConfigError(
            f"{_KEY}={cut(name)}: no such metric; metrics are {names}, "
            "or module:function of your own"
        )
    return METRICS[name]


def _own(name: str, samples: Sequence[Sample]) -> Score:
    """Scores by a function of the user's own, tried once so that a mistake shows before any run."""
    function = own_function(_KEY, name)

    def score(prediction: str, sample: Sample) -> float:
        about = f"for the answer {prediction[:60]!r} to sample {sample.sample_id}"
        try:
            value = function(prediction, sample)
        except (Exception, SystemExit) as error:  # it is anyone's code
            raise DataError(f"{_KEY}={name} raised {error_line(error)} {about}") from error
        if not isinstance(value, int | float | np.number | np.bool_) or not 0 <= value <= 1:
            raise DataError(f"{_KEY}={name} gave {value!r:.60} {about}: give a number from 0 to 1")
        return float(value)

    for sample in samples[:1]:
        score(sample.references[0] if sample.references else "", sample)
    return score


# --- what a sample must have ------------------------------------------------------------------


def _no_reference(sample: Sample) -> str:
    return "" if sample.references else "has no reference"


def _few_references(sample: Sample) -> str:
    if len(sample.references) >= LEAST_FOR_VQA:
        return ""
    return f"has {len(sample.references)} references; to score 1, {LEAST_FOR_VQA} must agree"


def _empty_reference(sample: Sample) -> str:
    """What is lacking for a metric of Molmo's that divides by the length of a cleaned text."""
    empty = not all(map(cleaned, sample.references))
    return _no_reference(sample) or ("has an empty reference" if empty else "")


def _no_option(sample: Sample) -> str:
    names, lettered = option_names(sample), sample.style != NO_LETTERS
    if all(map(is_empty, sample.options)):
        return "has no options"
    if lettered and len(sample.options) > len(LETTERS):
        return f"has {len(sample.options)} options, more than there are letters"
    there = [name for name, text in zip(names, sample.options, strict=True) if not is_empty(text)]
    if len({_name(name) for name in there}) < len(there):
        return f"has two options of one name ({cut(', '.join(there))})"
    references = {_name(reference) for reference in sample.references}
    if references & {_name(name) for name in there}:
        return ""
    wanted = cut(", ".join(sample.references) or "nothing")
    if references & {_name(name) for name in names}:
        return f"has {wanted or 'nothing'} as its reference, but that option is empty"
    return f"has {wanted} as its reference, which is not one of {cut(', '.join(there))}"


def _no_mmmu(sample: Sample) -> str:
    return _no_option(sample) if sample.options else _no_reference(sample)


def _no_real_world_qa(sample: Sample) -> str:
    if sample.question_type != MULTIPLE_CHOICE:
        return _no_reference(sample)
    known = set(sample.references[:1]) & set(choice.REAL_WORLD_QA_NAMES)
    return "" if known else "is multiple choice, but its reference is none of A, B, C, D"


def _no_math_vista(sample: Sample) -> str:
    if lack := _no_reference(sample):
        return lack
    if sample.options:
        wanted = cut(sample.references[0])
        lack = f"has {wanted} as its reference, which is not one of its options"
        return "" if _math_vista_places(sample) else lack
    kind, precision = sample.attributes.get("answer_type"), sample.attributes.get("precision")
    if kind not in MATH_VISTA_TYPES:
        return (
            f"has answer_type {cut(str(kind))}, which is not one of {', '.join(MATH_VISTA_TYPES)}"
        )
    if kind == "float" and precision is None:
        return "has no precision, which its answer_type float needs"
    if kind == "float" and _decimals(precision) is None:
        return f"has precision {cut(str(precision))}, which is not a whole number of decimals"
    return ""


def _no_count(sample: Sample) -> str:
    if sample.references and _count(sample.references[0]) is not None:
        return ""
    return "has no whole number as its reference"


# --- pieces of samples ------------------------------------------------------------------------


def _name(text: str) -> str:
    """What an option is called, as Molmo's code compares it."""
    return cleaned(text).lower().strip()


def _letters(sample: Sample) -> dict[str, int]:
    """Places of options by the capital letters that call them; empty places have none."""
    if sample.style == NO_LETTERS:
        plain = [option.strip().upper() for option in sample.options]
        return {text: place for place, text in enumerate(plain) if text in set(LETTERS)}
    there = [not is_empty(option) for option in sample.options]
    return {LETTERS[place]: place for place, filled in enumerate(there[: len(LETTERS)]) if filled}


def _named(prediction: str, sample: Sample) -> Named:
    """The options that an answer names; first of all the one whose name it copies."""
    same = single_spaced(prediction)
    copied = {i for i, name in enumerate(option_names(sample)) if single_spaced(name) == same}
    if copied and same and not all(is_empty(sample.options[i]) for i in copied):
        return frozenset(copied)
    return named_options(prediction, sample.options, _letters(sample))


def _math_vista_places(sample: Sample) -> Named:
    """Places of the right option: the reference is its text, or its letter."""
    wanted = single_spaced(sample.references[0])
    texts = {i for i, text in enumerate(sample.options) if single_spaced(text) == wanted}
    places = texts if wanted and texts else {_letters(sample).get(wanted, -1)} - {-1}
    return frozenset(places)


def _decimals(precision: float | str | None) -> int | None:
    """MathVista's precision as whole decimals; it is published as 1.0, and some write it as text.

    None if it is not one.
    """
    try:
        number = float(precision)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return int(number) if 0 <= number <= MOST_DECIMALS and number.is_integer() else None


def _count(reference: str) -> int | None:
    """A text as a whole number; None if it is not one (or too long for Python)."""
    try:
        return int(reference) if reference.strip().isdecimal() else None
    except ValueError:
        return None


# --- scores of samples ------------------------------------------------------------------------


def _all_references(
    score: Callable[[str, Sequence[str]], float], normal: Callable[[str], str]
) -> Score:
    """The score against all references, all put through one function."""
    return lambda prediction, sample: score(
        normal(prediction), [normal(reference) for reference in sample.references]
    )


def _best_reference(score: Callable[[str, str], float], normal: Callable[[str], str]) -> Score:
    """The best score against a reference, all put through one function."""

    def best(prediction: str, sample: Sample) -> float:
        found = normal(prediction)
        return float(max(score(found, normal(reference)) for reference in sample.references))

    return best


def _relaxed(prediction: str, reference: str) -> bool:
    """Relaxed correctness, where also `nan` and `inf` are equal to themselves."""
    return prediction == reference or text.relaxed_correctness(prediction, reference)


def _multiple_choice(prediction: str, sample: Sample) -> float:
    references = {_name(reference) for reference in sample.references}
    names = option_names(sample)
    return float(any(_name(names[place]) in references for place in _named(prediction, sample)))


def _option(select: choice.Select) -> Score:
    """Multiple choice by a parser that compares an answer with the names of the options."""

    def right(prediction: str, sample: Sample) -> float:
        pairs = zip(option_names(sample), sample.options, strict=True)
        names = [_name(name) for name, option in pairs if not is_empty(option)]
        chosen = names[select(cleaned(prediction), names)]
        return float(chosen in {_name(reference) for reference in sample.references})

    return right


def _real_world_qa(prediction: str, sample: Sample) -> float:
    if sample.question_type != MULTIPLE_CHOICE:
        return float(vqa.same_answer(composed(prediction), composed(sample.references[0])))
    texts = choice.options_in(sample.question)
    if sample.references[0] not in texts:  # it lists them in some other way
        texts = dict.fromkeys(choice.REAL_WORLD_QA_NAMES, "")
    letters = {letter: place for place, letter in enumerate(texts)}
    named = named_options(prediction, list(texts.values()), letters)
    return float(letters[sample.references[0]] in named)


def _real_world_qa_molmo(select: choice.Select) -> Score:
    def right(prediction: str, sample: Sample) -> float:
        is_choice = sample.question_type == MULTIPLE_CHOICE
        texts = (cleaned(prediction), cleaned(sample.references[0]))
        return float(choice.real_world_qa_molmo(*texts, multiple_choice=is_choice, select=select))

    return right


def _mmmu(prediction: str, sample: Sample) -> float:
    if sample.options:
        return _multiple_choice(prediction, sample)
    same = single_spaced(prediction)
    if same in map(single_spaced, sample.references):  # its parser does not find `Mr.` in itself
        return 1.0
    references = map(composed, sample.references)
    return float(mmmu.open_answer_is_right(composed(prediction), references))


def _mmmu_molmo(forms: Sequence[str]) -> Score:
    """MMMU by a parser of Molmo's or Molmo2's code; where it finds no letter, it draws one."""

    def right(prediction: str, sample: Sample) -> float:
        response = cleaned(prediction)
        if not sample.options:
            return float(mmmu.open_answer_is_right(response, map(cleaned, sample.references)))
        options = ["" if is_empty(option) else option for option in sample.options]
        letter = mmmu.chosen_letter(response, options, forms)
        if letter is None:  # there at random; here one that is the same in every run
            letter = random.Random(sample.sample_id).choice(list(_letters(sample)))
        return float(letter in sample.references)

    return right


def _math_vista(prediction: str, sample: Sample) -> float:
    found, wanted = single_spaced(prediction), single_spaced(sample.references[0])
    if found == wanted:
        return 1.0
    if sample.options:
        named = named_options(prediction, sample.options, _letters(sample))
        return float(bool(named & _math_vista_places(sample)))
    kind = str(sample.attributes.get("answer_type"))
    decimals = _decimals(sample.attributes.get("precision"))
    answers = [math_vista.typed_answer(one, kind, decimals) for one in (found, wanted)]
    return float(answers[0] is not None and answers[0] == answers[1])


def _math_vista_molmo(select: choice.Select) -> Score:
    def right(prediction: str, sample: Sample) -> float:
        reference = sample.references[0]
        if sample.options:  # the reference as a text, as that code has it
            reference = sample.options[min(_math_vista_places(sample))]
        return float(
            math_vista.math_vista_molmo(
                composed(prediction).strip(),
                composed(reference),
                [composed(option) for option in sample.options],
                str(sample.attributes.get("answer_type")),
                _decimals(sample.attributes.get("precision")),  # published as 1.0, there cast
                select,
            )
        )

    return right


def _counting(off_by: int) -> Score:
    def right(prediction: str, sample: Sample) -> float:
        found, wanted = counting.counted(prediction), _count(sample.references[0])
        return float(found is not None and wanted is not None and abs(found - wanted) <= off_by)

    return right


def _build_cider(samples: Sequence[Sample]) -> Score:
    if len(samples) < 2:
        raise DataError(
            "dataset.metric=cider: one image is too few; n-grams count by their rarity over all"
        )
    scorer = captions.CiderD([*map(composed, sample.references)] for sample in samples)
    return lambda prediction, sample: scorer.score(
        composed(prediction), [*map(composed, sample.references)]
    )


def _each(name: str, score: Score, lacks: Callable[[Sample], str] = _no_reference) -> Metric:
    return Metric(name, lambda _: score, lacks)


METRICS: dict[str, Metric] = {
    entry.name: entry
    for entry in (
        _each("exact_match", _best_reference(operator.eq, text.folded)),
        _each("exact_match_molmo", _best_reference(text.exact_match_molmo, cleaned)),
        _each("vqa_accuracy", _all_references(vqa.vqa_accuracy, composed), _few_references),
        _each("vqa_accuracy_molmo", _all_references(vqa.vqa_accuracy_molmo, cleaned)),
        _each("a_okvqa_direct", _all_references(vqa.a_okvqa_direct, single_spaced)),
        _each("a_okvqa_direct_molmo", _all_references(vqa.a_okvqa_direct_molmo, cleaned)),
        _each("anls", _best_reference(text.anls, composed)),
        _each("anls_molmo", _best_reference(text.anls_molmo, cleaned), _empty_reference),
        _each("relaxed_correctness", _best_reference(_relaxed, single_spaced)),
        _each("relaxed_correctness_molmo", _best_reference(text.relaxed_correctness, cleaned)),
        _each("multiple_choice", _multiple_choice, _no_option),
        _each("multiple_choice_molmo", _option(choice.select_option), _no_option),
        _each("multiple_choice_molmo2", _option(choice.select_option_molmo2), _no_option),
        _each("real_world_qa", _real_world_qa, _no_real_world_qa),
        _each("real_world_qa_molmo", _real_world_qa_molmo(choice.select_option), _no_real_world_qa),
        _each(
            "real_world_qa_molmo2",
            _real_world_qa_molmo(choice.select_option_molmo2),
            _no_real_world_qa,
        ),
        _each("mmmu", _mmmu, _no_mmmu),
        _each("mmmu_molmo", _mmmu_molmo(mmmu.FORMS), _no_mmmu),
        _each("mmmu_molmo2", _mmmu_molmo(mmmu.FORMS_MOLMO2), _no_mmmu),
        _each("math_vista_no_network", _math_vista, _no_math_vista),
        _each(
            "math_vista_no_network_molmo", _math_vista_molmo(choice.select_option), _no_math_vista
        ),
        _each(
            "math_vista_no_network_molmo2",
            _math_vista_molmo(choice.select_option_molmo2),
            _no_math_vista,
        ),
        _each("counting", _counting(0), _no_count),
        _each("counting_close", _counting(1), _no_count),
        Metric("cider", _build_cider, _no_reference, captions.HIGHEST),
    )
}
