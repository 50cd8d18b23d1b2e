"""DejaVu's fonts, which come with matplotlib under a free licence."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

from vtexp.errors import DataError


def font_file(name: str) -> Path:
    """The file of a font by its name, such as DejaVuSans.ttf. Raises DataError."""
    spec = importlib.util.find_spec("matplotlib")  # not imported: only its files are wanted
    folder = Path(spec.origin or "").parent / "mpl-data" / "fonts" / "ttf" if spec else Path()
    if not (folder / name).is_file():
        raise DataError(f"{folder / name}: font missing; pip install matplotlib")
    return folder / name


@lru_cache(maxsize=1024)
def font(name: str, size_px: int, layout: ImageFont.Layout | None = None) -> ImageFont.FreeTypeFont:
    """A font by the name of its file, at an em of so many px. Raises DataError.

    layout: how Pillow places characters; None: by Raqm, where this machine has FriBiDi.
    """
    file = font_file(name)
    try:
        return ImageFont.truetype(str(file), size_px, layout_engine=layout)
    except OSError as error:
        raise DataError(f"{file}: no font ({error}); pip install matplotlib again") from error
