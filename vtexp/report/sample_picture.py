"""The picture of one sample: its image, the crops that a model reads of it, and their tokens.

Drawn with Pillow, block under block, so that every pixel of a crop and of its grid has its place.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from vtexp.budget.geometry import Size, crop_corners, tiling_to_resolution
from vtexp.models.views import UNREAD, Views
from vtexp.utils.fonts import font

#: Of the picture, all in px.
WIDTH, MARGIN, GAP = 1500, 36, 24
INNER = WIDTH - 2 * MARGIN
#: Most space of the image, of the canvas and of one crop, (width, height) in px.
IMAGE_BOX, CANVAS_BOX, CROP_BOX = (340, 560), (700, 700), (336, 336)
#: Crops of one line, and crops that are drawn one by one.
MOST_IN_LINE, MOST_CROPS = 6, 36
#: Lines of one text; longer ones are cut.
MOST_LINES = 14

TEXT, BOLD = "DejaVuSans.ttf", "DejaVuSans-Bold.ttf"
INK, GREY, PAPER = (33, 37, 41), (100, 108, 116), (255, 255, 255)
GRID, OVERLAP, DROPPED = (40, 125, 255), (255, 149, 0), (40, 20, 70)
PAD_DARK, PAD_LIGHT = (88, 92, 100), (168, 172, 180)
#: Outlines of the crops, unlike the colours above.
OUTLINES = (
    (214, 39, 40),
    (23, 150, 70),
    (148, 60, 200),
    (0, 150, 160),
    (200, 30, 130),
    (120, 90, 20),
)


class Shade(NamedTuple):
    """A colour and how much of it is laid over a picture, 0 to 255."""

    color: tuple[int, int, int]
    alpha: int


GRID_SHADE, OVERLAP_SHADE, DROPPED_SHADE = Shade(GRID, 150), Shade(OVERLAP, 84), Shade(DROPPED, 150)


def sample_picture(
    image: np.ndarray, views: Views, title: str, facts: Sequence[tuple[str, str]]
) -> bytes:
    """PNG of an image uint8 (H, W, 3), what a model sees of it, and labelled facts above."""
    size, canvas = Size(*image.shape[:2]), views.on_canvas(views.pixels)
    seen = [
        _captioned(_scaled(image, IMAGE_BOX), ["image", f"{size} px"]),
        _captioned(
            _canvas(views, canvas),
            [f"canvas, tiling {views.tiling}", f"{Size(*canvas.shape[:2])} px"],
        ),
        _captioned(_crop(views, 0, CROP_BOX), ["global crop", _tokens(views, 0)]),
    ]
    blocks = [_title(title), _facts(facts), _flow(seen), _legend(views), _crops(views)]
    buffer = io.BytesIO()
    _stacked(blocks).save(buffer, "PNG")
    return buffer.getvalue()


# --- text -----------------------------------------------------------------------------------------


def wrapped(text: str, width_px: int, size_px: int, name: str = TEXT) -> list[str]:
    """Lines of a text, none wider than `width_px`; too many are cut, with an ellipsis."""
    face = font(name, size_px)
    lines: list[str] = []
    for paragraph in text.expandtabs(4).splitlines() or [""]:
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            if face.getlength(longer) <= width_px:
                line = longer
                continue
            if line:
                lines.append(line)
            while face.getlength(word) > width_px:  # an address, or a script without spaces
                fits = next(
                    n for n in range(len(word), 0, -1) if face.getlength(word[:n]) <= width_px
                )
                lines.append(word[:fits])
                word = word[fits:]
            line = word
        lines.append(line)
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], f"{lines[MOST_LINES - 1][:-1]}…"]
    return lines


def _text(
    lines: Sequence[str], size_px: int, name: str = TEXT, color: tuple[int, int, int] = INK
) -> Image.Image:
    """Lines of text on paper, as wide as the widest."""
    face, step = font(name, size_px), round(1.45 * size_px)
    width = max(1, *(int(face.getlength(line)) + 2 for line in lines))
    block = Image.new("RGB", (width, step * len(lines)), PAPER)
    draw = ImageDraw.Draw(block)
    for i, line in enumerate(lines):
        draw.text((0, step * (i + 0.5)), line, fill=color, font=face, anchor="lm")
    return block


def _title(title: str) -> Image.Image:
    return _text(wrapped(title, INNER, 26, BOLD), 26, BOLD)


def _facts(facts: Sequence[tuple[str, str]]) -> Image.Image:
    """Labels and their texts in two columns."""
    left = 20 + max(int(font(TEXT, 19).getlength(label)) for label, _ in facts)
    rows = []
    for label, text in facts:
        value = _text(wrapped(text, INNER - left, 19), 19)
        row = Image.new("RGB", (left + value.width, value.height), PAPER)
        row.paste(_text([label], 19, color=GREY), (0, 0))
        row.paste(value, (left, 0))
        rows.append(row)
    return _column(rows, 6)


# --- blocks ---------------------------------------------------------------------------------------


def _column(blocks: Sequence[Image.Image], gap: int) -> Image.Image:
    """Blocks under each other."""
    height = sum(block.height for block in blocks) + gap * (len(blocks) - 1)
    column = Image.new("RGB", (max(block.width for block in blocks), height), PAPER)
    top = 0
    for block in blocks:
        column.paste(block, (0, top))
        top += block.height + gap
    return column


def _line(blocks: Sequence[Image.Image], gap: int) -> Image.Image:
    """Blocks beside each other."""
    width = sum(block.width for block in blocks) + gap * (len(blocks) - 1)
    line = Image.new("RGB", (width, max(block.height for block in blocks)), PAPER)
    left = 0
    for block in blocks:
        line.paste(block, (left, 0))
        left += block.width + gap
    return line


def _flow(blocks: Sequence[Image.Image]) -> Image.Image:
    """Blocks beside each other, in as many lines as the width needs."""
    lines: list[list[Image.Image]] = [[]]
    for block in blocks:
        used = sum(other.width + GAP for other in lines[-1])
        if lines[-1] and used + block.width > INNER:
            lines.append([])
        lines[-1].append(block)
    return _column([_line(line, GAP) for line in lines], GAP)


def _stacked(blocks: Sequence[Image.Image]) -> Image.Image:
    """The whole picture."""
    column = _column(blocks, GAP)
    page = Image.new("RGB", (WIDTH, column.height + 2 * MARGIN), PAPER)
    page.paste(column, (MARGIN, MARGIN))
    return page


def _captioned(picture: Image.Image, caption: Sequence[str]) -> Image.Image:
    """A picture under its caption: one line in bold, one plain."""
    head, below = caption
    return _column([_text([head], 16, BOLD), _text([below], 15, color=GREY), picture], 3)


# --- pixels ---------------------------------------------------------------------------------------


def _scaled(pixels: np.ndarray, box: tuple[int, int]) -> Image.Image:
    """Pixels (H, W, 3) as large as fits into a box (width, height); few become square dots."""
    height, width = pixels.shape[:2]
    scale = min(box[0] / width, box[1] / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
    return Image.fromarray(pixels).resize(size, how, reducing_gap=2.0 if scale < 1 else None)


def _shade(picture: Image.Image, where: np.ndarray, shade: Shade) -> None:
    """Lay a colour over the pixels where a mask (H, W) of any size is true."""
    mask = Image.fromarray(np.where(where, shade.alpha, 0).astype(np.uint8))
    picture.paste(shade.color, mask=mask.resize(picture.size, Image.Resampling.NEAREST))


def _hatch(picture: Image.Image, where: np.ndarray) -> None:
    """Stripes in place of padding."""
    rows, cols = np.mgrid[: picture.height, : picture.width]
    stripes = np.where(((rows + cols) % 12 < 3)[..., None], PAD_LIGHT, PAD_DARK).astype(np.uint8)
    mask = Image.fromarray(np.where(where, 255, 0).astype(np.uint8))
    picture.paste(
        Image.fromarray(stripes), mask=mask.resize(picture.size, Image.Resampling.NEAREST)
    )


def _grid(
    picture: Image.Image, tokens: Iterable[tuple[np.ndarray, float, float]], step: float
) -> None:
    """Lines around the tokens of crops: each (N, N) numbers, and the crop's top and left px."""
    mask = Image.new("L", picture.size)
    draw = ImageDraw.Draw(mask)
    last = picture.width - 1, picture.height - 1
    for numbers, top, left in tokens:
        for (x0, y0), (x1, y1) in _edges(numbers):
            draw.line(
                (
                    min(last[0], round(left + x0 * step)),
                    min(last[1], round(top + y0 * step)),
                    min(last[0], round(left + x1 * step)),
                    min(last[1], round(top + y1 * step)),
                ),
                fill=GRID_SHADE.alpha,
            )
    picture.paste(GRID_SHADE.color, mask=mask)


def _edges(numbers: np.ndarray) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Sides (x, y) to (x, y), in patches, between patches that different tokens read."""
    framed = np.pad(numbers, 1, constant_values=UNREAD)
    for y, x in np.argwhere(framed[1:-1, :-1] != framed[1:-1, 1:]):
        yield (x, y), (x, y + 1)
    for y, x in np.argwhere(framed[:-1, 1:-1] != framed[1:, 1:-1]):
        yield (x, y), (x + 1, y)


def _per_pixel(patches: np.ndarray, views: Views) -> np.ndarray:
    """Values of patches (..., N, N) for each pixel."""
    patch = views.geometry.patch_px
    return patches.repeat(patch, axis=-1).repeat(patch, axis=-2)


# --- canvas and crops -----------------------------------------------------------------------------


def overlaps(views: Views) -> np.ndarray:
    """bool (H, W): pixels of the canvas that several crops show."""
    covered = np.zeros(tiling_to_resolution(views.tiling, views.geometry), int)
    side = views.geometry.crop_px
    for top, left in crop_corners(views.tiling, views.geometry):
        covered[top : top + side, left : left + side] += 1
    return covered > 1


def _canvas(views: Views, canvas: np.ndarray) -> Image.Image:
    """The canvas with its padding, its overlaps, the tokens and the outlines of the crops."""
    picture = _scaled(canvas, CANVAS_BOX)
    _hatch(picture, views.on_canvas(views.padding))
    _shade(picture, overlaps(views), OVERLAP_SHADE)
    scale = picture.width / canvas.shape[1]
    corners = [
        (top * scale, left * scale) for top, left in crop_corners(views.tiling, views.geometry)
    ]
    placed = [(views.tokens[i], *corner) for i, corner in enumerate(corners, 1)]
    _grid(picture, placed, views.geometry.patch_px * scale)
    draw = ImageDraw.Draw(picture)
    side = views.geometry.crop_px * scale - 1
    for number, (top, left) in enumerate(corners, 1):
        inset = 4 * (sum(divmod(number - 1, views.tiling.cols)) % 2)  # beside its neighbours' lines
        box = (left + inset, top + inset, left + side - inset, top + side - inset)
        draw.rectangle(box, outline=_outline(number), width=3)
    for number, (top, left) in enumerate(corners, 1):
        middle = (left + 18, top + 18)
        draw.circle(middle, 13, fill=_outline(number), outline=PAPER)
        draw.text(middle, str(number), fill=PAPER, font=font(BOLD, 14), anchor="mm")
    return picture


def _outline(crop: int) -> tuple[int, int, int]:
    return OUTLINES[(crop - 1) % len(OUTLINES)]


def _crop(views: Views, crop: int, box: tuple[int, int]) -> Image.Image:
    """One crop as the model sees it, with its tokens and what of it is not read."""
    picture = _scaled(views.pixels[crop], box)
    _hatch(picture, views.padding[crop])
    if crop:
        top, left = crop_corners(views.tiling, views.geometry)[crop - 1]
        side = views.geometry.crop_px
        _shade(picture, overlaps(views)[top : top + side, left : left + side], OVERLAP_SHADE)
    _shade(picture, _per_pixel(views.tokens[crop] == UNREAD, views), DROPPED_SHADE)
    _grid(picture, [(views.tokens[crop], 0, 0)], picture.width / views.geometry.patches_per_side)
    if crop:
        frame = (0, 0, picture.width - 1, picture.height - 1)
        ImageDraw.Draw(picture).rectangle(frame, outline=_outline(crop), width=4)
    return picture


def _tokens(views: Views, crop: int) -> str:
    return f"{views.tokens_of(crop)} of {views.geometry.tokens_per_crop} tokens"


def _crops(views: Views) -> Image.Image:
    """The crops, in rows and columns as they lie where these fit."""
    tiling = views.tiling
    count = min(MOST_CROPS, tiling.num_crops)
    as_they_lie = tiling.cols <= MOST_IN_LINE and tiling.rows <= 2 * tiling.cols
    per_line = tiling.cols if as_they_lie else min(count, MOST_IN_LINE)
    side = min(CROP_BOX[0], (INNER - GAP * (per_line - 1)) // per_line)
    panels = []
    for crop in range(1, count + 1):
        row, col = divmod(crop - 1, tiling.cols)
        caption = [f"crop {crop} (row {row + 1}, col {col + 1})", _tokens(views, crop)]
        panels.append(_captioned(_crop(views, crop, (side, side)), caption))
    lines = [_line(panels[i : i + per_line], GAP) for i in range(0, count, per_line)]
    if count < tiling.num_crops:
        lines.append(_text([f"and {tiling.num_crops - count} more"], 16, color=GREY))
    return _column(lines, GAP)


def _legend(views: Views) -> Image.Image:
    """What lines, colours and stripes mean."""
    geometry = views.geometry
    pooled = (
        f"one vision token: {geometry.pool} x {geometry.pool} patches of {geometry.patch_px} px"
    )
    meanings = [(_swatch("grid"), pooled)]
    if views.tiling.num_crops > 1:
        meanings.append((_swatch("overlap"), f"shown by several crops: {geometry.margin_px} px"))
    if (views.tokens == UNREAD).any():
        meanings.append((_swatch("dropped"), "no token: a neighbour has it"))
    if views.padding.any():
        meanings.append((_swatch("padding"), "padding"))
    return _flow([_line([swatch, _text([text], 16)], 8) for swatch, text in meanings])


def _swatch(kind: str) -> Image.Image:
    picture = Image.new("RGB", (34, 23), (226, 222, 214))
    everywhere = np.ones((1, 1), bool)
    if kind == "grid":
        _grid(picture, [(np.arange(4).reshape(2, 2), 0, 0)], 11.5)
    elif kind == "padding":
        _hatch(picture, everywhere)
    else:
        _shade(picture, everywhere, OVERLAP_SHADE if kind == "overlap" else DROPPED_SHADE)
    return picture
