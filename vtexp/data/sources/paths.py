"""Paths that data files name: they must stay in the data folder."""

from __future__ import annotations

import os
from pathlib import Path

from vtexp.errors import DataError


def cache_folder() -> Path:
    """Folder of what is drawn or extracted once: VTEXP_CACHE_DIR, by default ~/.cache/vtexp.

    Raises DataError for a user without a home.
    """
    if given := os.environ.get("VTEXP_CACHE_DIR"):
        return Path(given)
    try:
        return Path.home() / ".cache" / "vtexp"
    except RuntimeError as error:
        raise DataError(
            "no home directory is known to keep data sets in; set VTEXP_CACHE_DIR to a folder"
        ) from error


def inside(folder: Path, name: str, within: Path) -> Path:
    """The file that a row of a data file names, relative to `folder`.

    Raises DataError where the name leads out of `within` through `..`, as an
    absolute path or over symbolic links: a data set from elsewhere must not read other files.
    """
    within = within.resolve()
    try:
        path = (folder / name).resolve()
        left = ".." in Path(name).parts or not path.is_relative_to(within)
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a zero byte
        raise DataError(f"image {name!r}: no path ({error})") from error
    if left:
        raise DataError(
            f"image {name!r} leads out of the data folder {folder}: copy the image there, or set "
            "dataset.source.images to the folder it is in"
        )
    return path
