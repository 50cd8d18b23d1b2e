"""Models that transformers has itself: what their runners share.

A family's own file says how an image becomes tensors and tokens, and where its modules are.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from vtexp.budget.geometry import Tiling
from vtexp.budget.knobs import CropSetting
from vtexp.errors import CountMismatchError
from vtexp.models.answer_clock import AnswerClock
from vtexp.models.prefill_graphs import GraphStages, PromptCache, Tensors
from vtexp.models.probe import Probe, Seen
from vtexp.models.runner import Inputs, PreparedSample, Runner


@dataclass(frozen=True, slots=True)
class NativeImage:
    """One image as a model reads it.

    tensors: arguments of the model by name, `pixel_values` among them; the others follow from the
    layout, which is hashable. image_tokens: int64 (S,).
    """

    tensors: dict[str, torch.Tensor]
    image_tokens: torch.Tensor
    layout: Hashable


@dataclass(frozen=True)
class NativeRunner(Runner):
    """A transformers model whose prompt takes encoded images as `mm_encoder_outputs`."""

    model: Any  # transformers types its own classes' extra methods nowhere

    #: Paths of the modules that read crops and that make vision tokens of them.
    vision_tower: ClassVar[str]
    connector: ClassVar[str]
    #: Arguments of `get_image_features`.
    vision_inputs: ClassVar[tuple[str, ...]]
    #: Whether the model must be told which tokens are the image's (`mm_token_type_ids`).
    token_types: ClassVar[bool]

    # --- of each family ------------------------------------------------------------------------

    @abstractmethod
    def read_image(self, pixels: np.ndarray | torch.Tensor, setting: CropSetting) -> NativeImage:
        """One uint8 (H, W, 3) image as the model reads it, on the host or the tensor's device."""

    @abstractmethod
    def vision_stages(
        self, prepared: PreparedSample
    ) -> tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]:
        """Encoder (of `pixel_values`) and connector (of its result) as graphs take them.

        They give what `encode` does, (T, hidden), but wait for no device: what follows from the
        layout is computed here.
        """

    def prompt_constants(self, prepared: PreparedSample) -> dict[str, Any]:
        """Arguments of the language model that follow from the shape: positions, or a mask."""
        length = len(prepared.input_ids)
        return {"position_ids": torch.arange(length, device=self.device)[None]}

    def insert(
        self, embeddings: torch.Tensor, places: torch.Tensor, features: torch.Tensor
    ) -> torch.Tensor:
        """Embeddings (1, L, hidden) with vision tokens (T, hidden) in their places int64 (T,)."""
        return embeddings.index_copy(1, places, features[None].to(embeddings.dtype))

    def join(self, images: Sequence[NativeImage]) -> dict[str, torch.Tensor]:
        """Tensors of a batch, one image after the other."""
        names = images[0].tensors
        return {name: torch.cat([image.tensors[name] for image in images]) for name in names}

    def crops_read(self, tower: dict[str, Any]) -> int:
        """Crops that the vision tower reads, from its arguments."""
        return len(tower["pixel_values"])

    def token_sources(self, connector: dict[str, Any], output: torch.Tensor) -> torch.Tensor:
        """Crops behind each vision token, int64 (T, k), numbered through the batch; -1: none.

        From the connector's arguments and its output (C, T per crop, hidden) or (T, hidden).
        """
        crops = torch.arange(len(output), device=output.device)
        return crops.repeat_interleave(output[0].numel() // output.shape[-1])[:, None]

    def tilings(
        self, ids: list[list[int]], crops: list[int], tower: dict[str, Any]
    ) -> Sequence[Tiling | None]:
        """Tiling of each sample, from prompt ids, crops read and the vision tower's arguments.

        None where they do not show it.
        """
        return [None] * len(ids)

    # --- of all --------------------------------------------------------------------------------

    def inputs(self, batch: Sequence[PreparedSample]) -> Inputs:
        """Model inputs of a batch, padded on the left; `attention_mask` only where there is any."""
        length = max(len(p.input_ids) for p in batch)
        input_ids = torch.full((len(batch), length), self.tokenizer.eos_id)
        mask, types = torch.zeros_like(input_ids), torch.zeros_like(input_ids)
        for row, prepared in enumerate(batch):
            first = length - len(prepared.input_ids)
            input_ids[row, first:] = prepared.input_ids
            mask[row, first:] = 1
            at = first + prepared.image_at
            types[row, at : at + len(prepared.image.image_tokens)] = 1
        inputs = {"input_ids": input_ids} | self.join([p.image for p in batch])
        if self.token_types:
            inputs["mm_token_type_ids"] = types
        if not mask.all():
            inputs["attention_mask"] = mask
        return {name: self._placed(tensor) for name, tensor in inputs.items()}

    def _placed(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else tensor.dtype)

    def encode(self, inputs: Inputs) -> Any:
        """Encoded image, as transformers' own output."""
        arguments = {name: inputs[name] for name in self.vision_inputs}
        return self.model.get_image_features(**arguments, return_dict=True)

    def prefill(self, inputs: Inputs, features: Any) -> torch.Tensor:
        """Logits (1, 1, vocabulary) of the last position."""
        prompt = {name: value for name, value in inputs.items() if name != "pixel_values"}
        encoded = {"image": features}
        output = self.model(**prompt, mm_encoder_outputs=encoded, use_cache=True, logits_to_keep=1)
        return output.logits

    def on_encoded(self, call: Callable[[], None]) -> RemovableHandle:
        """The connector starts where its module does."""
        connector = self.model.get_submodule(self.connector)
        return connector.register_forward_pre_hook(lambda *_: call())

    def shape(self, prepared: PreparedSample) -> Hashable:
        """Length, where the image is in it, and the image's own layout."""
        return len(prepared.input_ids), prepared.image_at, prepared.image.layout

    def graph_inputs(self, prepared: PreparedSample) -> Tensors:
        """Ids and pixels."""
        return {
            "input_ids": self._placed(prepared.input_ids[None]),
            "pixel_values": self._placed(prepared.image.tensors["pixel_values"]),
        }

    def graph_stages(self, prepared: PreparedSample) -> GraphStages:
        """The modules of transformers' class, called one by one.

        Its own pass makes the host wait for the device: it finds the places of vision tokens,
        positions and masks each time.
        """
        encode, connect = self.vision_stages(prepared)
        constants = self.prompt_constants(prepared)
        patch = prepared.image.image_tokens == self.image_token_id
        places = (prepared.image_at + patch.nonzero().squeeze(-1)).to(self.device)

        def read_prompt(inputs: Tensors, features: torch.Tensor) -> torch.Tensor:
            embeddings = self.model.get_input_embeddings()(inputs["input_ids"])
            output = self.model.model.language_model(
                inputs_embeds=self.insert(embeddings, places, features),
                past_key_values=PromptCache(),
                use_cache=True,
                **constants,
            )
            return self.model.lm_head(output.last_hidden_state[:, -1:])

        return GraphStages(
            self.graph_inputs(prepared),
            lambda inputs: encode(inputs["pixel_values"]),
            lambda _, read: connect(read),
            read_prompt,
        )

    @property
    def image_token_id(self) -> int:
        """Id in whose places vision tokens go."""
        return self.model.config.image_token_id

    def generate(
        self,
        inputs: Inputs,
        max_new_tokens: int,
        on_token: Callable[[], None] | None = None,
        clock: AnswerClock | None = None,
    ) -> torch.Tensor:
        """Ids after the prompts."""
        options: dict[str, Any] = {}
        prompt_length = inputs["input_ids"].shape[1]

        def hear(input_ids: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
            if clock is not None and input_ids.shape[1] == prompt_length + 1:
                clock.prompts_read()
            if on_token is not None:
                on_token()
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

        if on_token is not None or clock is not None:
            options["stopping_criteria"] = [hear]
        if on_token is not None:
            options["min_new_tokens"] = max_new_tokens
        ends, finite = self.tokenizer.end_ids, torch.ones((), dtype=torch.bool, device=self.device)

        def check(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            # -inf is what generation itself gives tokens that are not to come.
            finite.logical_and_(~(scores.isnan() | scores.isposinf()).any())
            return scores

        if clock is not None:
            clock.start()
        output = self.model.generate(
            **inputs,
            logits_processor=[check],
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=list(ends),
            pad_token_id=ends[0],
            **options,
        )
        self.require_finite(finite)
        return output[:, prompt_length:]

    def probe(self) -> Probe:
        """Hooks on the vision tower, the connector, the embedding and the language model."""
        return NativeProbe(self)


class NativeProbe(Probe):
    """Vision tokens are the rows in which the language model's input is not the embedding."""

    def __init__(self, runner: NativeRunner) -> None:
        super().__init__(runner.geometry)
        self._runner = runner
        self._tower: dict[str, Any] = {}
        self._sources: torch.Tensor | None = None
        self._ids = self._embedded = torch.empty(0)

    def _hooks(self) -> list[RemovableHandle]:
        runner = self._runner
        part = runner.model.get_submodule
        language_model = part("model.language_model")
        embedding = runner.model.get_input_embeddings()
        return [
            part(runner.vision_tower).register_forward_hook(self._on_encode, with_kwargs=True),
            part(runner.connector).register_forward_hook(self._on_connect, with_kwargs=True),
            embedding.register_forward_hook(self._on_embed),
            language_model.register_forward_pre_hook(self._on_language_model, with_kwargs=True),
        ]

    def _on_encode(self, module: nn.Module, args: tuple, kwargs: dict, _: Any) -> None:
        self._tower = _named(module, args, kwargs)
        self._encoded += self._runner.crops_read(self._tower)

    def _on_connect(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        tokens = output if isinstance(output, torch.Tensor) else output.last_hidden_state
        self._sources = self._runner.token_sources(_named(module, args, kwargs), tokens)

    def _on_embed(self, _: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        self._ids, self._embedded = inputs[0], output

    def _on_language_model(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        if self._sources is None:
            return  # a pass over generated tokens
        embeddings = _named(module, args, kwargs)["inputs_embeds"]
        tokens = (embeddings != self._embedded).any(dim=-1).sum(dim=1).tolist()
        if sum(tokens) != len(self._sources):
            raise CountMismatchError(
                f"the connector made {len(self._sources)} vision tokens, but {sum(tokens)} entered "
                "the language model"
            )
        sources = [part[part >= 0] for part in self._sources.split(tokens)]
        crops = [len(part.unique()) for part in sources]
        tilings = self._runner.tilings(self._ids.tolist(), crops, self._tower)
        self._seen = [Seen(*sample) for sample in zip(tokens, crops, tilings, strict=True)]
        self._sources = None


def _named(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a module's call by name."""
    return inspect.signature(module.forward).bind(*args, **kwargs).arguments
