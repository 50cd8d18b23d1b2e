"""The seed documents' functions: their own examples, the reference's tilings, and bad arguments."""

from __future__ import annotations

import gzip
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vtexp import budget

#: The documents' table of sizes, with 560x784 as its formula has it.
SIZES = {
    (336, 336): (1, 1),
    (336, 560): (1, 2),
    (560, 336): (2, 1),
    (336, 784): (1, 3),
    (560, 560): (2, 2),
    (560, 784): (2, 3),
    (784, 784): (3, 3),
    (1008, 784): (4, 3),
    (784, 1008): (3, 4),
}
FORMS = {
    "tokens_to_crops": "(target_tokens)",
    "crops_to_tiling": "(num_crops, aspect_ratio=1.0)",
    "tiling_to_resolution": "(tiling, crop_window_size=224, total_margin_pixels=112)",
    "vision_tokens_to_image_resolution": "(target_tokens, original_aspect_ratio, "
    "crop_window_size=224, total_margin_pixels=112)",
    "resize_for_target_vision_tokens": "(image, target_tokens, preserve_aspect_ratio=True)",
    "select_tiling": "(h, w, patch_size, max_num_crops, exact_num_crops=None)",
}


@pytest.mark.parametrize("name", FORMS)
def test_arguments_are_those_of_the_documents(name: str) -> None:
    parameters = inspect.signature(getattr(budget, name)).parameters.values()
    plain = [p.name if p.default is p.empty else f"{p.name}={p.default!r}" for p in parameters]
    assert f"({', '.join(plain)})" == FORMS[name]


@pytest.mark.parametrize("size", SIZES)
def test_sizes_tilings_and_tokens_of_the_documents(size: tuple[int, int]) -> None:
    tiling = SIZES[size]
    assert budget.image_size_to_tiling(size) == tiling
    assert budget.image_size_to_tiling(f"{size[0]}x{size[1]}") == tiling
    assert budget.image_size_to_tiling(list(size)) == tiling
    assert budget.tiling_to_resolution(tiling) == size
    crops = tiling[0] * tiling[1]
    assert budget.tokens_to_crops((crops + 1) * 144) == crops
    assert budget.crops_to_tiling(crops, size[1] / size[0]) == tiling
    assert budget.vision_tokens_to_image_resolution((crops + 1) * 144, size[1] / size[0]) == size


def test_other_windows() -> None:
    assert budget.tiling_to_resolution((2, 3), 266, 112) == (2 * 266 + 112, 3 * 266 + 112)
    assert budget.tiling_to_resolution((2, 3), crop_window_size=100, total_margin_pixels=0) == (
        200,
        300,
    )
    assert budget.image_size_to_tiling((644, 910), 266) == (2, 3)
    assert budget.vision_tokens_to_image_resolution(720, 1.0, 266, 112) == (644, 644)


def test_select_tiling_is_the_references(golden_dir: Path) -> None:
    data = json.loads(gzip.decompress((golden_dir / "tilings.json.gz").read_bytes()))
    columns = [data[key] for key in ("h", "w", "max_crops", "rows", "cols")]
    for h, w, cap, rows, cols in list(zip(*columns, strict=True))[::97]:
        assert budget.select_tiling(h - 112, w - 112, 224, cap) == (rows, cols)


@given(st.integers(1, 400), st.floats(0.1, 10))
def test_exact_crops_are_the_nearest_factor_pair(num_crops: int, ratio: float) -> None:
    rows, cols = budget.crops_to_tiling(num_crops, ratio)
    assert rows * cols == num_crops
    height, width = 1000, round(1000 * ratio)
    chosen = budget.select_tiling(height - 112, width - 112, 224, 1, exact_num_crops=num_crops)
    assert chosen == budget.crops_to_tiling(num_crops, width / height)


@given(st.integers(-100, 5000).filter(lambda tokens: tokens > 0))
def test_targets_are_not_exceeded(tokens: int) -> None:
    crops = budget.tokens_to_crops(tokens)
    assert crops == max(1, tokens // 144 - 1)
    assert crops == 1 or (crops + 1) * 144 <= tokens


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "PA", "1"])
def test_images_get_the_size_of_their_target(mode: str) -> None:
    image = Image.new(mode, (640, 425))
    resized = budget.resize_for_target_vision_tokens(image, 432)
    assert (resized.height, resized.width) == budget.vision_tokens_to_image_resolution(
        432, 640 / 425
    )
    assert resized.mode == {"P": "RGB", "PA": "RGBA", "1": "L"}.get(mode, mode)
    square = budget.resize_for_target_vision_tokens(image, 720, preserve_aspect_ratio=False)
    assert square.size == (560, 560)


BAD: list[tuple[Callable[..., Any], tuple[Any, ...], str]] = [
    (budget.tokens_to_crops, (0,), "target_tokens=0"),
    (budget.tokens_to_crops, (432.0,), "target_tokens=432.0"),
    (budget.tokens_to_crops, ("432",), "target_tokens='432'"),
    (budget.tokens_to_crops, (True,), "target_tokens=True"),
    (budget.crops_to_tiling, (-1,), "num_crops=-1"),
    (budget.crops_to_tiling, (10**9,), "num_crops=1000000000"),
    (budget.crops_to_tiling, (4, 0), "aspect_ratio=0"),
    (budget.crops_to_tiling, (4, float("inf")), "aspect_ratio=inf"),
    (budget.crops_to_tiling, (4, "wide"), "aspect_ratio='wide'"),
    (budget.tiling_to_resolution, ((2,),), "tiling"),
    (budget.tiling_to_resolution, ((2, 0),), r"tiling\[1\]=0"),
    (budget.tiling_to_resolution, (None,), "tiling=None"),
    (budget.tiling_to_resolution, ((2, 2), 0), "crop_window_size=0"),
    (budget.tiling_to_resolution, ((2, 2), 224, -1), "total_margin_pixels=-1"),
    (budget.vision_tokens_to_image_resolution, (432, float("nan")), "aspect_ratio=nan"),
    (budget.image_size_to_tiling, ("big",), "size: .*'big'"),
    (budget.image_size_to_tiling, ((336,),), "size"),
    (budget.image_size_to_tiling, ((0, 336),), r"size\[0\]=0"),
    (budget.select_tiling, (float("nan"), 1, 224, 12), "h=nan"),
    (budget.select_tiling, (1, -1_000_001, 224, 12), "w=-1000001"),
    (budget.select_tiling, (1, 1, 224, 0), "max_num_crops=0"),
    (budget.select_tiling, (1, 1, 0, 12), "crop_window_size=0|patch_size=0"),
    (budget.select_tiling, (1, 1, 224, 12, 0), "exact_num_crops=0"),
    (budget.select_tiling, (-112, 1, 224, 12, 2), "h=-112"),
    (budget.resize_for_target_vision_tokens, (np.zeros((4, 4, 3)), 432), "PIL"),
    (budget.resize_for_target_vision_tokens, (Image.new("RGB", (0, 4)), 432), "no pixels"),
]


@pytest.mark.parametrize(("function", "arguments", "named"), BAD)
def test_a_bad_argument_is_named(
    function: Callable[..., Any], arguments: tuple[Any, ...], named: str
) -> None:
    with pytest.raises(ValueError, match=named) as raised:
        function(*arguments)
    assert "\n" not in str(raised.value)
