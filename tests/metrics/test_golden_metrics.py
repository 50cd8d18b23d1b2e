"""Every metric against the reference scorers, on all golden rows."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vtexp.data.sample import ImageFile, Sample
from vtexp.metrics import metric
from vtexp.metrics.choice import real_world_qa_molmo, select_option
from vtexp.metrics.counting import counted
from vtexp.metrics.math_vista import math_vista_molmo
from vtexp.metrics.mmmu import chosen_letter, open_answer_is_right
from vtexp.metrics.text import anls_molmo, clean_prediction, relaxed_correctness
from vtexp.metrics.vqa import a_okvqa_direct_molmo, normalise, vqa_accuracy_molmo

pytestmark = pytest.mark.golden


def real_world_qa(prediction: str, target: str, question_type: str) -> bool:
    # The golden predictions are cleaned already; to clean them again can change them.
    is_choice = question_type == "multiple_choice"
    return real_world_qa_molmo(prediction, target, multiple_choice=is_choice)


def mmmu(prediction: str, references: list[str], metadata: dict[str, Any]) -> float | None:
    if metadata["question_type"] == "open":
        return open_answer_is_right(prediction, references)
    options = list(filter(None, metadata["options"]))  # the reference letters those that are left
    letter = chosen_letter(prediction, options)
    return None if letter is None else letter in references


def math_vista(prediction: str, metadata: dict[str, Any]) -> bool:
    keys = ("answer", "answer_type", "precision")
    answer, answer_type, precision = (metadata[key] for key in keys)
    choices = metadata["choices"] if metadata["question_type"] == "multi_choice" else ()
    return math_vista_molmo(prediction, answer, choices, answer_type, precision)


def point_count(prediction: str, count: int) -> list[float]:
    sample = Sample("0", "0", ImageFile(Path("none")), "?", (str(count),), "count")
    correct, close = (
        metric(name).prepare([sample])(prediction, sample)
        for name in ("counting", "counting_close")
    )
    return [correct, close, counted(prediction) is not None]


SCORERS: dict[str, Callable[..., Any]] = {
    "vqa_score": vqa_accuracy_molmo,
    "preprocess_answer": normalise,
    "a_okvqa_score": a_okvqa_direct_molmo,
    "anls_metric": anls_molmo,
    "relaxed_correctness": relaxed_correctness,
    "select_mc_option": select_option,
    "real_world_qa_score": real_world_qa,
    "mmmu_score": mmmu,
    "math_vista_score_no_api": math_vista,
    "vqa_eval_clean_prediction": clean_prediction,
    "point_count_eval": point_count,
}


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict[str, Any]:
    return json.loads(gzip.decompress((golden_dir / "metrics.json.gz").read_bytes()))


def test_every_reference_scorer_is_compared(golden: dict[str, Any]) -> None:
    assert golden and set(golden) - {"columns"} <= set(SCORERS)


def outcome(scorer: Callable[..., Any], given: list[Any]) -> Any:
    """The score, or the name of the exception, as the golden rows have it."""
    try:
        return scorer(*given)
    except Exception as error:
        return type(error).__name__


@pytest.mark.parametrize("name", SCORERS)
def test_scores_are_the_reference_s(golden: dict[str, Any], name: str) -> None:
    wrong = []
    for *given, expected in golden.get(name, []):
        found = outcome(SCORERS[name], given)
        same = found == expected
        if isinstance(expected, float) and isinstance(found, float):
            same = abs(found - expected) <= 1e-12
        if not same:
            wrong.append((given, expected, found))
    assert wrong == []
