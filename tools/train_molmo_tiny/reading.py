"""What stage `see` learns reading from: text-filled pages, and where each character and word is.

Characters are labelled by place: each patch (14 px) has a left and a right half, each holding the
character whose centre lies in it; each vision token (28 px) has 4 x 2 such cells. Dense labels,
hundreds per crop, are what made reading learnable in minutes; answers alone did not.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from vtexp.budget.geometry import MOLMO, Size, Tiling, tiling_to_resolution
from vtexp.budget.placement import letterbox
from vtexp.data.builtin.small_print_pages import (
    GOODS,
    HEADINGS,
    LABELS,
    LETTERS,
    Page,
    Pen,
    add_noise,
    color_between,
    new_page,
)
from vtexp.models.molmo.preprocess import IMAGE_MEAN, IMAGE_STD, ONE_CROP, normalised, to_patches

CHARACTERS = string.digits + ".:" + string.ascii_uppercase
#: Words that questions ask by; the table's headings last.
KEYS = (*GOODS, *LABELS, *LETTERS, *HEADINGS)
#: A key as printed, and its place in KEYS, plus 1.
PRINTED_KEYS = {key.upper(): place for place, key in enumerate(KEYS, start=1)}
NONE = 0
IGNORE = -100
#: Numbers and prices; a price's last digit is always 0, so two digits say each.
VALUE = r"\d\d|\d\.\d0"
CELL_PX = MOLMO.patch_px // 2
#: Sizes of print, in px of the crop, that text pages are filled with.
SEEN_PX = (7.0, 34.0)
#: Print smaller than this in a view is not asked for.
LEAST_SEEN_PX = 7.0
#: Size of the view of a text page; crops are cut from it at any offset.
TEXT_VIEW = Size(448, 448)


class ReadingLabels(NamedTuple):
    """What is to be read in C crops of P patches and T tokens; all int64, 0 none, -100 unknown."""

    patch_characters: torch.Tensor  # (C, P, 2)
    token_characters: torch.Tensor  # (C, T, 8)
    token_keys: torch.Tensor  # (C, T, 2), upper and lower half: place of the key in KEYS, plus 1
    token_digits: torch.Tensor  # (C, T, 4), two digits each of the upper and the lower half, plus 1


def draw_text(rng: np.random.Generator) -> Page:
    """A page filled with words, numbers and loose letters, to be seen at TEXT_VIEW."""
    scale = np.exp(rng.uniform(np.log(0.35), np.log(1.1)))
    stretch = np.exp(rng.normal(0, 0.2)) if rng.random() < 0.5 else 1.0
    side = TEXT_VIEW.height / scale
    pen = new_page("text", round(side * stretch**0.5), round(side / stretch**0.5), rng)
    width, height = pen.size
    y = float(rng.uniform(0, 10)) / scale
    while y < height:
        # Between log-uniform and uniform: a line of small print has more characters.
        seen_px = rng.uniform(*np.sqrt(SEEN_PX)) ** 2
        size = max(5, round(seen_px / scale))
        half_line = size * rng.uniform(0.6, 1.2)
        y += half_line
        x = rng.uniform(0, 2) * size
        while x < width:
            word = draw_word(rng)
            end = x + pen.width_of(word, size)
            if end > width or y + size / 2 > height:
                break
            pen.write(x, y, word, size)
            x = end + size * _gap(pen, end, y, size)
        if rng.random() < 0.2:
            pen.line(0, y + 0.75 * size, width, y + 0.75 * size)
        y += half_line
    pen.page.image = add_noise(pen.page.image, rng)
    return pen.page


def draw_word(rng: np.random.Generator) -> str:
    """A key, a number, a price, or loose characters."""
    kind = rng.random()
    if kind < 0.4:
        word = KEYS[rng.integers(len(KEYS))]
        return word + ":" if kind < 0.1 else word
    if kind < 0.65:
        return str(rng.integers(10, 100))
    if kind < 0.82:
        return f"{rng.integers(0, 10)}.{rng.integers(1, 10)}0"
    return "".join(rng.choice(list(CHARACTERS), size=rng.integers(1, 6)))


def _gap(pen: Pen, x: float, y: float, size: int) -> float:
    """Space after a word, in ems: a blank, or wider with nothing, dots or a bar in it."""
    rng = pen.rng
    kind = rng.random()
    gap = 0.32 if kind < 0.4 else rng.uniform(0.5, 4.0)
    if 0.4 < kind < 0.5:
        for dot in np.arange(x + 0.4 * size, x + (gap - 0.3) * size, 0.6 * size):
            pen.draw.point((dot, y + 0.25 * size), fill=pen.ink)
    elif kind > 0.9 and gap > 1.2:
        shade = color_between(60, 190, rng)
        box = (x + 0.3 * size, y - 0.4 * size, x + (gap - 0.3) * size, y + 0.4 * size)
        pen.draw.rectangle(box, fill=shade)
    return gap


def word_labels(page: Page) -> np.ndarray:
    """Int (3, words): key, first and second digit of each word of a page."""
    digits = [w.replace(".", "")[:2] if re.fullmatch(VALUE, w) else "" for w in page.words]
    keys = [PRINTED_KEYS.get(word.strip(":"), NONE) for word in page.words]
    first, second = ([int(d[i]) + 1 if d else NONE for d in digits] for i in (0, 1))
    return np.array([keys, first, second], dtype=int).reshape(3, -1)


def label_views(page: Page, tiling: Tiling, fit: str) -> ReadingLabels:
    """Labels of a page's crops, the global crop first, as `preprocess_image` makes them."""
    labels = word_labels(page)
    return join_labels([label_crop(g, labels) for g in crop_glyphs(page, tiling, fit)])


def label_crop(glyphs: CropGlyphs, labels: np.ndarray) -> ReadingLabels:
    """Labels of one crop (without the axis C), given its words' labels (3, words)."""
    patches, tokens = _label_characters(glyphs)
    slots = _label_slots(glyphs, labels)
    columns = (patches, tokens, slots[..., 0], slots[..., 1:].reshape(len(slots), -1))
    return ReadingLabels(*(torch.from_numpy(column) for column in columns))


def join_labels(crops: Sequence[ReadingLabels]) -> ReadingLabels:
    """Labels of single crops as those of C crops."""
    return ReadingLabels(*(torch.stack(column) for column in zip(*crops, strict=True)))


def label_words(page: Page, tiling: Tiling, fit: str, labels: np.ndarray) -> torch.Tensor:
    """Labels (n, words) of a page's words by vision token: int64 (C, T, 2, n).

    Two slots a token, its upper and its lower half, because close lines share tokens. Unknown
    where two words are in one, and where a word is cut by the crop's edge or too small to read.
    """
    crops = [_label_slots(glyphs, labels) for glyphs in crop_glyphs(page, tiling, fit)]
    return torch.from_numpy(np.stack(crops))


class CropGlyphs(NamedTuple):
    """The characters in one crop as arrays of the same length, in px of the crop."""

    characters: np.ndarray  # place in CHARACTERS, plus 1; unknown where too small
    x: np.ndarray
    y: np.ndarray
    words: np.ndarray
    whole: np.ndarray  # whether the word is in the crop as a whole, and large enough


class ViewGlyphs(NamedTuple):
    """The characters of a page as arrays of the same length, in px of a view of it."""

    characters: np.ndarray
    x: np.ndarray
    y: np.ndarray
    words: np.ndarray
    large_enough: np.ndarray

    def cut(self, left: float, top: float) -> CropGlyphs:
        """Those in the crop whose upper left corner is at (left, top)."""
        x, y, size = self.x - left, self.y - top, MOLMO.crop_px
        inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
        whole = ~np.isin(self.words, self.words[~inside]) & self.large_enough
        columns = (self.characters, x, y, self.words, whole)
        return CropGlyphs(*(column[inside] for column in columns))


def view_glyphs(page: Page, target: Size, fit: str) -> ViewGlyphs:
    """The characters of a page in a view of it."""
    size = Size(page.image.height, page.image.width)
    scale_x, scale_y, left, top = view_scale(size, target, fit)
    seen_px = np.array([g.print_px for g in page.glyphs]) * min(scale_x, scale_y)
    large_enough = seen_px >= LEAST_SEEN_PX
    characters = np.array([CHARACTERS.index(g.character) + 1 for g in page.glyphs], dtype=int)
    return ViewGlyphs(
        np.where(large_enough, characters, IGNORE),
        np.array([g.x for g in page.glyphs]) * scale_x + left,
        np.array([g.y for g in page.glyphs]) * scale_y + top,
        np.array([g.word for g in page.glyphs], dtype=int),
        large_enough,
    )


def crop_glyphs(page: Page, tiling: Tiling, fit: str) -> Iterator[CropGlyphs]:
    """The characters in each crop of a page, the global crop first."""
    whole = Size(MOLMO.crop_px, MOLMO.crop_px)
    yield view_glyphs(page, whole, "stretch" if fit == "stretch" else "letterbox").cut(0, 0)
    canvas = view_glyphs(page, tiling_to_resolution(tiling, MOLMO), fit)
    for row in range(tiling.rows):
        for col in range(tiling.cols):
            yield canvas.cut(col * MOLMO.window_px, row * MOLMO.window_px)


def view_scale(size: Size, target: Size, fit: str) -> tuple[float, float, int, int]:
    """How an image is brought to a view: horizontal and vertical scale, left and top pad in px."""
    scaled, top, left = letterbox(size, target) if fit == "letterbox" else (target, 0, 0)
    return scaled.width / size.width, scaled.height / size.height, left, top


class TextPage(NamedTuple):
    """A text page as it is seen, from which crops are cut."""

    pixels: np.ndarray  # uint8 (448, 448, 3)
    glyphs: ViewGlyphs
    labels: np.ndarray  # int (3, words), see `word_labels`


def draw_text_page(rng: np.random.Generator) -> TextPage:
    """A new text page, brought to its view as `preprocess_image` brings pages to theirs."""
    page = draw_text(rng)
    pixels = torch.from_numpy(np.array(page.image)).permute(2, 0, 1)[None].float()
    pixels = F.interpolate(pixels, TEXT_VIEW, mode="bilinear", antialias=True, align_corners=False)
    seen = pixels[0].clamp(0, 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
    return TextPage(seen.numpy(), view_glyphs(page, TEXT_VIEW, "stretch"), word_labels(page))


def cut_text(page: TextPage, rng: np.random.Generator) -> tuple[torch.Tensor, ReadingLabels]:
    """A crop of a text page at any offset: patches float32 (P, 588), and its labels."""
    left, top = (int(rng.integers(side - MOLMO.crop_px + 1)) for side in reversed(TEXT_VIEW))
    pixels = page.pixels[top : top + MOLMO.crop_px, left : left + MOLMO.crop_px]
    crop = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float() / 255
    labels = label_crop(page.glyphs.cut(left, top), page.labels)
    return to_patches(normalised(crop, IMAGE_MEAN, IMAGE_STD), ONE_CROP, MOLMO)[0], labels


def _label_characters(glyphs: CropGlyphs) -> tuple[np.ndarray, np.ndarray]:
    """Characters (P, 2) by half patch and (T, 8) by token; unknown where two share a cell."""
    rows, cols = (glyphs.y // MOLMO.patch_px).astype(int), (glyphs.x // CELL_PX).astype(int)
    cells = np.zeros((MOLMO.patches_per_side, MOLMO.crop_px // CELL_PX), dtype=int)
    count = np.zeros_like(cells)
    np.add.at(count, (rows, cols), 1)
    cells[rows, cols] = glyphs.characters
    cells[count > 1] = IGNORE
    side, pool = MOLMO.tokens_per_side, MOLMO.pool
    tokens = cells.reshape(side, pool, side, 2 * pool).transpose(0, 2, 1, 3)
    return cells.reshape(-1, 2), tokens.reshape(side * side, -1)


def _label_slots(glyphs: CropGlyphs, labels: np.ndarray) -> np.ndarray:
    """Labels (T, 2, n) of the words in one crop."""
    side, token_px = MOLMO.tokens_per_side, MOLMO.patch_px * MOLMO.pool
    tokens = glyphs.y // token_px * side + glyphs.x // token_px
    slots = (tokens * 2 + glyphs.y // MOLMO.patch_px % 2).astype(int)
    found = np.zeros((2 * MOLMO.tokens_per_crop, len(labels)), dtype=int)
    owner = np.full(found.shape, -1)
    for slot, word, whole in zip(slots, glyphs.words, glyphs.whole, strict=True):
        for column in np.flatnonzero(labels[:, word] != NONE):
            if not whole or owner[slot, column] not in (-1, word):
                found[slot, column] = IGNORE
            elif found[slot, column] != IGNORE:
                found[slot, column], owner[slot, column] = labels[column, word], word
    return found.reshape(-1, 2, len(labels))


class ReadingHead(nn.Module):
    """Linear readers of characters, keys and digits; not kept after training."""

    def __init__(self, patch_width: int, token_width: int) -> None:
        super().__init__()
        classes = len(CHARACTERS) + 1
        self.patch_characters = nn.Linear(patch_width, 2 * classes)
        self.token_characters = nn.Linear(token_width, 8 * classes)
        self.token_keys = nn.Linear(token_width, 2 * (len(KEYS) + 1))
        self.token_digits = nn.Linear(token_width, 4 * 11)

    def forward(
        self, patches: torch.Tensor, tokens: torch.Tensor | None, labels: ReadingLabels
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss (scalar) of patch features (C, P, width) and vision tokens (C, T, width), if they
        are to be read too; and the share of labelled places read rightly, by kind of label."""
        losses, right = [], {}
        for name, labelled in labels._asdict().items():
            features = patches if name.startswith("patch") else tokens
            if features is None:
                continue
            logits = getattr(self, name)(features).unflatten(-1, (labelled.shape[-1], -1))
            losses.append(mostly_none_loss(logits, labelled))
            some = labelled > NONE
            right[name] = (logits.argmax(dim=-1) == labelled)[some].float().mean().item()
        return torch.stack(losses).sum(), right


def mostly_none_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in which none counts little, because most places hold nothing."""
    weight = torch.ones(logits.shape[-1])
    weight[NONE] = 0.15
    return F.cross_entropy(
        logits.flatten(0, -2), labels.flatten(), weight=weight, ignore_index=IGNORE
    )
