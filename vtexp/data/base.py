"""What a data set hands to a run: samples, in a fixed order, with images opened on demand."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from vtexp.errors import DataError
from vtexp.geometry import Size


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image in a file of its own."""

    path: Path

    def open(self) -> Image.Image:
        """The image, not decoded yet. Raises FileNotFoundError or OSError."""
        return Image.open(self.path)

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An encoded image that is a cell of a table, such as a Parquet file."""

    name: str
    data: bytes

    def open(self) -> Image.Image:
        """The image, not decoded yet. Raises OSError."""
        return Image.open(io.BytesIO(self.data))

    def __str__(self) -> str:
        return self.name


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
    image: ImageFile | StoredImage
    question: str
    references: tuple[str, ...]
    question_type: str
    options: tuple[str, ...] = ()
    attributes: Mapping[str, float | str] = field(default_factory=dict)
    style: str | None = None

    def image_size(self) -> Size:
        """Size of the image, from its header only. Raises DataError if it cannot be read."""
        with self._open() as image:
            return Size(image.height, image.width)

    def pixels(self) -> np.ndarray:
        """The image as uint8 (H, W, 3) RGB. Raises DataError if it cannot be read."""
        try:
            with self._open() as image:
                return to_rgb(image)
        except OSError as error:
            raise DataError(f"{self.image}: the image cannot be decoded ({error})") from error

    def _open(self) -> Image.Image:
        try:
            return self.image.open()
        except FileNotFoundError as error:
            raise DataError(f"{self.image}: no such image (sample {self.sample_id})") from error
        except (UnidentifiedImageError, OSError) as error:
            raise DataError(f"{self.image}: not a readable image ({error})") from error


def to_rgb(image: Image.Image) -> np.ndarray:
    """uint8 (H, W, 3) array of an image of any mode."""
    return np.array(image.convert("RGB"), dtype=np.uint8)


def choose(samples: Sequence[Sample], limit: int | None, seed: int) -> list[Sample]:
    """`limit` samples drawn without replacement, in a fixed random order; all of them if None.

    A smaller limit with the same seed gives a prefix of a larger one.
    """
    order = np.random.default_rng(seed).permutation(len(samples))
    return [samples[i] for i in order[:limit]]


def fingerprint(samples: Sequence[Sample]) -> str:
    """Short hash of which questions are asked, in order; equal for runs that can be paired."""
    rows = [(s.sample_id, s.question, s.references) for s in samples]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
