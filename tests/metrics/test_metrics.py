"""Metrics: definitions in closed form or by hand, and what holds for any text."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtexp.config.schema import Config
from vtexp.data.sample import NO_LETTERS, ImageFile, Sample
from vtexp.errors import ConfigError, DataError
from vtexp.metrics import METRICS, metric
from vtexp.metrics.captions import CiderD, words
from vtexp.metrics.choice import select_option, select_option_molmo2
from vtexp.metrics.text import clean_prediction
from vtexp.metrics.vqa import normalise, vqa_accuracy
from vtexp.runs.plan import make_plan

ANY = Sample("s1", "0", ImageFile(Path("none")), "?", ("2",), "any")
OPTIONS = ("red", "blue", "green")
CHOICE = replace(ANY, options=OPTIONS, references=("B",))
#: A sample that each metric can score, with an answer to it that is right.
RIGHT: dict[str, tuple[Sample, str]] = {
    "exact_match": (ANY, "2"),
    "exact_match_molmo": (ANY, "2"),
    "vqa_accuracy": (replace(ANY, references=("two",) * 4 + ("3",) * 6), "2"),
    "vqa_accuracy_molmo": (replace(ANY, references=("two",) * 3 + ("3",) * 7), "2"),
    "a_okvqa_direct": (replace(ANY, references=("dog",) * 3 + ("cat",) * 7), "dog"),
    "a_okvqa_direct_molmo": (replace(ANY, references=("Dog",) * 3 + ("cat",) * 7), "dog"),
    "anls": (ANY, "2"),
    "relaxed_correctness": (ANY, "2.05"),
    "multiple_choice": (CHOICE, "b"),
    "multiple_choice_molmo2": (CHOICE, "B. blue"),
    "real_world_qa": (replace(ANY, question_type="multiple_choice", references=("C",)), "C."),
    "mmmu": (CHOICE, "The answer is (B)."),
    "math_vista_no_network": (replace(ANY, attributes={"answer_type": "integer"}), "2.0"),
    "counting": (ANY, "Counting the dogs shows a total of 2."),
    "counting_close": (ANY, "three"),
    "cider": (replace(ANY, references=("a dog runs over the grass",)), "A dog runs over the grass"),
}
OTHER_CAPTION = replace(ANY, references=("two cats sleep in a bed",))


def score(name: str, prediction: str, sample: Sample) -> float:
    return metric(name).prepare([sample, OTHER_CAPTION] if name == "cider" else [sample])(
        prediction, sample
    )


def test_every_metric_is_tried() -> None:
    assert set(RIGHT) == set(METRICS)


@pytest.mark.parametrize("name", METRICS)
def test_a_right_answer_scores_the_highest(name: str) -> None:
    sample, answer = RIGHT[name]
    assert score(name, answer, sample) == metric(name).highest
    assert score(name, "no such thing at all, you know", sample) < metric(name).highest


@pytest.mark.parametrize("name", METRICS)
@given(text=st.text(max_size=30), seed=st.integers(0, 9))
def test_scores_are_in_range_whatever_the_order_of_references(
    name: str, text: str, seed: int
) -> None:
    sample, answer = RIGHT[name]
    references = list(sample.references)
    random.Random(seed).shuffle(references)
    other = replace(sample, references=tuple(references))
    for prediction in (text, answer + text):
        found = score(name, prediction, sample)
        assert 0 <= found <= metric(name).highest
        assert score(name, prediction, other) == pytest.approx(found, abs=1e-12)


@pytest.mark.parametrize("name", sorted(set(METRICS) - {"a_okvqa_direct", "mmmu"}))
def test_case_does_not_count(name: str) -> None:
    sample, answer = RIGHT[name]
    assert score(name, answer.upper(), sample) == metric(name).highest


TEXTS = st.text("ab Yes.,'12two", min_size=1, max_size=12).filter(str.strip)


@given(text=TEXTS)
def test_the_reference_itself_is_right(text: str) -> None:
    for name in ("exact_match", "exact_match_molmo", "anls", "relaxed_correctness"):
        sample = replace(ANY, references=(clean_prediction(text), "else"))
        assert score(name, text, sample) == 1


@given(references=st.lists(st.sampled_from(["2", "two", "A two.", "Yes", "yes,"]), min_size=4))
@pytest.mark.parametrize("prediction", ["2", "yes", "none"])
def test_official_vqa_accuracy_is_the_mean_over_subsets(
    prediction: str, references: list[str]
) -> None:
    normalised = [normalise(reference) for reference in references]
    subsets = [normalised[:i] + normalised[i + 1 :] for i in range(len(normalised))]
    mean = fmean(min(1.0, subset.count(normalise(prediction)) / 3) for subset in subsets)
    assert vqa_accuracy(prediction, references) == pytest.approx(mean, abs=1e-12)


def test_official_vqa_accuracy_differs_from_molmos() -> None:
    sample = replace(ANY, references=("red",) * 3 + ("blue",) * 7)
    assert score("vqa_accuracy", "red", sample) == pytest.approx(0.9)
    assert score("vqa_accuracy_molmo", "red", sample) == 1


def test_official_a_okvqa_direct_knows_case() -> None:
    sample = replace(ANY, references=("Dog",) * 10)
    assert score("a_okvqa_direct", "dog", sample) == 0
    assert score("a_okvqa_direct_molmo", "dog", sample) == 1


@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [
        ("Yes.", ["yes"], 1.0),
        ("  light  blue ", ["light blue"], 1.0),
        ("blue", ["red", "blue"], 1.0),
        ("blu", ["blue"], 0.0),
        ("", ["yes"], 0.0),
    ],
)
def test_exact_match(prediction: str, references: list[str], expected: float) -> None:
    assert score("exact_match", prediction, replace(ANY, references=tuple(references))) == expected


def test_predictions_are_cleaned_where_the_reference_does() -> None:
    assert score("anls", "I see two.\nAnswer: 2", ANY) == 1
    assert score("exact_match_molmo", "2\n3\n2", ANY) == 1
    assert score("counting", "Answer: 2\nor 3", ANY) == 0


@given(names=st.permutations(OPTIONS), chosen=st.sampled_from(OPTIONS))
def test_an_option_s_name_means_it(names: list[str], chosen: str) -> None:
    for select in (select_option, select_option_molmo2):
        assert names[select(f" {chosen.upper()}", names)] == chosen


def test_molmo2_answers_with_letter_and_text() -> None:
    """By edits alone, the reference scorer of v1 takes such an answer for another option."""
    assert select_option_molmo2("D. a bad cab", "ABCD") == 3
    assert select_option("D. a bad cab", "ABCD") == 0


def test_options_written_in_the_image_are_their_own_names() -> None:
    sample = replace(ANY, options=("C", "A", "both"), references=("A",), style=NO_LETTERS)
    assert score("multiple_choice", "a", sample) == 1
    assert score("multiple_choice", "C", sample) == 0


def test_mmmu_draws_the_same_option_in_every_run() -> None:
    samples = [replace(CHOICE, sample_id=str(i)) for i in range(300)]
    scores = [score("mmmu", "no idea", sample) for sample in samples]
    assert scores == [score("mmmu", "no idea", sample) for sample in samples]
    assert fmean(scores) == pytest.approx(1 / 3, abs=0.1)


def test_mathvista_reads_its_published_precision() -> None:
    attributes = {"answer_type": "float", "precision": 1.0}
    sample = replace(ANY, references=("1.5",), attributes=attributes)
    assert score("math_vista_no_network", "1.46", sample) == 1


#: References and a caption of five images.
CAPTIONS = [
    (
        (
            "A man rides a wave on a surfboard.",
            "A surfer on top of a wave.",
            "A man is surfing in the ocean.",
        ),
        "a man riding a wave on a surfboard",
    ),
    (
        ("Two dogs play with a red ball.", "Dogs run after a ball on the grass."),
        "two dogs run after a ball",
    ),
    (
        ("A plate of food with broccoli and a fork.",),
        "A plate of food with broccoli and a fork.",
    ),
    (
        ("A red bus, parked near the station.", "The bus doesn't move; it's parked."),
        "a a a a bus bus parked near a man on a very long street in the city",
    ),
    (("A cat sleeps.",), "zebra"),
]
#: What pycocoevalcap 1.2 gives for them, on the same words.
CIDER = [2.68845658527677, 4.048415984751404, 10.0, 0.2337051878248259, 0.0]


def test_cider_is_that_of_pycocoevalcap() -> None:
    scorer = CiderD(references for references, _ in CAPTIONS)
    found = [scorer.score(caption, references) for references, caption in CAPTIONS]
    assert found == pytest.approx(CIDER, abs=1e-12)


def test_cider_by_hand() -> None:
    """One word each: only the cosine of unigrams is not 0, and only of the reference `b`."""
    scorer = CiderD([("a", "b"), ("c",)])
    assert scorer.score("b", ("a", "b")) == pytest.approx(10 * (1 / 4) * (1 / 2))


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        (
            "A man's dog doesn't like the cat, it’s a \"nice\" one.",
            "a man 's dog does n't like the cat it 's a nice one",
        ),
        (
            "T-shirt shop at 10:30 -- 1,000 dollars; $5.50 (50% off)...",
            "t-shirt shop at 10:30 1,000 dollars $ 5.50 50 % off",
        ),
        ("", ""),
    ],
)
def test_words_of_captions(caption: str, expected: str) -> None:
    assert words(caption) == expected.split()


def test_unknown_metric_names_the_metrics() -> None:
    with pytest.raises(ConfigError, match=r"metrics are exact_match.*cider"):
        metric("vqa")


@pytest.mark.parametrize(
    ("name", "sample", "message"),
    [
        ("anls", replace(ANY, references=()), "has no reference"),
        ("anls", replace(ANY, references=("a", "")), "has an empty reference"),
        ("vqa_accuracy", ANY, "has 1 references; to score 1, 4 must agree"),
        ("multiple_choice", ANY, "has no options"),
        ("multiple_choice", replace(CHOICE, references=("red",)), "has red .* none of A, B, C"),
        (
            "multiple_choice",
            replace(CHOICE, options=("a", "A "), style=NO_LETTERS),
            "has two options of one name",
        ),
        ("mmmu", replace(ANY, options=("", "")), "has only empty options"),
        (
            "real_world_qa",
            replace(ANY, question_type="multiple_choice"),
            "is .* none of A, B, C, D",
        ),
        ("math_vista_no_network", ANY, "has answer_type None"),
        (
            "math_vista_no_network",
            replace(ANY, attributes={"answer_type": "float"}),
            "has no precision",
        ),
        ("counting", replace(ANY, references=("few",)), "has no whole number"),
    ],
)
def test_a_sample_that_cannot_be_scored_is_named(name: str, sample: Sample, message: str) -> None:
    with pytest.raises(DataError, match=f"^dataset.metric={name}: sample s1 {message}"):
        metric(name).prepare([sample])


def test_one_image_is_too_few_for_cider() -> None:
    with pytest.raises(DataError, match="one image"):
        metric("cider").prepare([ANY])


def test_a_plan_refuses_samples_that_its_metric_cannot_score(
    make_config: Callable[..., Config],
) -> None:
    with pytest.raises(
        DataError, match=r"sample test-\d+: dataset.metric=multiple_choice: it has no opt"
    ):
        make_plan(make_config("dataset.metric=multiple_choice"))
