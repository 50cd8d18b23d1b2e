"""DejaVu's fonts, which come with matplotlib under a free licence."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

from vtexp.errors import DataError


@lru_cache(maxsize=1024)
def font(name: str, size_px: int) -> ImageFont.FreeTypeFont:
    """A font by its file, such as DejaVuSans.ttf, at an em of so many px. Raises DataError."""
    spec = importlib.util.find_spec("matplotlib")  # not imported: only its files are wanted
    folder = Path(spec.origin or "").parent / "mpl-data" / "fonts" / "ttf" if spec else Path()
    try:
        return ImageFont.truetype(str(folder / name), size_px)
    except OSError as error:
        raise DataError(f"{folder / name}: font missing; pip install matplotlib") from error
