"""Images of every kind: read as Molmo's code reads them, or refused with a reason."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.helpers.facts import says
from tests.helpers.sweeps import run_without_report
from vtexp.config.schema import Config
from vtexp.data.sample import ImageFile, Sample, to_rgb
from vtexp.errors import DataError
from vtexp.runs.plan import make_plan

MakeConfig = Callable[..., Config]
GRADIENT = np.arange(20 * 40 * 3, dtype=np.uint32).reshape(20, 40, 3).astype(np.uint8)


def as_reference(data: bytes) -> np.ndarray:
    """What Molmo's load_image does, step by step."""
    with Image.open(io.BytesIO(data)) as image:
        return np.array(ImageOps.exif_transpose(image.convert("RGB")))


def save(kind: str, tmp_path: Path, **options: object) -> Path:
    """One image of a kind."""
    path = tmp_path / f"image.{kind.lower()}"
    Image.fromarray(GRADIENT).save(path, kind, **options)
    return path


def sample_of(path: Path) -> Sample:
    return Sample("s", "i", ImageFile(path), "is there a red shape?", ("yes",), "yes/no")


def oriented(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "MPO"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_header_and_pixels_alike(tmp_path: Path, kind: str, orientation: int) -> None:
    path = save(kind, tmp_path, exif=oriented(orientation))
    sample = sample_of(path)
    pixels = sample.pixels()
    assert tuple(sample.image_size()) == pixels.shape[:2]
    assert pixels.shape[:2] == ((20, 40) if orientation < 5 else (40, 20))
    assert np.array_equal(pixels, as_reference(path.read_bytes()))


def test_exif_behind_the_pixels_of_a_png_counts_too(tmp_path: Path) -> None:
    """Some tools append the chunk."""
    path = save("PNG", tmp_path)
    data = path.read_bytes()
    body = b"eXIf" + oriented(6).removeprefix(b"Exif\x00\x00")
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    end = data.rindex(b"IEND") - 4
    path.write_bytes(data[:end] + chunk + data[end:])
    assert tuple(sample_of(path).image_size()) == sample_of(path).pixels().shape[:2] == (40, 20)


def chunk_of(name: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def raw_profile(exif: bytes) -> bytes:
    """EXIF in a PNG as ImageMagick wrote it."""
    text = f"\nexif\n{len(exif):8}\n{exif.hex()}\n".encode()
    return chunk_of(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))


#: Chunks behind the pixels of a PNG whose size is another by them.
LATE_CHUNKS = {
    "XMP": [chunk_of(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)],
    "raw profile": [raw_profile(oriented(6))],
    "two EXIFs": [chunk_of(b"eXIf", oriented(n).removeprefix(b"Exif\0\0")) for n in (1, 6)],
}


def turned_late(kind: str, folder: Path) -> Path:
    """An image whose header does not say that it is turned, though Pillow turns it."""
    if kind == "TIFF":
        path = folder / "turned.tiff"
        Image.fromarray(GRADIENT).save(path, tiffinfo={700: XMP})
        return path
    path = save("PNG", folder)
    data = path.read_bytes()
    end = data.rindex(b"IEND") - 4
    path.write_bytes(data[:end] + b"".join(LATE_CHUNKS[kind]) + data[end:])
    return path


@pytest.mark.parametrize("kind", [*LATE_CHUNKS, "TIFF"])
def test_headers_that_lie_fail_the_image(tmp_path: Path, kind: str) -> None:
    path = turned_late(kind, tmp_path)
    assert as_reference(path.read_bytes()).shape == (40, 20, 3)
    sample = sample_of(path)
    assert tuple(sample.image_size()) == (20, 40)
    says = rf"{path.name}: its header says 20x40 px, but it is decoded to 40x20"
    with pytest.raises(DataError, match=says):
        sample.pixels()


def test_exif_that_is_cut_off_warns_no_one(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path = save("PNG", tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[:33] + raw_profile(oriented(6)[:-4]) + data[33:])  # behind the header
    assert tuple(sample_of(path).image_size()) == sample_of(path).pixels().shape[:2] == (40, 20)
    assert not recwarn.list


def test_broken_exif_is_no_reason_to_fail(tmp_path: Path) -> None:
    path = save("JPEG", tmp_path, exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert tuple(sample_of(path).image_size()) == sample_of(path).pixels().shape[:2] == (20, 40)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "I", "F"]
)
def test_any_mode_becomes_rgb_as_in_the_reference(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray((np.arange(800, dtype=np.uint16) * 80).reshape(20, 40))
        assert image.mode == "I;16"
    elif mode in ("I", "F"):
        image = Image.fromarray(GRADIENT).convert("L").convert(mode)
    else:
        image = Image.fromarray(GRADIENT).convert(mode)
    path = tmp_path / "image.tif"
    image.save(path) if mode not in ("PA", "HSV") else image.convert("RGBA").save(path)
    pixels = sample_of(path).pixels()
    assert pixels.shape == (20, 40, 3) and pixels.dtype == np.uint8
    assert np.array_equal(pixels, as_reference(path.read_bytes()))


def test_transparent_palettes_warn_no_one(tmp_path: Path) -> None:
    image = Image.fromarray(GRADIENT).quantize(16)
    path = tmp_path / "image.png"
    image.save(path, transparency=bytes(range(16)))
    assert np.array_equal(sample_of(path).pixels(), np.array(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame_counts(tmp_path: Path, kind: str) -> None:
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "blue")]
    path = tmp_path / f"moving.{kind.lower()}"
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], lossless=True)
    assert (sample_of(path).pixels() == np.array([[[255, 0, 0]]])).all()
    assert sample_of(path).image_size() == (6, 8)


def truncated(tmp_path: Path) -> Path:
    path = save("JPEG", tmp_path)
    path.write_bytes(path.read_bytes()[:-200])
    return path


def test_truncated_images_fail_when_decoded(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be decoded"):
        sample_of(truncated(tmp_path)).pixels()


def bomb(tmp_path: Path) -> Path:
    """The header of a PNG of 20 000 x 20 000 px."""
    path = save("PNG", tmp_path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 20_000, 20_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: folder / "gone.png", "gone.png: no such"),
        (lambda folder: folder, "not a readable image"),
        (bomb, r"too large .*179 megapixels"),
    ],
)
@pytest.mark.fault(
    "bad data",
    "images that are missing, not files, or decompression bombs",
    "the sample fails with a reason",
)
def test_unusable_images_say_why(tmp_path: Path, make: Callable[[Path], Path], says: str) -> None:
    sample = sample_of(make(tmp_path))
    for read in (sample.image_size, sample.pixels):
        with pytest.raises(DataError, match=says):
            read()


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"no image", b"GIF89a", b"\x89PNG\r\n\x1a\n" + b"\0" * 40),
        *(b"\xff\xd8\xff\xe0" + b"\0" * 99, b"II*\0" + b"\xff" * 60),
    ],
)
def test_files_that_are_no_images_say_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"file\.png: "):
        sample_of(path).image_size()
        sample_of(path).pixels()


def test_large_but_allowed_sides_are_read(tmp_path: Path) -> None:
    path = tmp_path / "long.png"
    Image.new("L", (20_000, 30)).save(path)
    assert sample_of(path).image_size() == (30, 20_000)
    assert sample_of(path).pixels().shape == (30, 20_000, 3)
    one = tmp_path / "one.png"
    Image.new("RGB", (1, 1), "red").save(one)
    assert sample_of(one).pixels().tolist() == [[[255, 0, 0]]]


def test_rgb_is_a_copy_of_its_own() -> None:
    pixels = to_rgb(Image.fromarray(GRADIENT))
    assert pixels.flags.writeable and np.array_equal(pixels, GRADIENT)


# --- in a plan ------------------------------------------------------------------------------------


@pytest.fixture
def folder_of_all_kinds(tmp_path: Path) -> Path:
    """A private set with good images, odd ones and bad ones."""
    folder = tmp_path / "kinds"
    (folder / "test").mkdir(parents=True)
    images = folder / "test"
    Image.fromarray(GRADIENT).save(images / "good.png")
    Image.new("RGB", (1, 1)).save(images / "one.png")
    Image.new("CMYK", (50, 20)).save(images / "cmyk.jpg")
    Image.new("RGB", (2000, 1)).save(images / "flat.png")
    (images / "text.png").write_text("no image")
    bomb(tmp_path).rename(images / "bomb.png")
    names = ["good.png", "one.png", "cmyk.jpg", "flat.png", "text.png", "bomb.png", "gone.png"]
    lines = [
        f'{{"file_name": "{name}", "question": "is it?", "answers": ["yes"]}}' for name in names
    ]
    lines.append('{"file_name": "good.png", "question": "without an answer?", "answers": []}')
    lines.append('{"file_name": "good.png", "question": null, "answers": ["yes"]}')
    (images / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def overrides(folder: Path, *more: str) -> list[str]:
    return ["dataset.source.form=imagefolder", f"dataset.source.folder={folder}",
            "dataset.source.files=test", "dataset.limit=null", *more]  # fmt: skip


def test_unusable_samples_are_recorded_with_their_reasons(
    make_config: MakeConfig, folder_of_all_kinds: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    config = make_config(*overrides(folder_of_all_kinds, "dataset.max_failed=5", "plan=true"))
    plan = make_plan(config)
    assert {s.image_id for s in plan.samples} == {"good.png", "one.png", "cmyk.jpg", "flat.png"}
    reasons = {failed.sample_id: failed.reason for failed in plan.failed}
    assert set(reasons) == {"test-4", "test-5", "test-6", "test-7", "test-8"}
    assert says(reasons["test-4"], "text.png", "not a readable")
    assert "too large" in reasons["test-5"]
    assert "gone.png: no such" in reasons["test-6"]
    assert reasons["test-7"].endswith("no answer")
    assert reasons["test-8"].endswith("no question")
    asked = plan.runs[0].asked(config)
    assert asked.num_failed == 5
    assert {sample.sample_id for sample in asked.failed_samples} == set(reasons)
    run_without_report(config)
    assert "cannot be asked: 5 samples in all" in capsys.readouterr().out


def test_letterboxed_images_can_be_too_flat(
    make_config: MakeConfig, folder_of_all_kinds: Path
) -> None:
    config = make_config(
        *overrides(folder_of_all_kinds, "dataset.max_failed=6", "knob.fit=letterbox")
    )
    plan = make_plan(config)
    assert any("1x2000 px" in failed.reason for failed in plan.failed)
    assert len(plan.failed) == 6


def test_more_failed_samples_than_allowed_stop_the_run(
    make_config: MakeConfig, folder_of_all_kinds: Path
) -> None:
    says = r"5 of 9 .*dataset\.max_failed=4; .*test-[4-8]: "
    with pytest.raises(DataError, match=says):
        make_plan(make_config(*overrides(folder_of_all_kinds, "dataset.max_failed=4")))


def test_a_set_without_any_usable_sample_stops_the_run(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "metadata.csv").write_text("file_name,question,answers\na.png,q,a\n")
    with pytest.raises(DataError, match=r"none of 1 .*test-0: .*a\.png"):
        make_plan(make_config(*overrides(tmp_path, "dataset.max_failed=100")))
