"""The samples that a page can browse, as compact JSON: texts once each, then their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vtexp.analysis.rows import ComparedRun
from vtexp.report.answers import Question, SampleAnswer, SharedQuestions
from vtexp.report.format import budget_name
from vtexp.report.thumbnails import Thumbnail, Thumbnails, take_thumbnails

#: Longer texts are cut, and so many characters of samples are in a page at most.
LONGEST_TEXT, MOST_CHARACTERS = 1000, 10_000_000
#: What a number or the marks around it take in JSON, about.
_PER_VALUE = 8


class _Texts:
    """Texts by number, each once."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.characters = 0

    def number(self, value: Any) -> int:
        text = str(value)
        if len(text) > LONGEST_TEXT:
            text = text[:LONGEST_TEXT] + " ..."
        if text not in self.numbers:
            self.characters += len(text) + 3
        self.characters += _PER_VALUE
        return self.numbers.setdefault(text, len(self.numbers))


def browser_data(
    asked: SharedQuestions, runs: Mapping[str, ComparedRun], series: Mapping[str, str], room: int
) -> tuple[dict[str, Any], Thumbnails]:
    """What the page's browser shows of runs with the same questions, and the pictures in it.

    runs: by their folders; series: the name of each run's, where there are several; room: bytes
    left for images.
    """
    disagreeing = asked.disagreements()
    texts = _Texts()
    groups = _groups(asked)
    samples: list[list[Any]] = []
    for sample_id in disagreeing:
        if texts.characters > MOST_CHARACTERS:
            break
        samples.append(_sample(asked.questions[sample_id], asked.of(sample_id), groups, texts))
    pictures = take_thumbnails(asked, disagreeing[: len(samples)], room)
    return {
        "dataset": asked.dataset,
        "runs": _names([runs[run] for run in asked.runs], series),
        "groups": groups,
        "questions": len(asked.questions),
        "disagreeing": len(disagreeing),
        "samples": samples,
        "pictured": sum(asked.questions[one[0]].image_id in pictures.by_image for one in samples),
        "texts": list(texts.numbers),
        "images": {key: _image(one, asked.runs) for key, one in pictures.by_image.items()},
    }, pictures


def _names(runs: Sequence[ComparedRun], series: Mapping[str, str]) -> list[str]:
    """What runs are called, after their series."""
    parts = [
        (series.get(str(run.folder)), budget_name(run.asked.knob, run.asked.value_label))
        for run in runs
    ]
    return [": ".join(part for part in own if part) for own in parts]


def _groups(asked: SharedQuestions) -> list[str]:
    """By what samples can be filtered: question type, and the attributes that the set names."""
    keys: dict[str, None] = {"question_type": None}
    for question in asked.questions.values():
        keys |= dict.fromkeys(question.attributes)
    return list(keys)


def _sample(
    question: Question, answers: Sequence[SampleAnswer], groups: Sequence[str], texts: _Texts
) -> list[Any]:
    values = {"question_type": question.question_type, **question.attributes}
    return [
        question.sample_id,
        question.image_id,
        [texts.number(values[key]) if key in values else -1 for key in groups],
        texts.number(question.question),
        [texts.number(option) for option in question.options],
        [texts.number(reference) for reference in dict.fromkeys(question.references)],
        [
            [
                texts.number(answer.prediction),
                answer.score,
                texts.number(answer.tiling or answer.num_crops or ""),
                round(answer.vision_tokens, 1),
                int(answer.right),
            ]
            for answer in answers
        ],
    ]


def _image(picture: Thumbnail, runs: Sequence[str]) -> dict[str, Any]:
    overlays = [picture.overlays[run] for run in runs]
    return {
        "uri": picture.uri,
        "height": picture.size.height,
        "width": picture.size.width,
        "overlays": [[overlay.canvas, overlay.crops] for overlay in overlays],
    }
