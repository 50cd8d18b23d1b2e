"""Geometry by closed forms and properties; the tables of the seed documents."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.facts import says
from vtexp.budget.geometry import (
    MOLMO,
    MOLMO2,
    Geometry,
    Size,
    Tiling,
    crops_to_tiling,
    image_size_to_tiling,
    image_tiling,
    select_tiling,
    theoretical_tokens,
    tiling_to_resolution,
    token_layout,
    tokens_to_crops,
    vision_tokens_to_image_resolution,
)
from vtexp.budget.limits import aspect_ratio_warning, crop_limit, own_limit_warning, prompt_limit
from vtexp.budget.placement import letterbox
from vtexp.errors import ConfigError

geometries = st.sampled_from([MOLMO, MOLMO2])
tilings = st.builds(Tiling, st.integers(1, 12), st.integers(1, 12))
sides = st.integers(1, 5000)


@pytest.mark.parametrize(
    ("size", "tiling", "theoretical", "measured"),
    [
        ("336x336", (1, 1), 288, 288),
        ("560x336", (2, 1), 432, 384),
        ("560x560", (2, 2), 720, 544),
        ("560x784", (2, 3), 1008, 704),
        ("784x784", (3, 3), 1440, 928),
        ("784x1008", (3, 4), 1872, 1152),
    ],
)
def test_table_of_image_sizes(
    size: str, tiling: tuple[int, int], theoretical: int, measured: int
) -> None:
    found = image_size_to_tiling(Size.parse(size))
    assert found == tiling
    assert theoretical_tokens(found.num_crops) == theoretical
    assert token_layout(found).vision_tokens == measured
    assert token_layout(found, force_full_tokens=True).vision_tokens == theoretical


@given(tilings)
def test_molmo_layout_closed_form(tiling: Tiling) -> None:
    rows, cols = 8 * tiling.rows + 4, 8 * tiling.cols + 4
    layout = token_layout(tiling)
    assert layout.vision_tokens == 144 + rows * cols
    assert layout.sequence_length == 160 + rows * (cols + 1)


@given(tilings, geometries)
def test_full_tokens_make_measured_theoretical(tiling: Tiling, geometry) -> None:
    layout = token_layout(tiling, geometry, force_full_tokens=True)
    assert layout.vision_tokens == theoretical_tokens(tiling.num_crops, geometry)


@given(tilings, geometries)
def test_canvas_and_tiling_are_inverse(tiling: Tiling, geometry) -> None:
    assert image_size_to_tiling(tiling_to_resolution(tiling, geometry), geometry) == tiling


def test_geometry_numbers() -> None:
    assert (MOLMO.tokens_per_crop, MOLMO.window_px, MOLMO.margin_px) == (144, 224, 112)
    assert (MOLMO2.tokens_per_crop, MOLMO2.window_px, MOLMO2.margin_px) == (196, 266, 112)
    assert (MOLMO.patches_per_crop, MOLMO2.patches_per_crop) == (576, 729)


@given(st.integers(1, 40), geometries)
def test_tokens_to_crops_inverts_theoretical_tokens(crops: int, geometry) -> None:
    tokens = theoretical_tokens(crops, geometry)
    assert tokens_to_crops(tokens, geometry) == crops
    assert tokens_to_crops(tokens + geometry.tokens_per_crop - 1, geometry) == crops
    assert tokens_to_crops(tokens - 1, geometry) == max(1, crops - 1)


@given(st.integers(1, 36), st.floats(0.1, 10), geometries)
def test_crops_to_tiling_is_nearest_in_aspect(crops: int, aspect: float, geometry) -> None:
    chosen = crops_to_tiling(crops, aspect, geometry)
    assert chosen.num_crops == crops

    def distance(tiling: Tiling) -> float:
        return abs(math.log(tiling_to_resolution(tiling, geometry).aspect_ratio / aspect))

    others = [Tiling(r, crops // r) for r in range(1, crops + 1) if crops % r == 0]
    assert distance(chosen) == pytest.approx(min(map(distance, others)), abs=1e-9)


def test_crops_to_tiling_breaks_ties_by_fewer_rows() -> None:
    """A square image is as far from a wide strip as from the tall one."""
    for crops in (2, 3, 5, 6, 7, 8, 10, 12, 15, 20, 30):
        rows, cols = crops_to_tiling(crops, 1.0)
        assert rows < cols
    assert crops_to_tiling(2, 336 / 560 * 560 / 336) == (1, 2)


@given(st.integers(1, 40), st.integers(1, 3000), st.integers(1, 3000), geometries)
def test_tall_images_are_tiled_as_wide_ones_are(
    crops: int, height: int, width: int, geometry: Geometry
) -> None:
    """Turned by a quarter, an image gets the turned tiling, but for ties."""
    chosen = crops_to_tiling(crops, width / height, geometry)
    turned = crops_to_tiling(crops, height / width, geometry)
    ratio = tiling_to_resolution(chosen, geometry).aspect_ratio * height / width
    other = tiling_to_resolution(turned, geometry).aspect_ratio * width / height
    assert abs(math.log(ratio)) == pytest.approx(abs(math.log(other)), abs=1e-9)


def test_nine_crops_of_a_tall_image_are_no_strip() -> None:
    assert crops_to_tiling(9, 0.5) == crops_to_tiling(9, 2.0) == (3, 3)
    assert image_tiling(Size(1000, 500), 9, exact_num_crops=9) == (3, 3)


@given(sides, sides, st.integers(1, 30))
def test_cap_is_kept_and_grows_crops(height: int, width: int, cap: int) -> None:
    size = Size(height, width)
    tiling = image_tiling(size, cap)
    assert 1 <= tiling.num_crops <= cap
    more = image_tiling(size, cap + 1)
    # A tiling below both caps that is the best of more candidates is the best of fewer.
    assert more == tiling or more.num_crops == cap + 1


def test_exact_crops_ignore_the_cap() -> None:
    assert select_tiling(448, 224, 224, max_crops=1, exact_num_crops=2) == (2, 1)


def test_whole_workflow_from_tokens_to_resolution() -> None:
    assert vision_tokens_to_image_resolution(432, 0.6) == (560, 336)
    assert vision_tokens_to_image_resolution(432, 1.7) == (336, 560)
    assert vision_tokens_to_image_resolution(1440, 1.0) == (784, 784)


@given(sides, sides, tilings)
def test_letterbox_fits_and_centres(height: int, width: int, tiling: Tiling) -> None:
    target = tiling_to_resolution(tiling)
    scaled, top, left = letterbox(Size(height, width), target)
    assert scaled.height <= target.height and scaled.width <= target.width
    assert 0 <= target.height - scaled.height - 2 * top <= 1
    assert 0 <= target.width - scaled.width - 2 * left <= 1
    # One side fills the target, up to the truncation of one float32 product.
    assert target.height - scaled.height <= 1 or target.width - scaled.width <= 1


@pytest.mark.parametrize(
    ("crops", "level"),
    [(1, "recommended"), (20, "recommended"), (21, "feasible"), (25, "feasible"),
     (26, "tight"), (28, "tight"), (29, "refused"), (100, "refused")],
)  # fmt: skip
def test_limits_of_the_seeds(crops: int, level: str) -> None:
    assert crop_limit(crops).level == level


def test_longer_context_is_not_refused() -> None:
    assert crop_limit(40, MOLMO2).level == "recommended"


@pytest.mark.parametrize(("tiling", "tokens"), [((6, 6), 2916), ((36, 1), 3956)])
def test_36_crops_fit_molmo(tiling: tuple[int, int], tokens: int) -> None:
    """Vision and column tokens, borders and BOS by the closed form of the published layout."""
    rows, cols = (8 * side + 4 for side in tiling)
    assert 1 + 2 + 12 * 13 + 2 + rows * (cols + 1) == tokens + 1
    length = 1 + token_layout(Tiling(*tiling)).sequence_length
    assert length == tokens + 1
    assert prompt_limit(length, 40).level == "recommended"
    assert prompt_limit(length, 4096 - length).level == "recommended"
    assert prompt_limit(length, 4097 - length).level == "refused"


def test_crops_beyond_training_are_told() -> None:
    assert own_limit_warning(12, 12) is None
    told = str(own_limit_warning(36, 20))
    assert says(told, "36 crops", "at most 12") and says(told, "more than 20")
    assert own_limit_warning(36, 20, replace(MOLMO, own_max_crops=None)) is None


@pytest.mark.parametrize("text", ["56ox336", "560", "560x", "x336", "0x336", "-5x336", "5.5x336"])
def test_bad_sizes_name_the_form(text: str) -> None:
    with pytest.raises(ConfigError, match="HxW"):
        Size.parse(text)


def test_sizes_are_height_first() -> None:
    size = Size.parse("560x336")
    assert (size.height, size.width, str(size)) == (560, 336, "560x336")
    assert size.aspect_ratio == pytest.approx(0.6)


@pytest.mark.parametrize(("size", "warns"), [((100, 310), True), ((100, 300), False),
                                             ((100, 50), False), ((310, 100), True)])  # fmt: skip
def test_aspect_ratio_warning(size: tuple[int, int], warns: bool) -> None:
    assert (aspect_ratio_warning(Size(*size)) is not None) == warns


def test_arithmetic_needs_no_torch() -> None:
    code = "import sys, vtexp.budget.geometry, vtexp.runs.plan, vtexp.jobs.here, vtexp.cli.sweep; "
    code += "print([m for m in ('torch', 'transformers', 'datasets', 'wandb') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
