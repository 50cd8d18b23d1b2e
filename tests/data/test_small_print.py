"""Drawn pages: deterministic, disjoint, answerable, and kept as Parquet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont, features

from tests.helpers.sweeps import run_without_report
from vtexp.config.schema import Config
from vtexp.data.builtin import small_print
from vtexp.data.builtin.print_layout import draw_text, places
from vtexp.data.builtin.small_print_pages import ASPECT_RATIO, FONTS, KINDS, PRINT_PX, draw_page
from vtexp.errors import DataError
from vtexp.utils import files
from vtexp.utils.fonts import font

MakeConfig = Callable[..., Config]


@pytest.fixture
def few_pages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of its own, and few pages in it."""
    monkeypatch.setenv("VTEXP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(small_print, "PAGES", {"train": 4, "validation": 3, "test": 6})
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def pages():
    return [draw_page(np.random.default_rng((9, i))) for i in range(40)]


def test_a_page_is_its_seed() -> None:
    first, again, other = (draw_page(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.image.tobytes() == again.image.tobytes()
    assert first.fields == again.fields and first.glyphs == again.glyphs
    assert first.image.tobytes() != other.image.tobytes()


def test_characters_go_where_the_font_says() -> None:
    """At an em of 2048 px, DejaVu's units are px: A is 1401 wide, and 159 closer to T."""
    placed = places("AT", "DejaVuSans.ttf", 2048)
    assert placed.starts == [0, 1401 - 159] and placed.ends == [0, 1401, 1401 - 159 + 1251]
    small = places("AT", "DejaVuSans.ttf", 20)
    assert small.ends == [0, 876 / 64, (876 - 99 + 782) / 64]  # each rounded to 1/64 px
    assert places("", "DejaVuSans.ttf", 20) == ([], [0])


@pytest.mark.skipif(not features.check("raqm"), reason="Pillow has no Raqm on this machine")
def test_text_is_drawn_as_by_raqm() -> None:
    """Pillow's way where the system has FriBiDi: to the last bit of each pixel."""
    rng, characters = np.random.default_rng(0), list("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:.,- ")
    paper, ink = (250, 240, 230), (10, 60, 20)
    for _ in range(300):
        name, px = str(rng.choice(FONTS)), int(rng.integers(5, 64))
        text = "".join(rng.choice(characters, size=rng.integers(1, 10)))
        x, y = rng.uniform(-40, 60), rng.uniform(10, 110)  # also beyond the edges
        ours, theirs = (Image.new("RGB", (400, 120), paper) for _ in range(2))
        draw_text(ours, x, y, text, name, px, ink)
        face = font(name, px, ImageFont.Layout.RAQM)
        ImageDraw.Draw(theirs).text((x, y), text, fill=ink, font=face, anchor="lm")
        assert places(text, name, px).ends[-1] == face.getlength(text)
        assert ours.tobytes() == theirs.tobytes(), (name, px, text, x, y)


def test_pages_are_the_same_on_a_machine_without_raqm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slim container has no FriBiDi; its questions would have been other ones."""
    pages = [draw_page(np.random.default_rng((4, i))) for i in range(8)]
    monkeypatch.setattr(ImageFont.core, "HAVE_RAQM", False)
    font.cache_clear()
    again = [draw_page(np.random.default_rng((4, i))) for i in range(8)]
    assert [page.image.tobytes() for page in pages] == [page.image.tobytes() for page in again]
    assert [page.glyphs for page in pages] == [page.glyphs for page in again]


def test_pages_are_what_the_card_says(pages) -> None:
    assert {page.kind for page in pages} == set(KINDS)
    for page in pages:
        width, height = page.image.size
        assert 0.595e6 < width * height < 1.205e6
        assert ASPECT_RATIO[0] * 0.99 < width / height < ASPECT_RATIO[1] * 1.01
        assert len(page.fields) >= 4
        questions = [asked.question for asked in page.fields]
        assert len(set(questions)) == len(questions)  # else an answer would not be sure
        for asked in page.fields:
            assert PRINT_PX[0] <= asked.print_px <= PRINT_PX[1]


def test_print_sizes_are_spread(pages) -> None:
    sizes = [asked.print_px for page in pages for asked in page.fields]
    assert np.mean(np.array(sizes) < 15) > 0.25
    assert np.mean(np.array(sizes) >= 24) > 0.15


def test_every_glyph_is_inked_where_it_is_said_to_be(pages) -> None:
    for page in pages[:10]:
        pixels = np.asarray(page.image, dtype=np.float32)
        paper = np.median(pixels.reshape(-1, 3), axis=0)
        for glyph in page.glyphs:
            half = max(3, round(0.35 * glyph.print_px))
            y, x = round(glyph.y), round(glyph.x)
            around = pixels[max(0, y - half) : y + half, max(0, x - half) : x + half]
            assert np.abs(around - paper).max() > 60, glyph


def test_answers_are_printed(pages) -> None:
    for page in pages:
        printed = "".join(glyph.character for glyph in page.glyphs)
        for asked in page.fields:
            assert asked.answer in printed


def test_splits_share_no_page(few_pages: Path) -> None:
    images = [
        sample.image.open_bytes().read()
        for split in small_print.SPLITS
        for sample in small_print.load(split)
    ]
    assert len(set(images)) == 4 + 3 + 6


def test_drawn_once_and_the_same_from_the_cache(
    few_pages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = small_print.load("test")
    assert [path.name for path in few_pages.iterdir()] == [small_print.cache_path("test").name]
    monkeypatch.setattr(small_print, "draw_rows", None)  # drawing again would fail
    assert small_print.load("test") == first
    assert len({s.sample_id for s in first}) == len(first)


def test_damaged_cache_says_what_to_do(few_pages: Path) -> None:
    small_print.load("validation")
    small_print.cache_path("validation").write_bytes(b"PAR1 cut off")
    with pytest.raises(DataError, match="delete it"):
        small_print.load("validation")


def test_cache_that_cannot_be_written_says_what_to_do(
    few_pages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_pages.parent.joinpath("file").write_text("")
    monkeypatch.setenv("VTEXP_CACHE_DIR", str(few_pages.parent / "file"))
    with pytest.raises(DataError, match="set VTEXP_CACHE_DIR"):
        small_print.load("test")


@pytest.mark.slow
def test_a_run_on_pages_of_many_shapes(
    few_pages: Path, make_config: MakeConfig, tmp_path: Path
) -> None:
    """Per-image tilings, and the print size in the record of each question."""
    run_without_report(
        make_config("dataset=small_print", "dataset.limit=8", "knob=max_crops",
                    "knob.max_crops=[4]"),

    )  # fmt: skip
    folder = next((tmp_path / "sweep").glob("max_crops-4_*"))
    rows = files.read_jsonl(folder / "samples.jsonl")
    assert len({row["measured_tiling"] for row in rows}) > 1
    assert all(PRINT_PX[0] <= row["print_px"] <= PRINT_PX[1] for row in rows)
    result = files.read_json(folder / "result.json")
    assert result["tiling"].startswith("mixed")
    tokens = [row["measured_vision_tokens"] for row in rows]
    assert result["measured_vision_tokens"] == pytest.approx(np.mean(tokens))
    assert result["prefill_vision_tokens"] == pytest.approx(np.mean(tokens[:2]))
