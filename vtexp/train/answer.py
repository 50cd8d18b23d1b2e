"""Stages `answer` and `all`: the language model learns to look up and to say what is printed.

All questions of an image share one sequence: each question sees the image and itself, not the
others. Besides the answers, `FieldHead` asks each printed value, at its vision tokens inside the
language model, what it is the value of: that is what a question looks for.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from vtexp.data.base import Sample
from vtexp.data.small_print_pages import Page, draw_page
from vtexp.geometry import MOLMO, Size, Tiling, tiling_to_resolution
from vtexp.knobs import CropSetting, KnobValue
from vtexp.models.molmo.modeling import MolmoForCausalLM
from vtexp.preprocess import ImageTokenIds, ProcessedImage, preprocess_image
from vtexp.prompts import PromptTokenizer, build_prompt
from vtexp.train.reading import (
    IGNORE,
    KEYS,
    LEAST_SEEN_PX,
    NONE,
    label_words,
    mostly_none_loss,
    view_scale,
)
from vtexp.train.see import draw_budget, read_shape

#: Crops encoded per step; larger tilings take fewer images, so that steps cost about the same.
CROPS_PER_STEP = 24
MOST_QUESTIONS = 12
#: Share of steps on easy-VQA, and of images whose crops give all their tokens.
SHAPE_SHARE, FULL_SHARE = 0.25, 0.1
#: The block of the language model after which `FieldHead` reads, and its weight in the loss.
FIELD_BLOCK, FIELD_WEIGHT = 1, 0.5


class Question(NamedTuple):
    """One question of an image, with its answer."""

    style: str
    question: str
    answer: str


class AnswerBatch(NamedTuple):
    """B images with all their questions, each in one row of length L; N crops in all."""

    input_ids: torch.Tensor  # int64 (B, L)
    labels: torch.Tensor  # int64 (B, L), -100 where there is no answer token
    position_ids: torch.Tensor  # int64 (B, L)
    mask: torch.Tensor  # bool (B, 1, L, L)
    patches: torch.Tensor  # float32 (N, 576, 588)
    padding_mask: torch.Tensor  # float32 (N, 576)
    image_input_idx: torch.Tensor  # int32 (B, C, 144), negative where dropped or no such crop
    fields: torch.Tensor  # int64 (B, C, 144, 4), key and heading of the value in either slot


class FieldHead(nn.Module):
    """Key and heading of the printed value at a vision token; not kept after training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.keys = nn.Linear(width, 4 * (len(KEYS) + 1))

    def forward(self, hidden: torch.Tensor, fields: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Loss of hidden (n, width) and fields (n, 4), and the share of fields told rightly."""
        logits = self.keys(hidden).unflatten(-1, (4, -1))
        some = fields > NONE
        right = (logits.argmax(dim=-1) == fields)[some].float().mean().item()
        return mostly_none_loss(logits, fields), right


def label_fields(page: Page, tiling: Tiling, fit: str) -> torch.Tensor:
    """int64 (C, T, 4): of the value in either slot of each token, its key and its heading."""
    labels = np.zeros((2, len(page.words)), dtype=int)
    for asked in page.fields:
        named = [word for word in re.findall(r"\w+", asked.question) if word in KEYS]
        for row, word in enumerate(named[:2]):
            labels[row, asked.word] = KEYS.index(word) + 1
    return label_words(page, tiling, fit, labels).flatten(-2)


def least_scale(image_size: Size, tiling: Tiling, fit: str) -> float:
    """How much a page is shrunk, at least, in the view that shows it largest."""
    scale_x, scale_y, _, _ = view_scale(image_size, tiling_to_resolution(tiling, MOLMO), fit)
    return min(scale_x, scale_y)


def draw_page_questions(
    rng: np.random.Generator, setting: CropSetting, ids: ImageTokenIds
) -> tuple[ProcessedImage, list[Question], torch.Tensor]:
    """A new page under a crop setting, questions about print that can be read, and its fields."""
    page = draw_page(rng)
    image = preprocess_image(np.array(page.image), setting, MOLMO, ids)
    size = Size(page.image.height, page.image.width)
    scale = least_scale(size, image.tiling, setting.fit)
    questions = [
        Question("small_print", asked.question, asked.answer)
        for asked in page.fields
        if asked.print_px * scale >= LEAST_SEEN_PX
    ]
    return image, questions[:MOST_QUESTIONS], label_fields(page, image.tiling, setting.fit)


def draw_shape_questions(
    rng: np.random.Generator, groups: list[list[Sample]], setting: CropSetting, ids: ImageTokenIds
) -> tuple[ProcessedImage, list[Question], torch.Tensor]:
    """An easy-VQA image under a crop setting with its questions; it has no fields."""
    group = groups[rng.integers(len(groups))]
    image = read_shape(group, setting, rng, ids)
    questions = [Question("easy_vqa", s.question, s.references[0]) for s in group]
    return image, questions, torch.zeros(*image.image_input_idx.shape, 4, dtype=torch.int64)


def draw_answer_batch(
    rng: np.random.Generator, groups: list[list[Sample]], tokenizer: PromptTokenizer
) -> AnswerBatch:
    """Pages or shapes with their questions, all under one budget."""
    ids = ImageTokenIds(*tokenizer.image_ids)
    shapes, full = rng.random() < SHAPE_SHARE, bool(rng.random() < FULL_SHARE)
    budget = draw_budget(rng)
    value = KnobValue(budget.name, budget.value, budget.fit, force_full_tokens=full)
    setting = value.crop_setting(MOLMO)
    drawn: list[tuple[ProcessedImage, list[Question], torch.Tensor]] = []
    # One more per image, for its questions.
    while sum(len(image.patches) + 1 for image, _, _ in drawn) < CROPS_PER_STEP:
        if shapes:
            drawn.append(draw_shape_questions(rng, groups, setting, ids))
        else:
            drawn.append(draw_page_questions(rng, setting, ids))
    images, questions, fields = zip(*drawn, strict=True)
    return collate(list(images), list(questions), list(fields), tokenizer)


def pack_questions(
    image: ProcessedImage, questions: list[Question], tokenizer: PromptTokenizer
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Ids, labels, positions and block numbers of an image with its questions (block 0: image)."""
    ids = [tokenizer.bos_id, *image.image_tokens.tolist()]
    prefix = len(ids)
    labels, positions, blocks = [IGNORE] * prefix, list(range(prefix)), [0] * prefix
    for number, asked in enumerate(questions, start=1):
        prompt = tokenizer.encode(build_prompt(asked.question, asked.style))
        answer = [*tokenizer.encode(" " + asked.answer), tokenizer.eos_id]
        ids += prompt + answer
        # The label of a place is the token that follows it.
        labels += [IGNORE] * (len(prompt) - 1) + answer + [IGNORE]
        positions += range(prefix, prefix + len(prompt) + len(answer))
        blocks += [number] * (len(prompt) + len(answer))
    return ids, labels, positions, blocks


def collate(
    images: list[ProcessedImage],
    questions: list[list[Question]],
    fields: list[torch.Tensor],
    tokenizer: PromptTokenizer,
) -> AnswerBatch:
    """One batch of images, padded to the longest row and the most crops."""
    rows = [pack_questions(i, q, tokenizer) for i, q in zip(images, questions, strict=True)]
    length = max(len(row[0]) for row in rows)

    def stack(column: int, fill: int) -> torch.Tensor:
        padded = [row[column] + [fill] * (length - len(row[column])) for row in rows]
        return torch.tensor(padded)

    blocks = stack(3, -1)
    same = (blocks[:, :, None] == blocks[:, None, :]) | (blocks[:, None, :] == 0)
    mask = same & torch.ones(length, length, dtype=torch.bool).tril()
    crops = max(len(image.patches) for image in images)
    index = torch.full((len(images), crops, MOLMO.tokens_per_crop), IGNORE, dtype=torch.int32)
    all_fields = torch.zeros(*index.shape, 4, dtype=torch.int64)
    for row, (image, found) in enumerate(zip(images, fields, strict=True)):
        places = image.image_input_idx
        index[row, : len(places)] = torch.where(places < 0, places, places + 1)
        all_fields[row, : len(places)] = found
    return AnswerBatch(
        input_ids=stack(0, 0),
        labels=stack(1, IGNORE),
        position_ids=stack(2, 0),
        mask=mask[:, None],
        patches=torch.cat([image.patches for image in images]),
        padding_mask=torch.cat([image.padding_mask for image in images]),
        image_input_idx=index,
        fields=all_fields,
    )


def answer(
    model: MolmoForCausalLM, head: FieldHead, batch: AnswerBatch, learn_to_see: bool
) -> tuple[torch.Tensor, dict[str, float]]:
    """Loss of one step, and the shares of answer words and fields told rightly."""
    with torch.set_grad_enabled(learn_to_see):
        features = model.encode_images(batch.patches, batch.padding_mask)
    answered = (batch.labels != IGNORE).any(dim=0)
    hidden: list[torch.Tensor] = []
    block = model.model.transformer.blocks[FIELD_BLOCK]
    hook = block.register_forward_hook(lambda *call: hidden.append(call[2]))
    logits = model(
        batch.input_ids,
        attention_mask=batch.mask,
        position_ids=batch.position_ids,
        image_features=features,
        image_input_idx=batch.image_input_idx,
        logits_to_keep=torch.nonzero(answered).squeeze(-1),
    ).logits
    hook.remove()
    labels = batch.labels[:, answered]
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE)
    # The end of text is always right: judge the words.
    words = (labels != IGNORE) & (labels != model.config.eos_token_id)
    right = (logits.argmax(dim=-1) == labels)[words].float().mean().item()
    if not batch.fields.any():  # shapes
        return loss, {"shape_loss": loss.item(), "shape_words": right}
    found = {"answer_loss": loss.item(), "answer_words": right}
    row, crop, token = (batch.image_input_idx >= 0).nonzero(as_tuple=True)
    places = batch.image_input_idx[row, crop, token].long()
    field_loss, found["fields"] = head(hidden[0][row, places], batch.fields[row, crop, token])
    return loss + FIELD_WEIGHT * field_loss, found
