"""What a data set hands to a run: samples, in a fixed order, with images opened on demand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from vtexp.budget.geometry import Size
from vtexp.config.dataset_schema import DatasetConfig
from vtexp.data.images import AnyImage, Header, image_header, image_pixels
from vtexp.data.images import ImageFile as ImageFile
from vtexp.data.images import StoredImage as StoredImage
from vtexp.data.images import to_rgb as to_rgb
from vtexp.errors import ConfigError, DataError

#: `question_type` of questions that have their options in their text.
MULTIPLE_CHOICE = "multiple_choice"
#: Style of questions whose options are written in the image: shown without letters.
NO_LETTERS = "ai2_diagram_no_letter"


@dataclass(frozen=True, slots=True)
class Sample:
    """One question about one image. Several questions can share an image (`image_id`).

    `options` are the choices of a multiple-choice question, in the order in which they are shown;
    `references` then hold what the model should say: the letter of the right one, or its text where
    the style shows no letters. `style` is the prompt style of this question where it is not the
    data set's. `attributes` are what a data set knows of a question besides (such as its print
    size); they go into the records of each answer.
    """

    sample_id: str
    image_id: str
    image: AnyImage
    question: str
    references: tuple[str, ...]
    question_type: str
    options: tuple[str, ...] = ()
    attributes: Mapping[str, float | str] = field(default_factory=dict)
    style: str | None = None

    def image_header(self) -> Header:
        """What the image's header says. Raises DataError if it cannot be read."""
        return image_header(self.image)

    def image_size(self) -> Size:
        """Size of the image, from its header only. Raises DataError if it cannot be read."""
        return self.image_header().size

    def on_white(self) -> Sample:
        """The sample with its image pasted on white where it is transparent."""
        return replace(self, image=replace(self.image, on_white=True))

    def pixels(self) -> np.ndarray:
        """The image as uint8 (H, W, 3) RGB. Raises DataError if it cannot be read."""
        return image_pixels(self.image)


@dataclass(frozen=True)
class FailedSample:
    """A sample that was drawn and cannot be asked, and why."""

    sample_id: str
    reason: str


class LoadedSamples(NamedTuple):
    """The samples of a run in order, and those that were drawn but cannot be asked."""

    samples: list[Sample]
    failed: list[FailedSample]


def choose(
    count: int, limit: int | None, seed: int, strata: Sequence[str] | None = None
) -> list[int]:
    """`limit` of `count` samples, drawn without replacement in a fixed random order; None: all.

    A smaller limit with the same seed gives a prefix of a larger one. With `strata` (one name per
    sample), each prefix holds of every stratum its share, give or take one and the rounding of the
    others: systematic sampling with a random start in each stratum, so that every sample is as
    likely as any other.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(count)
    if strata is not None and count:
        names, codes = np.unique(np.asarray(strata, dtype=str), return_inverse=True)
        sizes, starts = np.bincount(codes), rng.random(len(names))
        codes = codes[order]
        ranks = np.empty(count, dtype=np.int64)  # of each sample within its stratum
        firsts = np.cumsum(sizes) - sizes
        ranks[np.argsort(codes, kind="stable")] = np.arange(count) - np.repeat(firsts, sizes)
        places = (ranks + starts[codes]) / sizes[codes]
        order = order[np.argsort(places, kind="stable")]
    return [int(i) for i in order[:limit]]


def drawn(
    dataset: DatasetConfig, count: int, strata: Sequence[str] | None, index: int | None
) -> list[int]:
    """Which of a split's `count` samples a run asks, in its order; with `index`, that place alone.

    Raises ConfigError where the order has no such place.
    """
    order = choose(count, dataset.limit, dataset.seed, strata)
    if index is None:
        return order
    if not 0 <= index < len(order):
        raise ConfigError(
            f"index {index}: dataset={dataset.name} has {len(order)} questions in its split "
            f"{dataset.split}, counted from 0"
        )
    return [order[index]]


def require_split(dataset: DatasetConfig, splits: Sequence[str]) -> None:
    """Raises ConfigError where a data set does not have the split that is asked for."""
    if dataset.split not in splits:
        raise ConfigError(f"dataset.split={dataset.split}: {dataset.name} has {', '.join(splits)}")


def fingerprint(samples: Sequence[Sample]) -> str:
    """Short hash of which questions are asked, in order; equal for runs that can be paired."""
    digest = hashlib.sha256()
    for s in samples:
        row = (s.sample_id, s.question, s.references, s.options)
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()[:16]


def require_few_failed(failed: Sequence[FailedSample], asked: int, dataset: DatasetConfig) -> None:
    """Raises DataError where more samples failed than `dataset.max_failed`, or all of them."""
    name, max_failed = dataset.name, dataset.max_failed
    if not failed or (asked and len(failed) <= max_failed):
        return
    first = f"sample {failed[0].sample_id}: {failed[0].reason}"
    if not asked:
        raise DataError(f"dataset={name}: none of {len(failed)} samples can be asked; {first}")
    raise DataError(
        f"dataset={name}: {len(failed)} of {len(failed) + asked} samples cannot be asked, more "
        f"than dataset.max_failed={max_failed}; {first}; correct the data or allow more"
    )
