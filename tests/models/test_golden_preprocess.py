"""Crops, masks and token sequences against the reference preprocessing."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.closeness import OF_MEAN_PIXELS, OF_PIXELS, assert_close_to_spread
from vtexp.budget.geometry import MOLMO
from vtexp.budget.knobs import CropSetting
from vtexp.data.sample import to_rgb
from vtexp.models.molmo.preprocess import IMAGE_STD, ImageTokenIds, preprocess_image

pytestmark = pytest.mark.golden

#: From black to white, in the channel where they are furthest apart: an image may have one colour.
SPREAD = 1 / min(IMAGE_STD)


def test_preprocess(golden_dir: Path) -> None:
    index = json.loads((golden_dir / "preprocess_index.json").read_text())
    arrays = np.load(golden_dir / "preprocess.npz")
    tokens = index["token_ids"]
    ids = ImageTokenIds(*(tokens[k] for k in ("im_start", "im_end", "im_patch", "im_col")))
    images = {
        image["name"]: to_rgb(Image.open(io.BytesIO(arrays[f"png/{image['name']}"].tobytes())))
        for image in index["images"]
    }
    assert index["cases"]
    for case in index["cases"]:
        processed = preprocess_image(
            images[case["image"]], CropSetting(case["max_crops"]), MOLMO, ids
        )
        assert list(processed.tiling) == case["tiling"]
        assert len(processed.patches) == case["n_crops"]
        if "same_as" in case:
            continue
        key = case["key"]
        patches = processed.patches.numpy()
        np.testing.assert_array_equal(processed.image_tokens, arrays[f"{key}/image_tokens"])
        np.testing.assert_array_equal(processed.image_input_idx, arrays[f"{key}/patch_idx"])
        assert_close_to_spread(processed.padding_mask, arrays[f"{key}/padding_mask"], OF_PIXELS)
        sampled = patches.ravel()[arrays[f"{key}/sample_flat_index"]]
        expected = arrays[f"{key}/sample_value"]
        assert_close_to_spread(sampled, expected, OF_PIXELS, spread=SPREAD)
        means = patches.astype(np.float64).mean(axis=(1, 2))
        assert_close_to_spread(means, arrays[f"{key}/crop_mean"], OF_MEAN_PIXELS, spread=SPREAD)
        if f"{key}/patches" in arrays:
            assert_close_to_spread(patches, arrays[f"{key}/patches"], OF_PIXELS, spread=SPREAD)
