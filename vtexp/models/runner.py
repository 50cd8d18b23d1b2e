"""A loaded model with its tokenizer: from samples to answers, and one timed prefill.

What the families have in common; each family's own runner reads its images and runs its model.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch.utils.hooks import RemovableHandle
from transformers import GenerationConfig, PreTrainedModel

from vtexp.budget.geometry import Geometry
from vtexp.budget.knobs import CropSetting
from vtexp.budget.llm import LlmSetting
from vtexp.budget.reduction import Reduction
from vtexp.config.schema import HardwareConfig
from vtexp.data.sample import Sample
from vtexp.errors import ConfigError, VtexpError
from vtexp.models.answer_clock import AnswerClock
from vtexp.models.busy import kernels_ms
from vtexp.models.checkpoints import Checkpoint
from vtexp.models.clocks import StageClock, StageMemory
from vtexp.models.devices import require_float8
from vtexp.models.loading import load_model
from vtexp.models.prefill_graphs import GraphStages, PrefillGraph, PrefillGraphs, Tensors
from vtexp.models.probe import Probe
from vtexp.models.processors import Normalisation
from vtexp.prompts.tokenizer import PromptTokenizer, until_end
from vtexp.stages import StageTimes

#: Model inputs by name, on the runner's device.
Inputs = dict[str, Any]
#: Parameters from which on a model's blocks are compiled on a GPU if nothing else is asked.
LARGE = 1_000_000_000


@dataclass(frozen=True, slots=True)
class PreparedSample:
    """One sample's inputs on the host: ids (L,) of the whole prompt, and the image as read.

    `image` is what the runner's `read_image` gave; `image_at` the place of its first token;
    `reduction` what the model is to reduce, and `dropped` how many tokens that takes off; `llm`
    which experts and blocks of the language model are to work.
    """

    input_ids: torch.Tensor
    image: Any
    image_at: int
    reduction: Reduction | None = None
    dropped: int = 0
    llm: LlmSetting | None = None

    @property
    def sequence_length(self) -> int:
        """Tokens of the prompt that the language model's first block reads."""
        return len(self.input_ids) - (0 if self.reads_early else self.dropped)

    @property
    def reads_early(self) -> bool:
        """Whether the language model's first blocks read all tokens of a reduced prompt."""
        return self.reduction is not None and self.reduction.layer is not None


@dataclass(frozen=True)
class Runner(ABC):
    """Model, tokenizer and geometry of one checkpoint on one device.

    preprocess_on_device: images are resized, normalised and cut where the model is. compiled:
    torch.compile makes the model's blocks. graphs: of prefills; None where they run eagerly,
    though graphs may be wanted. normalisation: of pixels, where the checkpoint says one.
    """

    model: PreTrainedModel
    tokenizer: PromptTokenizer
    geometry: Geometry
    device: torch.device
    dtype: torch.dtype
    preprocess_on_device: bool = False
    compiled: bool = False
    graphs: PrefillGraphs | None = None
    wants_graphs: bool = False
    normalisation: Normalisation | None = None

    #: Whether `hardware.compile` and `hardware.dtype=float8` were tried with this family.
    compiles: ClassVar[bool] = False
    has_float8: ClassVar[bool] = False

    @classmethod
    def load(cls, checkpoint: Checkpoint, geometry: Geometry, hardware: HardwareConfig) -> Self:
        """Load a checkpoint. Raises CheckpointError or ConfigError as `load_model` does."""
        device, dtype = hardware.device.value, hardware.dtype
        family = checkpoint.family.name
        model_class = cls.model_class(checkpoint.config)
        if hardware.compile and not cls.compiles:
            raise ConfigError(f"hardware.compile=true: not for {family}")
        if dtype.is_float8 and not cls.has_float8:
            raise ConfigError(f"hardware.dtype={dtype.value}: not for {family}; take bfloat16")
        if dtype.is_float8:
            require_float8(device)
        model = load_model(
            checkpoint, model_class, device, dtype.of_weights, sharded=hardware.sharded
        )
        model.generation_config = GenerationConfig()  # greedy, without published penalties
        runner = cls(
            model,
            checkpoint.tokenizer,
            geometry,
            torch.device(device),
            getattr(torch, dtype.of_weights),
            preprocess_on_device=hardware.preprocesses_on_device,
            compiled=cls.compiles and _compile_pays(hardware, model),
            graphs=_graphs(hardware),
            wants_graphs=hardware.wants_graphs,
            normalisation=checkpoint.family.normalisation_of(checkpoint.config),
        )
        if dtype.is_float8:
            runner.use_float8()
        if runner.compiled:
            runner.compile_blocks()
        return runner

    # --- of each family ------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def model_class(cls, config: dict[str, Any]) -> type[PreTrainedModel]:
        """The class that a config.json's model is built of."""

    @abstractmethod
    def read_image(self, pixels: np.ndarray | torch.Tensor, setting: CropSetting) -> Any:
        """One uint8 (H, W, 3) image as the model reads it; `image_tokens` (S,) are its ids.

        An array is read on the host, a tensor on its device.
        """

    @abstractmethod
    def inputs(self, batch: Sequence[PreparedSample]) -> Inputs:
        """Model inputs of a batch, on the device."""

    @abstractmethod
    def encode(self, inputs: Inputs) -> Any:
        """Vision stage at batch 1: encoder and connector, as `prefill` takes its result."""

    @abstractmethod
    def prefill(self, inputs: Inputs, features: Any) -> torch.Tensor:
        """One pass over a prompt with the encoded image: logits (1, 1, vocabulary), with cache."""

    def read_early(self, inputs: Inputs, features: Any) -> Any:
        """Run the language model's first blocks, where tokens leave behind them, on what `encode`
        gave; `reduce` takes the result."""
        raise NotImplementedError

    def reduce(self, inputs: Inputs, features: Any) -> Any:
        """Reduce what `encode` or `read_early` gave; `prefill` takes the result."""
        raise NotImplementedError

    def dropped(self, image: Any, reduction: Reduction) -> int:
        """How many tokens of a prompt with this image a reduction takes off."""
        raise NotImplementedError

    @abstractmethod
    def on_encoded(self, call: Callable[[], None]) -> RemovableHandle:
        """Have `call` called in each `encode` where the encoder ends and the connector starts."""

    @abstractmethod
    def generate(
        self,
        inputs: Inputs,
        max_new_tokens: int,
        on_token: Callable[[], None] | None = None,
        clock: AnswerClock | None = None,
    ) -> torch.Tensor:
        """New token ids (B, n), greedy; finished rows are filled with the end of text.

        Raises VtexpError where a token was chosen by logits that are no numbers. With `on_token`,
        which hears of each new token, the end of text stops nothing. A `clock` hears when the
        prompts start to be read, and when they are.
        """

    @abstractmethod
    def shape(self, prepared: PreparedSample) -> Hashable:
        """What prompts have in common that one graph serves: lengths, crops and their layout."""

    @abstractmethod
    def graph_inputs(self, prepared: PreparedSample) -> Tensors:
        """What differs between prompts of one shape, on the device."""

    @abstractmethod
    def graph_stages(self, prepared: PreparedSample) -> GraphStages:
        """The stages of a prompt's prefill for a capture; they compute what the eager ones do."""

    @abstractmethod
    def probe(self) -> Probe:
        """Hooks that count what this model reads; enter it around passes."""

    def compile_blocks(self) -> None:
        """Have torch.compile compile the model's blocks, at their first use."""
        raise NotImplementedError

    def forget_answers(self) -> None:  # noqa: B027 (most families keep nothing)
        """Let go of memory that answers keep between batches."""

    def use_float8(self) -> None:
        """Multiply in the blocks' linear layers as float8."""
        raise NotImplementedError

    # --- of all --------------------------------------------------------------------------------

    @cached_property
    def gpus(self) -> list[torch.device]:
        """All GPUs that hold a part of the model."""
        devices = {parameter.device for parameter in self.model.parameters()}
        return sorted((d for d in devices if d.type == "cuda"), key=lambda d: d.index)

    @property
    def graph_failure(self) -> str | None:
        """Why not all prefills can be graphs; None while they can, or were not to be."""
        if self.graphs is not None:
            return self.graphs.failure
        return (
            "the model is sharded, and a graph covers one GPU only" if self.wants_graphs else None
        )

    def prepare(
        self, sample: Sample, setting: CropSetting, style: str, pixels: np.ndarray | None = None
    ) -> PreparedSample:
        """Crop and tokenise one sample, its image decoded here without `pixels`."""
        decoded = sample.pixels() if pixels is None else pixels
        image = self.read_image(
            self._sent(decoded) if self.preprocess_on_device else decoded, setting
        )
        before, after = self.tokenizer.prompt(sample, style)
        parts = (torch.tensor(before).long(), image.image_tokens, torch.tensor(after).long())
        reduction = setting.behind_connector
        dropped = 0 if reduction is None else self.dropped(image, reduction)
        ids = torch.cat(parts)
        return PreparedSample(ids, image, len(before), reduction, dropped, setting.llm)

    def _sent(self, pixels: np.ndarray) -> torch.Tensor:
        """Decoded pixels on the device; from pinned memory they are on their way meanwhile."""
        sent = torch.from_numpy(pixels)
        if self.device.type == "cuda":
            sent = sent.pin_memory()
        return sent.to(self.device, non_blocking=True)

    @torch.inference_mode()
    def answer(
        self,
        batch: Sequence[PreparedSample],
        max_new_tokens: int,
        clock: AnswerClock | None = None,
    ) -> list[list[int]]:
        """Greedy answers as token ids, up to and with the end of text where it was reached.

        A `clock` has their times afterwards.
        """
        clock = clock or AnswerClock(self.wait)
        clock.start()
        inputs = self.inputs(batch)
        clock.pause()
        output = self.generate(inputs, max_new_tokens, clock=clock)
        clock.end()
        return [until_end(row, self.tokenizer.end_ids, with_end=True) for row in output.tolist()]

    @torch.inference_mode()
    def timed_prefill(self, sample: Sample, setting: CropSetting, style: str) -> StageTimes:
        """One prefill at batch 1, stage by stage, nothing reused from a previous one.

        Replayed from a graph where its shape was captured. Raises VtexpError where the logits are
        not finite.
        """
        clock = StageClock(self.gpus, self.wait)
        logits, replayed = self._pass(sample, setting, style, clock.end_of, self.graphs)
        self.require_finite(logits.isfinite().all())
        return clock.times(cuda_graph=replayed)

    @torch.inference_mode()
    def eager_prefill(self, sample: Sample, setting: CropSetting, style: str) -> None:
        """One prefill without a graph, so that hooks see its modules at work."""
        self._pass(sample, setting, style, lambda _: None, None)

    @torch.inference_mode()
    def capture(self, sample: Sample, setting: CropSetting, style: str) -> None:
        """Have prefills of this sample's shape replayed from a graph, where graphs are wanted."""
        if self.graphs is None:
            return
        prepared = self.prepare(sample, setting, style)
        if self.graphs.get(self.shape(prepared)) is None:
            self.graphs.capture(self.shape(prepared), lambda: self.graph_stages(prepared))

    @torch.inference_mode()
    def prefill_memory(
        self, sample: Sample, setting: CropSetting, style: str
    ) -> dict[str, dict[str, float]]:
        """Peak memory in MiB of each stage of one eager prefill, by kind; see `StageMemory`.

        Without what CUDA graphs hold: they are of all settings that this process has timed.
        """
        self.forget_answers()
        if self.gpus:
            torch.cuda.empty_cache()  # or what was reserved for other prompts would be this one's
        of_graphs = self.graphs.held_mib() if self.graphs is not None and self.gpus else {}
        memory = StageMemory(self.gpus, of_graphs)
        self._pass(sample, setting, style, memory.end_of, None)
        return memory.peaks

    def _pass(
        self,
        sample: Sample,
        setting: CropSetting,
        style: str,
        end_of: Callable[[str], None],
        graphs: PrefillGraphs | None,
    ) -> tuple[torch.Tensor, bool]:
        """One pass at batch 1, from the image file to the first token: logits, and if replayed.

        `end_of` hears of the end of each stage, in the order of `STAGE_NAMES`; of a reduction only
        where there is one, and of the language model's twice where that lies within it.
        """
        pixels = sample.pixels()
        end_of("image_decode_ms")
        prepared = self.prepare(sample, setting, style, pixels)
        end_of("preprocess_ms")
        graph = None if graphs is None else graphs.get(self.shape(prepared))
        if graph is None:
            logits = self._eager_stages(prepared, end_of)
        else:
            logits = _replayed(graph, self.graph_inputs(prepared), end_of)
        logits[0, -1].argmax().item()
        end_of("first_token_ms")
        return logits, graph is not None

    def _eager_stages(
        self, prepared: PreparedSample, end_of: Callable[[str], None]
    ) -> torch.Tensor:
        inputs = self.inputs([prepared])
        end_of("transfer_ms")
        return self._read_eagerly(prepared, inputs, end_of)

    def _read_eagerly(
        self, prepared: PreparedSample, inputs: Inputs, end_of: Callable[[str], None]
    ) -> torch.Tensor:
        """All stages behind the transfer: logits (1, 1, vocabulary)."""
        border = self.on_encoded(lambda: end_of("vision_encoder_ms"))
        try:
            features = self.encode(inputs)
        finally:
            border.remove()
        end_of("connector_ms")
        if prepared.reads_early:
            features = self.read_early(inputs, features)
            end_of("llm_prefill_ms")
        if prepared.reduction is not None:
            features = self.reduce(inputs, features)
            end_of("reduction_ms")
        logits = self.prefill(inputs, features)
        end_of("llm_prefill_ms")
        return logits

    @torch.inference_mode()
    def prefill_alone(self, sample: Sample, setting: CropSetting, style: str) -> Callable[[], None]:
        """A function that prefills one sample again and again, its inputs on the device."""
        prepared = self.prepare(sample, setting, style)
        graph = None if self.graphs is None else self.graphs.get(self.shape(prepared))
        inputs = self.inputs([prepared]) if graph is None else self.graph_inputs(prepared)

        @torch.inference_mode()
        def again() -> None:
            if graph is None:
                self._read_eagerly(prepared, inputs, lambda _: None)
            else:
                _replayed(graph, inputs, lambda _: None)

        return again

    def kernels_ms(self, sample: Sample, setting: CropSetting, style: str) -> float | None:
        """Milliseconds in which the GPU is at work in one prefill; None without a GPU."""
        if not self.gpus:
            return None
        return kernels_ms(self.prefill_alone(sample, setting, style), self.wait)

    @torch.inference_mode()
    def timed_decode(
        self, sample: Sample, setting: CropSetting, style: str, num_tokens: int
    ) -> float:
        """Milliseconds per token behind the first, over `num_tokens` (2 or more) greedy ones.

        Read off the first and the last token of one pass; the end of text does not stop it.
        """
        inputs = self.inputs([self.prepare(sample, setting, style)])
        arrived_s: list[float] = []

        def on_token() -> None:
            if len(arrived_s) in (0, num_tokens - 1):
                self.wait()
            arrived_s.append(time.perf_counter())

        self.generate(inputs, num_tokens, on_token)
        return 1000 * (arrived_s[-1] - arrived_s[0]) / (num_tokens - 1)

    def require_finite(self, finite: torch.Tensor) -> None:
        """Raise VtexpError where not all of `finite` (of logits, bool) is true."""
        if not bool(finite.all()):
            raise VtexpError(
                f"the model's logits are not finite as {self.dtype}: its results "
                "would be meaningless; take another hardware.dtype"
            )

    def wait(self) -> None:
        """Return when the device has done everything asked of it."""
        for device in self.gpus:
            torch.cuda.synchronize(device)


def _replayed(graph: PrefillGraph, inputs: Tensors, end_of: Callable[[str], None]) -> torch.Tensor:
    """Logits (1, 1, vocabulary) of a prompt; `end_of` hears of the end of each stage."""
    graph.load(inputs)
    end_of("transfer_ms")
    graph.encode()
    end_of("vision_encoder_ms")
    graph.connect()
    end_of("connector_ms")
    if graph.reads_early:
        graph.read_early()
        end_of("llm_prefill_ms")
    if graph.reduces:
        graph.reduce()
        end_of("reduction_ms")
    logits = graph.read_prompt()
    end_of("llm_prefill_ms")
    return logits


def _compile_pays(hardware: HardwareConfig, model: PreTrainedModel) -> bool:
    """Whether blocks are compiled: as asked, else on a GPU where the model is large.

    Compiling takes 20 s or so; kernels of a small model are too short for it to matter.
    """
    if hardware.compile is not None:
        return hardware.compile
    if hardware.device.value != "cuda" or hardware.sharded:
        return False
    if getattr(model.config, "moe_num_experts", None):  # its time is in products of few kernels
        return False
    return sum(parameter.numel() for parameter in model.parameters()) >= LARGE


def _graphs(hardware: HardwareConfig) -> PrefillGraphs | None:
    """None, too, on several GPUs: a graph is of one."""
    if not hardware.wants_graphs or hardware.sharded:
        return None
    return PrefillGraphs(torch.device(hardware.device.value))
