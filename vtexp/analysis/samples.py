"""The sample records of a run column by column: of 200 000 samples only what statistics need."""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vtexp.runs.records import Result, SampleRow, read_samples
from vtexp.utils import files
from vtexp.utils.typed import is_number

#: A text with more values than this is a note on a question, not a group of questions.
MOST_GROUPS = 20
#: Numbers with more values are put into ranges, this many at most, of about equal size.
MOST_NUMBERS, RANGES = 12, 6


@dataclass(frozen=True)
class Labels:
    """Which group each sample belongs to: codes (n,) into names."""

    names: tuple[str, ...]
    codes: np.ndarray


@dataclass(frozen=True)
class SampleColumns:
    """n samples: what was asked (a hash each), the score (NaN where none), image and groups.

    `images` are numbers that mean nothing beyond this file. `groups` by the attribute's name, for
    those attributes that have at least two values and few.
    """

    questions: np.ndarray
    scores: np.ndarray
    images: np.ndarray
    groups: dict[str, Labels]

    def at(self, places: np.ndarray) -> SampleColumns:
        """The samples at some places, in the order of their questions' hashes."""
        places = places[np.argsort(self.questions[places])]
        return SampleColumns(
            self.questions[places],
            self.scores[places],
            self.images[places],
            {name: Labels(own.names, own.codes[places]) for name, own in self.groups.items()},
        )


def read_columns(path: Path, result: Result | None = None) -> SampleColumns:
    """Columns of a samples.jsonl, of a run with this result where that is known.

    Raises DataError if it is damaged, lacks rows, has one twice, or has other scores.
    """
    questions, scores, images = array("Q"), array("d"), array("q")
    attributes: dict[str, _Attribute] = defaultdict(_Attribute)
    codes: dict[str, int] = {}
    ids: set[str] = set()
    for row in read_samples(path):
        questions.append(_question(row))
        ids.add(row.sample_id)
        scores.append(np.nan if row.score is None else row.score)
        images.append(codes.setdefault(row.image_id, len(codes)))
        for name, value in {"question_type": row.question_type, **row.attributes}.items():
            attributes[name].append(value, len(questions))
    if len(ids) < len(questions):
        raise files.damaged(path, f"{len(questions)} rows of {len(ids)} samples")
    if result is not None:
        _require_same(path, scores, result)
    labels = {name: found.labels(len(questions)) for name, found in attributes.items()}
    return SampleColumns(
        questions=np.array(questions),
        scores=np.array(scores),
        images=np.array(images),
        groups={name: found for name, found in labels.items() if found is not None},
    )


def _require_same(path: Path, scores: Sequence[float], result: Result) -> None:
    """Raises DataError where the scores of a file are not those of the run's result."""
    if len(scores) != result.num_samples:
        raise files.damaged(path, f"{len(scores)} rows, not the run's {result.num_samples}")
    if result.accuracy is None:
        return
    mean = float(np.mean(scores))
    if not math.isclose(mean, result.accuracy, rel_tol=1e-9, abs_tol=1e-9):
        said = (
            f"the mean of its scores is {mean:.6g}, and {files.RESULT} says {result.accuracy:.6g}"
        )
        raise files.damaged(path, said)


def _question(row: SampleRow) -> int:
    """Hash of what was asked: 64 bits, so that 200 000 questions share one once in a billion."""
    asked = (row.sample_id, row.question, row.references, row.options)
    digest = hashlib.blake2b(json.dumps(asked).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


class _Attribute:
    """Values of one attribute, as codes; nothing is kept of a text with too many values."""

    def __init__(self) -> None:
        self._values: dict[Any, int] = {}
        self._codes = array("l")
        self._numbers = True
        self._dropped = False

    def append(self, value: Any, number: int) -> None:
        """The value of the sample of this number, counted from 1."""
        if self._dropped:
            return
        self._numbers &= is_number(value)
        value = value if is_number(value) else str(value)
        self._codes.append(self._values.setdefault(value, len(self._values)))
        self._dropped = self._are_too_many() or len(self._codes) != number

    def _are_too_many(self) -> bool:
        """Whether these are texts of too many kinds; the number 0 and the text `0` are one kind."""
        if self._numbers or len(self._values) <= MOST_GROUPS:
            return False
        return len({str(value) for value in self._values}) > MOST_GROUPS

    def labels(self, count: int) -> Labels | None:
        """The groups, None where there are not two, too many, or samples without a value."""
        if self._dropped or len(self._values) < 2 or len(self._codes) != count:
            return None
        if self._numbers:
            order = sorted(self._values)
            names = [f"{value:g}" for value in order]
            places = {value: place for place, value in enumerate(order)}
        else:
            names = sorted({str(value) for value in self._values})
            places = {value: names.index(str(value)) for value in self._values}
        codes = np.array([places[value] for value in self._values])[np.array(self._codes)]
        if self._numbers and len(order) > MOST_NUMBERS:
            return _ranges(order, codes)
        return Labels(tuple(names), codes) if len(names) > 1 else None


def _ranges(values: list[float], codes: np.ndarray) -> Labels:
    """Sorted numbers in ranges of about as many samples each."""
    counts = np.bincount(codes, minlength=len(values))
    middle = (np.cumsum(counts) - counts / 2) / counts.sum()
    _, range_of = np.unique((middle * RANGES).astype(int), return_inverse=True)
    names = []
    for number in range(range_of.max() + 1):
        inside = [value for value, own in zip(values, range_of, strict=True) if own == number]
        names.append(f"{inside[0]:g} to {inside[-1]:g}" if len(inside) > 1 else f"{inside[0]:g}")
    return Labels(tuple(names), range_of[codes])
