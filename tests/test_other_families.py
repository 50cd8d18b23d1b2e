"""InternVL and Qwen2.5-VL: tilings and preprocessing against transformers' own image processors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
    GotOcr2ImageProcessorPil,
    get_optimal_tiled_canvas,
)

from vtexp.geometry import (
    INTERNVL,
    Size,
    Tiling,
    image_size_to_tiling,
    image_tiling,
    nearest_aspect_tiling,
    theoretical_tokens,
    token_layout,
    tokens_to_crops,
)
from vtexp.knobs import CropSetting, KnobValue
from vtexp.models.internvl import MEAN, STD, InternVLRunner
from vtexp.prompts import PromptTokenizer

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
        image_mean=MEAN,
        image_std=STD,
        crop_to_patches=True,
        max_patches=cap,
    )
    expected = processor(image, return_tensors="pt")["pixel_values"]
    found = internvl().read_image(image, CropSetting(cap, fit="stretch"))
    np.testing.assert_allclose(found.tensors["pixel_values"], expected, atol=1e-5, rtol=0)
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
