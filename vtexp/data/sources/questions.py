"""Questions and their rows: a row is a question, or an image with several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from vtexp.config.dataset_schema import DatasetConfig
from vtexp.data.sources.columns import Row, nested_items
from vtexp.data.sources.rows import Rows
from vtexp.errors import ConfigError, DataError

#: Rows of text that are looked at together.
BATCH = 4096


class Place(NamedTuple):
    """A question's place: its row, and which of the row's nested questions it is."""

    row: int
    item: int | None = None


def places_of(dataset: DatasetConfig, rows: Rows) -> list[Place]:
    """Every question of the split, before the draw. Raises ConfigError or DataError."""
    kept = list(range(len(rows)))
    for name, wanted in dataset.where.items():
        if wanted == "present":
            fits = rows.present(name)
        elif name in rows.stored:
            raise ConfigError(
                f"dataset.where.{name}={wanted}: for images, the only value is present"
            )
        else:
            fits = [value == wanted for value in rows.column(name)]
        kept = [row for row in kept if fits[row]]
    if dataset.holdout.sort_by is not None:
        values = rows.column(dataset.holdout.sort_by)
        try:
            kept.sort(key=lambda row: values[row])
        except TypeError as error:
            column = dataset.holdout.sort_by
            raise DataError(
                f"dataset.holdout.sort_by={column}: cannot be sorted ({error})"
            ) from error
        np.random.RandomState(dataset.holdout.seed).shuffle(kept)
        kept = kept[: dataset.holdout.first]
    if dataset.unnest is None:
        return [Place(row) for row in kept]
    nested, places = rows.column(dataset.unnest), []
    for row in kept:
        try:
            places += [Place(row, item) for item in range(len(nested_items(nested[row])))]
        except DataError as error:
            message = f"dataset.unnest={dataset.unnest}: {error} ({rows.origin(row)})"
            raise DataError(message) from error
    return places


def rows_of(
    dataset: DatasetConfig, rows: Rows, units: Sequence[Place]
) -> Iterator[tuple[Place, Row]]:
    """Each unit with its row, in which a nested column holds the one item that is asked."""
    for start in range(0, len(units), BATCH):
        batch = units[start : start + BATCH]
        for unit, row in zip(batch, rows.take([unit.row for unit in batch]), strict=True):
            if unit.item is None or dataset.unnest is None:
                yield unit, row
            else:
                item = nested_items(row[dataset.unnest])[unit.item]
                yield unit, {**row, dataset.unnest: item}
