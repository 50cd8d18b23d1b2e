"""Images of samples: where their bytes are, and how they become pixels, as in Molmo's own code.

An image is opened when it is needed and never held: a sample knows a file, or a cell of a
memory-mapped Arrow file. Nothing here imports pyarrow until such a cell is read: most plans
need none.

Pillow reads the header of every image, and decodes what kornia-rs does not: kornia-rs decodes
common JPEGs and PNGs to the same pixels, JPEGs in two thirds of the time, PNGs in half or less.
"""

from __future__ import annotations

import io
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from vtexp.budget.geometry import Size
from vtexp.errors import ArgumentError, DataError, message_of
from vtexp.utils.arguments import path
from vtexp.utils.text import printable, shown

if TYPE_CHECKING:
    import pyarrow as pa

#: Pillow's formats that are read. For EPS it would start another program; most others are less
#: widely used, so that holes in them go unseen for longer.
FORMATS = (
    *("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB"),
    *("TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "TGA"),
)
#: EXIF orientations that swap height and width.
_LYING = (5, 6, 7, 8)
#: The modes in which kornia-rs decodes a PNG, by those that Pillow names.
_PNG_MODES = {"RGB": "rgb", "RGBA": "rgba", "L": "mono"}
#: Keywords of texts in a PNG from which Pillow reads how it is turned.
_TURNING_TEXTS = (b"Raw profile type exif", b"XML:com.adobe.xmp")


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image in a file of its own; `on_white`: see `to_rgb`."""

    path: Path
    on_white: bool = False

    def open_bytes(self) -> BinaryIO:
        """The encoded image. Raises OSError, also for pipes: who opens one waits for ever."""
        if not stat.S_ISREG(self.path.stat().st_mode):
            raise OSError("not a regular file")
        return self.path.open("rb")

    def __str__(self) -> str:
        return printable(str(self.path))


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An encoded image in a cell of an Arrow file (`file`, `column`, `row`), read when opened.

    `origin` names the place for people, such as a row of the Parquet file it came from. `on_white`:
    see `to_rgb`.
    """

    file: str
    column: str
    row: int
    origin: str
    origin_row: int
    on_white: bool = False

    def open_bytes(self) -> BinaryIO:
        """The encoded image. Raises OSError."""
        cell = encoded_cells(self.file, self.column)[self.row].as_buffer()
        if cell is None:
            raise OSError("the cell is empty")
        return io.BytesIO(memoryview(cell))

    def __str__(self) -> str:
        return f"{self.origin}, row {self.origin_row}"


@dataclass(frozen=True, slots=True)
class MemoryImage:
    """An encoded image in memory; `on_white`: see `to_rgb`."""

    data: bytes
    name: str = "an image in memory"
    on_white: bool = False

    def open_bytes(self) -> BinaryIO:
        """The encoded image."""
        return io.BytesIO(self.data)

    def __str__(self) -> str:
        return self.name


AnyImage = ImageFile | StoredImage | MemoryImage


def image_of(value: Any) -> AnyImage:
    """An image from a path, a PIL image, or a uint8 array (H, W), (H, W, 1), (H, W, 3 or 4).

    Pixels become a PNG in memory, with the pixels that `to_rgb` gives, or with its fourth channel,
    which `to_rgb` treats as a file's. Raises DataError for anything else.
    """
    if isinstance(value, ImageFile | StoredImage | MemoryImage):
        return value
    if isinstance(value, str | os.PathLike):
        return ImageFile(_file_of(value))
    pixels = _pixels_of(value)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return MemoryImage(file.getvalue())


def _file_of(value: str | os.PathLike[str]) -> Path:
    """The path of a file. Raises DataError for a text that cannot be one."""
    if found := re.match(r"(https?|ftp|s3|gs|hf|file|data):", str(value)):
        kind = found[1]
        raise DataError(f"{shown(str(value))}: {kind} is not read; download it and give its path")
    try:
        return path("image", value).expanduser().absolute()
    except (ArgumentError, RuntimeError) as error:  # the latter: no user of this name
        raise DataError(f"image={shown(str(value))}: not a path ({message_of(error)})") from error


def _pixels_of(value: Any) -> np.ndarray:
    """uint8 (H, W, 3), or (H, W, 4) with transparency, of a PIL image or an array.

    Raises DataError for anything else.
    """
    if isinstance(value, Image.Image):
        if 0 in value.size:
            raise DataError(f"not an image ({value.height}x{value.width} px): it has no pixels")
        try:
            return _upright_rgba(value) if value.mode == "RGBA" else to_rgb(value)
        except Exception as error:  # as in _pillow_pixels
            raise DataError(f"the image cannot be decoded ({message_of(error)})") from error
    wanted = "give a path, a PIL image, or a uint8 array (height, width, 3)"
    try:
        pixels = np.asarray(value)
    except Exception as error:  # of any library's tensors
        raise DataError(f"not an image ({type(value).__name__}): {wanted}") from error
    grey = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 1)
    if pixels.dtype != np.uint8 or not (grey or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))):
        what = f"{type(value).__name__} of {pixels.dtype}, shape {pixels.shape}"
        raise DataError(f"not an image ({what}): {wanted}")
    if 0 in pixels.shape:
        raise DataError(f"not an image (shape {pixels.shape}): it has no pixels")
    if grey:
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(pixels)


def _upright_rgba(image: Image.Image) -> np.ndarray:
    image = image.copy()
    with suppress(Exception):  # as in `to_rgb`
        ImageOps.exif_transpose(image, in_place=True)
    return np.array(image, dtype=np.uint8)


def arrow_table(file: str) -> pa.Table:
    """The rows of an Arrow stream file, memory-mapped. Raises OSError or pyarrow's ValueError."""
    return _mapped(file, *_state(file))


def encoded_cells(file: str, name: str) -> pa.ChunkedArray:
    """The encoded images of a column: binary, or the `bytes` of `datasets`' struct of two.

    Raises as `arrow_table` does.
    """
    return _encoded(file, name, *_state(file))


def _state(file: str) -> tuple[int, int]:
    """Size and time of a file: a file that changed since it was mapped is mapped again."""
    found = Path(file).stat()
    return found.st_size, found.st_mtime_ns


@lru_cache(maxsize=1024)
def _mapped(file: str, size: int, time_ns: int) -> pa.Table:
    import pyarrow as pa

    return pa.ipc.open_stream(pa.memory_map(file)).read_all()


@lru_cache(maxsize=1024)
def _encoded(file: str, name: str, size: int, time_ns: int) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    column = _mapped(file, size, time_ns).column(name)
    return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column


class Header(NamedTuple):
    """What an image's header says: its upright size, and whether it can be transparent."""

    size: Size
    transparent: bool


def image_header(source: AnyImage) -> Header:
    """What an image's header says. Raises DataError if it cannot be read."""
    with _opened(source) as (image, file):
        return Header(_upright_size(image, _orientation(image, file)), image.has_transparency_data)


def image_size(source: AnyImage) -> Size:
    """Upright size of an image, from its header only. Raises DataError if it cannot be read."""
    return image_header(source).size


def _upright_size(image: Image.Image, orientation: int) -> Size:
    lying = orientation in _LYING and image.format != "TIFF"
    width, height = reversed(image.size) if lying else image.size
    return Size(height, width)


def image_pixels(source: AnyImage) -> np.ndarray:
    """The image as uint8 (H, W, 3) RGB, upright, of the size that `image_size` gives.

    Raises DataError if it cannot be decoded, or has another size: a few files say behind their
    pixels how they are turned, and not all of them are found beforehand.
    """
    with _opened(source) as (image, file):
        orientation = _orientation(image, file)
        size = _upright_size(image, orientation)
        blended = source.on_white and image.mode == "RGBA"
        pixels = _fast_pixels(image, file) if orientation == 1 and not blended else None
    if pixels is None:
        pixels = _pillow_pixels(source)
    decoded = Size(*pixels.shape[:2])
    if decoded != size:
        raise DataError(f"{source}: its header says {size} px, but it is decoded to {decoded}")
    return pixels


def _pillow_pixels(source: AnyImage) -> np.ndarray:
    """`to_rgb` of an image that is opened again: where Pillow was asked for EXIF before the pixels
    were read, it does not look behind them."""
    with _opened(source) as (image, _):
        try:
            return to_rgb(image, on_white=source.on_white)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise many kinds for broken files
            raise DataError(
                f"{source}: the image cannot be decoded ({message_of(error)})"
            ) from error


def to_rgb(image: Image.Image, *, on_white: bool = False) -> np.ndarray:
    """uint8 (H, W, 3) array of an image of any mode: its first frame, turned as its EXIF says.

    Pillow's conversion, then the turn, as in Molmo's `load_image`: transparency is dropped, 16 bits
    are clipped at 255. Unlike there, truncated files are not filled with grey. An RGB image is
    turned itself: Pillow would copy it twice, for nothing. With `on_white` an RGBA image is pasted
    on white first, as by qwen_vl_utils' `to_rgb`; no other mode is. Raises what Pillow raises.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as palettes with transparency
        blended = on_white and image.mode == "RGBA"
        if image.mode != "RGB" and not blended:
            image = image.convert("RGB")
        image.load()
        with suppress(Exception):  # EXIF that cannot be parsed: left as it is, as there
            ImageOps.exif_transpose(image, in_place=True)
        if blended:
            white = Image.new("RGB", image.size, (255, 255, 255))
            white.paste(image, mask=image.getchannel("A"))
            image = white
    return np.array(image, dtype=np.uint8)


def _fast_pixels(image: Image.Image, file: BinaryIO) -> np.ndarray | None:
    """What `to_rgb` gives of an image whose header does not turn it, by kornia-rs.

    None where Pillow must decode. kornia-rs raises for all that is broken, and for PNGs that are
    not of 8 bits.
    """
    jpeg = image.format == "JPEG" and image.mode in ("RGB", "L")
    png = image.format == "PNG" and image.mode in _PNG_MODES
    decoders = _kornia_decoders()
    if decoders is None or not (jpeg or png):
        return None
    file.seek(0)
    data = file.read()
    if png and _turned_late(data):
        return None
    try:
        if jpeg:
            pixels = np.asarray(decoders.decode_image_jpegturbo(data, "rgb"))
        else:
            shape, mode = (image.height, image.width), _PNG_MODES[image.mode]
            pixels = np.asarray(decoders.decode_image_png_u8(data, shape, mode))
    except MemoryError:
        raise
    except Exception:  # it has no class of its own
        return None
    if pixels.shape[2] == 4:
        return np.ascontiguousarray(pixels[:, :, :3])
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)


def _turned_late(png: bytes) -> bool:
    """Whether a PNG has chunks behind its pixels that may turn it: EXIF or XMP in any guise."""
    place, behind = 8, False
    while len(head := png[place : place + 8]) == 8:
        name = head[4:]
        if name == b"IDAT":
            behind = True
        elif behind and (name == b"eXIf" or png.startswith(_TURNING_TEXTS, place + 8)):
            return True
        place += 12 + int.from_bytes(head[:4], "big")
    return False


@cache
def _kornia_decoders() -> ModuleType | None:
    """kornia-rs, None where it is not installed."""
    try:
        from kornia_rs import io
    except ImportError:
        return None
    return io


@contextmanager
def _opened(source: AnyImage) -> Iterator[tuple[Image.Image, BinaryIO]]:
    """The image, not decoded yet, and its file."""
    try:
        file = source.open_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{source}: no such image") from error
    except (OSError, ValueError, IndexError) as error:  # pyarrow's own are ValueErrors
        raise DataError(f"{source}: not a readable image ({message_of(error)})") from error
    with file:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # large, but below Pillow's limit
                image = Image.open(file, formats=_formats())
        except Image.DecompressionBombError as error:
            most = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
            raise DataError(
                f"{source}: too large to decode (Pillow's limit is {most:.0f} megapixels)"
            ) from error
        except UnidentifiedImageError as error:
            raise DataError(f"{source}: not a readable image (of no known format)") from error
        except Exception as error:  # Pillow's plugins raise many kinds for broken headers
            raise DataError(f"{source}: not a readable image ({message_of(error)})") from error
        with image:
            yield image, file


@cache
def _formats() -> list[str]:
    """Those of the formats that this machine's Pillow was built with."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _orientation(image: Image.Image, file: BinaryIO) -> int:
    """EXIF orientation from the header; 1 where there is none."""
    with warnings.catch_warnings(), suppress(Exception):  # as in to_rgb
        warnings.simplefilter("ignore")
        # Not PngImageFile.getexif: it decodes the whole image where the header has no EXIF.
        found = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
        if found is None and image.format == "PNG":
            found = _late_exif(file).get(ExifTags.Base.Orientation)
        return found or 1
    return 1


def _late_exif(file: BinaryIO) -> Image.Exif:
    """EXIF of a PNG's eXIf chunk, wherever it stands: some tools write it behind the pixels."""
    exif = Image.Exif()
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length = int.from_bytes(head[:4], "big")
        if head[4:] == b"eXIf":
            exif.load(b"Exif\x00\x00" + file.read(length))
            break
        file.seek(length + 4, io.SEEK_CUR)
    return exif
