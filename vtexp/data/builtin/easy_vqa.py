"""easy-VQA: 64 px images of one coloured shape, from the PyPI package `easy-vqa` (MIT licence).

Source: github.com/vzhou842/easy-VQA; 4 000 training and 1 000 test images.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from vtexp.data.sample import ImageFile, Sample
from vtexp.utils.extras import require_extra

SPLITS = ("train", "test")
SHAPES = ("circle", "rectangle", "triangle")
COLORS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")


def load(split: str) -> list[Sample]:
    """All questions of a split (38 575 train, 9 673 test), in the package's order.

    Raises MissingExtraError where the package is not installed.
    """
    require_extra("easy_vqa", "dataset=easy_vqa")
    package = _package_folder()
    assert package is not None
    folder = package / "data" / split
    questions = json.loads((folder / "questions.json").read_text())
    # A path for each image, not for each question: making paths takes most of the time.
    numbers = {image for _, _, image in questions}
    images = {image: ImageFile(folder / f"images/{image}.png") for image in numbers}
    return [
        Sample(
            sample_id=f"{split}-{index}",
            image_id=f"{split}-{image}",
            image=images[image],
            question=question,
            references=(answer,),
            question_type=_question_type(answer),
        )
        for index, (question, answer, image) in enumerate(questions)
    ]


def _question_type(answer: str) -> str:
    if answer in ("yes", "no"):
        return "yes/no"
    return "shape" if answer in SHAPES else "color"


def is_here() -> bool:
    """Whether the package is installed."""
    return _package_folder() is not None


def _package_folder() -> Path | None:
    # Not imported: only the files are wanted.
    spec = importlib.util.find_spec("easy_vqa")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent
