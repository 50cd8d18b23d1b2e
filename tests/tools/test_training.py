"""The committed training script: true labels, seeded, resumable, writes a checkpoint that loads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from tools.train_molmo_tiny.__main__ import STAGES
from tools.train_molmo_tiny.answer import (
    LABELS,
    POINTING_HEADS,
    Question,
    asked_of,
    collate,
    heading_asked,
    label_fields,
    left_of,
    pack_questions,
    pointing,
    value_asked,
)
from tools.train_molmo_tiny.reading import (
    CHARACTERS,
    KEYS,
    NONE,
    cut_text,
    draw_text,
    draw_text_page,
    label_views,
)
from tools.train_molmo_tiny.see import PlaceHead
from tools.train_molmo_tiny.tiny import pool_by_place, tiny_config
from vtexp.budget.geometry import MOLMO, Size, Tiling
from vtexp.budget.knobs import KnobValue
from vtexp.config.schema import HardwareConfig
from vtexp.data.builtin.small_print_pages import Page, draw_page
from vtexp.models.checkpoints import find_checkpoint
from vtexp.models.molmo.blocks import MolmoBlock, PassContext
from vtexp.models.molmo.modeling import MolmoForCausalLM
from vtexp.models.molmo.preprocess import (
    IMAGE_MEAN,
    IMAGE_STD,
    ImageTokenIds,
    ProcessedImage,
    preprocess_image,
)
from vtexp.models.molmo.runner import MolmoRunner
from vtexp.models.molmo.vision import VisionAttention
from vtexp.prompts.tokenizer import PromptTokenizer

IDS = ImageTokenIds(1, 2, 3, 4)
BUDGETS = [
    KnobValue("max_crops", "1"),
    KnobValue("max_crops", "12"),
    KnobValue("image_size", "560x336", "stretch"),
]


def views_of(page: Page, budget: KnobValue) -> tuple[ProcessedImage, np.ndarray]:
    """A page under a budget, and its crops as pixels (C, 336, 336) of luminance, 0 to 1."""
    image = preprocess_image(np.array(page.image), budget.crop_setting(MOLMO), MOLMO, IDS)
    side, patch = MOLMO.patches_per_side, MOLMO.patch_px
    pixels = image.patches.reshape(-1, side, side, patch, patch, 3)
    pixels = pixels * torch.tensor(IMAGE_STD) + torch.tensor(IMAGE_MEAN)
    crops = pixels.permute(0, 1, 3, 2, 4, 5).reshape(-1, MOLMO.crop_px, MOLMO.crop_px, 3)
    return image, crops.mean(dim=-1).numpy()


@pytest.mark.parametrize("budget", BUDGETS, ids=lambda budget: budget.label)
def test_labelled_cells_hold_ink_and_empty_ones_do_not(budget: KnobValue) -> None:
    """Seen in the pixels: labels that are shifted, or of another crop, would not pass."""
    for seed in range(4):
        page = draw_page(np.random.default_rng((5, seed)))
        image, crops = views_of(page, budget)
        fit = budget.crop_setting(MOLMO).fit
        labels = label_views(page, image.tiling, fit).patch_characters
        assert len(labels) == len(crops)
        paper = np.median(np.asarray(page.image, dtype=np.float32).mean(axis=-1)) / 255
        contrast = np.abs(crops - paper)
        half, patch = MOLMO.patch_px // 2, MOLMO.patch_px
        found = {True: [], False: []}
        for crop, place, slot in (labels >= NONE).nonzero().tolist():
            row, col = divmod(place, MOLMO.patches_per_side)
            y, x = row * patch, col * patch + slot * half
            # A character's ink reaches beyond the cell that its centre lies in.
            around = contrast[crop, y : y + patch, max(0, x - half) : x + 2 * half]
            character = int(labels[crop, place, slot])
            if character == NONE or CHARACTERS[character - 1] not in ".:":
                found[character != NONE].append(around.max() > 0.15)
        assert np.mean(found[True]) > 0.97
        assert np.mean(found[False]) < 0.5


def test_labels_spell_the_page() -> None:
    """Left to right and top to bottom, the cells of an undivided view hold the printed text."""
    page = draw_text(np.random.default_rng(3))
    labels = label_views(page, Tiling(1, 1), "stretch")
    assert torch.equal(labels.patch_characters[0], labels.patch_characters[1])
    cells = labels.patch_characters[1].reshape(24, 24, 2).reshape(24, 48)
    size = Size(page.image.height, page.image.width)
    lines: dict[float, list] = {}
    for glyph in page.glyphs:
        lines.setdefault(glyph.y, []).append(glyph)
    known = 0
    for y, glyphs in lines.items():
        row = cells[int(y * 336 / size.height / 14)]
        spelled = [CHARACTERS[i - 1] for i in row.tolist() if i > NONE]
        printed = [glyph.character for glyph in glyphs]
        iterator = iter(printed)
        if not set(spelled) - set(printed) and all(c in iterator for c in spelled):
            known += len(spelled)
    assert known > 0.6 * len(page.glyphs)


def test_crops_of_text_pages_are_labelled_at_any_offset() -> None:
    page = draw_text_page(np.random.default_rng(1))
    for seed in range(5):
        patches, labels = cut_text(page, np.random.default_rng(seed))
        pixels = patches.reshape(576, 14, 2, 7, 3) * torch.tensor(IMAGE_STD)
        pixels = (pixels + torch.tensor(IMAGE_MEAN)).mean(dim=-1)
        contrast = (pixels - pixels.median()).abs().amax(dim=(1, 3))
        characters = labels.patch_characters
        marked = (characters > NONE) & ~torch.isin(
            characters, torch.tensor([CHARACTERS.index(c) + 1 for c in ".:"])
        )
        assert (contrast[marked] > 0.15).float().mean() > 0.95
        assert (contrast[characters == NONE] > 0.15).float().mean() < 0.65


def test_keys_and_values_are_labelled_by_their_words() -> None:
    page = draw_page(np.random.default_rng((5, 1)))
    image, _ = views_of(page, BUDGETS[1])
    labels = label_views(page, image.tiling, "letterbox")
    printed = {word.strip(":") for word in page.words}
    named = {KEYS[i - 1].upper() for i in labels.token_keys[labels.token_keys > NONE].tolist()}
    assert named and named <= printed
    digits = labels.token_digits.reshape(-1, 2)
    pairs = {tuple((d - 1).tolist()) for d in digits[(digits > NONE).all(dim=-1)]}
    answers = {tuple(map(int, asked.answer.replace(".", "")[:2])) for asked in page.fields}
    assert pairs and pairs <= answers


def test_each_value_is_labelled_with_what_its_question_names() -> None:
    for seed in range(8):
        page = draw_page(np.random.default_rng((5, seed)))
        tiling = (
            BUDGETS[1].crop_setting(MOLMO).tiling(Size(page.image.height, page.image.width), MOLMO)
        )
        labels = label_fields(page, tiling, "letterbox")
        fields, digits = labels[..., :8].unflatten(-1, (2, 2, 2)).unbind(-3)
        values = {(asked.question, int(asked.answer.replace(".", "")[:2])) for asked in page.fields}
        seen = (fields[..., 0] > NONE) & (digits > NONE).all(dim=-1)
        assert seen.any()
        for field, (first, second) in zip(
            fields[seen].tolist(), digits[seen].tolist(), strict=True
        ):
            value = 10 * (first - 1) + second - 1
            names = [KEYS[i - 1] for i in field if i > NONE]
            assert any(v == value and all(n in q for n in names) for q, v in values)


def test_columns_of_a_table_are_those_it_is_drawn_in() -> None:
    """Values and headings of the left column have their centres left of those of the right one."""
    page = draw_page(np.random.default_rng((5, 2)), kinds=["table"])
    image, _ = views_of(page, BUDGETS[1])
    columns = label_fields(page, image.tiling, "letterbox")[0, :, 8:]
    tokens = torch.arange(MOLMO.tokens_per_crop) % MOLMO.tokens_per_side
    left, right = (tokens[(columns == column).any(dim=-1)] for column in (1, 2))
    # The heading that a question names is above its value, and nothing else is found as one.
    fields = label_fields(page, image.tiling, "letterbox")[0]
    asked = torch.tensor([[asked_of(page, field.question) for field in page.fields]])
    count = MOLMO.tokens_per_crop
    asked = F.pad(asked, (0, 0, count, 0), value=-100)  # the image first, then a place a question
    index = torch.arange(count)[None, None]
    batch = SimpleNamespace(asked=asked, fields=fields[None, None], image_input_idx=index)
    telling, headings = heading_asked(batch, 0)
    _, values = value_asked(batch, 0)
    assert telling.tolist() == list(range(count, asked.shape[1]))
    rows = torch.arange(count) // MOLMO.tokens_per_side
    for heading, value in zip(headings[:, :count], values[:, :count], strict=True):
        if value.any():
            assert rows[heading].max() < rows[value].min()
    assert headings.any(dim=-1).all() and values.any()
    # What is looked at from the second column is to the left, in the same line.
    second, first = left_of(batch, 0)
    assert first.any()
    for place, wanted in zip(second, first[:, :count], strict=True):
        assert set(tokens[wanted].tolist()) <= set(left.tolist())
        assert all(abs(rows[wanted] - rows[place]) <= 1)
    assert len(left) and len(right)
    assert left.max() < right.min()
    centres: dict[int, list[float]] = {1: [], 2: []}
    for asked in page.fields:
        x = fmean(g.x for g in page.glyphs if g.word == asked.word)
        centres[asked_of(page, asked.question)[2]].append(x)
    assert max(centres[1]) < min(centres[2])


def test_a_question_sees_the_image_and_itself(small_checkpoint: Path) -> None:
    tokenizer = PromptTokenizer.from_folder(small_checkpoint)
    ids = ImageTokenIds(*tokenizer.image_ids)
    pixels = np.zeros((300, 300, 3), dtype=np.uint8)
    image = preprocess_image(pixels, BUDGETS[0].crop_setting(MOLMO), MOLMO, ids)
    questions = [Question("s", "what is a?", "1", (3, 0, 2)), Question("s", "what is b?", "22")]
    rows = pack_questions(image, questions, tokenizer)
    fields = torch.zeros(*image.image_input_idx.shape, LABELS, dtype=torch.int64)
    batch = collate([image], [questions], [fields], tokenizer)
    prefix = 1 + len(image.image_tokens)
    blocks = np.array(rows[3])
    mask = batch.mask[0, 0].numpy()
    for number in (1, 2):
        first = np.flatnonzero(blocks == number)[0]
        assert batch.position_ids[0, first] == prefix  # as if it were the only question
        last = np.flatnonzero(blocks == number)[-1]
        assert set(blocks[mask[last]]) == {0, number}
    assert not mask[0, 1:].any()
    # The label of a place is the token after it.
    labelled = (batch.labels[0] != -100).nonzero().flatten()
    ids_row = torch.tensor(rows[0])
    assert torch.equal(batch.labels[0, labelled], ids_row[labelled + 1])
    # What is asked for is known wherever an answer is told.
    told = (batch.asked[0] != -100).all(dim=-1)
    assert torch.equal(told, batch.labels[0] != -100)
    assert {tuple(pair) for pair in batch.asked[0, told].tolist()} == {(3, 0, 2), (0, 0, 0)}


def test_pointing_is_the_attention_on_the_value_asked_for() -> None:
    """Against attention over one-hot values, which tell where it looks.

    Two tokens are of the key asked for (in their upper and lower slot), others are not.
    """
    torch.manual_seed(0)
    config = tiny_config(400, 0)
    length = 12
    block = MolmoBlock(config, 0)
    x = torch.randn(1, length, config.hidden_size)
    rotary = (torch.ones(1, 1, length, config.head_dim), torch.zeros(1))
    index = torch.full((1, 1, 144), -100, dtype=torch.int32)
    index[0, 0, :5] = torch.arange(1, 6)
    fields = torch.zeros(1, 1, 144, LABELS, dtype=torch.int64)
    fields[0, 0, 1, :2], fields[0, 0, 3, 2:4] = torch.tensor([7, 2]), torch.tensor([7, 2])
    fields[0, 0, 4, :2] = torch.tensor([7, 0])
    asked = torch.full((1, length, 3), -100)
    asked[0, 9] = torch.tensor([7, 2, 1])
    batch = SimpleNamespace(asked=asked, fields=fields, image_input_idx=index)
    mask = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
    loss, share = pointing(
        block, (x, PassContext(rotary, mask, None, is_prompt=True)), batch, value_asked
    )
    query, key, _ = block.attention_inputs(x, rotary)
    seen = F.scaled_dot_product_attention(
        query, key, torch.eye(length).expand(*key.shape[:2], -1, -1), attn_mask=mask
    )
    expected = seen[0, :POINTING_HEADS, 9, [2, 4]].sum(dim=-1)
    torch.testing.assert_close(loss, -expected.log().mean())
    assert share == pytest.approx(expected.mean().item())


#: A short training: of the stages on whole images the first and the last, as those between are made
#: alike, and little to look at in a step.
SHORT = """
import sys
import tools.train_molmo_tiny.__main__ as t
import tools.train_molmo_tiny.answer as a
between = ("answer", "all", "tables", "settle")
t.STAGES = tuple(stage for stage in t.STAGES if stage.name not in between)
t.TOKENIZER_PAGES = 30
t.TEXT_CROPS = t.PAGE_CROPS = t.SHAPE_CROPS = 4
a.CROPS_PER_STEP = 6
"""


def train(out: Path, *arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    code = f"{SHORT}\n{code}\nt.main()"
    arguments = ("--out", str(out), "--most-steps", "2", *arguments)
    # One thread: sums in another order would make equal runs differ.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment
    )


@pytest.mark.slow
def test_resumed_training_is_the_same_training(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    # Killed at the second step of a later stage: the state of its first step is on disk.
    kill = (
        "calls, answer = [], t.answer\n"
        "def killed(*a):\n"
        "    calls.append(a)\n"
        "    return answer(*a) if len(calls) < 2 else sys.exit(9)\n"
        "t.answer = killed"
    )
    out = tmp_path / "resumed"
    assert train(out, "--save-every", "1", code=kill).returncode == 9
    assert not (out / "model.safetensors").exists()
    state = torch.load(out / "training_state.pt", weights_only=True)
    assert (state["stage"], state["step"]) == ([s.name for s in STAGES].index("look"), 1)
    assert train(out).returncode == 0

    first, second = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "resumed"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not (out / "training_state.pt").exists()
    runner = MolmoRunner.load(find_checkpoint(str(out)), MOLMO, HardwareConfig())
    assert 1e6 < sum(p.numel() for p in runner.model.parameters()) < 5e6


def test_pooling_starts_with_one_patch_for_each_head() -> None:
    pooling = VisionAttention(8, 8, num_heads=4, head_dim=2)
    places = torch.eye(4, 8)  # the first four values of a patch tell its place
    pool_by_place(pooling, places)
    with torch.no_grad():
        pooling.wv.weight.zero_()
        pooling.wv.weight[:, 4:6] = torch.eye(2).repeat(4, 1)  # each head reads values 4 and 5
        pooling.wo.weight.copy_(torch.eye(8))
        for bias in (pooling.wk.bias, pooling.wv.bias, pooling.wo.bias):
            bias.zero_()
        patches = torch.cat([10 * torch.eye(4), torch.randn(4, 4)], dim=1)[None]
        pooled = pooling(patches.mean(dim=1, keepdim=True), patches)
    torch.testing.assert_close(pooled.view(4, 2), patches[0, :, 4:6])


def test_places_are_those_that_the_connector_pools() -> None:
    """Patches numbered by place come out of the backbone's grouping as 0, 1, 2, 3."""
    model = MolmoForCausalLM(tiny_config(400, 0))
    places = PlaceHead(4).wanted
    seen: list[torch.Tensor] = []
    backbone = model.model.vision_backbone
    backbone.image_vit.forward = lambda patches: places[None, :, None].float()
    backbone.image_pooling_2d.forward = lambda query, context: seen.append(context) or query
    backbone.image_projector.forward = lambda pooled: pooled
    backbone.pad_embed = torch.nn.Parameter(torch.zeros(2, 1))
    backbone(torch.zeros(1, 576, 588), torch.ones(1, 576))
    assert (seen[0].squeeze(-1) == torch.arange(4)).all()
