"""The metrics by name, what each needs of a sample, and which texts it is given.

Where the official definition and that of Molmo's evaluation differ, both are here, the latter's
name ending in `_molmo`. `module:function` is a metric of the user's own. Predictions come as the
model wrote them; metrics that Molmo's evaluator gives cleaned texts clean them here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vtexp.data.sample import MULTIPLE_CHOICE, Sample
from vtexp.errors import ConfigError, DataError, error_line
from vtexp.metrics import captions, choice, counting, math_vista, mmmu, text, vqa
from vtexp.prompts.wording import option_names
from vtexp.utils.own_code import own_function, require_form

#: Score of a prediction for a sample, from 0 to the metric's `highest`.
Score = Callable[[str, Sample], float]

#: Fewest references with which the official VQA accuracy can be 1.
LEAST_FOR_VQA = 4
_KEY = "dataset.metric"
MATH_VISTA_TYPES = ("integer", "float", "list", "text")


@dataclass(frozen=True)
class Metric:
    """One way to score answers, from 0 to `highest`.

    `lacks` says what a sample would need besides, empty where it can be scored; `build` makes the
    score for the samples of a run.
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
        raise ConfigError(f"{_KEY}={name}: metrics are {names}, or module:function of your own")
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
    return _no_reference(sample) or ("" if all(sample.references) else "has an empty reference")


def _no_option(sample: Sample) -> str:
    names = option_names(sample)
    if not names:
        return "has no options"
    if len({name.lower().strip() for name in names}) < len(names):
        return f"has two options of one name ({', '.join(names)})"
    if not set(sample.references) & set(names):
        wanted = ", ".join(sample.references) or "nothing"
        return f"has {wanted} as its reference, which is none of {', '.join(names)}"
    return ""


def _no_mmmu(sample: Sample) -> str:
    if sample.options and not mmmu.option_letters(sample.options):
        return "has only empty options"
    return _no_reference(sample)


def _no_real_world_qa(sample: Sample) -> str:
    if sample.question_type != MULTIPLE_CHOICE:
        return _no_reference(sample)
    known = set(sample.references[:1]) & set(choice.REAL_WORLD_QA_NAMES)
    return "" if known else "is multiple choice, but its reference is none of A, B, C, D"


def _no_math_vista(sample: Sample) -> str:
    kind = sample.attributes.get("answer_type")
    if not sample.options and kind not in MATH_VISTA_TYPES:
        return f"has answer_type {kind}, which is none of {', '.join(MATH_VISTA_TYPES)}"
    if not sample.options and kind == "float" and "precision" not in sample.attributes:
        return "has no precision, which its answer_type float needs"
    return _no_reference(sample)


def _no_count(sample: Sample) -> str:
    if sample.references and sample.references[0].isdecimal():
        return ""
    return "has no whole number as its reference"


# --- scores of samples ------------------------------------------------------------------------


def _all_references(score: Callable[[str, Sequence[str]], float]) -> Score:
    return lambda prediction, sample: score(text.clean_prediction(prediction), sample.references)


def _best_reference(score: Callable[[str, str], float]) -> Score:
    def best(prediction: str, sample: Sample) -> float:
        cleaned = text.clean_prediction(prediction)
        return float(max(score(cleaned, reference) for reference in sample.references))

    return best


def _exact_match(prediction: str, sample: Sample) -> float:
    return text.exact_match(prediction, sample.references)


def _option(select: Callable[[str, Sequence[str]], int]) -> Score:
    def right(prediction: str, sample: Sample) -> float:
        names = option_names(sample)
        return float(names[select(text.clean_prediction(prediction), names)] in sample.references)

    return right


def _real_world_qa(prediction: str, sample: Sample) -> float:
    is_choice = sample.question_type == MULTIPLE_CHOICE
    cleaned = text.clean_prediction(prediction)
    return float(choice.real_world_qa(cleaned, sample.references[0], multiple_choice=is_choice))


def _mmmu(prediction: str, sample: Sample) -> float:
    response = text.clean_prediction(prediction)
    if not sample.options:
        return float(mmmu.open_answer_is_right(response, sample.references))
    letter = mmmu.chosen_letter(response, sample.options)
    if letter is None:  # officially a random option; here one that is the same in every run
        draw = random.Random(sample.sample_id)
        letter = draw.choice(mmmu.option_letters(sample.options))
    return float(letter in sample.references)


def _math_vista(prediction: str, sample: Sample) -> float:
    decimals = sample.attributes.get("precision")
    return float(
        math_vista.math_vista_no_network(
            prediction.strip(),
            sample.references[0],
            sample.options,
            str(sample.attributes.get("answer_type")),
            None if decimals is None else int(decimals),  # published as 1.0, officially cast
        )
    )


def _counting(off_by: int) -> Score:
    def right(prediction: str, sample: Sample) -> float:
        found = counting.counted(prediction)
        return float(found is not None and abs(found - int(sample.references[0])) <= off_by)

    return right


def _build_cider(samples: Sequence[Sample]) -> Score:
    if len(samples) < 2:
        raise DataError("dataset.metric=cider: one image is too few; n-grams are weighed over all")
    scorer = captions.CiderD(sample.references for sample in samples)
    return lambda prediction, sample: scorer.score(prediction, sample.references)


def _each(name: str, score: Score, lacks: Callable[[Sample], str] = _no_reference) -> Metric:
    return Metric(name, lambda _: score, lacks)


METRICS: dict[str, Metric] = {
    entry.name: entry
    for entry in (
        _each("exact_match", _exact_match),
        _each("exact_match_molmo", _all_references(text.exact_match_molmo)),
        _each("vqa_accuracy", _all_references(vqa.vqa_accuracy), _few_references),
        _each("vqa_accuracy_molmo", _all_references(vqa.vqa_accuracy_molmo)),
        _each("a_okvqa_direct", _all_references(vqa.a_okvqa_direct)),
        _each("a_okvqa_direct_molmo", _all_references(vqa.a_okvqa_direct_molmo)),
        _each("anls", _best_reference(text.anls), _empty_reference),
        _each("relaxed_correctness", _best_reference(text.relaxed_correctness)),
        _each("multiple_choice", _option(choice.select_option), _no_option),
        _each("multiple_choice_molmo2", _option(choice.select_option_molmo2), _no_option),
        _each("real_world_qa", _real_world_qa, _no_real_world_qa),
        _each("mmmu", _mmmu, _no_mmmu),
        _each("math_vista_no_network", _math_vista, _no_math_vista),
        _each("counting", _counting(0), _no_count),
        _each("counting_close", _counting(1), _no_count),
        Metric("cider", _build_cider, _no_reference, captions.HIGHEST),
    )
}
