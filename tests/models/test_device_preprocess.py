"""Preprocessing on a device against preprocessing on the host: on a GPU where there is one."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from vtexp.budget.geometry import INTERNVL, MOLMO, QWEN2_5_VL, Size
from vtexp.budget.knobs import CropSetting
from vtexp.data.sample import to_rgb
from vtexp.errors import DataError
from vtexp.models import device_resize
from vtexp.models.device_resize import Parcel, bilinear, pillow_bicubic
from vtexp.models.host_resize import one_thread
from vtexp.models.internvl import InternVLRunner
from vtexp.models.molmo.preprocess import ImageTokenIds, preprocess_image, shaped
from vtexp.models.molmo2.preprocess import Molmo2TokenIds, preprocess_molmo2
from vtexp.models.qwen2_5_vl import Qwen2_5_VLRunner

IDS = ImageTokenIds(start=1, end=2, patch=3, column=4)
MOLMO2_IDS = Molmo2TokenIds(start=1, global_start=2, end=3, patch=4, column=5)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
FITS = ("letterbox", "stretch", "crop")
#: Sides of images: extreme, those of canvases, and random ones, the large ones rare.
SIZES = [(1, 1), (30, 2000), (2000, 30), (336, 336), (560, 784), (378, 378), (448, 896), (28, 56)]
SIZES += np.exp(np.random.default_rng(0).uniform(2, 6.8, (8, 2))).astype(int).tolist()
SETTINGS = [
    CropSetting(1),
    CropSetting(6),
    CropSetting(5, 5),
    CropSetting(3, force_full_tokens=True),
    CropSetting(6, 6, Size(560, 784)),
]


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise of all values for even seeds, of 0 and 255, which overshoots most, for odd ones."""
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return image if seed % 2 == 0 else np.uint8(255) * (image > 127)


def sent(image: np.ndarray) -> torch.Tensor:
    """An image on the device."""
    return torch.from_numpy(image).to(DEVICE)


def cases() -> list[tuple[np.ndarray, CropSetting]]:
    """Each size under one setting and fit, all of which take turns."""
    found = []
    for number, (height, width) in enumerate(SIZES):
        setting, fit = SETTINGS[number % len(SETTINGS)], FITS[number % len(FITS)]
        setting = CropSetting(
            setting.max_crops,
            setting.exact_num_crops,
            setting.image_size,
            fit,
            setting.force_full_tokens,
        )
        found.append((picture(height, width, number), setting))
    return found


def test_molmo_is_within_two_millionths_of_the_exact_path() -> None:
    for image, setting in cases():
        expected = preprocess_image(image, setting, MOLMO, IDS)
        found = preprocess_image(sent(image), setting, MOLMO, IDS)
        torch.testing.assert_close(found.patches.cpu(), expected.patches, atol=2e-6, rtol=0)
        assert torch.equal(found.padding_mask.cpu(), expected.padding_mask)
        assert torch.equal(found.image_tokens, expected.image_tokens)
        assert torch.equal(found.image_input_idx, expected.image_input_idx)
        assert found.tiling == expected.tiling


def test_molmo2_has_the_same_pixels() -> None:
    for image, setting in cases():
        expected = preprocess_molmo2(image, setting, MOLMO2_IDS)
        found = preprocess_molmo2(sent(image), setting, MOLMO2_IDS)
        torch.testing.assert_close(found.patches.cpu(), expected.patches, atol=1e-6, rtol=0)
        assert torch.equal(found.pooled_patches, expected.pooled_patches)
        assert torch.equal(found.image_tokens, expected.image_tokens)
        assert (found.grid, found.tiling) == (expected.grid, expected.tiling)


def native_reader(family: type, geometry: Any) -> Callable[..., Any]:
    """`read_image` of a family, whose image token is 7."""
    tokenizer = SimpleNamespace(image_ids=(7,))
    runner = SimpleNamespace(geometry=geometry, tokenizer=tokenizer, normalisation=None)
    return lambda image, setting: family.read_image(runner, image, setting)


@pytest.mark.parametrize(
    ("family", "geometry"), [(InternVLRunner, INTERNVL), (Qwen2_5_VLRunner, QWEN2_5_VL)]
)
def test_native_families_have_the_same_pixels(family: type, geometry: Any) -> None:
    read = native_reader(family, geometry)
    for image, setting in cases():
        expected, found = read(image, setting), read(sent(image), setting)
        assert found.tensors.keys() == expected.tensors.keys()
        for name, tensor in expected.tensors.items():
            torch.testing.assert_close(found.tensors[name].cpu(), tensor, atol=1e-6, rtol=0)
        assert torch.equal(found.image_tokens, expected.image_tokens)


def random_resizes(count: int) -> list[tuple[np.ndarray, Size]]:
    """Images and sizes to bring them to; some keep a side, or both."""
    rng = np.random.default_rng(1)
    found = []
    for number in range(count):
        height, width, *size = np.exp(rng.uniform(0, 6.5, 4)).astype(int).tolist()
        if number % 4 == 1:
            size[number // 4 % 2] = (height, width)[number // 4 % 2]
        if number % 16 == 0:
            size = [height, width]
        found.append((picture(height, width, number), Size(*size)))
    return found


def test_bicubic_is_pillows() -> None:
    for image, size in random_resizes(150):
        pillow = Image.fromarray(image).resize((size.width, size.height), Image.Resampling.BICUBIC)
        found = pillow_bicubic(sent(image), size).cpu()
        np.testing.assert_array_equal(found, np.array(pillow), str((image.shape, size)))


@one_thread()
def test_bilinear_is_torchs() -> None:
    """As on CPUs with FMA, which all x86 servers have: the golden data are of such a one."""
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("torch's own kernel rounds otherwise here")
    for image, size in random_resizes(150):
        pixels = torch.from_numpy(image).permute(2, 0, 1).float()
        resized = F.interpolate(pixels[None], tuple(size), mode="bilinear")[0].round()
        assert torch.equal(bilinear(sent(image), size).cpu(), resized), (image.shape, size)


@pytest.mark.golden
def test_golden_images(golden_dir: Path) -> None:
    """Molmo v1 within 2e-6 of the host, Molmo2's pixels those of transformers."""
    images = np.load(golden_dir / "preprocess.npz")
    arrays = np.load(golden_dir / "molmo2_processor.npz")
    index = json.loads((golden_dir / "molmo2_processor_index.json").read_text())
    sampled_cases = [case for case in index["cases"] if f"{case['key']}/sample_value" in arrays]
    assert sampled_cases
    for number, case in enumerate(sampled_cases):
        key, cap = case["key"], case["max_crops"]
        image = to_rgb(Image.open(io.BytesIO(images[f"png/{case['image']}"].tobytes())))
        pixels = sent(image)
        setting = CropSetting(cap, fit="stretch")
        patches = preprocess_molmo2(pixels, setting, MOLMO2_IDS).patches.cpu().numpy()
        sampled = patches.ravel()[arrays[f"{key}/sample_flat_index"]]
        np.testing.assert_allclose(sampled, arrays[f"{key}/sample_value"], atol=1e-6, rtol=0)
        # A single pixel that is off by 1 of 255 moves the mean of its crop by 2e-8.
        means = patches.astype(np.float64).mean(axis=(1, 2))
        np.testing.assert_allclose(means, arrays[f"{key}/crop_mean"], atol=4e-8, rtol=1e-7)
        if number % 2 == 0:
            expected = preprocess_image(image, CropSetting(cap), MOLMO, IDS).patches
            found = preprocess_image(pixels, CropSetting(cap), MOLMO, IDS).patches.cpu()
            torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


def test_nothing_reads_a_value_back() -> None:
    """Tensors without values raise where the host asks for one, as a wait for the device would."""
    image = torch.empty(600, 450, 3, dtype=torch.uint8, device="meta")
    for fit in FITS:
        setting = CropSetting(12, fit=fit)
        molmo = preprocess_image(image, setting, MOLMO, IDS)
        molmo2 = preprocess_molmo2(image, setting, MOLMO2_IDS)
        native = [
            native_reader(InternVLRunner, INTERNVL)(image, setting),
            native_reader(Qwen2_5_VLRunner, QWEN2_5_VL)(image, setting),
        ]
        there = [molmo.patches, molmo.padding_mask, molmo2.patches]
        here = [molmo.image_tokens, molmo.image_input_idx, molmo2.pooled_patches]
        here.append(molmo2.image_tokens)
        for read in native:
            there.append(read.tensors["pixel_values"])
            here += [read.image_tokens, *(t for n, t in read.tensors.items() if "grid" in n)]
        assert {tensor.device.type for tensor in there} == {"meta"}
        assert {tensor.device.type for tensor in here} == {"cpu"}


def test_large_images_are_resized_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    image, setting = sent(picture(300, 500)), CropSetting(4)
    whole = preprocess_image(image, setting, MOLMO, IDS).patches
    bicubic = pillow_bicubic(image, Size(77, 300))
    monkeypatch.setattr(device_resize, "MOST_VALUES", 100_000)
    in_parts = preprocess_image(image, setting, MOLMO, IDS).patches
    torch.testing.assert_close(in_parts, whole, atol=5e-7, rtol=0)
    assert torch.equal(pillow_bicubic(image, Size(77, 300)), bicubic)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(1, 1), (30, 200), (200, 31)])
def test_shapes_are_those_of_the_host(size: tuple[int, int], fit: str) -> None:
    image = picture(*size)
    for target in (Size(100, 100), Size(60, 100), Size(200, 20)):
        found = shaped(sent(image), target, fit)
        assert isinstance(found, torch.Tensor)
        np.testing.assert_array_equal(found.cpu(), shaped(image, target, fit))


def test_results_of_one_size_share_nothing() -> None:
    image, setting = sent(picture(50, 60)), CropSetting(2)
    first = preprocess_image(image, setting, MOLMO, IDS)
    first.padding_mask.zero_(), first.image_tokens.zero_(), first.image_input_idx.zero_()
    second = preprocess_image(image, setting, MOLMO, IDS)
    assert second.padding_mask.any() and second.image_tokens.any() and second.image_input_idx.any()


def test_too_flat_image_is_a_clear_error() -> None:
    with pytest.raises(DataError, match="too flat"):
        preprocess_image(torch.zeros(1, 2000, 3, dtype=torch.uint8), CropSetting(1), MOLMO, IDS)


def test_a_parcel_keeps_what_was_put_in() -> None:
    put = [
        np.arange(3, dtype=np.float32),
        np.arange(5, dtype=np.uint8),
        np.linspace(0, 1, 6).reshape(2, 3),
        np.arange(6).reshape(2, 3).T,
    ]
    got = Parcel.of(put, DEVICE).sent(DEVICE)
    for before, after in zip(put, got, strict=True):
        assert after.dtype == torch.from_numpy(before).dtype
        assert torch.equal(after.cpu(), torch.from_numpy(before))
