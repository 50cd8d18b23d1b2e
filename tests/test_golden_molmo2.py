"""Molmo2: our preprocessing against transformers' own, and what it cannot do."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vtexp.data.base import to_rgb
from vtexp.geometry import MOLMO2, Tiling, token_layout
from vtexp.knobs import CropSetting
from vtexp.models.molmo2_images import Molmo2TokenIds, pooled_patches, preprocess_molmo2

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
        processed = preprocess_molmo2(image, CropSetting(case["max_crops"]), IDS)
        assert list(processed.grid) == case["image_grids"], key
        assert list(processed.patches.shape) == case["pixel_values_shape"]
        if f"{key}/image_token_pooling" not in arrays:
            continue
        np.testing.assert_array_equal(
            processed.pooled_patches, arrays[f"{key}/image_token_pooling"]
        )
        patches = processed.patches.numpy()
        sampled = patches.ravel()[arrays[f"{key}/sample_flat_index"]]
        np.testing.assert_allclose(sampled, arrays[f"{key}/sample_value"], atol=1e-5, rtol=0)
        means = patches.astype(np.float64).mean(axis=(1, 2))
        np.testing.assert_allclose(means, arrays[f"{key}/crop_mean"], atol=1e-4, rtol=0)


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
