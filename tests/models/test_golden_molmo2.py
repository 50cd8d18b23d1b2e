"""Molmo2: our preprocessing against transformers' own, and what it cannot do."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.closeness import OF_MEAN_PIXELS, OF_PIXELS, assert_close_to_spread
from vtexp.budget.geometry import MOLMO2, Tiling, token_layout
from vtexp.budget.knobs import CropSetting, KnobValue
from vtexp.data.sample import to_rgb
from vtexp.models.checkpoints import find_checkpoint
from vtexp.models.families import FAMILIES
from vtexp.models.molmo2.preprocess import Molmo2TokenIds, pooled_patches, preprocess_molmo2

#: From black (-1) to white (1): an image may have one colour.
SPREAD = 2.0
IDS = Molmo2TokenIds(start=1, global_start=2, end=3, patch=4, column=5)


@pytest.mark.golden
def test_preprocess(golden_dir: Path) -> None:
    index = json.loads((golden_dir / "molmo2_processor_index.json").read_text())
    arrays = np.load(golden_dir / "molmo2_processor.npz")
    images = np.load(golden_dir / "preprocess.npz")
    assert index["cases"]
    for case in index["cases"]:
        key = case["key"]
        image = to_rgb(Image.open(io.BytesIO(images[f"png/{case['image']}"].tobytes())))
        processed = preprocess_molmo2(image, CropSetting(case["max_crops"], fit="stretch"), IDS)
        assert list(processed.grid) == case["image_grids"], key
        assert list(processed.patches.shape) == case["pixel_values_shape"]
        if f"{key}/image_token_pooling" not in arrays:
            continue
        np.testing.assert_array_equal(
            processed.pooled_patches, arrays[f"{key}/image_token_pooling"]
        )
        patches = processed.patches.numpy()
        sampled = patches.ravel()[arrays[f"{key}/sample_flat_index"]]
        # On a processor without AVX2, torch rounds some bytes of its resize the other way.
        expected = arrays[f"{key}/sample_value"]
        assert_close_to_spread(sampled, expected, OF_PIXELS, spread=SPREAD)
        means = patches.astype(np.float64).mean(axis=(1, 2))
        assert_close_to_spread(means, arrays[f"{key}/crop_mean"], OF_MEAN_PIXELS, spread=SPREAD)


def test_published_prompts_have_no_columns_in_the_global_view() -> None:
    """transformers' own tests of the published checkpoints: 6 crops, 955 tokens, 982 ids."""
    config = find_checkpoint("allenai/Molmo2-8B", random=True).config
    geometry = FAMILIES["molmo2"].geometry_of(config)
    image = np.zeros((640, 902, 3), np.uint8)  # the canvas of 2 x 3 crops
    processed = preprocess_molmo2(image, CropSetting(8, fit="stretch"), IDS, geometry)
    assert len(processed.patches) == 7
    assert processed.pooled_patches.shape == (955, 4)
    layout = token_layout(processed.tiling, geometry)
    assert layout.vision_tokens == 955
    assert len(processed.image_tokens) == layout.sequence_length == 982
    assert (processed.image_tokens == IDS.patch).sum() == 955


@pytest.mark.parametrize("fit", ["letterbox", "crop"])
def test_fits_keep_shapes(fit: str) -> None:
    """A disc stays a disc in the crops of a canvas of another shape."""
    rows, cols = np.mgrid[:300, :300] - 150
    image = np.repeat((rows**2 + cols**2 < 60**2)[..., None] * np.uint8(255), 3, axis=2)
    setting = KnobValue("image_size", "378x910", fit).crop_setting(MOLMO2)
    processed = preprocess_molmo2(image, setting, IDS)
    pixels = processed.patches.view(-1, 27, 27, 14, 14, 3)[1:, ..., 0].transpose(2, 3)
    bright = pixels.reshape(3, 378, 378) > 0  # the crops side by side, 266 px apart
    canvas = torch.zeros(378, 910, dtype=torch.bool)
    for col in range(3):
        canvas[:, 266 * col : 266 * col + 378] |= bright[col]
    height, width = canvas.any(dim=1).sum().item(), canvas.any(dim=0).sum().item()
    assert abs(height - width) <= 4
    # Letterboxed, 300 px of height become 378; cropped, 300 px of width become 910.
    assert width == pytest.approx(120 * (378 if fit == "letterbox" else 910) / 300, abs=4)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("tiling", [(1, 1), (1, 2), (2, 3), (4, 3)])
def test_every_patch_is_pooled_as_the_layout_says(tiling: tuple[int, int], full: bool) -> None:
    blocks = pooled_patches(Tiling(*tiling), MOLMO2, force_full_tokens=full)
    layout = token_layout(Tiling(*tiling), MOLMO2, force_full_tokens=full)
    assert blocks.shape == (layout.grid_rows, layout.grid_cols, 4)
    found = blocks[blocks >= 0]
    assert len(found) == len(set(found.tolist()))
    if full:
        assert set(found.tolist()) == set(range(Tiling(*tiling).num_crops * 729))
    else:
        rows, cols = (19 * count + 8 for count in tiling)
        assert len(found) == rows * cols
