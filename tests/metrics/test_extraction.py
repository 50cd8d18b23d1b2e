"""Which option an answer names: every clear form of a right answer, and what is unclear."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path
from string import ascii_uppercase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtexp.data.sample import ImageFile, Sample
from vtexp.metrics import metric
from vtexp.metrics.extraction import named_options

COLOURS = ("red", "blue", "green")
TEN = tuple(f"thing {i}" for i in range(10))
#: How a letter is written, alone or before the option's text. {L}: the letter, {t}: the text.
FORMS_TEXT = """\
{L}|{l}|{L}.|({L})|{L})|[{L}]|{L}:|**{L}**|*{L}*|`{L}`|"{L}"|'{L}'|${L}$|\\boxed{{{L}}}
\\boxed{{\\text{{{L}}}}}|{L}. {t}|{L}: {t}|({L}) {t}|{L}) {t}|**{L}. {t}**|**{L}**. {t}|{L} - {t}
{L}, {t}|{L} {t}|{l}. {t}|{L}.{t}|{t}|{t}.|**{t}**|"{t}"|{t} ({L})|Answer: {L}|Answer: {L}. {t}
**Answer: {L}**|**Answer:** {L}|ANSWER: ${L}$|Answer: {t}|The answer is {L}.|The answer is ({L}).
The correct answer is **{L}**.|the answer is: {L}|The answer is **{L}. {t}**.|The answer is {t}.
The correct option is {L}|Option {L}|option ({L})|Choice {L} is correct.|{L} is the answer
The right answer would be {L}|My choice: {L}|I would choose {L}|I'd go with {L}.|It is {L}.
So the answer is option {L}.|Therefore, the answer is {L}: {t}|Final Answer: ({L})|Answer:{L}
<answer>{L}</answer>|答案是{L}|答案：{L}|The correct choice is ({L}): {t}.|Letter {L}|[[{L}]]
The best answer is {L}) {t}|{L} is correct.|It's option {L}.|Respuesta: {L}|{{"answer": "{L}"}}"""
FORMS = FORMS_TEXT.strip().replace("\n", "|").split("|")


def named(answer: str, options: tuple[str, ...] = COLOURS) -> str:
    letters = {ascii_uppercase[i]: i for i, option in enumerate(options) if option}
    return "".join(sorted(ascii_uppercase[i] for i in named_options(answer, options, letters)))


@pytest.mark.parametrize("form", FORMS)
@given(place=st.integers(0, 9), big=st.booleans())
def test_every_clear_form_of_every_letter(form: str, place: int, big: bool) -> None:
    options = TEN if big else COLOURS
    letter, text = ascii_uppercase[place % len(options)], options[place % len(options)]
    assert named(form.format(L=letter, l=letter.lower(), t=text), options) == letter


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("B\nB\nB", "B"),
        ("First I look.\nThen I think.\nB", "B"),
        ("B\n\nExplanation: nothing red or green is there.", "B"),
        ("A. red\nB. blue\nC. green\nAnswer: B", "B"),
        ("I considered (A), but it is incorrect. Final answer: B.", "B"),
        ("The answer is B. Note that A is a common distractor.", "B"),
        ("The answer is not A but B", "B"),
        ("B is correct because A is wrong", "B"),
        ("B, since it is not red", "B"),
        ("C, because it isn't blue", "C"),
        ("A is wrong. B is wrong. So C.", "C"),
        ("Between A and B, B is better", "B"),
        ("It is not red but blue", "B"),
        ("blue, not red", "B"),
        ("The bus in the image is blue.", "B"),
        ("A blue bus", "B"),  # an article
        ("A (not B)", "A"),
        ("A because of its shape", "A"),
        ("The answer is either A or B, I say B", "B"),
        ("A: red is wrong. The answer is B: blue", "B"),
    ],
)
def test_reasons_and_denials(answer: str, expected: str) -> None:
    assert named(answer) == expected


@pytest.mark.parametrize(
    ("answer", "options", "expected"),
    [
        ("C. A pretty girl xxx", ("A dog", "A cat", "A pretty girl", "x"), "C"),
        ("cat and dog", ("cat", "cat and dog"), "B"),
        ("The car is dark red.", ("red", "dark red"), "B"),
        ("B. dark red", ("red", "dark red"), "B"),
        ("not red", ("red", "not red"), "B"),
        ("4.5", ("4", "4.5"), "B"),
        ("It is 4.5 m", ("4", "4.5", "45"), "B"),
        ("-4", ("4", "-4"), "B"),
        ("1,000", ("1", "1,000"), "B"),
        ("The answer is 8/11", ("8", "8/11", "1"), "B"),
        ("No, it is not", ("yes", "no"), "B"),
        ("No it is not", ("yes", "no"), "B"),
        ("Yes it is", ("yes", "no"), "A"),
        ("no idea", ("yes", "no"), ""),
        ("The answer is C major.", ("G", "C major", "D"), "B"),
        ("Both A and B", ("red", "blue", "Both A and B"), "C"),
        ("D. A", ("x", "y", "z", "A"), "D"),
        ("C major is the key", ("C major", "G", "D"), "A"),
        ("The answer is C because I computed it.", TEN, "C"),
        ("the mitochondria are the", ("the cell", "the mitochondria are the power"), "B"),
        ("+", ("+", "-"), "A"),
        ("答案是红色", ("红色", "蓝色"), "A"),
        ("x²", ("x2", "x²"), "B"),
        ("red, maybe blue", COLOURS, "A"),
        # Within another word or number an option is not named.
        ("It is of another category", ("cat", "dog"), ""),
        ("It is 45 m", ("4", "5"), ""),
        ("It is 4.5 m", ("4", "5"), ""),
        ("It is 1/4 of it", ("4", "7"), ""),
        ("They are -4 degrees cold", ("4", "7"), ""),
    ],
)
def test_the_texts_of_options_decide(answer: str, options: tuple[str, ...], expected: str) -> None:
    assert named(answer, options) == expected


@pytest.mark.parametrize(
    "answer",
    [
        *("", "no idea", "A or B", "A and B", "A, B", "A/B", "A B", "The answer is A or B"),
        *("D", "purple", "Both A and B are correct", "The bus is red or blue"),
        *("The answer is not A", "None"),
    ],
)
def test_unclear_answers_name_none(answer: str) -> None:
    assert named(answer) == ""


def test_letter_and_text_that_differ_are_read_by_the_letter() -> None:
    assert named("A. blue") == named("The answer is A: blue") == "A"


def test_empty_places_keep_their_letters_and_are_never_named() -> None:
    options = ("red", "", "green")
    assert named("C", options) == named("green", options) == named("C. green", options) == "C"
    assert named("B", options) == named("B.", options) == ""


@given(text=st.text("AaBb .:()\n*$\\{}answer is not,/", max_size=80))
def test_any_text_is_read(text: str) -> None:
    named_options(text, COLOURS, {"A": 0, "B": 1, "C": 2})


@pytest.mark.parametrize("part", ["A and ", "((", "answer is ", "not A, ", "\\boxed{", "so ", "a"])
def test_long_answers_are_read_in_no_time(part: str) -> None:
    start = time.process_time()
    named(part * 100_000)
    assert time.process_time() - start < 5


CHOICE = Sample("s", "0", ImageFile(Path("none")), "?", ("B",), "any", options=COLOURS)
IN_TEXT = replace(
    CHOICE, options=(), question_type="multiple_choice", question="?\nA. red\nB. blue\nC. green"
)
SETS = {
    "multiple_choice": CHOICE,
    "mmmu": CHOICE,
    "math_vista_no_network": replace(CHOICE, references=("blue",)),
    "real_world_qa": IN_TEXT,
}


@pytest.mark.parametrize("name", SETS)
def test_all_sets_read_answers_alike(name: str) -> None:
    score = metric(name).prepare([SETS[name]])
    for form in FORMS:
        assert score(form.format(L="B", l="b", t="blue"), SETS[name]) == 1, form
        assert score(form.format(L="C", l="c", t="green"), SETS[name]) == 0, form


def test_a_guess_scores_nothing() -> None:
    """Answers without a clear option score 0, not what a draw or the fewest edits would give."""
    rng = random.Random(0)
    answers = ["".join(rng.choices("xyzuvw", k=9)) for _ in range(200)]
    for name, sample in SETS.items():
        assert not any(metric(name).prepare([sample])(answer, sample) for answer in answers)
