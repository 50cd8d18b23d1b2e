"""InternVL and Qwen2.5-VL: tilings and preprocessing against transformers' own image processors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
    GotOcr2ImageProcessorPil,
    get_optimal_tiled_canvas,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
    smart_resize,
)

from tests.helpers.closeness import OF_PIXELS, assert_close_to_spread
from vtexp.budget.geometry import (
    INTERNVL,
    QWEN2_5_VL,
    Size,
    Tiling,
    image_size_to_tiling,
    image_tiling,
    largest_tiling,
    nearest_aspect_tiling,
    pixel_tiling,
    theoretical_tokens,
    token_layout,
    tokens_to_crops,
)
from vtexp.budget.knobs import CropSetting, KnobValue
from vtexp.errors import ConfigError
from vtexp.models.internvl import InternVLRunner
from vtexp.models.processors import IMAGENET
from vtexp.models.qwen2_5_vl import Qwen2_5_VLRunner
from vtexp.prompts.tokenizer import PromptTokenizer

sides = st.integers(1, 4000)
tilings = st.builds(Tiling, st.integers(1, 12), st.integers(1, 12))


class OneToken(PromptTokenizer):
    """A tokenizer whose image token is 7."""

    def __init__(self) -> None:
        object.__setattr__(self, "image_ids", (7,))


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def internvl() -> InternVLRunner:
    return InternVLRunner(None, OneToken(), INTERNVL, torch.device("cpu"), torch.float32)


@given(sides, sides, st.integers(1, 40))
def test_internvl_tiling_is_that_of_transformers(height: int, width: int, cap: int) -> None:
    cols, rows = get_optimal_tiled_canvas((height, width), (448, 448), 1, cap)
    assert nearest_aspect_tiling(Size(height, width), cap, INTERNVL) == (rows, cols)


@pytest.mark.parametrize("cap", [1, 4, 12])
@pytest.mark.parametrize("size", [(64, 64), (300, 451), (1200, 500), (900, 900)])
def test_internvl_pixels_are_those_of_transformers(size: tuple[int, int], cap: int) -> None:
    image = noise(*size)
    processor = GotOcr2ImageProcessorPil(
        size={"height": 448, "width": 448},
        image_mean=IMAGENET.mean,
        image_std=IMAGENET.std,
        crop_to_patches=True,
        max_patches=cap,
    )
    expected = processor(image, return_tensors="pt")["pixel_values"]
    found = internvl().read_image(image, CropSetting(cap, fit="stretch"))
    assert_close_to_spread(found.tensors["pixel_values"], expected, OF_PIXELS)
    assert found.image_tokens.tolist() == [7] * 256 * len(expected)


def test_internvl_numbers() -> None:
    assert (INTERNVL.tokens_per_crop, INTERNVL.margin_px) == (256, 0)
    assert [theoretical_tokens(n, INTERNVL) for n in (1, 2, 12)] == [256, 768, 3328]
    assert image_size_to_tiling(Size(896, 1344), INTERNVL) == (2, 3)
    assert INTERNVL.num_crops(1) == 1 and INTERNVL.num_crops(4) == 3


@given(tilings, st.booleans())
def test_internvl_layout_is_theoretical(tiling: Tiling, full: bool) -> None:
    layout = token_layout(tiling, INTERNVL, force_full_tokens=full)
    assert layout.vision_tokens == theoretical_tokens(tiling.num_crops, INTERNVL)
    assert layout.sequence_length == layout.vision_tokens


@given(st.integers(256, 20_000), sides, sides)
def test_internvl_target_is_kept_and_used(target: int, height: int, width: int) -> None:
    setting = KnobValue("vision_tokens", str(target)).crop_setting(INTERNVL)
    tiling = setting.tiling(Size(height, width), INTERNVL)
    assert tiling.num_crops == tokens_to_crops(target, INTERNVL)
    assert theoretical_tokens(tiling.num_crops, INTERNVL) <= target
    assert theoretical_tokens(tiling.num_crops + 1, INTERNVL) > target


def test_internvl_forced_crops_follow_the_shape() -> None:
    assert image_tiling(Size(500, 2000), 4, INTERNVL, exact_num_crops=4) == (1, 4)
    assert image_tiling(Size(1000, 1000), 4, INTERNVL, exact_num_crops=4) == (2, 2)


# --- Qwen2.5-VL --------------------------------------------------------------------------------


def qwen() -> Qwen2_5_VLRunner:
    return Qwen2_5_VLRunner(None, OneToken(), QWEN2_5_VL, torch.device("cpu"), torch.float32)


@given(sides, sides, st.integers(4, 20_000))
def test_qwen_tiling_is_that_of_transformers(height: int, width: int, cap: int) -> None:
    assume(max(height, width) <= 200 * min(height, width))  # transformers refuses flatter ones
    resized = smart_resize(height, width, 28, 56 * 56, 28 * 28 * cap)
    expected = tuple(side // 28 for side in resized)
    found = pixel_tiling(Size(height, width), cap, QWEN2_5_VL)
    assert found.num_crops <= cap
    if expected[0] * expected[1] <= cap:  # transformers goes above its cap for some flat ones
        assert found == expected


@pytest.mark.parametrize("cap", [6, 100, 1280])
@pytest.mark.parametrize("size", [(64, 64), (300, 451), (1200, 500), (9, 40)])
def test_qwen_pixels_are_those_of_transformers(size: tuple[int, int], cap: int) -> None:
    image = noise(*size)
    limits = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * cap}
    expected = Qwen2VLImageProcessorPil(size=limits)(image, return_tensors="pt")
    found = qwen().read_image(image, CropSetting(cap, fit="stretch"))
    np.testing.assert_array_equal(found.tensors["image_grid_thw"], expected["image_grid_thw"])
    assert_close_to_spread(found.tensors["pixel_values"], expected["pixel_values"], OF_PIXELS)
    assert found.image_tokens.tolist() == [7] * (len(found.tensors["pixel_values"]) // 4)


def test_qwen_numbers() -> None:
    assert (QWEN2_5_VL.tokens_per_crop, QWEN2_5_VL.window_px, QWEN2_5_VL.margin_px) == (1, 28, 0)
    assert [theoretical_tokens(n, QWEN2_5_VL) for n in (1, 7, 1280)] == [1, 7, 1280]
    assert [tokens_to_crops(n, QWEN2_5_VL) for n in (1, 7, 1280)] == [1, 7, 1280]
    assert image_size_to_tiling(Size(560, 350), QWEN2_5_VL) == (20, 12)


@given(tilings, st.booleans())
def test_qwen_layout_is_theoretical(tiling: Tiling, full: bool) -> None:
    layout = token_layout(tiling, QWEN2_5_VL, force_full_tokens=full)
    assert layout.vision_tokens == layout.sequence_length == tiling.num_crops


@given(st.integers(1, 20_000), sides, sides)
def test_qwen_target_is_kept_and_nearly_used(target: int, height: int, width: int) -> None:
    """Each side loses less than one cell to rounding down; a side below one cell takes one."""
    setting = KnobValue("vision_tokens", str(target)).crop_setting(QWEN2_5_VL)
    rows, cols = setting.tiling(Size(height, width), QWEN2_5_VL)
    assert rows * cols <= target
    ideal_rows, ideal_cols = (target * height / width) ** 0.5, (target * width / height) ** 0.5
    if min(ideal_rows, ideal_cols) >= 1:
        assert (rows + 1.001) * (cols + 1.001) >= target
    else:
        assert rows * cols >= min(target, int(max(ideal_rows, ideal_cols)))


def test_qwen_prime_targets_are_no_strips() -> None:
    assert image_tiling(Size(900, 900), 997, QWEN2_5_VL, exact_num_crops=997) == (31, 31)
    assert largest_tiling(Size(100, 100), 1, QWEN2_5_VL) == (1, 1)


def test_qwen_knobs_take_more_cells_than_molmo_takes_crops() -> None:
    assert KnobValue("max_crops", "16384").crop_setting(QWEN2_5_VL).max_crops == 16384
    with pytest.raises(ConfigError, match="give at most 144000"):
        KnobValue("max_crops", "144001").crop_setting(QWEN2_5_VL)
