"""Which samples of a data set a plan can ask: readable, scorable, and short enough for the context.

Reads image headers and the tokenizer only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple

from vtexp.budget.geometry import Geometry, Size, Tiling, tiling_to_resolution, token_layout
from vtexp.budget.knobs import CropSetting, KnobValue
from vtexp.budget.placement import letterbox
from vtexp.config.schema import Config
from vtexp.data.images import AnyImage, Header
from vtexp.data.load import load_samples
from vtexp.data.sample import FailedSample, Sample, require_few_failed
from vtexp.errors import ConfigError, DataError
from vtexp.metrics import Metric
from vtexp.models.checkpoints import Checkpoint
from vtexp.prompts.wording import OWN_STYLES, settle_style
from vtexp.utils.console import progress


class AskedSamples(NamedTuple):
    """Samples of a plan, each with its image's size and the tokens of its text; `failed` cannot be
    asked; `transparent` counts the images that can be transparent."""

    samples: tuple[Sample, ...]
    sizes: tuple[Size, ...]
    text_lengths: tuple[int, ...]
    failed: tuple[FailedSample, ...]
    transparent: int


def asked_samples(
    config: Config,
    checkpoint: Checkpoint,
    index: int | None,
    scoring: Metric,
    geometry: Geometry,
    settings: Sequence[tuple[KnobValue, CropSetting]],
) -> AskedSamples:
    """The samples that a config asks, or the one at place `index` of its draw.

    Raises DataError where more cannot be asked than the config allows, ConfigError where there are
    none.
    """
    dataset = config.dataset
    samples, sizes, transparent, failed = _draw(
        config, checkpoint, index, scoring if checkpoint.answers else None, geometry, settings
    )
    if checkpoint.family.transparent_on_white:
        samples = [sample.on_white() for sample in samples]
    samples, sizes, text_lengths, endless = _askable(config, checkpoint, geometry, samples, sizes)
    failed = (*failed, *endless)
    require_few_failed(failed, len(samples), dataset)
    return AskedSamples(tuple(samples), tuple(sizes), tuple(text_lengths), failed, transparent)


def _draw(
    config: Config,
    checkpoint: Checkpoint,
    index: int | None,
    scoring: Metric | None,
    geometry: Geometry,
    settings: Sequence[tuple[KnobValue, CropSetting]],
) -> tuple[list[Sample], list[Size], int, tuple[FailedSample, ...]]:
    """Samples to ask, sizes of their images, how many images are transparent; and the others.

    Raises DataError where more cannot than the config allows.
    """
    dataset = config.dataset
    drawn = load_samples(dataset, fetch=not config.plan, index=index, may_import=True)
    if not drawn.samples and not drawn.failed:
        raise ConfigError(f"dataset={dataset.name}: no samples")
    trained = checkpoint.trained_styles
    samples = [settle_style(sample, dataset.style, trained) for sample in drawn.samples]
    unscored: list[FailedSample] = []
    if scoring is not None:
        samples, unscored = _scorable(samples, scoring)

    def too_flat(size: Size) -> bool:
        return any(_is_too_flat(size, setting, geometry) for _, setting in settings)

    samples, headers, unreadable = _readable(samples, too_flat)
    failed = (*drawn.failed, *unscored, *unreadable)
    require_few_failed(failed, len(samples), dataset)
    if scoring is not None:
        scoring.prepare(samples)
    pairs = zip(samples, headers, strict=True)
    transparent = len({sample.image for sample, header in pairs if header.transparent})
    return samples, [header.size for header in headers], transparent, failed


def other_styles(config: Config, checkpoint: Checkpoint) -> list[str]:
    """Which styles the model was not trained on, and in which it is asked instead."""
    asked = {config.dataset.style, *config.dataset.styles.values()} & OWN_STYLES.keys()
    return [
        f"the model was not trained on the style {own}: it is asked as {OWN_STYLES[own]}"
        for own in sorted(asked - set(checkpoint.trained_styles))
    ]


def _askable(
    config: Config,
    checkpoint: Checkpoint,
    geometry: Geometry,
    samples: Sequence[Sample],
    sizes: Sequence[Size],
) -> tuple[list[Sample], list[Size], list[int], list[FailedSample]]:
    """Samples whose text leaves room for one crop, with sizes and text tokens; and the others.

    Whether more crops fit is a question of the knob, not of the sample; where no sample fits, it is
    the context that is too short.
    """
    dataset, context = config.dataset, geometry.max_sequence_length
    least = token_layout(Tiling(1, 1), geometry).sequence_length + dataset.max_new_tokens
    kept: list[tuple[Sample, Size, int]] = []
    failed, lengths = [], []
    for sample, size in zip(samples, sizes, strict=True):
        length = checkpoint.tokenizer.prompt(sample, dataset.style).text_tokens
        lengths.append(length)
        if least + length > context:
            reason = f"its text of {length} tokens leaves no room in a context of {context}"
            failed.append(FailedSample(sample.sample_id, reason))
        else:
            kept.append((sample, size, length))
    if not kept:
        return list(samples), list(sizes), lengths, []
    return [k[0] for k in kept], [k[1] for k in kept], [k[2] for k in kept], failed


def _scorable(
    samples: Sequence[Sample], scoring: Metric
) -> tuple[list[Sample], list[FailedSample]]:
    """Samples that have what the metric needs, and the others."""
    kept, failed = [], []
    for sample in samples:
        if lack := scoring.lacks(sample):
            reason = f"dataset.metric={scoring.name}: it {lack}"
            failed.append(FailedSample(sample.sample_id, reason))
        else:
            kept.append(sample)
    return kept, failed


#: From so many samples on, reading the headers of their images shows its progress.
_MANY = 1000


def _readable(
    samples: Sequence[Sample], too_flat: Callable[[Size], bool]
) -> tuple[list[Sample], list[Header], list[FailedSample]]:
    """Samples with a usable image, the images' headers, and the others; each is opened once."""
    known: dict[AnyImage, Header | str] = {}
    kept, headers, failed = [], [], []
    many = len(samples) >= _MANY
    with progress("reading image headers", len(samples)) if many else nullcontext(int) as advance:
        for sample in samples:
            image = sample.image
            if image not in known:
                try:
                    header = sample.image_header()
                    flat = f"{image}: an image of {header.size} px is too flat to be letterboxed"
                    known[image] = flat if too_flat(header.size) else header
                except DataError as error:
                    known[image] = str(error)
            found = known[image]
            if isinstance(found, str):
                failed.append(FailedSample(sample.sample_id, found))
            else:
                kept.append(sample)
                headers.append(found)
            advance(1)
    return kept, headers, failed


def _is_too_flat(size: Size, setting: CropSetting, geometry: Geometry) -> bool:
    """Whether a side of a letterboxed view would shrink to 0, which nothing can be resized to."""
    if setting.fit == "stretch":
        return False
    targets = [Size(geometry.crop_px, geometry.crop_px)]
    if setting.fit == "letterbox":
        targets.append(tiling_to_resolution(setting.tiling(size, geometry), geometry))
    return any(0 in letterbox(size, target).scaled for target in targets)
