"""`vtexp.count_tokens`: crops and tokens of one image, by arithmetic; no torch, no weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from vtexp.api.asked import Budget, SizeLike, configured, knob_value, of_model
from vtexp.budget.geometry import (
    Geometry,
    Size,
    Tiling,
    size_of,
    theoretical_tokens,
    tiling_to_resolution,
    token_layout,
)
from vtexp.budget.knobs import CropSetting
from vtexp.data.images import ImageFile
from vtexp.data.sample import Sample
from vtexp.errors import ConfigError
from vtexp.models.checkpoints import EMBEDDED, find_checkpoint
from vtexp.runs.plan import geometry_of
from vtexp.utils.arguments import text


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Crops and tokens of one image.

    tiling: rows and columns of crops; num_crops: rows x columns, without the global crop; canvas:
    the size in px that the crops cover. theoretical_vision_tokens: every crop in full;
    measured_vision_tokens: what reaches the language model once overlap is dropped, which is what
    hooks count in a run. image_tokens: with column, start and end tokens. prompt_tokens: with all
    of the prompt, or without a question with the beginning of text alone; it must stay within
    max_sequence_length.
    """

    tiling: Tiling
    num_crops: int
    canvas: Size
    theoretical_vision_tokens: int
    measured_vision_tokens: int
    image_tokens: int
    prompt_tokens: int
    max_sequence_length: int


def count_tokens(
    model: str = "molmo_tiny",
    size: SizeLike | None = None,
    *,
    question: str | None = None,
    style: str | None = None,
    path: str | Path | None = None,
    **budget: Unpack[Budget],
) -> TokenCounts:
    """Crops and tokens that an image of a size gets under one budget; see `Budget`.

    `model` is a name of `conf/model`, `path` its `model.path` where that is another one. `size`
    (height, width) in px may be left out with `image_size`. `question` needs the model's tokenizer
    on this machine, no weights; `style` is the word before it. Raises ConfigError for what cannot
    be asked, CheckpointError where config or tokenizer are not here.
    """
    value = knob_value(**budget)
    asked_style = None if style is None else text("style", style)
    asked_text = None if question is None else text("question", question)
    config = configured([*of_model(model, path), "plan=true"]).model
    checkpoint = find_checkpoint(
        config.path, config.revision, random=asked_text is None, weights=False
    )
    geometry = geometry_of(config, checkpoint)
    setting = value.crop_setting(geometry)
    if size is None and setting.image_size is None:
        raise ConfigError(f"size: {value.name} needs the image's (height, width) in px")
    image = setting.image_size if size is None else size_of("size", size)
    assert image is not None
    tokenizer = checkpoint.tokenizer
    others = int("{bos}" in tokenizer.form.template)
    if asked_text is not None:
        asked = Sample("asked", "asked", ImageFile(Path()), asked_text, (), "")
        prompt = tokenizer.prompt(asked, asked_style or default_style(config.path))
        others = prompt.text_tokens
    return counts_of(image, setting, geometry, others)


def counts_of(
    size: Size, setting: CropSetting, geometry: Geometry, text_tokens: int
) -> TokenCounts:
    """Counts of an image of a size, in a prompt with so many tokens besides the image's."""
    tiling = setting.tiling(size, geometry)
    layout = token_layout(tiling, geometry, force_full_tokens=setting.force_full_tokens)
    return TokenCounts(
        tiling=tiling,
        num_crops=tiling.num_crops,
        canvas=tiling_to_resolution(tiling, geometry),
        theoretical_vision_tokens=theoretical_tokens(tiling.num_crops, geometry),
        measured_vision_tokens=layout.vision_tokens,
        image_tokens=layout.sequence_length,
        prompt_tokens=layout.sequence_length + text_tokens,
        max_sequence_length=geometry.max_sequence_length,
    )


def default_style(path: str) -> str:
    """The word before a question: published Molmos know `vqa2`, the embedded one `small_print`."""
    return "small_print" if path.startswith(EMBEDDED) else "vqa2"
