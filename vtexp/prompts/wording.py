"""How a sample is put into words: options as lines, drawn templates, the name of its style.

The styles and their form are those of Molmo's evaluation (github.com/allenai/molmo,
olmo/data/data_formatter.py).
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from string import ascii_uppercase

import numpy as np

from vtexp.data.sample import MULTIPLE_CHOICE, NO_LETTERS, Sample

#: What options are called, by their place. Molmo v1's own code stops at G and drops the others.
LETTERS = ascii_uppercase
#: Styles that Molmo's evaluation has for sets that it was not trained on, and what it calls them.
EVAL_STYLES = {"eval_multiple_choice": "a_okvqa_mc", "eval_short_answer": "vqa2"}
#: Styles of what is asked in varying words, as people ask, and mostly without the style's name.
DEMO_STYLES = frozenset({"point_count", "pointing", "user_qa", "long_caption"})
#: Share of prompts in such a style that name it.
NAMED_SHARE = 0.1
#: Styles of the sets that come with this package, which only models trained on them know, and the
#: published styles that come nearest: of short answers about print, and about what is seen.
OWN_STYLES = {"small_print": "text_vqa", "easy_vqa": "vqa2"}
#: Seed of Molmo's evaluation; a question's own is this plus its place in the split.
EVALUATION_SEED = 6198


def option_names(sample: Sample) -> tuple[str, ...]:
    """What an answer calls a sample's options, by place: letters, or the options themselves.

    An empty place keeps its letter. The latter for a sample whose own style is
    `ai2_diagram_no_letter`.
    """
    if sample.style == NO_LETTERS:
        return sample.options
    return tuple(LETTERS[: len(sample.options)])


def sample_style(sample: Sample, style: str) -> str:
    """The style in which a sample is asked: its own, or else the data set's."""
    style = sample.style or style
    return EVAL_STYLES.get(style, style)


def settle_style(sample: Sample, style: str, trained: Collection[str] = OWN_STYLES) -> Sample:
    """The sample with the style in which it is asked as its own, for records and metrics.

    `trained`: which of this package's own styles the model knows; for the others it is asked in the
    published style that comes nearest.
    """
    asked = sample_style(sample, style)
    if asked in OWN_STYLES and asked not in trained:
        asked = OWN_STYLES[asked]
    return replace(sample, style=asked)


def with_style(text: str, style: str) -> str:
    """A text after the name of its style; an empty text or name is left out."""
    if not style:
        return text
    return f"{style}: {text}" if text else f"{style}:"


def draws(sample: Sample) -> np.random.RandomState:
    """Random numbers of one sample, the same in every run.

    Those of Molmo's evaluation where the sample's id ends in its row of the split, as in
    `validation-17`; else they follow from the id.
    """
    row = re.fullmatch(r".*-(\d{1,9})", sample.sample_id)
    seed = EVALUATION_SEED + int(row[1]) if row else zlib.crc32(sample.sample_id.encode())
    return np.random.RandomState(seed)


@cache
def templates() -> dict[str, list[str]]:
    """The published templates of the styles that have several, with {label} for what is meant."""
    path = Path(__file__).parents[1] / "assets" / "prompt_templates.json"
    return json.loads(path.read_text())["templates"]


@dataclass(frozen=True)
class Wording:
    """How the models of a family are asked; by default as Molmo v1 is.

    `names_styles`: whether they know styles by name; `unnamed` are the styles whose name is left
    out all the same, `seldom_named` those that are named in a tenth of the prompts. `choice`,
    `short_answer` and `caption` are the texts of a question with options, of one without, and of
    none at all; `option` is the line of an option.
    """

    names_styles: bool = True
    unnamed: frozenset[str] = frozenset({"demo", "android_control"})
    seldom_named: frozenset[str] = DEMO_STYLES
    choice: str = "{question}\n{options}\n"
    option: str = "{name}: {text}"
    short_answer: str = "{question}"
    caption: str = ""

    def message(self, sample: Sample, style: str) -> str:
        """What the user says: the sample's question as the data set's style has it.

        A sample with `attributes["label"]` is asked about by a drawn template of its style, and so
        is a long caption.
        """
        style = sample_style(sample, style)
        rng = draws(sample)
        text = self._text(sample, style, rng)  # draws first
        return with_style(text, style if self._named(style, rng) else "")

    def _named(self, style: str, rng: np.random.RandomState) -> bool:
        if not self.names_styles or style in self.unnamed:
            return False
        return style not in self.seldom_named or rng.random() <= NAMED_SHARE

    def _text(self, sample: Sample, style: str, rng: np.random.RandomState) -> str:
        label = sample.attributes.get("label")
        if style in templates() and (label is not None or style == "long_caption"):
            drawn = templates()[style][rng.randint(len(templates()[style]))]
            return drawn.replace("{label}", str(label).lower())
        if sample.options:
            return self.choice.format(
                question=sample.question, options=self._options(sample, style)
            )
        if not sample.question:
            return self.caption
        if style in DEMO_STYLES or sample.question_type == MULTIPLE_CHOICE:
            return sample.question  # it says itself what is wanted
        return self.short_answer.format(question=sample.question)

    def _options(self, sample: Sample, style: str) -> str:
        if style == NO_LETTERS:
            return "\n".join(filter(str.strip, sample.options))
        named = zip(LETTERS, sample.options, strict=False)  # more options than letters stay out
        there = ((name, text) for name, text in named if text.strip())  # empty places keep theirs
        return "\n".join(self.option.format(name=name, text=text) for name, text in there)


#: Molmo v1.
MOLMO_WORDING = Wording()
