"""A loaded model with its tokenizer: from samples to answers, and one timed prefill.

What the families have in common; each family's own runner reads its images and runs its model.
"""

from __future__ import annotations

import importlib
import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel

from vtexp.config import HardwareConfig
from vtexp.data.base import Sample
from vtexp.errors import ConfigError, VtexpError
from vtexp.geometry import Geometry
from vtexp.knobs import CropSetting
from vtexp.models.checkpoints import Checkpoint
from vtexp.models.families import Family
from vtexp.models.loading import load_model
from vtexp.probe import Probe
from vtexp.prompts import PromptTokenizer

#: Model inputs by name, on the runner's device.
Inputs = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PreparedSample:
    """One sample's inputs on the host: ids (L,) of the whole prompt, and the image as read.

    `image` is what the runner's `read_image` gave; `image_at` the place of its first token.
    """

    input_ids: torch.Tensor
    image: Any
    image_at: int


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Wall-clock milliseconds of one prefill at batch 1, synchronised at each border.

    prefill_ms is vision_ms + llm_prefill_ms measured around both; ttft_ms is measured around
    everything, from the encoded image file to the first token's id on the host.
    """

    preprocess_ms: float
    transfer_ms: float
    vision_ms: float
    llm_prefill_ms: float
    prefill_ms: float
    first_token_ms: float
    ttft_ms: float


@dataclass(frozen=True)
class Runner(ABC):
    """Model, tokenizer and geometry of one checkpoint on one device."""

    model: PreTrainedModel
    tokenizer: PromptTokenizer
    geometry: Geometry
    device: torch.device
    dtype: torch.dtype
    uint8_crops: bool = False

    #: Keys of `hardware` that not all families have and this one has.
    options: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def load(cls, checkpoint: Checkpoint, geometry: Geometry, hardware: HardwareConfig) -> Self:
        """Load a checkpoint. Raises CheckpointError or ConfigError as `load_model` does."""
        device, dtype = hardware.device.value, hardware.dtype.value
        model_class = cls.model_class(checkpoint.config)
        for option in ("compile", "uint8_crops"):
            if getattr(hardware, option) and option not in cls.options:
                raise ConfigError(f"hardware.{option}=true: not for {checkpoint.family.name}")
        model = load_model(checkpoint, model_class, device, dtype, sharded=hardware.sharded)
        torch_dtype: torch.dtype = getattr(torch, dtype)
        model.generation_config = GenerationConfig()  # greedy, without published penalties
        runner = cls(
            model,
            checkpoint.tokenizer,
            geometry,
            torch.device(device),
            torch_dtype,
            uint8_crops=hardware.uint8_crops,
        )
        if hardware.compile:
            runner.compile_blocks()
        return runner

    # --- of each family ------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def model_class(cls, config: dict[str, Any]) -> type[PreTrainedModel]:
        """The class that a config.json's model is built of."""

    @abstractmethod
    def read_image(self, pixels: np.ndarray, setting: CropSetting) -> Any:
        """One uint8 (H, W, 3) image as the model reads it; `image_tokens` (S,) are its ids."""

    @abstractmethod
    def inputs(self, batch: Sequence[PreparedSample]) -> Inputs:
        """Model inputs of a batch, on the device."""

    @abstractmethod
    def encode(self, inputs: Inputs) -> Any:
        """Vision stage at batch 1: encoder and connector, as `prefill` takes its result."""

    @abstractmethod
    def prefill(self, inputs: Inputs, features: Any) -> torch.Tensor:
        """One pass over a prompt with the encoded image: logits (1, 1, vocabulary), with cache."""

    @abstractmethod
    def generate(self, inputs: Inputs, max_new_tokens: int) -> torch.Tensor:
        """New token ids (B, n), greedy; finished rows are filled with the end of text."""

    @abstractmethod
    def probe(self) -> Probe:
        """Hooks that count what this model reads, to be entered around passes."""

    def compile_blocks(self) -> None:
        """Have torch.compile compile the model's blocks, at their first use."""
        raise NotImplementedError

    # --- of all --------------------------------------------------------------------------------

    @cached_property
    def gpus(self) -> list[torch.device]:
        """All GPUs that hold a part of the model."""
        devices = {parameter.device for parameter in self.model.parameters()}
        return sorted((d for d in devices if d.type == "cuda"), key=lambda d: d.index)

    def prepare(
        self, sample: Sample, setting: CropSetting, style: str, pixels: np.ndarray | None = None
    ) -> PreparedSample:
        """Crop and tokenise one sample on the host, its image decoded here without `pixels`."""
        image = self.read_image(sample.pixels() if pixels is None else pixels, setting)
        before, after = self.tokenizer.prompt(sample, style)
        parts = (torch.tensor(before).long(), image.image_tokens, torch.tensor(after).long())
        return PreparedSample(torch.cat(parts), image, len(before))

    @torch.inference_mode()
    def answer(self, batch: Sequence[PreparedSample], max_new_tokens: int) -> list[list[int]]:
        """Greedy answers as token ids, up to and with the end of text where it was reached."""
        output = self.generate(self.inputs(batch), max_new_tokens)
        return [_until_end(row, self.tokenizer.eos_id) for row in output.tolist()]

    @torch.inference_mode()
    def timed_prefill(self, sample: Sample, setting: CropSetting, style: str) -> StageTimes:
        """One prefill at batch 1, stage by stage, nothing reused from a previous one.

        Raises VtexpError where the logits are not finite.
        """
        marks = [self._now()]
        prepared = self.prepare(sample, setting, style)
        marks.append(self._now())
        inputs = self.inputs([prepared])
        marks.append(self._now())
        features = self.encode(inputs)
        marks.append(self._now())
        logits = self.prefill(inputs, features)
        marks.append(self._now())
        logits[0, -1].argmax().item()
        marks.append(self._now())
        if not bool(logits.isfinite().all()):
            raise VtexpError(
                f"the model's logits are not finite as {self.dtype}: its numbers are worth "
                "nothing; take another hardware.dtype"
            )
        stages = [1000 * (after - before) for before, after in itertools.pairwise(marks)]
        preprocess, transfer, vision, llm, first_token = stages
        return StageTimes(
            preprocess_ms=preprocess,
            transfer_ms=transfer,
            vision_ms=vision,
            llm_prefill_ms=llm,
            prefill_ms=1000 * (marks[4] - marks[2]),
            first_token_ms=first_token,
            ttft_ms=1000 * (marks[5] - marks[0]),
        )

    def _now(self) -> float:
        """Seconds, once the device has done everything asked of it."""
        for device in self.gpus:
            torch.cuda.synchronize(device)
        return time.perf_counter()


def runner_class(family: Family) -> type[Runner]:
    """The runner of a family, imported now."""
    module, _, name = family.runner.partition(":")
    return getattr(importlib.import_module(module), name)


def _until_end(ids: list[int], eos_id: int) -> list[int]:
    return ids[: ids.index(eos_id) + 1] if eos_id in ids else ids
