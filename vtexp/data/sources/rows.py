"""Rows of a data set on disk, whatever file they come from, and their join with a second table."""

from __future__ import annotations

import bisect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from vtexp.data.images import StoredImage
from vtexp.errors import DataError
from vtexp.utils.text import shown


class ImageCell(NamedTuple):
    """An image column's cell: its stored image, or the path that stands there; and a content id."""

    image: StoredImage | str | None
    digest: str | None = None


class Rows(ABC):
    """Rows in their order; `names` are all columns, `stored` those that hold encoded images."""

    names: tuple[str, ...]
    stored: frozenset[str] = frozenset()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def column(self, name: str) -> list[Any]:
        """All values of a text column, in order."""

    @abstractmethod
    def take(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """The text columns of some rows."""

    @abstractmethod
    def present(self, name: str) -> list[bool]:
        """For each row, whether its cell is filled; images are not read for it."""

    @abstractmethod
    def images(self, name: str, rows: Sequence[int]) -> list[ImageCell]:
        """The images of some rows of a stored column."""

    @abstractmethod
    def origin(self, row: int) -> str:
        """File and row, counted from 0 within the file, for messages."""


class FilePlaces:
    """Files whose rows follow each other."""

    def __init__(self, files: Sequence[tuple[Path | str, int]]) -> None:
        self._names = [str(name) for name, _ in files]
        self.offsets = [0, *accumulate(count for _, count in files)]

    def place(self, row: int) -> tuple[int, int]:
        """Which file a row is in, and its place there."""
        file = bisect.bisect_right(self.offsets, row) - 1
        return file, row - self.offsets[file]

    def origin(self, row: int) -> str:
        """See Rows."""
        file, inner = self.place(row)
        return f"{self._names[file]}, row {inner}"


class JoinedRows(Rows):
    """Rows completed by those of a second table, found by a key; rows without one stay as they are.

    Columns that both have are the first's.
    """

    def __init__(self, rows: Rows, others: Rows, column: str, key: str) -> None:
        self._rows, self._others = rows, others
        values, keys = rows.column(column), others.column(key)
        try:
            places = {value: place for place, value in enumerate(keys)}
            self._places = [places.get(value) for value in values]
        except TypeError as error:
            raise DataError(f"dataset.join: {column} or {key} holds lists or records") from error
        if values and keys and not any(place is not None for place in self._places):
            raise DataError(
                f"dataset.join: no {column} is a {key} of the other table, as "
                f"{shown(values[0])} and {shown(keys[0])} show"
            )
        self.names = tuple(dict.fromkeys((*rows.names, *others.names)))
        self._own = frozenset(rows.names)
        self.stored = rows.stored | (others.stored - self._own)

    def origin(self, row: int) -> str:
        """See Rows: that of the first table."""
        return self._rows.origin(row)

    def __len__(self) -> int:
        return len(self._rows)

    def column(self, name: str) -> list[Any]:
        """See Rows."""
        if name in self._own:
            return self._rows.column(name)
        values = self._others.column(name)
        return [None if at is None else values[at] for at in self._places]

    def take(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """See Rows."""
        found = sorted({at for row in rows if (at := self._places[row]) is not None})
        others = dict(zip(found, self._others.take(found), strict=True))
        mine = self._rows.take(rows)
        nothing: dict[str, Any] = {}
        return [
            own if (at := self._places[row]) is None else others.get(at, nothing) | own
            for row, own in zip(rows, mine, strict=True)
        ]

    def present(self, name: str) -> list[bool]:
        """See Rows."""
        if name in self._own:
            return self._rows.present(name)
        there = self._others.present(name)
        return [at is not None and there[at] for at in self._places]

    def images(self, name: str, rows: Sequence[int]) -> list[ImageCell]:
        """See Rows."""
        if name in self._own:
            return self._rows.images(name, rows)
        found = sorted({at for row in rows if (at := self._places[row]) is not None})
        cells = dict(zip(found, self._others.images(name, found), strict=True))
        return [ImageCell(None) if (at := self._places[row]) is None else cells[at] for row in rows]
