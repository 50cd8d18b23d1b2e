"""Rows that fit in memory: of JSON files, and of folders of images.

JSON is parsed by Python: the JSON readers of pyarrow and `datasets` turn answers such as
"2020-01-01" into time stamps.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vtexp.data.sources.guard import reading, require_own
from vtexp.data.sources.rows import FilePlaces, ImageCell, Rows
from vtexp.errors import DataError


class ListedRows(Rows):
    """Rows that are in memory, as from JSON: they name images, but hold none."""

    def __init__(self, files: Sequence[tuple[Path, list[dict[str, Any]]]]) -> None:
        rows = [row for _, found in files for row in found]
        self._rows = rows
        self._parts = FilePlaces([(file, len(found)) for file, found in files])
        self.names = tuple(dict.fromkeys(name for row in rows for name in row))

    def __len__(self) -> int:
        return len(self._rows)

    def column(self, name: str) -> list[Any]:
        """See Rows."""
        return [row.get(name) for row in self._rows]

    def take(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """See Rows."""
        return [self._rows[i] for i in rows]

    def present(self, name: str) -> list[bool]:
        """See Rows."""
        return [row.get(name) is not None for row in self._rows]

    def images(self, name: str, rows: Sequence[int]) -> list[ImageCell]:
        """See Rows; never called, as there are none."""
        raise NotImplementedError

    def origin(self, row: int) -> str:
        """See Rows."""
        return self._parts.origin(row)


def read_json(files: Sequence[Path], records: str | None) -> ListedRows:
    """Rows of JSON files (a list of records, or such a list under the key `records`), or of .jsonl.

    Raises DataError where a file is something else.
    """
    return ListedRows([(file, _records(file, records)) for file in files])


def _records(file: Path, key: str | None) -> list[dict[str, Any]]:
    with reading(file):
        if file.suffix == ".jsonl":
            with file.open(encoding="utf-8") as lines:
                found = [json.loads(line) for line in lines if line.strip()]
        else:
            found = json.loads(file.read_text(encoding="utf-8"))
    if isinstance(found, dict) and key in found:
        found = found[key]
    if isinstance(found, list) and all(isinstance(row, dict) for row in found):
        return found
    keys = f", only the keys {', '.join(found)}" if isinstance(found, dict) else ""
    where = "" if key is None else f" under {key!r}"
    raise DataError(
        f"{file}: holds no list of records{where}{keys}; dataset.source.records names its key"
    )


_METADATA = ("metadata.jsonl", "metadata.csv")
#: Endings of what Pillow reads and people use.
_IMAGE_ENDINGS = (
    *(".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif"),
)


def read_imagefolder(folder: Path, within: Path) -> ListedRows:
    """Rows of a folder as `datasets` lays it out: metadata.jsonl or metadata.csv with `file_name`.

    Without one, the images of its sub-folders, with the sub-folder's name as `label`. `image` is
    the path within the folder. Raises DataError where there is neither, or where a file leads out
    of `within`.
    """
    file = next((p for p in map(folder.joinpath, _METADATA) if p.is_file()), None)
    if file is not None:
        require_own(file, within)
        rows = _csv_records(file) if file.suffix == ".csv" else _records(file, None)
        if any("file_name" not in row for row in rows):
            raise DataError(f"{file}: each row needs the image's file_name")
        return ListedRows([(file, [{"image": row.pop("file_name"), **row} for row in rows])])
    images = sorted(p for p in folder.glob("*/*") if p.suffix.lower() in _IMAGE_ENDINGS)
    if not images:
        raise DataError(f"{folder}: has neither metadata.jsonl, metadata.csv nor folders of images")
    found = [{"image": f"{p.parent.name}/{p.name}", "label": p.parent.name} for p in images]
    return ListedRows([(folder, found)])


def _csv_records(file: Path) -> list[dict[str, Any]]:
    """Rows of a CSV file; an empty cell is null, as there is no other way to write it."""
    with reading(file), file.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    for number, row in enumerate(rows):
        if None in row:  # where DictReader puts what is too much
            raise DataError(f"{file}, row {number}: has more cells than the header has columns")
    return [{name: cell or None for name, cell in row.items()} for row in rows]
