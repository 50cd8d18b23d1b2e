"""kornia-rs against Pillow: the same pixels, and whatever it does not decode is Pillow's."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from vtexp.data import images
from vtexp.data.images import ImageFile, image_pixels, to_rgb
from vtexp.errors import DataError


def picture(mode: str = "RGB") -> Image.Image:
    """A smooth, grainy picture of odd sides."""
    y, x = np.mgrid[:83, :121]
    waves = np.stack([np.sin(x / 9 + y / 14), np.cos(x / 5), np.sin(y / 7)], axis=-1)
    grain = np.random.default_rng(0).normal(0, 6, waves.shape)
    pixels = (100 * waves + grain + 128).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(pixels[..., 0]))
    return image


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    """An image as a file of one form."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def turned(orientation: int) -> Image.Exif:
    """EXIF that says how an image is turned."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def sixteen_bits() -> bytes:
    """A grey PNG of 16 bits, most of them above 255."""
    values = np.random.default_rng(0).integers(0, 60_000, (30, 40), dtype=np.uint16)
    return encoded(Image.fromarray(values), "PNG")


#: Files that kornia-rs decodes.
FAST: dict[str, Callable[[], bytes]] = {
    "4:2:0": lambda: encoded(picture(), "JPEG", quality=85),
    "4:2:2": lambda: encoded(picture(), "JPEG", subsampling="4:2:2"),
    "4:4:4": lambda: encoded(picture(), "JPEG", quality=92, subsampling="4:4:4"),
    "grey JPEG": lambda: encoded(picture("L"), "JPEG"),
    "progressive": lambda: encoded(picture(), "JPEG", progressive=True),
    "RGB JPEG": lambda: encoded(picture(), "JPEG", keep_rgb=True),
    "restart markers": lambda: encoded(picture(), "JPEG", restart_marker_rows=1),
    "said to be upright": lambda: encoded(picture(), "JPEG", exif=turned(1)),
    "PNG": lambda: encoded(picture(), "PNG"),
    "transparent colour": lambda: encoded(picture(), "PNG", transparency=(128, 128, 128)),
    "RGBA": lambda: encoded(picture("RGBA"), "PNG"),
    "grey PNG": lambda: encoded(picture("L"), "PNG"),
}
#: Files that Pillow decodes.
SLOW: dict[str, Callable[[], bytes]] = {
    "CMYK": lambda: encoded(picture("CMYK"), "JPEG"),
    "palette": lambda: encoded(picture("P"), "PNG"),
    "grey with alpha": lambda: encoded(picture("LA"), "PNG"),
    "1 bit": lambda: encoded(picture("1"), "PNG"),
    "16 bits": sixteen_bits,
    "WebP": lambda: encoded(picture(), "WEBP"),
    "GIF": lambda: encoded(picture("P"), "GIF"),
}
SLOW |= {
    f"{form} turned {n}": lambda form=form, n=n: encoded(picture(), form, exif=turned(n))
    for form in ("JPEG", "PNG")
    for n in range(2, 9)
}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list to which each picture decoded by kornia-rs adds its form."""
    decoders, calls = images._kornia_decoders(), []
    assert decoders is not None

    class Counting:
        """The decoders, counting."""

        def decode_image_jpegturbo(self, *arguments: Any) -> Any:
            found = decoders.decode_image_jpegturbo(*arguments)
            calls.append("JPEG")
            return found

        def decode_image_png_u8(self, *arguments: Any) -> Any:
            found = decoders.decode_image_png_u8(*arguments)
            calls.append("PNG")
            return found

    monkeypatch.setattr(images, "_kornia_decoders", Counting)
    return calls


@pytest.mark.parametrize("name", [*FAST, *SLOW])
def test_pixels_are_pillows(name: str, tmp_path: Path, decoded: list[str]) -> None:
    path = tmp_path / "image"
    path.write_bytes((FAST | SLOW)[name]())
    pixels = image_pixels(ImageFile(path))
    assert len(decoded) == (name in FAST)
    expected = to_rgb(Image.open(path))
    np.testing.assert_array_equal(pixels, expected)
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous and pixels.flags.writeable


@pytest.mark.parametrize("name", FAST)
def test_cut_files_are_errors(name: str, tmp_path: Path, decoded: list[str]) -> None:
    data, path = FAST[name](), tmp_path / "image"
    for kept in (0.5, 0.9, 0.99):
        path.write_bytes(data[: int(kept * len(data))])
        with pytest.raises(DataError, match="cannot be decoded"):
            image_pixels(ImageFile(path))
    assert not decoded


def test_broken_jpegs_are_read_as_pillow_reads_them(tmp_path: Path) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "image"
    for name in ("4:2:0", "progressive", "grey JPEG"):
        data = FAST[name]()
        for _ in range(40):
            broken = bytearray(data)
            broken[rng.integers(len(data))] = rng.integers(256)
            path.write_bytes(broken)
            try:
                expected = to_rgb(Image.open(path, formats=["JPEG"]))
            except Exception:
                with pytest.raises(DataError):
                    image_pixels(ImageFile(path))
                continue
            np.testing.assert_array_equal(image_pixels(ImageFile(path)), expected)


def test_without_kornia_pillow_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "image"
    for make in FAST.values():
        path.write_bytes(make())
        fast = image_pixels(ImageFile(path))
        with monkeypatch.context() as patch:
            patch.setattr(images, "_kornia_decoders", lambda: None)
            np.testing.assert_array_equal(image_pixels(ImageFile(path)), fast)
