"""Drawing the pages of small_print: receipts, forms, tables, labels and charts to be read.

Everything follows from one random generator, so a page is its seed. Print is in capitals. Fonts are
DejaVu, which come with matplotlib (a free licence, LICENSE_DEJAVU there).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from vtexp.data.builtin.print_layout import draw_text, places

FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf")
#: Print sizes in px (the font's em), drawn log-uniformly. At a page of 950 px, the global crop
#: alone shows print of 25 px as 9 px high; 3x3 crops show print of 11 px so.
PRINT_PX = (10, 32)
AREA_PX = (600_000, 1_200_000)
ASPECT_RATIO = (0.5, 2.0)
FIELDS_PER_PAGE = 12

GOODS = (
    "tea", "milk", "bread", "rice", "salt", "eggs", "soap", "jam", "oil", "fish", "corn", "nuts",
    "plums", "lamp", "rope", "paint", "glue", "nails", "chalk", "paper", "ink", "wool", "brush",
    "honey", "flour", "beans", "cheese", "apples",
)  # fmt: skip
LABELS = (
    "room", "floor", "gate", "seat", "row", "ward", "lane", "dock", "shelf", "box", "lot", "batch",
    "model", "size", "weight", "age", "score", "order", "case", "unit",
)  # fmt: skip
LETTERS = tuple("ABCDEFGHJKLMNPRSTUVWXYZ")
HEADINGS = ("stock", "sold", "left", "due", "new", "old")


class Glyph(NamedTuple):
    """One drawn character: its centre and the print size, in px of the page, and its word."""

    character: str
    x: float
    y: float
    print_px: int
    word: int


class Field(NamedTuple):
    """A question that is answered by reading one printed word, given by its number."""

    question: str
    answer: str
    print_px: int
    word: int


@dataclass
class Page:
    """A drawn page: its kind, RGB image, questions, words, and where each character is."""

    kind: str
    image: Image.Image
    fields: list[Field] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    glyphs: list[Glyph] = field(default_factory=list)


def draw_page(
    rng: np.random.Generator,
    area_px: tuple[float, float] = AREA_PX,
    kinds: Sequence[str] | None = None,
) -> Page:
    """One page of one of `kinds` (any, if None), its area within `area_px`.

    Raises DataError where matplotlib's fonts are missing.
    """
    kind = str(rng.choice(list(kinds or KINDS)))
    area = rng.uniform(*area_px)
    low, high = np.log(ASPECT_RATIO)
    aspect = np.exp(rng.triangular(low, 0, high))
    pen = new_page(kind, round((area * aspect) ** 0.5), round((area / aspect) ** 0.5), rng)
    page = pen.page
    KINDS[kind](pen)
    order = rng.permutation(len(page.fields))
    page.fields = [page.fields[i] for i in order]
    page.image = add_noise(page.image, rng)
    return page


def new_page(kind: str, width: int, height: int, rng: np.random.Generator) -> Pen:
    """An empty page in random colours, and what draws on it."""
    paper, ink = _colors(rng)
    page = Page(kind, Image.new("RGB", (width, height), paper))
    return Pen(page, ImageDraw.Draw(page.image), rng, ink)


@dataclass
class Pen:
    """What a layout draws with: the page, its ink, and the random choices of this page."""

    page: Page
    draw: ImageDraw.ImageDraw
    rng: np.random.Generator
    ink: tuple[int, int, int]

    def __post_init__(self) -> None:
        self.font_name = str(self.rng.choice(FONTS))
        #: Half a line's height, in its print size.
        self.half_line = float(self.rng.uniform(0.85, 1.7))
        self.left = float(self.rng.uniform(0.04, 0.3))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the page in px."""
        return self.page.image.size

    def print_px(self) -> int:
        """A print size for one field."""
        low, high = np.log(PRINT_PX)
        return round(float(np.exp(self.rng.uniform(low, high))))

    def width_of(self, text: str, print_px: int) -> float:
        """Width of a text in px."""
        return places(text.upper(), self.font_name, print_px).ends[-1]

    def write(self, x: float, y: float, text: str, print_px: int) -> None:
        """Write in capitals, with the left end at x and the middle of the line near y."""
        text = text.upper()
        placed = draw_text(self.page.image, x, y, text, self.font_name, print_px, self.ink)
        words = text.split(" ")
        ends = [x + end for end in placed.ends]
        start = 0
        for word in words:
            for i, character in enumerate(word, start):
                centre = (ends[i] + ends[i + 1]) / 2
                glyph = Glyph(character, centre, y, print_px, len(self.page.words))
                self.page.glyphs.append(glyph)
            self.page.words.append(word)
            start += len(word) + 1

    def line(self, *points: float) -> None:
        """A thin line of the ink."""
        self.draw.line(points, fill=self.ink, width=1)

    def ask(self, question: str, answer: str, print_px: int) -> None:
        """Record a question about the word that was written last."""
        word = len(self.page.words) - 1
        self.page.fields.append(Field(question, answer, print_px, word))

    def pick(self, words: tuple[str, ...], count: int) -> list[str]:
        """Different words in random order, at most as many as there are."""
        chosen = self.rng.choice(len(words), size=min(count, len(words)), replace=False)
        return [words[i] for i in chosen]

    def number(self) -> str:
        """10 to 99."""
        return str(self.rng.integers(10, 100))

    def price(self) -> str:
        """0.10 to 9.90."""
        return f"{self.rng.integers(0, 10)}.{self.rng.integers(1, 10)}0"


def _receipt(pen: Pen) -> None:
    """Goods on the left, prices on the right, dots between."""
    width, height = pen.size
    left, right = pen.left * width, 0.96 * width
    y = 0.05 * height
    for name in pen.pick(GOODS, FIELDS_PER_PAGE):
        size, price = pen.print_px(), pen.price()
        y += pen.half_line * size
        if y + size > height:
            break
        end = right - pen.width_of(price, size)
        # Long pages of narrow print would leave the price far away: bring it nearer.
        end = min(end, left + pen.width_of(name, size) + pen.rng.uniform(4, 14) * size)
        pen.write(left, y, name, size)
        dots_from, dots_to = left + pen.width_of(name, size) + 0.4 * size, end - 0.4 * size
        for x in np.arange(dots_from, dots_to, 0.6 * size):
            pen.draw.point((x, y + 0.25 * size), fill=pen.ink)
        pen.write(end, y, price, size)
        pen.ask(f"What is the price of {name}?", price, size)
        y += pen.half_line * size


def _form(pen: Pen) -> None:
    """Lines of `label: value`, in one or two columns."""
    width, height = pen.size
    columns = 2 if width > 700 else 1
    names = pen.pick(LABELS, FIELDS_PER_PAGE)
    for column in range(columns):
        y = 0.05 * height
        for name in names[column::columns]:
            size, value = pen.print_px(), pen.number()
            text = f"{name}: {value}"
            y += pen.half_line * size
            if y + size > height:
                break
            room = width / columns * 0.94 - pen.width_of(text, size)
            if room <= 0:
                continue
            x = column * width / columns + 0.03 * width + pen.rng.uniform(0, 0.5) * room
            pen.write(x, y, text, size)
            if pen.rng.random() < 0.5:
                pen.line(x, y + 0.7 * size, x + pen.width_of(text, size), y + 0.7 * size)
            pen.ask(f"What is the {name}?", value, size)
            y += pen.half_line * size


def _table(pen: Pen) -> None:
    """Rows of goods with two columns of numbers, ruled."""
    width, height = pen.size
    headings = pen.pick(HEADINGS, 2)
    columns = (0.05 * width, 0.45 * width, 0.75 * width)
    y = 0.04 * height
    heading_px = int(pen.rng.integers(18, 28))
    y += heading_px
    for x, heading in zip(columns[1:], headings, strict=True):
        pen.write(x, y, heading, heading_px)
    y += heading_px
    for name in pen.pick(GOODS, FIELDS_PER_PAGE):
        size = pen.print_px()
        y += pen.half_line * size
        if y + size > height:
            break
        if pen.width_of(name, size) > 0.38 * width:
            continue
        pen.line(0.04 * width, y + 0.85 * size, 0.96 * width, y + 0.85 * size)
        pen.write(columns[0], y, name, size)
        for x, heading in zip(columns[1:], headings, strict=True):
            value = pen.number()
            pen.write(x, y, value, size)
            pen.ask(f"How many {name} are {heading}?", value, size)
        y += pen.half_line * size


def _labels(pen: Pen) -> None:
    """A grid of cards, each with a letter and a number."""
    width, height = pen.size
    columns = max(1, round(width / 300))
    rows = max(1, round(height / 200))
    letters = pen.pick(LETTERS, columns * rows)
    cells = pen.rng.permutation(columns * rows)[: len(letters)]
    for letter, cell in zip(letters, cells, strict=True):
        row, column = divmod(int(cell), columns)
        size, value = pen.print_px(), pen.number()
        text = f"{letter} {value}"
        room_x = width / columns - pen.width_of(text, size) - 20
        room_y = height / rows - 1.4 * size - 20
        if min(room_x, room_y) <= 0:
            continue
        x = column * width / columns + 10 + pen.rng.uniform(0, room_x)
        y = row * height / rows + 10 + 0.7 * size + pen.rng.uniform(0, room_y)
        pen.write(x, y, text, size)
        if pen.rng.random() < 0.5:
            box = (x - 6, y - 0.8 * size, x + pen.width_of(text, size) + 6, y + 0.8 * size)
            pen.draw.rectangle(box, outline=pen.ink)
        pen.ask(f"What number is next to {letter}?", value, size)


def _chart(pen: Pen) -> None:
    """Horizontal bars: a letter before each, its value printed behind it."""
    width, height = pen.size
    letters = pen.pick(LETTERS, FIELDS_PER_PAGE)
    left = pen.left * width
    y = 0.04 * height
    for letter in letters:
        size, value = pen.print_px(), pen.number()
        y += pen.half_line * size
        if y + size > height:
            break
        pen.write(left, y, letter, size)
        start = left + 1.3 * size
        length = int(value) / 100 * max(20.0, min(6.0 * size, 0.7 * width - start))
        shade = color_between(60, 190, pen.rng)
        pen.draw.rectangle((start, y - 0.4 * size, start + length, y + 0.4 * size), fill=shade)
        pen.write(start + length + 0.5 * size, y, value, size)
        pen.ask(f"What is the value of {letter}?", value, size)
        y += pen.half_line * size


KINDS: dict[str, Callable[[Pen], None]] = {
    "receipt": _receipt,
    "form": _form,
    "table": _table,
    "label": _labels,
    "chart": _chart,
}


def _colors(rng: np.random.Generator) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Paper and ink: light and dark, sometimes the other way round."""
    light, dark = color_between(205, 256, rng), color_between(0, 80, rng)
    return (dark, light) if rng.random() < 0.15 else (light, dark)


def color_between(low: int, high: int, rng: np.random.Generator) -> tuple[int, int, int]:
    """A color whose channels are drawn from low to below high."""
    red, green, blue = (int(c) for c in rng.integers(low, high, 3))
    return red, green, blue


def add_noise(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Light grain, the same in all channels."""
    pixels = np.asarray(image).astype(np.int16)
    grain = rng.standard_normal(pixels.shape[:2], dtype=np.float32) * rng.uniform(0, 6)
    pixels += np.rint(grain).astype(np.int16)[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255, out=pixels).astype(np.uint8))
