"""`vtexp.load_model`: one model, to preprocess, answer and time images one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from vtexp.api.asked import Budget, choice, configured, knob_value, of_model
from vtexp.api.counts import TokenCounts, counts_of, default_style
from vtexp.budget.knobs import CropSetting, KnobValue
from vtexp.budget.llm import LlmSetting
from vtexp.config.choices import Weights
from vtexp.config.schema import MeasureConfig
from vtexp.data.images import image_of
from vtexp.data.sample import Sample
from vtexp.errors import ArgumentError, ConfigError, CountMismatchError
from vtexp.measure.protocol import Timing, undisturbed
from vtexp.measure.summary import summarise_times
from vtexp.models.checkpoints import find_checkpoint
from vtexp.models.probe import Counts
from vtexp.models.runners import runner_class
from vtexp.prompts.wording import LETTERS
from vtexp.runs.block_order import require_order_of
from vtexp.runs.llm import llm_setting
from vtexp.runs.plan import geometry_of
from vtexp.utils.arguments import text, texts, whole
from vtexp.utils.typed import to_json

if TYPE_CHECKING:
    from vtexp.models.runner import Runner


@dataclass(frozen=True, slots=True)
class Preprocessed:
    """One image as a model reads it: its counts, and the family's own inputs.

    `inputs` has at least `image_tokens` (S,), the ids of the image in the prompt; of Molmo also
    `patches`, float32 (crops, patches, values of a patch), the global crop first.
    """

    counts: TokenCounts
    inputs: Any


@dataclass(frozen=True, slots=True)
class PrefillTimes:
    """Times of one prompt's prefill, by the protocol of docs/measuring.md.

    prefill_ms: the median of `n` prefills, low_ms to high_ms its 95 % interval (None below 6);
    stages: the median of each stage in ms; counts: of the prompt; rows: one per timed prefill.
    """

    prefill_ms: float
    low_ms: float | None
    high_ms: float | None
    n: int
    stages: dict[str, float]
    counts: TokenCounts
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class Model:
    """A loaded model. An image is a path, a PIL image, or a uint8 array (height, width, 3).

    Each method takes one budget: `max_crops=4`, `image_size=(560, 336)` or `vision_tokens=720`, and
    `fit` and `force_full_tokens`; see `vtexp.api.asked.Budget`. `llm`: the experts and blocks that
    work, None for all as published.
    """

    name: str
    runner: Runner
    style: str
    has_weights: bool
    measure: MeasureConfig
    transparent_on_white: bool = False
    llm: LlmSetting | None = None

    def preprocess(self, image: Any, **budget: Unpack[Budget]) -> Preprocessed:
        """Crop an image. Raises ConfigError or DataError."""
        sample, setting = self._asked(image, "", budget)
        pixels = sample.pixels()
        return Preprocessed(
            self._counts(sample, setting, self.style), self.runner.read_image(pixels, setting)
        )

    def answer(
        self,
        image: Any,
        question: str,
        *,
        options: Sequence[str] = (),
        style: str | None = None,
        max_new_tokens: int = 12,
        **budget: Unpack[Budget],
    ) -> str:
        """The model's greedy answer to a question about an image.

        `style` is the word before the question; `options` make it multiple choice. Raises
        ConfigError for a prompt that does not fit the model's context, or for random weights.
        """
        if not self.has_weights:
            raise ConfigError(f"{self.name}: random weights have no answers, only times")
        new_tokens = whole("max_new_tokens", max_new_tokens)
        asked = self._style(style)
        sample, setting = self._asked(image, question, budget, options)
        self._require_room(sample, setting, asked, new_tokens)
        prepared = self.runner.prepare(sample, setting, asked)
        (ids,) = self.runner.answer([prepared], new_tokens)
        return self.runner.tokenizer.decode(ids)

    def time_prefill(
        self, image: Any, question: str, *, style: str | None = None, **budget: Unpack[Budget]
    ) -> PrefillTimes:
        """Time the prefill of an image and a question until its median is well known.

        Warm-up and stopping rule are those of a run (`measure`, about a second or two). Images that
        are not files are decoded from a PNG of their pixels. Raises ConfigError, DataError, or
        CountMismatchError where the model reads other counts than were predicted.
        """
        asked = self._style(style)
        sample, setting = self._asked(image, question, budget)
        counts = self._require_room(sample, setting, asked, 1)
        timing = Timing(self.runner, [sample], setting, asked, self.measure)
        timing.count(lambda _, read, length: _check(counts, setting, read, length))
        timing.capture()
        timing.warm_up()
        with undisturbed():
            while not timing.ended:
                timing.round(_nothing)
        summary = summarise_times(timing.rows)
        prefill = summary["prefill_ms"]
        return PrefillTimes(
            prefill_ms=prefill.median,
            low_ms=prefill.low,
            high_ms=prefill.high,
            n=prefill.n,
            stages={stage: found.median for stage, found in summary.items()},
            counts=counts,
            rows=[to_json(row) for row in timing.rows],
        )

    def _style(self, style: str | None) -> str:
        return self.style if style is None else text("style", style) or self.style

    def _asked(
        self, image: Any, question: str, budget: Budget, options: Sequence[str] = ()
    ) -> tuple[Sample, CropSetting]:
        setting = knob_value(**budget).crop_setting(self.runner.geometry)
        setting = replace(setting, llm=self.llm)
        asked, choices = text("question", question), texts("options", options)
        if len(choices) > len(LETTERS):
            raise ArgumentError(f"options: {len(choices)} are more than there are letters")
        sample = Sample("asked", "asked", image_of(image), asked, (), "", choices)
        return sample.on_white() if self.transparent_on_white else sample, setting

    def _counts(self, sample: Sample, setting: CropSetting, style: str) -> TokenCounts:
        prompt = self.runner.tokenizer.prompt(sample, style)
        geometry = self.runner.geometry
        return counts_of(sample.image_size(), setting, geometry, prompt.text_tokens)

    def _require_room(
        self, sample: Sample, setting: CropSetting, style: str, new_tokens: int
    ) -> TokenCounts:
        counts = self._counts(sample, setting, style)
        if counts.prompt_tokens + new_tokens > counts.max_sequence_length:
            raise ConfigError(
                f"the prompt and its answer need {counts.prompt_tokens} + {new_tokens} tokens of a "
                f"context of {counts.max_sequence_length}; take fewer crops or a shorter text"
            )
        return counts


def load_model(
    model: str = "molmo_tiny",
    *,
    path: str | Path | None = None,
    hardware: str = "cpu",
    weights: str = "pretrained",
    overrides: Sequence[str] = (),
    config_dir: str | Path | None = None,
) -> Model:
    """Load a model of `conf/model`, from `path` if given; weights that lack are downloaded.

    `hardware` is a name of `conf/hardware`, such as `local_gpu`; `weights` pretrained or random;
    `overrides` any further keys of the command line, such as `hardware.dtype=float16`,
    `model.active_blocks=12` or `measure.min_seconds=5`. Raises ConfigError or CheckpointError.
    """
    kinds = [choice("hardware", hardware), choice("model.weights", weights, "weights")]
    further = texts("overrides", overrides)
    config = configured([*of_model(model, path), *kinds, *further], config_dir)
    random = config.model.weights == Weights.random
    checkpoint = find_checkpoint(
        config.model.path, config.model.revision, random=random, fetch=True
    )
    geometry = geometry_of(config.model, checkpoint)
    llm = llm_setting(config, checkpoint, KnobValue("max_crops", "1"))
    require_order_of(config.model, checkpoint)
    runner = runner_class(checkpoint.family).load(checkpoint, geometry, config.hardware)
    style = default_style(config.model.path)
    on_white = checkpoint.family.transparent_on_white
    return Model(config.model.name, runner, style, not random, config.measure, on_white, llm)


def _check(counts: TokenCounts, setting: CropSetting, read: Counts, length: int) -> None:
    """Raises CountMismatchError if the hooks counted anything but what was predicted."""
    predicted = (counts.num_crops, counts.measured_vision_tokens, counts.prompt_tokens)
    found = (read.num_crops, read.vision_tokens, length)
    if found != predicted:
        raise CountMismatchError(
            f"the layout predicts {predicted} crops, vision tokens and prompt tokens under "
            f"{setting}, but the model read {found}"
        )


def _nothing() -> None:
    pass
