"""A loaded model with its tokenizer: from samples to answers, and one timed prefill.

What the families have in common; each family's own runner reads its images and runs its model.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch.utils.hooks import RemovableHandle
from transformers import GenerationConfig, PreTrainedModel

from vtexp.budget.geometry import Geometry
from vtexp.budget.knobs import CropSetting
from vtexp.config.schema import HardwareConfig
from vtexp.data.sample import Sample
from vtexp.errors import ConfigError, VtexpError
from vtexp.models.checkpoints import Checkpoint
from vtexp.models.clocks import StageClock, StageMemory
from vtexp.models.loading import load_model
from vtexp.models.probe import Probe
from vtexp.models.stages import StageTimes
from vtexp.prompts.tokenizer import PromptTokenizer

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
    def on_encoded(self, call: Callable[[], None]) -> RemovableHandle:
        """Have `call` called in each `encode` where the encoder ends and the connector starts."""

    @abstractmethod
    def generate(self, inputs: Inputs, max_new_tokens: int, **options: Any) -> torch.Tensor:
        """New token ids (B, n), greedy; finished rows are filled with the end of text.

        `options` are further ones of transformers' `generate`.
        """

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
        clock = StageClock(self.gpus, self.wait)
        logits = self._pass(sample, setting, style, clock.end_of)
        if not bool(logits.isfinite().all()):
            raise VtexpError(
                f"the model's logits are not finite as {self.dtype}: its numbers are worth "
                "nothing; take another hardware.dtype"
            )
        return clock.times()

    @torch.inference_mode()
    def prefill_memory(
        self, sample: Sample, setting: CropSetting, style: str
    ) -> dict[str, dict[str, float]]:
        """Peak memory in MiB of each stage of one prefill, by kind; see `StageMemory`."""
        if self.gpus:
            torch.cuda.empty_cache()  # or what was reserved for other prompts would be this one's
        memory = StageMemory(self.gpus)
        self._pass(sample, setting, style, memory.end_of)
        return memory.peaks

    def _pass(
        self, sample: Sample, setting: CropSetting, style: str, end_of: Callable[[str], None]
    ) -> torch.Tensor:
        """One pass at batch 1, from the image file to the first token; returns its logits.

        `end_of` hears of the end of each stage, in the order of `measuring.PARTS`.
        """
        prepared = self.prepare(sample, setting, style)
        end_of("preprocess_ms")
        inputs = self.inputs([prepared])
        end_of("transfer_ms")
        border = self.on_encoded(lambda: end_of("vision_encoder_ms"))
        try:
            features = self.encode(inputs)
        finally:
            border.remove()
        end_of("connector_ms")
        logits = self.prefill(inputs, features)
        end_of("llm_prefill_ms")
        logits[0, -1].argmax().item()
        end_of("first_token_ms")
        return logits

    @torch.inference_mode()
    def prefill_alone(self, sample: Sample, setting: CropSetting, style: str) -> Callable[[], None]:
        """A function that prefills one sample again and again, its inputs on the device."""
        inputs = self.inputs([self.prepare(sample, setting, style)])

        @torch.inference_mode()
        def again() -> None:
            self.prefill(inputs, self.encode(inputs))

        return again

    @torch.inference_mode()
    def timed_decode(
        self, sample: Sample, setting: CropSetting, style: str, num_tokens: int
    ) -> float:
        """Milliseconds per token behind the first, over `num_tokens` (2 or more) greedy ones.

        Read off the first and the last token of one pass; the end of text does not stop it.
        """
        inputs = self.inputs([self.prepare(sample, setting, style)])
        arrived_s: list[float] = []

        def on_token(input_ids: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
            if len(arrived_s) in (0, num_tokens - 1):
                self.wait()
            arrived_s.append(time.perf_counter())
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

        self.generate(inputs, num_tokens, min_new_tokens=num_tokens, stopping_criteria=[on_token])
        return 1000 * (arrived_s[-1] - arrived_s[0]) / (num_tokens - 1)

    def wait(self) -> None:
        """Return when the device has done everything asked of it."""
        for device in self.gpus:
            torch.cuda.synchronize(device)


def _until_end(ids: list[int], eos_id: int) -> list[int]:
    return ids[: ids.index(eos_id) + 1] if eos_id in ids else ids
