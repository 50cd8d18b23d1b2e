"""Models that transformers has itself: what their runners share.

A family's own file says how an image becomes tensors and tokens, and where its modules are.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vtexp.budget.geometry import Tiling
from vtexp.budget.knobs import CropSetting
from vtexp.budget.reduction import Reduction
from vtexp.errors import CountMismatchError
from vtexp.models.answer_clock import AnswerClock
from vtexp.models.native_reduction import (
    NativeEncoded,
    NativeReducible,
    ReducedPrompt,
    input_of,
    reduce_prompt,
    shorter_prompts,
)
from vtexp.models.prefill_graphs import GraphStages, PromptCache, Tensors, cache_argument
from vtexp.models.probe import Probe, Seen
from vtexp.models.reduced_prompt import (
    ReduciblePrompt,
    RowSelection,
    TokenReduction,
    reducible_prompt,
)
from vtexp.models.reduction.method import Encoded, Grid, Reduced
from vtexp.models.runner import Inputs, PreparedSample, Runner

#: Encoder and connector, each of the result of what is before it.
VisionStages = tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]


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
    def vision_stages(self, prepared: PreparedSample) -> VisionStages:
        """Encoder (of `pixel_values`) and connector (of its result) as graphs take them.

        They give what `encode` does, (T, hidden), but wait for no device: what follows from the
        layout is computed here.
        """

    def positions(self, prepared: PreparedSample) -> torch.Tensor:
        """Positions of a prompt as the language model takes them, with the length last."""
        return torch.arange(len(prepared.input_ids), device=self.device)[None]

    def mask(self, length: int, image: slice) -> dict[str, Any]:
        """The language model's argument for a mask, where a prompt needs more than causality."""
        return {}

    @abstractmethod
    def grids(self, image: NativeImage) -> tuple[Grid, ...]:
        """Grids of the views that an image's tokens fill, in order."""

    @property
    @abstractmethod
    def attention_block(self) -> Any:
        """The last block of the vision tower whose attention can score patches."""

    @abstractmethod
    def token_scores(self, prepared: PreparedSample) -> Callable[[torch.Tensor], torch.Tensor]:
        """From what that block read of the image, the attention to each token's patches, (n,).

        Waits for no device once it is made: the layout's consequences are computed here.
        """

    def renumbered(
        self, prompt: ReduciblePrompt, indices: torch.Tensor, order: torch.Tensor
    ) -> torch.Tensor:
        """Positions of what stays of a prompt, as if nothing had been dropped; see `positions`.

        indices int64 (k,) of the kept tokens; order int64 (l,): which of the fixed rows and, after
        them, of the kept tokens' each row is.
        """
        return torch.arange(len(order), device=self.device)[None]

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
        found: Inputs = {name: self._placed(tensor) for name, tensor in inputs.items()}
        if batch[0].reduction is not None:
            found["reducible"] = [self.reducible(prepared) for prepared in batch]
        return found

    def _placed(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.device, self.dtype if tensor.is_floating_point() else tensor.dtype)

    def encode(self, inputs: Inputs) -> Any:
        """Encoded image, as transformers' own output."""
        arguments = {name: inputs[name] for name in self.vision_inputs}
        if "reducible" not in inputs:
            return self.model.get_image_features(**arguments, return_dict=True)
        with input_of(self.attention_block) as seen:
            output = self.model.get_image_features(**arguments, return_dict=True)
        return NativeEncoded(output, seen[0])

    def prefill(self, inputs: Inputs, features: Any) -> torch.Tensor:
        """Logits (1, 1, vocabulary) of the last position."""
        prompt = features
        if "reducible" not in inputs:
            prompt = {name: value for name, value in inputs.items() if name != "pixel_values"}
            prompt["mm_encoder_outputs"] = {"image": features}
        return self.model(**prompt, use_cache=True, logits_to_keep=1).logits

    # --- reductions ----------------------------------------------------------------------------

    @cached_property
    def token_reduction(self) -> TokenReduction:
        """Runs methods, so that hooks see them."""
        return TokenReduction()

    @cached_property
    def row_selection(self) -> RowSelection:
        """Takes the ids that stay, so that hooks see which."""
        return RowSelection()

    def dropped(self, image: NativeImage, reduction: Reduction) -> int:
        """Vision tokens beyond those kept and, where they go too, structure tokens."""
        tokens = int((image.image_tokens == self.image_token_id).sum())
        structure = len(image.image_tokens) - tokens + self.geometry.template_markers
        drops = reduction.structure_tokens == "drop"
        return tokens - reduction.kept_of(tokens) + (structure if drops else 0)

    def reducible(self, prepared: PreparedSample) -> NativeReducible:
        """What a reduction must know of a prompt, on the device."""
        assert prepared.reduction is not None
        image, first = prepared.image, prepared.image_at
        places = first + (image.image_tokens == self.image_token_id).nonzero().squeeze(-1)
        marker = self.geometry.template_markers // 2
        around = slice(first - marker, first + len(image.image_tokens) + marker)
        asked, length, grids = prepared.reduction, len(prepared.input_ids), self.grids(image)
        prompt = reducible_prompt(asked, places[None], length, around, grids).to(self.device)
        drops = asked.structure_tokens == "drop"
        start = around.start if drops else first
        kept = prompt.k + (0 if drops else len(image.image_tokens) - len(places))
        return NativeReducible(
            prompt,
            self.positions(prepared) if asked.positions == "keep" else None,
            len(image.tensors["pixel_values"]),
            self.token_scores(prepared),
            slice(start, start + kept),
        )

    def reduce(self, inputs: Inputs, features: NativeEncoded) -> Inputs:
        """The model's inputs with shorter prompts, and the features of the tokens in them."""
        own: list[NativeReducible] = inputs["reducible"]
        made = features.output.pooler_output
        flat = made.flatten(0, 1) if isinstance(made, torch.Tensor) else torch.cat(made)
        tokens = flat.split([len(one.prompt.places) for one in own])
        read = features.block_input.split([one.block_rows for one in own])
        ids = [row[-one.prompt.length :] for row, one in zip(inputs["input_ids"], own, strict=True)]
        reduced = [self._reduced(*parts) for parts in zip(own, tokens, read, ids, strict=True)]
        kept = [one.features for one in reduced]
        encoded: Any = torch.cat(kept) if isinstance(made, torch.Tensor) else tuple(kept)
        output = BaseModelOutputWithPooling(pooler_output=encoded)
        lengths = [one.prompt.length for one in own]
        pad_id = self.tokenizer.eos_id
        prompts = shorter_prompts(inputs, reduced, lengths, self.row_selection, pad_id)
        return prompts | {"mm_encoder_outputs": {"image": output}}

    def _reduced(
        self,
        own: NativeReducible,
        tokens: torch.Tensor,
        block_input: torch.Tensor,
        input_ids: torch.Tensor,
    ) -> ReducedPrompt:
        question = self.model.get_input_embeddings()(input_ids[None, own.prompt.text])[0]
        # Of a sharded model, encoder, connector and embedding may be on different GPUs.
        tokens, question = tokens.to(self.device), question.to(self.device)
        encoded = Encoded(tokens, own.prompt.grids, lambda: own.scores(block_input), question)
        return reduce_prompt(self.token_reduction, own, encoded, self.renumbered)

    def on_encoded(self, call: Callable[[], None]) -> RemovableHandle:
        """The connector starts where its module does."""
        connector = self.model.get_submodule(self.connector)
        return connector.register_forward_pre_hook(lambda *_: call())

    def shape(self, prepared: PreparedSample) -> Hashable:
        """Length, where the image is in it, its own layout, and what is reduced."""
        image = prepared.image_at, prepared.image.layout
        return len(prepared.input_ids), *image, prepared.reduction

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
        if prepared.reduction is not None:
            return self._reducing_stages(prepared)
        encode, connect = self.vision_stages(prepared)
        image, first = prepared.image.image_tokens, prepared.image_at
        constants = self.mask(len(prepared.input_ids), slice(first, first + len(image)))
        constants["position_ids"] = self.positions(prepared)
        places = (first + (image == self.image_token_id).nonzero().squeeze(-1)).to(self.device)
        return GraphStages(
            self.graph_inputs(prepared),
            lambda inputs: encode(inputs["pixel_values"]),
            lambda _, read: connect(read),
            lambda inputs, features: self._read_prompt(
                inputs["input_ids"], places, features, constants
            ),
        )

    def _reducing_stages(self, prepared: PreparedSample) -> GraphStages:
        """`graph_stages` of a prompt whose vision tokens are reduced."""
        encode, connect = self.vision_stages(prepared)
        own = self.reducible(prepared)
        constants = self.mask(own.prompt.kept_length, own.kept_image)

        def encode_with_input(inputs: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
            with input_of(self.attention_block) as seen:
                read = encode(inputs["pixel_values"])
            return read, seen[0]

        def reduce(
            inputs: Tensors, connected: tuple[torch.Tensor, torch.Tensor]
        ) -> tuple[torch.Tensor, ReducedPrompt]:
            reduced = self._reduced(own, *connected, inputs["input_ids"][0])
            ids = self.row_selection(inputs["input_ids"][..., None], reduced.rows[None])
            return ids[..., 0], reduced

        def read_prompt(_: Tensors, shorter: tuple[torch.Tensor, ReducedPrompt]) -> torch.Tensor:
            ids, reduced = shorter
            own_constants = constants | {"position_ids": reduced.positions}
            return self._read_prompt(ids, reduced.places, reduced.features, own_constants)

        return GraphStages(
            self.graph_inputs(prepared),
            encode_with_input,
            lambda _, read: (connect(read[0]), read[1]),
            read_prompt,
            reduce,
        )

    def _read_prompt(
        self,
        input_ids: torch.Tensor,
        places: torch.Tensor,
        features: torch.Tensor,
        constants: dict[str, Any],
    ) -> torch.Tensor:
        """Logits (1, 1, vocabulary) of ids (1, L) with vision tokens in their places."""
        embeddings = self.model.get_input_embeddings()(input_ids)
        language_model = self.model.model.language_model
        output = language_model(
            inputs_embeds=self.insert(embeddings, places, features),
            use_cache=True,
            **{cache_argument(language_model.forward): PromptCache()},
            **constants,
        )
        return self.model.lm_head(output.last_hidden_state[:, -1:])

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
        if clock is not None:
            clock.start()
        if "reducible" in inputs:
            inputs = self.reduce(inputs, self.encode(inputs))
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
        self._reduced: list[tuple[int, int]] = []  # tokens of each image, and those that stay
        self._whole_ids: torch.Tensor | None = None

    def _hooks(self) -> list[RemovableHandle]:
        runner = self._runner
        part = runner.model.get_submodule
        language_model = part("model.language_model")
        embedding = runner.model.get_input_embeddings()
        return [
            part(runner.vision_tower).register_forward_hook(self._on_encode, with_kwargs=True),
            part(runner.connector).register_forward_hook(self._on_connect, with_kwargs=True),
            embedding.register_forward_hook(self._on_embed),
            runner.token_reduction.register_forward_hook(self._on_reduce),
            runner.row_selection.register_forward_hook(self._on_select),
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

    def _on_reduce(self, _: nn.Module, inputs: tuple[Any, ...], output: Reduced) -> None:
        self._reduced.append((len(inputs[1].features), len(output.indices)))

    def _on_select(self, _: nn.Module, inputs: tuple[torch.Tensor, ...], __: Any) -> None:
        self._whole_ids = inputs[0][..., 0]

    def _on_language_model(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        if self._sources is None:
            return  # a pass over generated tokens
        embeddings = _named(module, args, kwargs)["inputs_embeds"]
        tokens = (embeddings != self._embedded).any(dim=-1).sum(dim=1).tolist()
        made, kept = zip(*(self._reduced or [(n, n) for n in tokens]), strict=True)
        if sum(made) != len(self._sources) or list(kept) != tokens:
            left = f", a reduction left {sum(kept)}" if self._reduced else ""
            raise CountMismatchError(
                f"the connector made {len(self._sources)} vision tokens{left}, but {sum(tokens)} "
                "entered the language model"
            )
        sources = [part[part >= 0] for part in self._sources.split(made)]
        crops = [len(part.unique()) for part in sources]
        ids = self._ids if self._whole_ids is None else self._whole_ids
        tilings = self._runner.tilings(ids.tolist(), crops, self._tower)
        self._seen = [Seen(*sample) for sample in zip(tokens, crops, tilings, strict=True)]
        self._sources, self._reduced, self._whole_ids = None, [], None


def _named(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a module's call by name."""
    return inspect.signature(module.forward).bind(*args, **kwargs).arguments
