"""What a report shows of every single answer: crops per image, groups, and disagreements.

`samples.jsonl` of each run is read once, row by row; of 10 000 questions little is kept.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vtexp.analysis.rows import ComparedRun
from vtexp.runs.records import read_samples
from vtexp.utils import files

#: A score from here on is shown as right: VQA accuracy and ANLS give parts of a point.
RIGHT = 0.5


@dataclass(frozen=True, slots=True)
class Question:
    """One question as it was asked; `attributes` as the data set named them (such as print_px)."""

    sample_id: str
    image_id: str
    question_type: str
    question: str
    options: tuple[str, ...]
    references: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SampleAnswer:
    """One run's answer; `tiling` is None of models that show none, `score` of random weights."""

    prediction: str
    score: float | None
    tiling: str | None
    num_crops: int
    vision_tokens: float

    @property
    def right(self) -> bool:
        """Whether the score is at least half of the highest of most metrics, 1."""
        return self.score is not None and self.score >= RIGHT


@dataclass(frozen=True, slots=True)
class RunAnswers:
    """All answers of a run by sample id, and how many images had which counts.

    `crops`: images by measured crops; `tokens`: by (theoretical, measured) vision tokens.
    """

    answers: dict[str, SampleAnswer]
    crops: Counter[int]
    tokens: Counter[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class SharedQuestions:
    """Runs that answered the same questions: those questions, and each run's answers.

    Runs are named by their folders: of several sweeps, names need not differ.
    """

    dataset: str
    runs: list[str] = field(default_factory=list)
    questions: dict[str, Question] = field(default_factory=dict)
    by_run: dict[str, RunAnswers] = field(default_factory=dict)

    def of(self, sample_id: str) -> list[SampleAnswer]:
        """Each run's answer to a question, in the order of `runs`."""
        return [self.by_run[run].answers[sample_id] for run in self.runs]

    def pattern(self, sample_id: str) -> tuple[bool, ...]:
        """Which runs answered a question right, in the order of `runs`."""
        return tuple(answer.right for answer in self.of(sample_id))

    def disagreements(self) -> list[str]:
        """Questions that not all runs scored alike.

        In the order of the run, but one of each pattern of right and wrong in turn: what is shown
        of only the first ones is then of every kind.
        """
        by_pattern: dict[tuple[bool, ...], list[str]] = defaultdict(list)
        for sample_id in self.questions:
            if len({answer.score for answer in self.of(sample_id)}) > 1:
                by_pattern[self.pattern(sample_id)].append(sample_id)
        return list(in_turn(by_pattern.values()))


def in_turn(queues: Iterable[Sequence[str]]) -> Iterator[str]:
    """The first of each sequence, then the second of each, until all are through."""
    left = [iter(queue) for queue in queues]
    while left:
        still = []
        for queue in left:
            for first in queue:
                yield first
                still.append(queue)
                break
        left = still


def read_answers(runs: Sequence[ComparedRun]) -> list[SharedQuestions]:
    """The answers of finished runs of a comparison, together where the questions are the same.

    Runs without their `samples.jsonl` are left out. Raises DataError where one is damaged.
    """
    found: dict[tuple[str, str], SharedQuestions] = {}
    for run in runs:
        path = run.folder / files.SAMPLES
        if run.result is not None and path.is_file():
            dataset, name = run.result.dataset, str(run.folder)
            key = (dataset, run.result.samples_fingerprint)
            asked = found.setdefault(key, SharedQuestions(dataset))
            asked.runs.append(name)
            asked.by_run[name] = _read_run(path, asked.questions)
            if asked.by_run[name].answers.keys() != asked.questions.keys():
                raise files.damaged(path, "not the questions that its result is of")
    return list(found.values())


def _read_run(path: Path, questions: dict[str, Question]) -> RunAnswers:
    """One run's answers; questions that are new are added to `questions`."""
    answers: dict[str, SampleAnswer] = {}
    counts: dict[str, tuple[int, int, float]] = {}  # of each image
    for row in read_samples(path):
        crops, tokens = row.measured_num_crops, row.measured_vision_tokens
        answers[row.sample_id] = SampleAnswer(
            row.prediction or "", row.score, row.measured_tiling, crops, tokens
        )
        if row.sample_id not in questions:
            questions[row.sample_id] = Question(
                row.sample_id,
                row.image_id,
                row.question_type,
                row.question,
                row.options,
                row.references,
                row.attributes,
            )
        counts[row.image_id] = (crops, row.theoretical_vision_tokens, tokens)
    return RunAnswers(
        answers,
        Counter(crops for crops, _, _ in counts.values()),
        Counter((theoretical, measured) for _, theoretical, measured in counts.values()),
    )
