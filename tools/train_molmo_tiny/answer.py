"""Stages `look` to `finish`: the language model learns to look up and to say what is printed.

All questions of an image share one sequence: each question sees the image and itself, not the
others. Besides the answers, `FieldHeads` asks inside the language model: each printed value, at
its vision tokens, what it is the value of and what it says; each question, what it looks for; and
both, and a table's headings, which column they are of: without, the right row was found and the
column guessed. And `pointing` asks two heads of a block to look from the question at the value,
two of the block before at the heading, and two of the first from the second column to the first.
Without, the look-up was not found: among a thousand tokens, the one that matters gives hardly any
gradient.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tools.train_molmo_tiny.reading import (
    IGNORE,
    KEYS,
    LEAST_SEEN_PX,
    NONE,
    label_words,
    mostly_none_loss,
    view_scale,
    word_labels,
)
from tools.train_molmo_tiny.see import draw_budget, read_shape
from vtexp.budget.geometry import MOLMO, Size, Tiling, tiling_to_resolution
from vtexp.budget.knobs import CropSetting, KnobValue
from vtexp.data.builtin.small_print_pages import AREA_PX, HEADINGS, KINDS, Page, draw_page
from vtexp.data.sample import Sample
from vtexp.models.molmo.blocks import MolmoBlock
from vtexp.models.molmo.modeling import MolmoForCausalLM
from vtexp.models.molmo.preprocess import ImageTokenIds, ProcessedImage, preprocess_image
from vtexp.prompts.form import build_prompt
from vtexp.prompts.tokenizer import PromptTokenizer

#: Crops encoded per step; larger tilings take fewer images, so that steps cost about the same.
CROPS_PER_STEP = 24
MOST_QUESTIONS = 24
#: Areas of the pages of stage `look`: most of their print can be read in one crop.
SMALL_PX = (150_000, 350_000)
#: Share of steps on easy-VQA, and of images whose crops give all their tokens.
SHAPE_SHARE, FULL_SHARE = 0.25, 0.1
#: How many more times tables are drawn than other kinds of pages, where they are drawn more often.
MORE_TABLES = 4
#: Columns of a table that hold numbers; labels of a vision token in `AnswerBatch.fields`.
COLUMNS, LABELS = 2, 10
NOTHING = (IGNORE,) * 3
#: The block of the language model that looks values up: `FieldHeads` read what it is given, and
#: `pointing` asks some heads of it and of the blocks before. Weight of all that in the loss.
LOOKING_BLOCK, POINTING_HEADS, AUXILIARY_WEIGHT = 2, 2, 0.5


class Question(NamedTuple):
    """One question of an image, with its answer."""

    style: str
    question: str
    answer: str
    asked: tuple[int, int, int] = (NONE,) * 3  # key, heading (places in KEYS), column; all plus 1


class AnswerBatch(NamedTuple):
    """B images with all their questions, each in one row of length L; N crops in all."""

    input_ids: torch.Tensor  # int64 (B, L)
    labels: torch.Tensor  # int64 (B, L), -100 where there is no answer token
    position_ids: torch.Tensor  # int64 (B, L)
    mask: torch.Tensor  # bool (B, 1, L, L)
    patches: torch.Tensor  # float32 (N, 576, 588)
    padding_mask: torch.Tensor  # float32 (N, 576)
    image_input_idx: torch.Tensor  # int32 (B, C, 144), negative where dropped or no such crop
    fields: torch.Tensor  # int64 (B, C, 144, 10), see `label_fields`
    asked: torch.Tensor  # int64 (B, L, 3), `Question.asked` where answers are told, else -100


class SlotHead(nn.Module):
    """Some labels of `classes` and none at each place; not kept after training."""

    def __init__(self, width: int, classes: int, slots: int) -> None:
        super().__init__()
        self.slots = slots
        self.labels = nn.Linear(width, slots * (classes + 1))

    def forward(self, hidden: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Loss of hidden (n, width) and labels (n, slots), and the share told rightly."""
        logits = self.labels(hidden).unflatten(-1, (self.slots, -1))
        some = labels > NONE
        right = (logits.argmax(dim=-1) == labels)[some].float().mean().item()
        return mostly_none_loss(logits, labels), right


class FieldHeads(nn.Module):
    """What printed values belong to and say, and what questions ask for.

    The same readers for values and questions: what is to be matched then looks alike.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.keys = SlotHead(width, len(KEYS), 4)
        self.digits = SlotHead(width, 10, 4)
        self.columns = SlotHead(width, COLUMNS, 2)

    def forward(
        self, before: torch.Tensor, hidden: torch.Tensor, batch: AnswerBatch
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss of a batch, and the shares told rightly, from what the block that looks up is given
        (`hidden`, (B, L, width)) and the block before it (`before`), by which columns must be
        known."""
        found: dict[str, float] = {}
        row, crop, token = (batch.image_input_idx >= 0).nonzero(as_tuple=True)
        place = batch.image_input_idx[row, crop, token].long()
        values = hidden[row, place]
        keys, digits, columns = batch.fields[row, crop, token].split([4, 4, 2], dim=-1)
        key_loss, found["fields"] = self.keys(values, keys)
        digit_loss, found["digits"] = self.digits(values, digits)
        early_loss, found["columns"] = self.columns(before[row, place], columns)
        column_loss = early_loss + self.columns(values, columns)[0]
        telling = (batch.asked != IGNORE).all(dim=-1)
        # A value's slots tell all twice, for its upper and its lower half.
        asked, column = (part.repeat(1, 2) for part in batch.asked[telling].split([2, 1], dim=-1))
        asked_loss, found["asked"] = self.keys(hidden[telling], asked)
        asked_column_loss, found["asked_columns"] = self.columns(hidden[telling], column)
        return key_loss + digit_loss + column_loss + asked_loss + asked_column_loss, found


#: Places of a row that look for something (n,), and the places that show it: bool (n, L).
Looking = tuple[torch.Tensor, torch.Tensor]


def value_asked(batch: AnswerBatch, row: int) -> Looking:
    """Questions, where they are answered, and the values that they ask for."""
    places, fields = shown(batch, row)
    telling, asked = told(batch, row)
    slots = fields[:, :4].unflatten(-1, (2, 2))
    found = (slots[None] == asked[:, None, None, :2]).all(dim=-1).any(dim=-1)
    return telling, spread(batch, places, found)


def heading_asked(batch: AnswerBatch, row: int) -> Looking:
    """Questions, where they are answered, and the headings that they name."""
    places, fields = shown(batch, row)
    telling, asked = told(batch, row)
    headings = (fields[:, :4:2] == NONE) & (fields[:, 8:] > NONE)
    found = (headings & (fields[:, 8:] == asked[:, None, 2:])).any(dim=-1)
    return telling, spread(batch, places, found)


def left_of(batch: AnswerBatch, row: int) -> Looking:
    """Values and headings of a table's second column, and those of the first in their line."""
    places, fields = shown(batch, row)
    keys, columns = fields[:, :4:2], fields[:, 8:]
    second = (columns == 2).any(dim=-1)
    key = torch.where(columns == 2, keys, NONE).amax(dim=-1)[second]  # none of a heading
    found = ((columns == 1) & (keys == key[:, None, None])).any(dim=-1)
    return places[second], spread(batch, places, found)


def shown(batch: AnswerBatch, row: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Places (m,) of the vision tokens of a row, and their fields (m, 10)."""
    kept = batch.image_input_idx[row] >= 0
    return batch.image_input_idx[row][kept].long(), batch.fields[row][kept]


def told(batch: AnswerBatch, row: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Places (n,) of a row where answers are told, and what is asked there (n, 3)."""
    telling = (batch.asked[row] != IGNORE).all(dim=-1).nonzero().squeeze(-1)
    return telling, batch.asked[row, telling]


def spread(batch: AnswerBatch, places: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """What was found among some places (n, m) among all of a row (n, L)."""
    wanted = torch.zeros(len(found), batch.asked.shape[1], dtype=torch.bool)
    wanted[:, places] = found
    return wanted


def pointing(
    block: MolmoBlock,
    inputs: tuple[Any, ...],
    batch: AnswerBatch,
    look: Callable[[AnswerBatch, int], Looking],
) -> tuple[torch.Tensor, float]:
    """Loss of where POINTING_HEADS of a block look, and the share of their attention that lies
    where it should, as `look` says. `inputs`: of the block's forward."""
    x, context = inputs[:2]
    mask = context.mask
    query, key = block.attention_inputs(x, context.rotary)[:2]
    losses, shares = [], []
    for row in range(len(x)):
        looking, wanted = look(batch, row)
        wanted &= mask[row, 0, looking]
        some = wanted.any(dim=-1)
        if not some.any():
            continue
        heads = slice(0, POINTING_HEADS)
        scores = query[row, heads][:, looking[some]] @ key[row, heads].transpose(-1, -2)
        scores = scores * key.shape[-1] ** -0.5
        scores = scores.masked_fill(~mask[row, :, looking[some]], -math.inf)
        found = scores.log_softmax(dim=-1).masked_fill(~wanted[some], -math.inf).logsumexp(dim=-1)
        losses.append(-found.flatten())
        shares.append(found.detach().exp().flatten())
    if not losses:
        return batch.fields.new_zeros((), dtype=torch.float32), math.nan
    return torch.cat(losses).mean(), torch.cat(shares).mean().item()


def named_keys(question: str) -> tuple[int, int]:
    """Key and heading that a question names: places in KEYS plus 1, 0 where there is none."""
    named = [KEYS.index(word) + 1 for word in re.findall(r"\w+", question) if word in KEYS]
    first, second = (*named, NONE, NONE)[:2]
    return first, second


def heading_columns(page: Page) -> dict[int, int]:
    """Words of a page that are a table's headings: column of each, from 1."""
    headings = [word for word, text in enumerate(page.words) if text.lower() in HEADINGS]
    return {word: column for column, word in enumerate(headings, start=1)}


def asked_of(page: Page, question: str) -> tuple[int, int, int]:
    """Key, heading and column that a question about a page asks for, see `Question`."""
    key, heading = named_keys(question)
    names = {page.words[word].lower(): column for word, column in heading_columns(page).items()}
    return key, heading, names[KEYS[heading - 1]] if heading else NONE


def label_fields(page: Page, tiling: Tiling, fit: str) -> torch.Tensor:
    """int64 (C, T, 10): key and heading of the value in the upper and in the lower slot of each
    token, then both digits of each, then the column of each value or heading; all plus 1."""
    keys, digits = np.zeros((2, 2, len(page.words)), dtype=int)
    columns = np.zeros((1, len(page.words)), dtype=int)
    for word, column in heading_columns(page).items():
        columns[0, word] = column
    all_digits = word_labels(page)[1:]
    for asked in page.fields:
        *keys[:, asked.word], columns[0, asked.word] = asked_of(page, asked.question)
        digits[:, asked.word] = all_digits[:, asked.word]
    labels = [label_words(page, tiling, fit, rows).flatten(-2) for rows in (keys, digits, columns)]
    return torch.cat(labels, dim=-1)


def least_scale(image_size: Size, tiling: Tiling, fit: str) -> float:
    """How much a page is shrunk, at least, in the view that shows it largest."""
    scale_x, scale_y, _, _ = view_scale(image_size, tiling_to_resolution(tiling, MOLMO), fit)
    return min(scale_x, scale_y)


def draw_page_questions(
    rng: np.random.Generator,
    setting: CropSetting,
    ids: ImageTokenIds,
    area_px: tuple[float, float],
    kinds: Sequence[str] | None,
) -> tuple[ProcessedImage, list[Question], torch.Tensor]:
    """A new page under a crop setting, questions about print that can be read, and its fields."""
    page = draw_page(rng, area_px, kinds)
    image = preprocess_image(np.array(page.image), setting, MOLMO, ids)
    size = Size(page.image.height, page.image.width)
    scale = least_scale(size, image.tiling, setting.fit)
    questions = [
        Question("small_print", asked.question, asked.answer, asked_of(page, asked.question))
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
    return image, questions, torch.zeros(*image.image_input_idx.shape, LABELS, dtype=torch.int64)


def draw_answer_batch(
    rng: np.random.Generator,
    groups: list[list[Sample]],
    tokenizer: PromptTokenizer,
    *,
    small: bool,
    tables: bool,
) -> AnswerBatch:
    """Pages or shapes with their questions, all under one budget; or `small` pages in one crop.

    With `tables` every second page or so is a table: to find a value by row and column is hardest.
    """
    ids = ImageTokenIds(*tokenizer.image_ids)
    shapes, full = rng.random() < SHAPE_SHARE, bool(rng.random() < FULL_SHARE)
    budget = KnobValue("max_crops", "1", "letterbox") if small else draw_budget(rng)
    value = KnobValue(budget.name, budget.value, budget.fit, force_full_tokens=full)
    setting = value.crop_setting(MOLMO)
    area_px = SMALL_PX if small else AREA_PX
    kinds = [*KINDS, *["table"] * MORE_TABLES] if tables else None
    drawn: list[tuple[ProcessedImage, list[Question], torch.Tensor]] = []
    # One more per image, for its questions.
    while sum(len(image.patches) + 1 for image, _, _ in drawn) < CROPS_PER_STEP:
        if shapes:
            drawn.append(draw_shape_questions(rng, groups, setting, ids))
        else:
            drawn.append(draw_page_questions(rng, setting, ids, area_px, kinds))
    images, questions, fields = zip(*drawn, strict=True)
    return collate(list(images), list(questions), list(fields), tokenizer)


def pack_questions(
    image: ProcessedImage, questions: list[Question], tokenizer: PromptTokenizer
) -> tuple[list[int], list[int], list[int], list[int], list[tuple[int, int, int]]]:
    """An image with its questions: ids, labels, positions, block numbers (block 0: image), and
    what each question asks for, wherever its answer is told."""
    ids = [tokenizer.bos_id, *image.image_tokens.tolist()]
    prefix = len(ids)
    labels, positions, blocks = [IGNORE] * prefix, list(range(prefix)), [0] * prefix
    sought = [NOTHING] * prefix
    for number, asked in enumerate(questions, start=1):
        prompt = tokenizer.encode(build_prompt(asked.question, asked.style))
        answer = [*tokenizer.encode(" " + asked.answer), tokenizer.eos_id]
        ids += prompt + answer
        # The label of a place is the token that follows it.
        before = [IGNORE] * (len(prompt) - 1)
        labels += before + answer + [IGNORE]
        sought += [*[NOTHING] * len(before), *[asked.asked] * len(answer), NOTHING]
        positions += range(prefix, prefix + len(prompt) + len(answer))
        blocks += [number] * (len(prompt) + len(answer))
    return ids, labels, positions, blocks, sought


def collate(
    images: list[ProcessedImage],
    questions: list[list[Question]],
    fields: list[torch.Tensor],
    tokenizer: PromptTokenizer,
) -> AnswerBatch:
    """One batch of images, padded to the longest row and the most crops."""
    rows = [pack_questions(i, q, tokenizer) for i, q in zip(images, questions, strict=True)]
    length = max(len(row[0]) for row in rows)

    def stack(column: int, fill: Any) -> torch.Tensor:
        padded = [[*row[column], *[fill] * (length - len(row[column]))] for row in rows]
        return torch.tensor(padded)

    blocks = stack(3, -1)
    same = (blocks[:, :, None] == blocks[:, None, :]) | (blocks[:, None, :] == 0)
    mask = same & torch.ones(length, length, dtype=torch.bool).tril()
    crops = max(len(image.patches) for image in images)
    index = torch.full((len(images), crops, MOLMO.tokens_per_crop), IGNORE, dtype=torch.int32)
    all_fields = torch.zeros(*index.shape, LABELS, dtype=torch.int64)
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
        asked=stack(4, NOTHING),
    )


def answer(
    model: MolmoForCausalLM, heads: FieldHeads, batch: AnswerBatch, learn_to_see: bool
) -> tuple[torch.Tensor, dict[str, float]]:
    """Loss of one step, and the shares of answer words and of what `heads` ask told rightly."""
    with torch.set_grad_enabled(learn_to_see):
        features = model.encode_images(batch.patches, batch.padding_mask)
    answered = (batch.labels != IGNORE).any(dim=0)
    seen: list[tuple[Any, ...]] = []
    blocks = list(model.model.transformer.blocks)[: LOOKING_BLOCK + 1]
    hooks = [
        block.register_forward_pre_hook(lambda *call: seen.append(call[1])) for block in blocks
    ]
    logits = model(
        batch.input_ids,
        attention_mask=batch.mask,
        position_ids=batch.position_ids,
        image_features=features,
        image_input_idx=batch.image_input_idx,
        logits_to_keep=torch.nonzero(answered).squeeze(-1),
    ).logits
    for hook in hooks:
        hook.remove()
    labels = batch.labels[:, answered]
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE)
    # The end of text is always right: judge the words.
    words = (labels != IGNORE) & (labels != model.config.eos_token_id)
    right = (logits.argmax(dim=-1) == labels)[words].float().mean().item()
    if not batch.fields.any():  # shapes
        return loss, {"shape_loss": loss.item(), "shape_words": right}
    found = {"answer_loss": loss.item(), "answer_words": right}
    field_loss, said = heads(seen[1][0], seen[2][0], batch)
    looks = {"pointed_left": left_of, "pointed_headings": heading_asked, "pointed": value_asked}
    for block, inputs, (name, look) in zip(blocks, seen, looks.items(), strict=True):
        pointing_loss, found[name] = pointing(block, inputs, batch, look)
        field_loss = field_loss + pointing_loss
    return loss + AUXILIARY_WEIGHT * field_loss, found | said
