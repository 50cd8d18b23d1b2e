"""Metrics: definitions in closed form or by hand, and what holds for any text."""

from __future__ import annotations

import math
import random
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from string import ascii_uppercase

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from vtexp.config.schema import Config
from vtexp.data.sample import NO_LETTERS, ImageFile, Sample
from vtexp.errors import ConfigError, DataError
from vtexp.metrics import METRICS, metric
from vtexp.metrics.captions import CiderD, words
from vtexp.metrics.choice import select_option, select_option_molmo2
from vtexp.metrics.math_vista import math_vista_molmo
from vtexp.metrics.mmmu import chosen_letter, open_answer_is_right
from vtexp.metrics.vqa import normalise, vqa_accuracy
from vtexp.runs.plan import make_plan

ANY = Sample("s1", "0", ImageFile(Path("none")), "?", ("2",), "any")
OPTIONS = ("red", "blue", "green")
CHOICE = replace(ANY, options=OPTIONS, references=("B",))
INTEGER = replace(ANY, attributes={"answer_type": "integer"})
LISTED = replace(
    ANY,
    question="Where?\nA. left\nB. ahead\nC. right\nAnswer with the letter.",
    question_type="multiple_choice",
    references=("C",),
)
#: A sample that each metric can score, with an answer to it that is right.
RIGHT: dict[str, tuple[Sample, str]] = {
    "exact_match": (ANY, "2"),
    "exact_match_molmo": (ANY, "2"),
    "vqa_accuracy": (replace(ANY, references=("two",) * 4 + ("3",) * 6), "2"),
    "vqa_accuracy_molmo": (replace(ANY, references=("two",) * 3 + ("3",) * 7), "2"),
    "a_okvqa_direct": (replace(ANY, references=("dog",) * 3 + ("cat",) * 7), "dog"),
    "a_okvqa_direct_molmo": (replace(ANY, references=("Dog",) * 3 + ("cat",) * 7), "dog"),
    "anls": (ANY, "2"),
    "anls_molmo": (ANY, "2"),
    "relaxed_correctness": (ANY, "2.05"),
    "relaxed_correctness_molmo": (ANY, "2.05"),
    "multiple_choice": (CHOICE, "The answer is B."),
    "multiple_choice_molmo": (CHOICE, "b"),
    "multiple_choice_molmo2": (CHOICE, "B. blue"),
    "real_world_qa": (LISTED, "right"),
    "real_world_qa_molmo": (LISTED, "C"),
    "real_world_qa_molmo2": (LISTED, "C. right"),
    "mmmu": (CHOICE, "The answer is (B)."),
    "mmmu_molmo": (CHOICE, "The answer is (B)."),
    "mmmu_molmo2": (CHOICE, "The answer is B: blue"),
    "math_vista_no_network": (replace(CHOICE, references=("blue",)), "The answer is B."),
    "math_vista_no_network_molmo": (INTEGER, "2.0"),
    "math_vista_no_network_molmo2": (INTEGER, "2.0"),
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


@pytest.mark.parametrize(
    "name", sorted(set(METRICS) - {"a_okvqa_direct", "mmmu_molmo", "mmmu_molmo2"})
)
def test_case_does_not_count(name: str) -> None:
    sample, answer = RIGHT[name]
    assert score(name, answer.upper(), sample) == metric(name).highest


#: Parsers of other programs, which do not find every text in itself; they stay as they are.
STRICT = {
    *("mmmu_molmo", "mmmu_molmo2", "math_vista_no_network_molmo", "math_vista_no_network_molmo2"),
    "relaxed_correctness_molmo",  # `nan` is not nan
}
#: With these, a copy is right only if several people said so; `cider` has no such answer.
SEVERAL = {
    *("vqa_accuracy", "vqa_accuracy_molmo", "a_okvqa_direct", "a_okvqa_direct_molmo"),
}
#: Any text, and such as the metrics treat in ways of their own.
ANY_TEXT = st.one_of(
    st.text(max_size=20),
    st.text("aA B.:()\n\t\u00a0*Answer'e\u0301\u00e9İß12%-naif", max_size=12),
    st.sampled_from(
        ["nan", "inf", "-0", "1e400", "Answer: 2", "is 5 apples", "Mr.", ".", "²", "ﬁ"]
    ),
)


def as_asked(name: str, text: str) -> Sample:
    """A sample whose right answer is a text, in the form of the sets that a metric is for."""
    if name in SEVERAL:
        return replace(ANY, references=(text,) * 4)
    if name.startswith("math_vista"):
        return replace(ANY, references=(text, "else"), attributes={"answer_type": "text"})
    if name.startswith("multiple_choice"):
        return replace(ANY, options=("Q", text, "7"), references=(text,), style=NO_LETTERS)
    if name.startswith("counting"):
        return ANY
    return replace(ANY, references=(text, "else"), question_type="short_answer")


@pytest.mark.parametrize("name", sorted(set(METRICS) - STRICT - {"cider"}))
@given(text=ANY_TEXT)
@example("Answer: \n2\n\nA")
@example("e\u0301")
def test_a_copy_of_the_reference_is_right(name: str, text: str) -> None:
    sample = as_asked(name, text)
    assume(not METRICS[name].lacks(sample))
    for reference in sample.references[:1]:
        assert score(name, reference, sample) == 1
        other = unicodedata.normalize("NFD", reference)
        assert score(name, other, sample) == 1


@pytest.mark.parametrize("name", [n for n in METRICS if n.startswith(("multi", "mmmu", "real"))])
@given(place=st.integers(0, 25))
def test_each_of_26_letters_is_read(name: str, place: int) -> None:
    count = 4 if name.startswith("real") else 26
    letter = ascii_uppercase[place % count]
    options = () if name.startswith("real") else tuple(f"thing {i}" for i in range(count))
    sample = replace(ANY, options=options, references=(letter,), question_type="multiple_choice")
    assert score(name, letter, sample) == 1


@pytest.mark.parametrize("name", ["math_vista_no_network"])
@given(options=st.lists(ANY_TEXT.filter(str.strip), min_size=2, max_size=9), data=st.data())
def test_a_copy_of_the_right_option_is_right(
    name: str, options: list[str], data: st.DataObject
) -> None:
    right = data.draw(st.sampled_from(options))
    sample = replace(ANY, options=tuple(options), references=(right,))
    assert score(name, right, sample) == 1


@given(references=st.lists(st.sampled_from(["2", "two", "A two.", "Yes", "yes,"]), min_size=4))
@pytest.mark.parametrize("prediction", ["2", "yes", "none"])
def test_official_vqa_accuracy_is_the_mean_over_subsets(
    prediction: str, references: list[str]
) -> None:
    alike = len(set(references)) == 1  # then the official program compares texts as they are
    normalised = references if alike else [normalise(reference) for reference in references]
    found = prediction if alike else normalise(prediction)
    subsets = [normalised[:i] + normalised[i + 1 :] for i in range(len(normalised))]
    mean = fmean(min(1.0, subset.count(found) / 3) for subset in subsets)
    assert vqa_accuracy(prediction, references) == pytest.approx(mean, abs=1e-12)


def test_official_vqa_accuracy_differs_from_molmos() -> None:
    sample = replace(ANY, references=("red",) * 3 + ("blue",) * 7)
    assert score("vqa_accuracy", "red", sample) == pytest.approx(0.9)
    assert score("vqa_accuracy_molmo", "red", sample) == 1


def test_real_world_qa_knows_the_options_of_its_question() -> None:
    assert score("real_world_qa", "The car is ahead.", replace(LISTED, references=("B",))) == 1
    unlisted = replace(LISTED, question="Left (A), ahead (B) or right (C)?")
    assert score("real_world_qa", "(C) right", unlisted) == 1
    assert score("real_world_qa", "B", unlisted) == 0


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
    assert score("anls_molmo", "I see two.\nAnswer: 2", ANY) == 1
    assert score("anls", "I see two.\nAnswer: 2", ANY) == 0
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


@pytest.mark.parametrize("name", ["mmmu_molmo", "mmmu_molmo2"])
def test_mmmu_of_molmo_draws_the_same_option_in_every_run(name: str) -> None:
    samples = [replace(CHOICE, sample_id=str(i)) for i in range(300)]
    scores = [score(name, "no idea", sample) for sample in samples]
    assert scores == [score(name, "no idea", sample) for sample in samples]
    assert fmean(scores) == pytest.approx(1 / 3, abs=0.1)
    assert not any(score("mmmu", "no idea", sample) for sample in samples)


def test_mmmu_looks_for_texts_in_more_than_five_words() -> None:
    """As its program does; and for keys such as `is` whatever their case."""
    assert chosen_letter("it is surely the cat", ["dog", "cat"]) is None
    assert chosen_letter("it is most surely the cat", ["dog", "cat"]) == "B"
    assert open_answer_is_right("NOT PARIS. THE CAPITAL IS ROME", ["Rome"])
    assert not open_answer_is_right("NOT PARIS. THE CAPITAL IS ROME", ["Paris"])


def test_parsers_of_molmo_keep_options_of_white_space() -> None:
    """By hand, after olmo/eval: only an option of no characters has no letter."""
    assert chosen_letter("The answer is (B)", ["red", " ", "blue"]) == "B"
    assert chosen_letter("The answer is (B)", ["red", "", "blue"]) is None
    assert chosen_letter("The answer is (C)", ["red", "", "blue"]) == "C"
    assert math_vista_molmo("B", " ", ["red", " "], "text", None)


@pytest.mark.parametrize(
    ("prediction", "official", "molmo"),
    [
        ("abcd", 1.0, 1.0),
        ("abce", 0.75, 0.75),
        ("abxy", 0.5, 0.0),  # exactly half
        ("axyz", 0.0, 0.0),
    ],
)
def test_both_kinds_of_anls(prediction: str, official: float, molmo: float) -> None:
    sample = replace(ANY, references=("abcd",))
    assert score("anls", prediction, sample) == official
    assert score("anls_molmo", prediction, sample) == molmo


def test_anls_counts_no_white_space_and_takes_empty_texts_for_alike() -> None:
    assert score("anls", "a  b\n c", replace(ANY, references=("A b c",))) == 1
    assert score("anls", "", replace(ANY, references=("",))) == 1
    assert score("anls", "a", replace(ANY, references=("",))) == 0
    # One edit of the seven capitals of STRASSE.
    assert score("anls", "strase", replace(ANY, references=("straße",))) == pytest.approx(6 / 7)


def test_official_vqa_accuracy_leaves_answers_where_all_references_are_alike() -> None:
    alike = replace(ANY, references=("Yes",) * 10)
    assert score("vqa_accuracy", "Yes", alike) == 1
    assert score("vqa_accuracy", "yes", alike) == 0
    assert score("vqa_accuracy", "Yes", replace(ANY, references=(" Yes\n",) * 10)) == 1
    assert score("vqa_accuracy", "yes", replace(ANY, references=("Yes",) * 9 + ("no",))) == 1
    articles = replace(ANY, references=("a", "the", "an", "") + ("x",) * 6)
    assert score("vqa_accuracy", "", articles) == 1  # normalised, these are empty


@pytest.mark.parametrize("precision", [1.0, 1, "1", " 1.0 "])
def test_mathvista_reads_its_precision(precision: float | str) -> None:
    attributes = {"answer_type": "float", "precision": precision}
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


def test_a_caption_of_another_length_is_worth_less() -> None:
    """Lengths are pairs of words: none and two, on a Gaussian of width 6. Words weigh alike."""
    scorer = CiderD([("dog runs fast",), ("cat",)])
    cosine = 1 / 3**0.5
    assert scorer.score("dog", ("dog runs fast",)) == pytest.approx(
        10 * cosine / 4 * math.exp(-(2**2) / (2 * 6**2))
    )


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
        ("anls_molmo", replace(ANY, references=("a", "")), ".*empty reference"),
        ("vqa_accuracy", ANY, "has 1 references; to score 1, 4 must agree"),
        ("multiple_choice", ANY, "has no options"),
        ("multiple_choice", replace(CHOICE, references=("red",)), "has red .*A, B, C"),
        (
            "multiple_choice",
            replace(CHOICE, options=("a", "A "), style=NO_LETTERS),
            ".*two options",
        ),
        ("mmmu", replace(ANY, options=("", "")), "has no options"),
        ("mmmu", replace(CHOICE, options=("a", "", "c")), "has B .*empty"),
        (
            "multiple_choice",
            replace(CHOICE, options=("a", " ", "c")),
            "has B .*empty",
        ),
        ("multiple_choice", replace(CHOICE, options=("x",) * 27), "has 27 options"),
        (
            "math_vista_no_network",
            replace(CHOICE, references=("pink",)),
            "has pink .*not",
        ),
        (
            "real_world_qa",
            replace(ANY, question_type="multiple_choice"),
            ".*A, B, C, D",
        ),
        ("math_vista_no_network", ANY, "has answer_type None"),
        (
            "math_vista_no_network",
            replace(ANY, attributes={"answer_type": "float"}),
            "has no precision",
        ),
        *(
            (
                "math_vista_no_network",
                replace(ANY, attributes={"answer_type": "float", "precision": precision}),
                f"has precision {precision}, .*whole number",
            )
            for precision in ("two", "1.5", -1, "inf")
        ),
        ("counting", replace(ANY, references=("few",)), ".*no whole number"),
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
        DataError, match=r"sample test-\d+: dataset\.metric=multiple_choice: .*no options"
    ):
        make_plan(make_config("dataset.metric=multiple_choice"))
