"""Preprocessing beyond the reference: full tokens, exact crops, the three fits."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.closeness import OF_PIXELS, assert_close_to_spread
from vtexp.budget.geometry import MOLMO, Tiling, tiling_to_resolution, token_layout
from vtexp.budget.knobs import CropSetting, KnobValue
from vtexp.errors import DataError
from vtexp.models.molmo.preprocess import (
    IMAGE_MEAN,
    IMAGE_STD,
    ImageTokenIds,
    Resize,
    image_token_sequence,
    preprocess_image,
)

IDS = ImageTokenIds(start=1, end=2, patch=3, column=4)
tilings = st.builds(Tiling, st.integers(1, 5), st.integers(1, 5))


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth random image."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / rng.uniform(5, 60) + y / rng.uniform(5, 60)) for _ in range(3)]
    return ((np.stack(waves, axis=-1) + 1) * 127).astype(np.uint8)


@given(tilings, st.booleans())
def test_every_kept_token_has_its_own_patch_place(tiling: Tiling, full: bool) -> None:
    tokens, index = image_token_sequence(tiling, MOLMO, IDS, force_full_tokens=full)
    kept = index[index >= 0]
    assert len(set(kept.tolist())) == len(kept) == int((tokens == IDS.patch).sum())
    assert (tokens[kept] == IDS.patch).all()
    layout = token_layout(tiling, MOLMO, force_full_tokens=full)
    assert len(kept) == layout.vision_tokens
    assert len(tokens) == layout.sequence_length
    assert int((tokens == IDS.column).sum()) == layout.column_tokens


@given(tilings)
def test_full_tokens_keep_their_place_in_the_canvas(tiling: Tiling) -> None:
    """Token (y, x) of crop (r, c) stands in row 12 r + y, column 12 c + x of the tiled view."""
    tokens, index = image_token_sequence(tiling, MOLMO, IDS, force_full_tokens=True)
    first = 1 + 12 * 13 + 1 + 1  # global view, then the start of the tiled one
    width = 12 * tiling.cols + 1  # one column token closes each row
    for crop in range(tiling.num_crops):
        r, c = divmod(crop, tiling.cols)
        for token in (0, 11, 12, 143, 77):
            y, x = divmod(token, 12)
            place = first + (12 * r + y) * width + 12 * c + x
            assert index[1 + crop, token] == place
    assert len(tokens) == first + 12 * tiling.rows * width + 1


def canvas_of(processed, tiling: Tiling) -> np.ndarray:
    """Put the crops back together: (H, W, 3) in [0, 1]."""
    size = tiling_to_resolution(tiling)
    canvas = np.zeros((*size, 3))
    patches = processed.patches.numpy().reshape(-1, 24, 24, 14, 14, 3)
    crops = patches.transpose(0, 1, 3, 2, 4, 5).reshape(-1, 336, 336, 3)
    for crop, pixels in enumerate(crops[1:]):
        r, c = divmod(crop, tiling.cols)
        canvas[224 * r : 224 * r + 336, 224 * c : 224 * c + 336] = pixels
    return canvas * np.array(IMAGE_STD) + np.array(IMAGE_MEAN)


@pytest.mark.parametrize("fit", ["stretch", "letterbox", "crop"])
def test_fit_of_an_image_that_is_the_canvas_changes_nothing(fit: str) -> None:
    image = photo(560, 784)
    setting = KnobValue("image_size", "560x784", fit=fit).crop_setting(MOLMO)
    processed = preprocess_image(image, setting, MOLMO, IDS)
    assert processed.tiling == (2, 3)
    assert_close_to_spread(canvas_of(processed, processed.tiling), image / 255, OF_PIXELS)
    assert (processed.padding_mask[:-1] == 1).all()


def test_only_letterbox_pads() -> None:
    image = photo(200, 800)
    masks = {}
    for fit in ("stretch", "letterbox", "crop"):
        setting = KnobValue("image_size", "560x560", fit=fit).crop_setting(MOLMO)
        masks[fit] = preprocess_image(image, setting, MOLMO, IDS).padding_mask[:-1]
    assert (masks["stretch"] == 1).all() and (masks["crop"] == 1).all()
    assert (masks["letterbox"] == 0).any()


def test_crop_keeps_the_centre() -> None:
    image = np.zeros((336, 1008, 3), np.uint8)
    image[:, 336:672] = 255
    setting = KnobValue("image_size", "336x336", fit="crop").crop_setting(MOLMO)
    processed = preprocess_image(image, setting, MOLMO, IDS)
    assert canvas_of(processed, processed.tiling).min() > 0.99


def test_exact_crops_are_made_even_where_the_image_needs_fewer() -> None:
    processed = preprocess_image(photo(100, 100), CropSetting(9, 9), MOLMO, IDS)
    assert processed.tiling == (3, 3)
    assert processed.patches.shape == (10, 576, 588)


def test_one_crop_shows_what_the_global_crop_shows() -> None:
    processed = preprocess_image(photo(500, 300), CropSetting(1), MOLMO, IDS)
    assert processed.tiling == (1, 1)
    assert torch.equal(processed.patches[0], processed.patches[1])


@pytest.mark.parametrize("resize", get_args(Resize))
def test_thread_count_changes_nothing_and_is_kept(resize: Resize) -> None:
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            image = preprocess_image(photo(600, 800), CropSetting(6), MOLMO, IDS, resize=resize)
            found.append(image)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0].patches, found[1].patches)


def test_too_flat_image_is_a_clear_error() -> None:
    with pytest.raises(DataError, match="too flat"):
        preprocess_image(photo(1, 2000), CropSetting(1), MOLMO, IDS)


@pytest.mark.parametrize("fit", ["stretch", "letterbox", "crop"])
@pytest.mark.parametrize("size", ["560x784", "784x784"])
def test_products_differ_by_rounding_alone(fit: str, size: str) -> None:
    setting = KnobValue("image_size", size, fit).crop_setting(MOLMO)
    exact = preprocess_image(photo(700, 900), setting, MOLMO, IDS)
    products = preprocess_image(photo(700, 900), setting, MOLMO, IDS, resize="products")
    assert_close_to_spread(products.patches, exact.patches, OF_PIXELS)
    assert torch.equal(products.padding_mask, exact.padding_mask)
    assert torch.equal(products.image_tokens, exact.image_tokens)
    assert torch.equal(products.image_input_idx, exact.image_input_idx)
