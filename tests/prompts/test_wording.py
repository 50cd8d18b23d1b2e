"""How samples are put into words, per family; the released prompts are in test_golden_prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtexp.data.sample import NO_LETTERS, ImageFile, Sample
from vtexp.models.families import MOLMO2_WORDING, PLAIN_WORDING
from vtexp.prompts.wording import MOLMO_WORDING, Wording, option_names, settle_style

ASKED = Sample("s1", "0", ImageFile(Path("none")), "Which {x}?", ("A",), "any")
CHOICE = replace(ASKED, options=("red", "{blue}"))
MOLMO = MOLMO_WORDING


@pytest.mark.parametrize(
    ("wording", "expected"),
    [
        (MOLMO, "science_qa: Which {x}?\nA: red\nB: {blue}\n"),
        (MOLMO2_WORDING, "Which {x}?\nOnly return the correct answer option.\nA. red\nB. {blue}"),
        (
            PLAIN_WORDING,
            "Which {x}?\nA. red\nB. {blue}\n"
            "Answer with the option's letter from the given choices directly.",
        ),
    ],
)
def test_options_in_the_words_of_each_family(wording: Wording, expected: str) -> None:
    assert wording.message(CHOICE, "science_qa") == expected


@pytest.mark.parametrize("style", ["ai2_diagram", NO_LETTERS])
def test_options_without_letters(style: str) -> None:
    """By a sample's own style, or by that of a whole data set."""
    sample = CHOICE if style == NO_LETTERS else replace(CHOICE, style=NO_LETTERS)
    assert MOLMO.message(sample, style) == f"{NO_LETTERS}: Which {{x}}?\nred\n{{blue}}\n"
    assert option_names(settle_style(sample, style)) == ("red", "{blue}")
    assert option_names(CHOICE) == ("A", "B")


@pytest.mark.parametrize(
    ("wording", "expected"),
    [
        (MOLMO, "coco_captioning:"),
        (MOLMO2_WORDING, "coco_captioning:"),
        (PLAIN_WORDING, "Provide a one-sentence caption for the provided image."),
    ],
)
def test_captions_need_no_question(wording: Wording, expected: str) -> None:
    assert wording.message(replace(ASKED, question=""), "coco_captioning") == expected


def test_a_sample_s_own_style_goes_first() -> None:
    assert MOLMO.message(replace(CHOICE, style="a_okvqa_mc"), "vqa2").startswith("a_okvqa_mc: ")
    assert MOLMO.message(replace(ASKED, style="eval_short_answer"), "x") == "vqa2: Which {x}?"


@pytest.mark.parametrize("style", ["demo", "android_control"])
def test_styles_that_say_themselves_what_is_wanted_are_not_named(style: str) -> None:
    sample = replace(ASKED, question="low_level: tap the clock")
    assert MOLMO.message(sample, style) == "low_level: tap the clock"


def test_a_question_with_its_options_in_it_says_itself_what_is_wanted() -> None:
    sample = replace(ASKED, question_type="multiple_choice")
    assert PLAIN_WORDING.message(sample, "a_okvqa_mc") == "Which {x}?"


def test_a_tenth_of_the_prompts_names_a_demo_style() -> None:
    samples = [replace(ASKED, sample_id=str(i)) for i in range(2000)]
    named = [MOLMO.message(sample, "point_count").startswith("point_count: ") for sample in samples]
    assert sum(named) / len(named) == pytest.approx(0.1, abs=0.03)
    assert {MOLMO2_WORDING.message(sample, "point_count") for sample in samples} == {"Which {x}?"}


@given(label=st.text(min_size=1, max_size=9), index=st.integers(0, 10**6))
def test_drawn_templates_are_the_same_in_every_run(label: str, index: int) -> None:
    sample = replace(ASKED, sample_id=f"test-{index}", attributes={"label": label})
    for style in ("pointing", "point_count"):
        message = MOLMO.message(sample, style)
        assert message == MOLMO.message(replace(sample, sample_id=f"val2014-{index}"), style)
        assert label.lower() in message and "{label}" not in message.replace(label.lower(), "")
    caption = MOLMO.message(replace(sample, question=""), "long_caption")
    assert caption == MOLMO.message(sample, "long_caption")


def test_long_captions_are_asked_for_in_many_words() -> None:
    samples = [replace(ASKED, sample_id=str(i), question="") for i in range(300)]
    assert len({MOLMO.message(sample, "long_caption") for sample in samples}) > 20
