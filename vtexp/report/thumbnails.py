"""Images of samples for a page, encoded as data, with the crops that each run cut of them.

They are large enough to read small print when enlarged: whether a budget could is the question.

Images are read from the data set that the run's frozen config names. Where that is not here any
more, there are none, and the page gives the reason.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable
from contextlib import chdir
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import Image

from vtexp.budget.geometry import Geometry, Size, crop_corners, tiling_to_resolution
from vtexp.budget.knobs import CropSetting, KnobValue
from vtexp.budget.placement import placement_of
from vtexp.config.choices import Form, Weights
from vtexp.data.builtin import small_print
from vtexp.data.load import load_samples
from vtexp.data.sample import Sample
from vtexp.errors import DataError, VtexpError
from vtexp.models.checkpoints import find_checkpoint
from vtexp.report.answers import Question, SharedQuestions
from vtexp.runs.frozen import thaw
from vtexp.runs.ledger import working_folder
from vtexp.utils import files

#: A page has so many images at most, of so many bytes together, each of so many px.
MOST_IMAGES, MOST_BYTES, MOST_PIXELS = 150, 12_000_000, 2_000_000
#: So many missing images are named.
MOST_WARNINGS = 3
#: So many crops are drawn one by one; of more (Qwen2.5-VL's cells) only the canvas is.
MOST_CROPS = 64

#: Top, left, height, width, as shares of the image's own height and width.
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Overlay:
    """Where the crops of an image lie on it. The canvas reaches beyond the image where padded."""

    canvas: Box
    crops: tuple[Box, ...]


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """An image as a data URI, its own size, and the overlay of each run by its folder."""

    uri: str
    size: Size
    overlays: dict[str, Overlay]


@dataclass(slots=True)
class Thumbnails:
    """Pictures by image id, and warnings about missing ones."""

    by_image: dict[str, Thumbnail] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def overlay_of(size: Size, setting: CropSetting, geometry: Geometry) -> Overlay:
    """The crops of an image of `size` under a crop setting, as preprocessing cuts them.

    Raises DataError for images too flat to resize.
    """
    tiling = setting.tiling(size, geometry)
    canvas = tiling_to_resolution(tiling, geometry)
    scaled, top_pad, left_pad = placement_of(size, canvas, setting.fit)

    def box(top: int, left: int, height: int, width: int) -> Box:
        return (
            round((top - top_pad) / scaled.height, 4),
            round((left - left_pad) / scaled.width, 4),
            round(height / scaled.height, 4),
            round(width / scaled.width, 4),
        )

    few = tiling.num_crops <= MOST_CROPS
    corners = crop_corners(tiling, geometry) if few else []
    side = geometry.crop_px
    return Overlay(box(0, 0, *canvas), tuple(box(*corner, side, side) for corner in corners))


def take_thumbnails(
    asked: SharedQuestions, sample_ids: Iterable[str], room: int = MOST_BYTES
) -> Thumbnails:
    """Pictures of the images of these samples, the first ones as far as a page has room.

    room: bytes left for them.
    """
    folders = {run: Path(run).absolute() for run in asked.runs}
    try:
        # Relative paths of the config start there.
        with chdir(working_folder(folders[asked.runs[0]].parent)):
            return _take(asked, folders, sample_ids, room)
    except (VtexpError, OSError, KeyError, TypeError) as error:
        return Thumbnails(warnings=[f"{asked.dataset}: no images are shown: {error}"])


def _take(
    asked: SharedQuestions, folders: dict[str, Path], sample_ids: Iterable[str], room: int
) -> Thumbnails:
    found, missing = Thumbnails(), dict[str, str]()
    settings = {run: _crop_setting(folder) for run, folder in folders.items()}
    samples = _samples(folders[asked.runs[0]])
    for sample_id in sample_ids:
        if max(len(found.by_image), len(missing)) >= MOST_IMAGES or room <= 0:
            break
        question = asked.questions[sample_id]
        if question.image_id in found.by_image:
            continue
        try:
            picture = _picture(_same(samples, question), settings)
        except VtexpError as error:
            missing[question.image_id] = str(error)
            continue
        missing.pop(question.image_id, None)  # another question about it has changed
        found.by_image[question.image_id] = picture
        room -= len(picture.uri)
    found.warnings += _warnings(asked.dataset, list(missing.values()))
    return found


def _warnings(dataset: str, reasons: list[str]) -> list[str]:
    """Warnings about missing images: the first few, and how many more were tried."""
    warnings = [f"{dataset}: an image is missing: {reason}" for reason in reasons[:MOST_WARNINGS]]
    more = len(reasons) - MOST_WARNINGS
    if more > 0:
        warnings.append(f"{dataset}: {more} more images are missing")
    return warnings


def _same(samples: dict[str, Sample], question: Question) -> Sample:
    """The sample of a question. Raises DataError where the data set has changed since."""
    sample = samples.get(question.sample_id)
    if sample is None or sample.question != question.question:
        raise DataError(f"{question.sample_id} is not the same sample in the data set any more")
    return sample


def _picture(sample: Sample, settings: dict[str, tuple[CropSetting, Geometry]]) -> Thumbnail:
    pixels = sample.pixels()
    size = Size(*pixels.shape[:2])
    overlays = {run: overlay_of(size, *setting) for run, setting in settings.items()}
    image, scale = Image.fromarray(pixels), math.sqrt(MOST_PIXELS / (size.height * size.width))
    image.thumbnail((max(1, round(scale * size.width)), max(1, round(scale * size.height))))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=60, method=2)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return Thumbnail(f"data:image/webp;base64,{encoded}", size, overlays)


def _samples(run: Path) -> dict[str, Sample]:
    """The samples that a run drew, by id. Raises VtexpError or OSError where they are not here.

    Nothing is fetched, drawn or written for a report alone.
    """
    dataset = thaw([run]).dataset
    pages = small_print.cache_path(dataset.split)
    if dataset.source.form == Form.small_print and not pages.is_file():
        raise DataError(f"its pages are no longer in {pages}")
    drawn = load_samples(dataset, fetch=False)
    return {sample.sample_id: sample for sample in drawn.samples}


def _crop_setting(run: Path) -> tuple[CropSetting, Geometry]:
    """How a run cut its images. Raises VtexpError or OSError where its model is not here."""
    plain = files.read_config(run)
    value = KnobValue.from_plain(plain["run"])
    model = plain["model"]
    geometry = _geometry(model["path"], model["revision"], model["weights"])
    return value.crop_setting(geometry), geometry


@cache
def _geometry(path: str, revision: str | None, weights: str) -> Geometry:
    checkpoint = find_checkpoint(path, revision, random=weights == Weights.random, weights=False)
    return checkpoint.family.geometry_of(checkpoint.config)
