"""Printed text that is the same on every machine: where its characters go, and its drawing.

Pillow places and kerns characters by Raqm where the system has FriBiDi, and without it in whole px
and unkerned, so that a page would depend on the machine. Here the font's own tables say where they
go, as Raqm places them (advances and the `kern` table, each rounded to 1/64 px).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from vtexp.utils.fonts import font, font_file

#: FreeType's positions are in 1/64 px.
PER_PX = 64


class FontTables(NamedTuple):
    """A font's numbers, of `em` units: glyph names by code point, advances and kerning by them."""

    em: int
    names: dict[int, str]
    advances: dict[str, tuple[int, int]]
    kerning: dict[tuple[str, str], int]


class Places(NamedTuple):
    """Where each of a text's n characters starts (n), and where the first 0 to n of them end
    (n + 1), in px from its left end."""

    starts: list[float]
    ends: list[float]


@lru_cache(maxsize=16)
def _tables(font_name: str) -> FontTables:
    from fontTools.ttLib import TTFont  # 40 ms that only drawing takes

    with TTFont(font_file(font_name), lazy=True) as tables:
        kerning = tables["kern"].kernTables[0].kernTable
        return FontTables(
            tables["head"].unitsPerEm, tables.getBestCmap(), tables["hmtx"].metrics, kerning
        )


def places(text: str, font_name: str, print_px: int) -> Places:
    """Where the characters of a text go. Raises DataError where matplotlib's fonts are missing."""
    tables = _tables(font_name)
    names = [tables.names[ord(character)] for character in text]

    def rounded(units: int) -> int:
        return math.floor(units * print_px * PER_PX / tables.em + 0.5)

    starts, ends = [], [0]
    for i, name in enumerate(names):
        kerning = tables.kerning.get((names[i - 1], name), 0) if i else 0
        starts.append(ends[-1] + rounded(kerning))
        ends.append(starts[-1] + rounded(tables.advances[name][0]))
    return Places(*([place / PER_PX for place in own] for own in (starts, ends)))


def draw_text(
    image: Image.Image,
    x: float,
    y: float,
    text: str,
    font_name: str,
    print_px: int,
    ink: tuple[int, int, int],
) -> Places:
    """Draw a text with its left end at x and the middle of its line near y."""
    face = font(font_name, print_px, ImageFont.Layout.BASIC)
    placed = places(text, font_name, print_px)
    left, top = math.floor(x) - print_px, math.floor(y) - 2 * print_px
    size = math.ceil(placed.ends[-1]) + 3 * print_px, 4 * print_px
    # Of all characters first: where two touch, the ink is not put on twice.
    mask = Image.new("L", size)
    pen = ImageDraw.Draw(mask)
    for character, start in zip(text, placed.starts, strict=True):
        pen.text((x - left + start, y - top), character, fill=255, font=face, anchor="lm")
    image.paste(ink, (left, top), mask)
    return placed
