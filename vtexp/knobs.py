"""The three knobs: what a value means for the crops of an image. Pure arithmetic, no torch."""

from __future__ import annotations

from dataclasses import dataclass

from vtexp.errors import ConfigError
from vtexp.geometry import (
    Geometry,
    Size,
    Tiling,
    image_size_to_tiling,
    image_tiling,
    tokens_to_crops,
)

#: More crops than any model reads; a plan would only get slow beyond.
MOST_CROPS = 1000


@dataclass(frozen=True, slots=True)
class CropSetting:
    """What the preprocessor is told: how many crops, in what shape, and how an image fits them.

    Where crops are forced, `max_crops` and `exact_num_crops` are equal (seed "Why set max_crops =
    num_crops"): no code path can then read another cap. `image_size` fixes the tiling for all
    images.
    """

    max_crops: int
    exact_num_crops: int | None = None
    image_size: Size | None = None
    fit: str = "letterbox"
    force_full_tokens: bool = False

    def tiling(self, size: Size, geometry: Geometry) -> Tiling:
        """Tiling that an image of `size` gets."""
        if self.image_size is not None:
            return image_size_to_tiling(self.image_size, geometry)
        return image_tiling(size, self.max_crops, geometry, exact_num_crops=self.exact_num_crops)


@dataclass(frozen=True, slots=True)
class KnobValue:
    """One setting of one knob: `name` is the knob, `value` as the user wrote it (560x336, 432)."""

    name: str
    value: str
    fit: str = "letterbox"
    force_full_tokens: bool = False

    @property
    def label(self) -> str:
        """Short unique text for tables, folders and plots, such as `image_size=560x336`."""
        suffix = ",full" if self.force_full_tokens else ""
        return f"{self.name}={self.value}{suffix}"

    def crop_setting(self, geometry: Geometry) -> CropSetting:
        """What the preprocessor is told under this value. Raises ConfigError for a bad value."""
        setting = self._setting(geometry)
        if setting.max_crops > MOST_CROPS:
            raise ConfigError(
                f"{self.label} asks for {setting.max_crops} crops; give at most {MOST_CROPS}"
            )
        return setting

    def _setting(self, geometry: Geometry) -> CropSetting:
        if self.name == "image_size":
            size = Size.parse(self.value)
            num_crops = image_size_to_tiling(size, geometry).num_crops
            return CropSetting(num_crops, num_crops, size, self.fit, self.force_full_tokens)
        number = _whole_number(self.name, self.value)
        if self.name == "vision_tokens":
            least = 2 * geometry.tokens_per_crop
            if number < least:
                raise ConfigError(
                    f"a target of {number} vision tokens is below the least possible, {least} "
                    f"(one crop and the global crop at {geometry.tokens_per_crop} tokens each)"
                )
            num_crops = tokens_to_crops(number, geometry)
            return CropSetting(
                num_crops, num_crops, fit=self.fit, force_full_tokens=self.force_full_tokens
            )
        if number < 1:
            raise ConfigError(f"knob.max_crops: {number} is below the least possible cap, 1")
        return CropSetting(number, fit=self.fit, force_full_tokens=self.force_full_tokens)


def _whole_number(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise ConfigError(f"{name} value {value!r} is not a whole number") from None
