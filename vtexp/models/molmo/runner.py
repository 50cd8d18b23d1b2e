"""Molmo v1 run: batches, the two stages of a prefill, and the hooks that count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch.utils.hooks import RemovableHandle

from vtexp.budget.geometry import Geometry
from vtexp.budget.knobs import CropSetting
from vtexp.config.schema import HardwareConfig
from vtexp.models.checkpoints import Checkpoint
from vtexp.models.molmo.modeling import MolmoForCausalLM, image_places
from vtexp.models.molmo.molmoe import MolmoEForCausalLM
from vtexp.models.molmo.preprocess import (
    DROPPED,
    ImageTokenIds,
    ProcessedImage,
    Resize,
    normalised_bytes,
    preprocess_image,
)
from vtexp.models.probe import Probe, Seen, tiling_of_views
from vtexp.models.runner import Inputs, PreparedSample, Runner


@dataclass(frozen=True)
class MolmoRunner(Runner):
    """Molmo v1: dense variants and MolmoE."""

    model: MolmoForCausalLM

    options: ClassVar[frozenset[str]] = frozenset(["compile", "uint8_crops"])

    @classmethod
    def model_class(cls, config: dict[str, Any]) -> type[MolmoForCausalLM]:
        """MolmoE where the config has experts."""
        return MolmoEForCausalLM if config.get("moe_num_experts") else MolmoForCausalLM

    @classmethod
    def load(cls, checkpoint: Checkpoint, geometry: Geometry, hardware: HardwareConfig) -> Self:
        """Load a checkpoint as `Runner.load` does; weights that are used together lie together."""
        runner = super().load(checkpoint, geometry, hardware)
        runner.model.model.vision_backbone.image_vit.fuse()
        return runner

    def read_image(self, pixels: np.ndarray, setting: CropSetting) -> ProcessedImage:
        """Crops, padding mask and image tokens; `image_input_idx` counts from the first token."""
        start, end, patch, column = self.tokenizer.image_ids
        ids = ImageTokenIds(start, end, patch, column)
        resize: Resize = "exact" if self.dtype == torch.float32 else "products"
        if self.uint8_crops:
            resize = "bytes"
        return preprocess_image(pixels, setting, self.geometry, ids, resize=resize)

    def inputs(self, batch: Sequence[PreparedSample]) -> Inputs:
        """Model inputs of a batch, right-padded with -1; crops padded with 0 up to the most."""
        length = max(len(p.input_ids) for p in batch)
        crops = max(len(p.image.patches) for p in batch)
        first = batch[0].image
        count = len(batch)
        input_ids = torch.full((count, length), -1)
        # Pinned memory is sent several times as fast.
        images = torch.zeros(
            (count, crops, *first.patches.shape[1:]),
            dtype=first.patches.dtype,
            pin_memory=self.device.type == "cuda",
        )
        masks = torch.full((count, crops, *first.padding_mask.shape[1:]), -1.0)
        index = torch.full((count, crops, *first.image_input_idx.shape[1:]), DROPPED)
        for row, prepared in enumerate(batch):
            image, n = prepared.image, len(prepared.image.patches)
            input_ids[row, : len(prepared.input_ids)] = prepared.input_ids
            images[row, :n], masks[row, :n] = image.patches, image.padding_mask
            index[row, :n] = torch.where(
                image.image_input_idx < 0, DROPPED, image.image_input_idx + prepared.image_at
            )
        padded = any(len(p.input_ids) != length for p in batch)
        mask = (input_ids >= 0).long() if padded else None
        return {
            "input_ids": input_ids.to(self.device),
            "attention_mask": None if mask is None else mask.to(self.device),
            "images": self._normalised(images.to(self.device, non_blocking=True)),
            "image_masks": masks.to(self.device, self.dtype),
            "image_input_idx": index,  # stays on the host: no wait for the device
        }

    def _normalised(self, images: torch.Tensor) -> torch.Tensor:
        if images.dtype == torch.uint8:
            images = normalised_bytes(images)
        return images.to(self.dtype)

    def encode(self, inputs: Inputs) -> torch.Tensor:
        """Vision tokens (n, hidden) of the one image, those of the overlap left out."""
        kept = image_places(inputs["image_input_idx"], inputs["input_ids"].shape[1]).kept
        return self.model.encode_images(inputs["images"][0], inputs["image_masks"][0], kept)

    def prefill(self, inputs: Inputs, features: torch.Tensor) -> torch.Tensor:
        """Logits (1, 1, embedding_size) of the last position."""
        output = self.model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            image_input_idx=inputs["image_input_idx"],
            image_features=features,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits

    def on_encoded(self, call: Callable[[], None]) -> RemovableHandle:
        """The connector starts behind the vision transformer."""
        encoder = self.model.model.vision_backbone.image_vit
        return encoder.register_forward_hook(lambda *_: call())

    def generate(self, inputs: Inputs, max_new_tokens: int, **options: Any) -> torch.Tensor:
        """Ids after the prompts, which the model moves to the right."""
        return self.model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            eos_token_id=self.tokenizer.eos_id,
            **options,
        )

    def compile_blocks(self) -> None:
        """Blocks of both transformers."""
        self.model.compile_blocks()

    def probe(self) -> Probe:
        """Hooks on the encoder, the embedding and the insertion of vision tokens."""
        return MolmoProbe(self)


class MolmoProbe(Probe):
    """Crops are those whose tokens entered the language model, tokens the rows it added."""

    def __init__(self, runner: MolmoRunner) -> None:
        super().__init__(runner.geometry)
        self._parts, self._image_ids = runner.model.model, runner.tokenizer.image_ids
        self._input_ids: torch.Tensor | None = None

    def _hooks(self) -> list[RemovableHandle]:
        parts = self._parts
        return [
            parts.vision_backbone.image_vit.register_forward_hook(self._on_encode),
            parts.transformer.wte.register_forward_hook(self._on_embed),
            parts.image_insertion.register_forward_hook(self._on_insert),
        ]

    def _on_encode(self, _: Any, inputs: tuple[torch.Tensor, ...], __: Any) -> None:
        self._encoded += len(inputs[0])

    def _on_embed(self, _: Any, inputs: tuple[torch.Tensor, ...], __: Any) -> None:
        self._input_ids = inputs[0]

    def _on_insert(self, _: Any, inputs: tuple[torch.Tensor, ...], __: Any) -> None:
        embeddings, _, places, source = inputs
        batch, length = embeddings.shape[:2]
        rows, crops = (places // length).cpu(), source.cpu() // self._geometry.tokens_per_crop
        assert self._input_ids is not None
        tokens = torch.bincount(rows, minlength=batch).tolist()
        encoded = [len(crops[rows == row].unique()) for row in range(batch)]
        self._seen = [
            Seen(count, read, tiling_of_views(ids, read, self._image_ids, self._geometry))
            for count, read, ids in zip(tokens, encoded, self._input_ids.tolist(), strict=True)
        ]
