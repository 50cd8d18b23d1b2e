"""A loaded Molmo v1 with its tokenizer: from samples to answers, and one timed prefill."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vtexp.config import HardwareConfig
from vtexp.data.base import Sample
from vtexp.geometry import Geometry
from vtexp.knobs import CropSetting
from vtexp.models.checkpoints import Checkpoint
from vtexp.models.loading import load_model
from vtexp.models.molmo.modeling import MolmoForCausalLM
from vtexp.preprocess import DROPPED, ImageTokenIds, ProcessedImage, preprocess_image
from vtexp.prompts import PromptTokenizer, build_prompt


@dataclass(frozen=True, slots=True)
class PreparedSample:
    """One sample's inputs on the host: prompt ids (L,) with BOS and image tokens, and its crops.

    `image.image_input_idx` counts from the first image token; BOS comes before it.
    """

    input_ids: torch.Tensor
    image: ProcessedImage


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


@dataclass(frozen=True, slots=True)
class MolmoRunner:
    """Model, tokenizer and geometry of one checkpoint on one device."""

    model: MolmoForCausalLM
    tokenizer: PromptTokenizer
    geometry: Geometry
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def load(
        cls, checkpoint: Checkpoint, geometry: Geometry, hardware: HardwareConfig
    ) -> MolmoRunner:
        """Load a checkpoint. Raises CheckpointError or ConfigError as `load_model` does."""
        device, dtype = hardware.device.value, hardware.dtype.value
        model = load_model(checkpoint, device, dtype, sharded=hardware.sharded)
        torch_dtype: torch.dtype = getattr(torch, dtype)
        return cls(model, checkpoint.tokenizer, geometry, torch.device(device), torch_dtype)

    def prepare(self, sample: Sample, setting: CropSetting, style: str) -> PreparedSample:
        """Decode, crop and tokenise one sample on the host."""
        ids = ImageTokenIds(*self.tokenizer.image_ids)
        image = preprocess_image(sample.pixels(), setting, self.geometry, ids)
        text = self.tokenizer.encode(build_prompt(sample.question, style))
        bos = torch.tensor([self.tokenizer.bos_id])
        return PreparedSample(torch.cat([bos, image.image_tokens, torch.tensor(text)]), image)

    def _inputs(self, batch: Sequence[PreparedSample]) -> dict[str, torch.Tensor | None]:
        """Model inputs of a batch, right-padded with -1; crops padded with -1 up to the most."""
        length = max(len(p.input_ids) for p in batch)
        crops = max(len(p.image.patches) for p in batch)
        first = batch[0].image
        count = len(batch)
        input_ids = torch.full((count, length), -1)
        images = torch.full((count, crops, *first.patches.shape[1:]), -1.0)
        masks = torch.full((count, crops, *first.padding_mask.shape[1:]), -1.0)
        index = torch.full((count, crops, *first.image_input_idx.shape[1:]), DROPPED)
        for row, prepared in enumerate(batch):
            image, n = prepared.image, len(prepared.image.patches)
            input_ids[row, : len(prepared.input_ids)] = prepared.input_ids
            images[row, :n], masks[row, :n] = image.patches, image.padding_mask
            # BOS stands before the image tokens: places move by one.
            index[row, :n] = torch.where(
                image.image_input_idx < 0, DROPPED, image.image_input_idx + 1
            )
        padded = any(len(p.input_ids) != length for p in batch)
        mask = (input_ids >= 0).long() if padded else None
        return {
            "input_ids": input_ids.to(self.device),
            "attention_mask": None if mask is None else mask.to(self.device),
            "images": images.to(self.device, self.dtype),
            "image_masks": masks.to(self.device, self.dtype),
            "image_input_idx": index,  # stays on the host: no wait for the device
        }

    @torch.inference_mode()
    def answer(self, batch: Sequence[PreparedSample], max_new_tokens: int) -> list[list[int]]:
        """Greedy answers as token ids, up to and with the end of text where it was reached."""
        output = self.model.generate(
            **self._inputs(batch),  # type: ignore[arg-type]
            max_new_tokens=max_new_tokens,
            eos_token_id=self.tokenizer.eos_id,
        )
        return [_until_end(row, self.tokenizer.eos_id) for row in output.tolist()]

    @torch.inference_mode()
    def timed_prefill(self, sample: Sample, setting: CropSetting, style: str) -> StageTimes:
        """One prefill at batch 1, stage by stage, nothing reused from a previous one."""
        marks = [self._now()]
        prepared = self.prepare(sample, setting, style)
        marks.append(self._now())
        inputs = self._inputs([prepared])
        marks.append(self._now())
        images, masks = inputs.pop("images"), inputs.pop("image_masks")
        features = self.model.encode_images(images[0], masks[0])  # type: ignore[index]
        marks.append(self._now())
        output = self.model(**inputs, image_features=features, use_cache=True, logits_to_keep=1)
        marks.append(self._now())
        output.logits[0, -1].argmax().item()
        marks.append(self._now())
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
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _until_end(ids: list[int], eos_id: int) -> list[int]:
    return ids[: ids.index(eos_id) + 1] if eos_id in ids else ids
