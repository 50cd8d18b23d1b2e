"""Molmo v1 run: batches, and the stages of a prefill."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch.utils.hooks import RemovableHandle

from vtexp.budget.geometry import Geometry, theoretical_tokens
from vtexp.budget.knobs import CropSetting
from vtexp.budget.llm import LlmSetting
from vtexp.budget.reduction import Reduction
from vtexp.config.schema import HardwareConfig
from vtexp.models.answer_clock import AnswerClock
from vtexp.models.checkpoints import Checkpoint
from vtexp.models.molmo.answering import AnswerCache, Answering, LateTokens
from vtexp.models.molmo.early import EarlyRead, LateRead, read_early, read_late, reduce_early
from vtexp.models.molmo.float8 import use_float8
from vtexp.models.molmo.modeling import ImagePlaces, MolmoForCausalLM, image_places
from vtexp.models.molmo.molmoe import MolmoEForCausalLM
from vtexp.models.molmo.preprocess import (
    DROPPED,
    ImageTokenIds,
    ProcessedImage,
    Resize,
    preprocess_image,
)
from vtexp.models.molmo.probe import MolmoProbe
from vtexp.models.molmo.reduced import (
    Connected,
    ReducedPrompts,
    reduce_prompts,
    view_grids,
)
from vtexp.models.prefill_graphs import GraphStages, PromptCache, Tensors
from vtexp.models.probe import Probe
from vtexp.models.reduced_prompt import ReduciblePrompt, reducible_prompt
from vtexp.models.runner import Inputs, PreparedSample, Runner


@dataclass(frozen=True)
class MolmoRunner(Runner):
    """Molmo v1: dense variants and MolmoE."""

    model: MolmoForCausalLM

    compiles: ClassVar[bool] = True
    has_float8: ClassVar[bool] = True

    @classmethod
    def model_class(cls, config: dict[str, Any]) -> type[MolmoForCausalLM]:
        """MolmoE where the config has experts."""
        return MolmoEForCausalLM if config.get("moe_num_experts") else MolmoForCausalLM

    @classmethod
    def load(cls, checkpoint: Checkpoint, geometry: Geometry, hardware: HardwareConfig) -> Self:
        """Load a checkpoint as `Runner.load` does; weights that are used together lie together."""
        runner = super().load(checkpoint, geometry, hardware)
        if not hardware.dtype.is_float8:  # there it is fused already
            runner.model.model.vision_backbone.image_vit.fuse()
        return runner

    def read_image(self, pixels: np.ndarray | torch.Tensor, setting: CropSetting) -> ProcessedImage:
        """Crops, padding mask and image tokens; `image_input_idx` counts from the first token."""
        start, end, patch, column = self.tokenizer.image_ids
        ids = ImageTokenIds(start, end, patch, column)
        resize: Resize = "exact" if self.dtype == torch.float32 else "products"
        return preprocess_image(pixels, setting, self.geometry, ids, resize=resize)

    def inputs(self, batch: Sequence[PreparedSample]) -> Inputs:
        """Model inputs of a batch, right-padded with -1; crops padded with 0 up to the most."""
        length = max(len(p.input_ids) for p in batch)
        crops = max(len(p.image.patches) for p in batch)
        first = batch[0].image
        count, device = len(batch), first.patches.device
        # Pinned memory is sent several times as fast.
        pin = self.device.type == "cuda" and device.type == "cpu"
        input_ids = torch.full((count, length), -1)
        images = torch.zeros(
            (count, crops, *first.patches.shape[1:]),
            dtype=self.dtype if device.type == "cuda" else first.patches.dtype,
            device=device,
            pin_memory=pin,
        )
        masks = torch.full((count, crops, *first.padding_mask.shape[1:]), -1.0, device=device)
        index = torch.full((count, crops, *first.image_input_idx.shape[1:]), DROPPED)
        for row, prepared in enumerate(batch):
            image, n = prepared.image, len(prepared.image.patches)
            input_ids[row, : len(prepared.input_ids)] = prepared.input_ids
            images[row, :n], masks[row, :n] = image.patches, image.padding_mask
            index[row, :n] = _index(prepared)
        padded = any(len(p.input_ids) != length for p in batch)
        mask = (input_ids >= 0).long() if padded else None
        reducible = [self._reducible(p).to(self.device) for p in batch if p.reduction is not None]
        return ({"reducible": reducible} if reducible else {}) | {
            "input_ids": input_ids.to(self.device),
            "attention_mask": None if mask is None else mask.to(self.device),
            "images": images.to(self.device, non_blocking=True).to(self.dtype),
            "image_masks": masks.to(self.device, self.dtype),
            "image_input_idx": index,  # stays on the host: no wait for the device
            "llm": batch[0].llm,
        }

    def encode(self, inputs: Inputs) -> torch.Tensor | Connected:
        """Vision tokens (n, hidden) of the one image, those of the overlap left out.

        Where they are to be reduced, of all images of a batch, with what the method may need.
        """
        real, kept, _ = image_places(inputs["image_input_idx"], inputs["input_ids"].shape[1])
        if "reducible" not in inputs:
            return self.model.encode_images(inputs["images"][0], inputs["image_masks"][0], kept)
        images, masks = inputs["images"].flatten(0, 1), inputs["image_masks"].flatten(0, 1)
        if not real.all():
            real = real.to(images.device)
            images, masks = images[real], masks[real]
        backbone = self.model.model.vision_backbone
        features, last_input = backbone.image_vit(images, with_last_input=True)
        tokens = backbone.connect(features, masks, kept)
        return Connected(tokens.to(self.device), last_input)

    def read_early(
        self, inputs: Inputs, features: Connected, cache: AnswerCache | None = None
    ) -> EarlyRead:
        """The blocks that read all tokens of prompts, whose keys and values go into a cache."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        places = image_places(inputs["image_input_idx"], ids.shape[1])
        last = None if mask is None else mask.sum(dim=1) - 1
        layer = inputs["reducible"][0].layer
        cache = PromptCache() if cache is None else cache
        blocks = self.model.blocks_of(inputs["llm"])
        return read_early(self.model, blocks, layer, ids, features.tokens, places, cache, last)

    def reduce(self, inputs: Inputs, features: Connected | EarlyRead) -> ReducedPrompts | LateRead:
        """The tokens that stay of each image, and what stays of the prompts."""
        prompts = inputs["reducible"]
        if isinstance(features, EarlyRead):
            return reduce_early(self.model, prompts, features)
        return reduce_prompts(self.model.model, prompts, features, inputs["input_ids"])

    def prefill(
        self, inputs: Inputs, features: torch.Tensor | ReducedPrompts | LateRead
    ) -> torch.Tensor:
        """Logits (1, 1, embedding_size) of the last position."""
        llm, index = inputs["llm"], inputs["image_input_idx"]
        return self._read_prompt(inputs["input_ids"], features, llm, index)

    def _read_prompt(
        self,
        input_ids: torch.Tensor,
        features: torch.Tensor | ReducedPrompts | LateRead,
        llm: LlmSetting | None,
        index: torch.Tensor | ImagePlaces | None = None,
    ) -> torch.Tensor:
        if isinstance(features, LateRead):
            return read_late(self.model, features)
        if isinstance(features, ReducedPrompts):
            inputs = _reduced_inputs(features)
        else:
            inputs = {"image_input_idx": index, "image_features": features}
        output = self.model(
            input_ids=input_ids,
            past_key_values=PromptCache(),
            logits_to_keep=1,
            llm=llm,
            **inputs,
        )
        return output.logits

    def dropped(self, image: ProcessedImage, reduction: Reduction) -> int:
        """Vision tokens beyond those kept and, where they go too, structure tokens."""
        tokens = int((image.image_input_idx >= 0).sum())
        drops = reduction.structure_tokens == "drop"
        structure = len(image.image_tokens) - tokens if drops else 0
        return tokens - reduction.kept_of(tokens) + structure

    def _reducible(self, prepared: PreparedSample) -> ReduciblePrompt:
        image, start, length = prepared.image, prepared.image_at, len(prepared.input_ids)
        assert prepared.reduction is not None
        index, crops = _index(prepared), image.tiling.num_crops
        full = int((index >= 0).sum()) == theoretical_tokens(crops, self.geometry)
        return reducible_prompt(
            prepared.reduction,
            index,
            length,
            slice(start, start + len(image.image_tokens)),
            view_grids(image.tiling, self.geometry, full=full),
        )

    def shape(self, prepared: PreparedSample) -> Hashable:
        """Length, how the image's tokens lie in it, and what of the language model works."""
        image = prepared.image
        layout = image.tiling, len(image.image_tokens), prepared.reduction, prepared.llm
        return len(prepared.input_ids), prepared.image_at, *layout

    def graph_inputs(self, prepared: PreparedSample) -> Tensors:
        """Ids, crops and their padding; how a prompt is reduced is the same in all of one shape."""
        inputs = self.inputs([replace(prepared, reduction=None)])
        return {
            "input_ids": inputs["input_ids"],
            "images": inputs["images"][0],
            "image_masks": inputs["image_masks"][0],
        }

    def graph_stages(self, prepared: PreparedSample) -> GraphStages:
        """The eager stages, but that the places of vision tokens are on the device before."""
        places = image_places(_index(prepared)[None], len(prepared.input_ids))
        places = ImagePlaces(*(part.to(self.device) for part in places))
        backbone, llm = self.model.model.vision_backbone, prepared.llm
        if prepared.reduction is not None:
            return self._reducing_stages(prepared, places)
        return GraphStages(
            self.graph_inputs(prepared),
            lambda inputs: backbone.image_vit(inputs["images"]),
            lambda inputs, read: backbone.connect(read, inputs["image_masks"], places.kept),
            lambda inputs, features: self._read_prompt(inputs["input_ids"], features, llm, places),
        )

    def _reducing_stages(self, prepared: PreparedSample, places: ImagePlaces) -> GraphStages:
        """`graph_stages` of a prompt whose vision tokens are reduced."""
        backbone, llm = self.model.model.vision_backbone, prepared.llm
        prompt = self._reducible(prepared).to(self.device)
        layer = prompt.asked.layer

        def connect(inputs: Tensors, read: tuple[torch.Tensor, torch.Tensor]) -> Connected:
            features, last_input = read
            tokens = backbone.connect(features, inputs["image_masks"], places.kept)
            return Connected(tokens.to(self.device), last_input)

        def first_blocks(inputs: Tensors, connected: Connected) -> EarlyRead:
            ids, tokens, blocks = inputs["input_ids"], connected.tokens, self.model.blocks_of(llm)
            return read_early(self.model, blocks, layer or 0, ids, tokens, places, PromptCache())

        return GraphStages(
            self.graph_inputs(prepared),
            lambda inputs: backbone.image_vit(inputs["images"], with_last_input=True),
            connect,
            lambda inputs, reduced: self._read_prompt(inputs["input_ids"], reduced, llm),
            lambda inputs, features: self.reduce(inputs | {"reducible": [prompt]}, features),
            None if layer is None else first_blocks,
        )

    def on_encoded(self, call: Callable[[], None]) -> RemovableHandle:
        """The connector starts behind the vision transformer."""
        encoder = self.model.model.vision_backbone.image_vit
        return encoder.register_forward_hook(lambda *_: call())

    @cached_property
    def _answering(self) -> Answering:
        graphs = self.graphs is not None and self.device.type == "cuda"
        return Answering(self.model, self.tokenizer.end_ids, graphs)

    def forget_answers(self) -> None:
        """Buffers of keys and values, and the graphs that use them."""
        self._answering.forget()

    def generate(
        self,
        inputs: Inputs,
        max_new_tokens: int,
        on_token: Callable[[], None] | None = None,
        clock: AnswerClock | None = None,
    ) -> torch.Tensor:
        """Ids after the prompts."""
        if "reducible" in inputs:
            inputs = self._reduced_batch(inputs)
        ids, finite = self._answering.answer(inputs, max_new_tokens, on_token, clock)
        self.require_finite(finite)
        return ids

    def _reduced_batch(self, inputs: Inputs) -> Inputs:
        """Inputs of a batch whose images are read and reduced when its prompts are."""
        prompts: list[ReduciblePrompt] = inputs["reducible"]
        if prompts[0].asked.layer is not None:
            return self._early_batch(inputs)
        lengths = torch.tensor([prompt.kept_length for prompt in prompts])
        longest, mask = int(lengths.max()), None
        if bool((lengths != longest).any()):
            mask = (torch.arange(longest) < lengths[:, None]).long().to(self.device)
        found = {key: inputs[key] for key in ("input_ids", "llm")}
        found |= {"attention_mask": mask, "longest": longest}
        if prompts[0].asked.positions == "keep":
            whole = torch.tensor([prompt.length for prompt in prompts])
            found["next_positions"] = whole.to(self.device)
        return found | {
            "read_images": lambda: _reduced_inputs(self.reduce(inputs, self.encode(inputs)))
        }

    def _early_batch(self, inputs: Inputs) -> Inputs:
        """Inputs of a batch that loses tokens behind the first blocks of the language model."""
        prompts: list[ReduciblePrompt] = inputs["reducible"]
        kept, whole = (
            torch.tensor([getattr(prompt, name) for prompt in prompts])
            for name in ("kept_length", "length")
        )
        longest = int(kept.max())
        lengths = kept.to(self.device)
        last = None if bool((kept == longest).all()) else lengths - 1
        positions = whole if prompts[0].asked.positions == "keep" else kept

        def read(cache: AnswerCache) -> torch.Tensor:
            early = self.read_early(inputs, self.encode(inputs), cache)
            return read_late(self.model, reduce_early(self.model, prompts, early), last)

        late = LateTokens(prompts[0].layer, lengths, longest, positions.to(self.device))
        own = {key: inputs[key] for key in ("input_ids", "attention_mask", "llm")}
        return own | {"read_prompts": read, "late": late}

    def compile_blocks(self) -> None:
        """Blocks of both transformers."""
        self.model.compile_blocks()

    def use_float8(self) -> None:
        """Linear layers of the blocks of both transformers; experts stay as they are."""
        use_float8(self.model)

    def probe(self) -> Probe:
        """Hooks on the encoder, the embedding and the insertion of vision tokens."""
        return MolmoProbe(self.geometry, self.model.model, self.tokenizer.image_ids)


def _index(prepared: PreparedSample) -> torch.Tensor:
    """Places in the prompt of each pooled token, int32 (C, T), negative where it is dropped."""
    index = prepared.image.image_input_idx
    return torch.where(index < 0, DROPPED, index + prepared.image_at)


def _reduced_inputs(reduced: ReducedPrompts) -> dict[str, Any]:
    """What the model takes in place of images and their places."""
    places = ImagePlaces(torch.ones(1, dtype=torch.bool), reduced.source, reduced.places)
    return {
        "image_input_idx": places,
        "image_features": reduced.features,
        "rows": reduced.rows,
        "position_ids": reduced.positions,
    }
