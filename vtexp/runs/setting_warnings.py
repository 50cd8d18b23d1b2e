"""What a reader must know of how a knob value brings images to crops."""

from __future__ import annotations

from collections.abc import Sequence

from vtexp.budget.geometry import Geometry, Size, tiling_to_resolution
from vtexp.budget.knobs import CropSetting, KnobValue
from vtexp.budget.limits import aspect_ratio_warning
from vtexp.budget.placement import letterbox
from vtexp.utils.text import percent


def setting_warnings(
    value: KnobValue, setting: CropSetting, geometry: Geometry, sizes: Sequence[Size]
) -> list[str]:
    """Warnings about distortion, padding and sizes that are no whole number of crops."""
    found = []
    if setting.image_size is not None:
        canvas = tiling_to_resolution(setting.tiling(setting.image_size, geometry), geometry)
        if canvas != setting.image_size:
            found.append(
                f"{value.value} is not a whole number of crops: images are resized to {canvas}"
            )
        warning = aspect_ratio_warning(setting.image_size)
        if warning:
            found.append(warning)
    else:
        flat = sorted({w for s in set(sizes) if (w := aspect_ratio_warning(s))})
        if flat:
            more = f" (and {len(flat) - 1} more image sizes)" if len(flat) > 1 else ""
            found.append(f"{flat[0]}{more}")
    if setting.fit == "letterbox":
        covered = {size: _image_share(size, setting, geometry) for size in set(sizes)}
        padded = sum(covered[size] < 0.5 for size in sizes)
        if padded:
            found.append(
                f"for {percent(padded / len(sizes))} of the images more than half of the crops' "
                "area is padding (the image takes as little as "
                f"{percent(min(covered.values()))} of it)"
            )
    elif setting.fit == "stretch" and setting.image_size is None:
        stretched = {size: _distortion(size, setting, geometry) for size in set(sizes)}
        bent = sum(stretched[size] > 2 for size in sizes)
        if bent:
            found.append(
                f"for {percent(bent / len(sizes))} of the images one side is stretched over twice "
                f"as much as the other (up to {max(stretched.values()):.3g} times)"
            )
    return found


def _image_share(size: Size, setting: CropSetting, geometry: Geometry) -> float:
    """Share of the canvas that a letterboxed image of `size` covers."""
    canvas = tiling_to_resolution(setting.tiling(size, geometry), geometry)
    scaled = letterbox(size, canvas).scaled
    return (scaled.height * scaled.width) / (canvas.height * canvas.width)


def _distortion(size: Size, setting: CropSetting, geometry: Geometry) -> float:
    """How many times more one side of a stretched image grows than the other."""
    canvas = tiling_to_resolution(setting.tiling(size, geometry), geometry)
    ratio = canvas.aspect_ratio / size.aspect_ratio
    return max(ratio, 1 / ratio)
