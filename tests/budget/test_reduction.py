"""How many tokens stay, and the tiling that resizing takes."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtexp.budget.geometry import MOLMO, QWEN2_5_VL, Size, Tiling
from vtexp.budget.knobs import KnobValue
from vtexp.budget.reduction import Reduction, contextual_tokens, nearest_tiling, parse_kept
from vtexp.errors import ConfigError

sides = st.integers(20, 3000)


def tokens_of(tiling: Tiling) -> int:
    return 144 + (8 * tiling.rows + 4) * (8 * tiling.cols + 4)


@given(tokens=st.integers(1, 2000), kept=st.integers(1, 3000), ratio=st.floats(0.001, 1))
def test_at_least_one_and_at_most_all(tokens: int, kept: int, ratio: float) -> None:
    assert Reduction("stride", kept=kept).kept_of(tokens) == min(kept, tokens)
    share = Reduction("stride", ratio=ratio).kept_of(tokens)
    assert 1 <= share <= tokens and abs(share - ratio * tokens) <= max(0.5, 1 - ratio * tokens)


@pytest.mark.parametrize(("kept", "merged"), [(64, 10), (128, 20), (192, 30), (576, 0)])
def test_as_many_are_merged_as_in_visionzip(kept: int, merged: int) -> None:
    assert contextual_tokens(kept, 576) == merged


@given(height=sides, width=sides, tokens=st.integers(1, 1400), most=st.integers(1, 12))
def test_no_tiling_is_nearer(height: int, width: int, tokens: int, most: int) -> None:
    found = nearest_tiling(Size(height, width), tokens, Tiling(1, most), MOLMO)
    assert found.num_crops <= most
    every = [Tiling(r, c) for r in range(1, most + 1) for c in range(1, most + 1) if r * c <= most]
    shape = {t: (224 * t.cols + 112) / (224 * t.rows + 112) / (width / height) for t in every}
    allowed = [t for t in every if t == (1, 1) or 0.5 <= shape[t] <= 2]
    assert found in allowed
    assert abs(tokens_of(found) - tokens) == min(abs(tokens_of(t) - tokens) for t in allowed)


def test_among_equals_the_one_of_the_images_shape() -> None:
    most = Tiling(3, 4)
    assert nearest_tiling(Size(900, 500), 384, most, MOLMO) == (2, 1)
    assert nearest_tiling(Size(500, 900), 384, most, MOLMO) == (1, 2)
    assert nearest_tiling(Size(500, 900), 10**6, most, MOLMO).num_crops == 12


def test_resizing_stretches_and_reduces_nothing_in_the_model() -> None:
    for geometry in (MOLMO, QWEN2_5_VL):
        value = KnobValue(
            "kept_tokens", "288", reduction=Reduction("resize", kept=288), max_crops=1000
        )
        setting = value.crop_setting(geometry)
        assert setting.fit == "stretch" and setting.behind_connector is None
        tiling = setting.tiling(Size(800, 800), geometry)
        assert tiling == ((1, 1) if geometry is MOLMO else (16, 16))


@given(height=sides, width=sides)
def test_other_methods_leave_the_crops_as_they_are(height: int, width: int) -> None:
    reduced = KnobValue("kept_tokens", "9", reduction=Reduction("pool", kept=9), max_crops=12)
    plain = KnobValue("max_crops", "12").crop_setting(MOLMO)
    setting, size = reduced.crop_setting(MOLMO), Size(height, width)
    assert setting.tiling(size, MOLMO) == plain.tiling(size, MOLMO)
    assert setting.fit == plain.fit and setting.behind_connector is not None
    assert KnobValue.from_plain({"run_id": "a"} | asdict(reduced)) == reduced


@pytest.mark.parametrize("value", ["many", "0.5.5"])
def test_what_is_no_number_of_tokens(value: str) -> None:
    with pytest.raises(ConfigError, match=value):
        parse_kept(value)
