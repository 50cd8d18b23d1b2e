"""What a knob value tells the preprocessor."""

from __future__ import annotations

import pytest

from vtexp.budget.geometry import MOLMO, MOLMO2, Size
from vtexp.budget.knobs import KnobValue
from vtexp.errors import ConfigError


def test_forced_crops_set_both_limits() -> None:
    for value in (KnobValue("image_size", "784x784"), KnobValue("vision_tokens", "1440")):
        setting = value.crop_setting(MOLMO)
        assert setting.max_crops == setting.exact_num_crops == 9


def test_image_size_fixes_the_tiling_for_every_image() -> None:
    setting = KnobValue("image_size", "560x336").crop_setting(MOLMO)
    assert {setting.tiling(Size(h, w), MOLMO) for h in (9, 300, 4000) for w in (50, 900)} == {
        (2, 1)
    }


def test_token_target_fixes_the_number_not_the_shape() -> None:
    setting = KnobValue("vision_tokens", "500").crop_setting(MOLMO)
    assert setting.tiling(Size(400, 800), MOLMO) == (1, 2)
    assert setting.tiling(Size(800, 400), MOLMO) == (2, 1)


def test_cap_leaves_the_number_to_the_image() -> None:
    setting = KnobValue("max_crops", "12").crop_setting(MOLMO)
    assert setting.exact_num_crops is None
    assert setting.tiling(Size(300, 300), MOLMO) == (1, 1)
    assert setting.tiling(Size(1000, 1000), MOLMO).num_crops <= 12


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("vision_tokens", "287", "288"),
        ("max_crops", "0", "1"),
        ("max_crops", "two", "whole number"),
        ("image_size", "56ox336", "HxW"),
    ],
)
def test_impossible_values_name_what_is_allowed(name: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        KnobValue(name, value).crop_setting(MOLMO)


def test_least_target_follows_the_geometry() -> None:
    with pytest.raises(ConfigError, match="392"):
        KnobValue("vision_tokens", "391").crop_setting(MOLMO2)
