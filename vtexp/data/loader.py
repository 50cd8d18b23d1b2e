"""The one loader: from the files and columns that a YAML file names to samples."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vtexp.config import ColumnsConfig, DatasetConfig, Form
from vtexp.data.base import FailedSample, LoadedSamples, Sample, choose
from vtexp.data.columns import (
    Row,
    list_in_text,
    missing_from,
    names_in,
    nested_items,
    text_of,
    texts_of,
    value_of,
)
from vtexp.data.download import download_images
from vtexp.data.images import AnyImage, ImageFile
from vtexp.data.paths import cache_folder, inside
from vtexp.data.tables import (
    Cell,
    JoinedRows,
    ParquetRows,
    Rows,
    read_imagefolder,
    read_json,
    read_saved,
)
from vtexp.data.transforms import TRANSFORMS, Asked
from vtexp.errors import ConfigError, DataError
from vtexp.hub import HubError, snapshot

#: Rows of text that are looked at together.
_BATCH = 4096
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Unit(NamedTuple):
    """A question's place: its row, and which of the row's nested questions it is."""

    row: int
    item: int | None = None


def load(dataset: DatasetConfig, *, fetch: bool) -> LoadedSamples:
    """Draw the samples of a data set; of the hub's, `fetch` downloads what the cache lacks.

    Raises ConfigError for keys that do not fit together or the files, DataError for files that
    cannot be read or name images outside their folder. Rows that cannot be asked are `failed`.
    """
    _check(dataset)
    image = dataset.columns.image.replace("{split}", dataset.split)
    dataset = replace(dataset, columns=replace(dataset.columns, image=image))
    folder = find_folder(dataset, fetch=fetch)
    rows = open_rows(dataset, folder.path)
    _check_columns(dataset, rows)
    units = _units(dataset, rows)
    strata = _question_types(dataset, rows, units) if dataset.stratify else None
    drawn = [units[i] for i in choose(len(units), dataset.limit, dataset.seed, strata)]
    return _samples(dataset, rows, drawn, _Pictures(dataset, rows, folder, fetch=fetch))


def _check(dataset: DatasetConfig) -> None:
    source = dataset.source
    if dataset.split not in source.splits:
        raise ConfigError(
            f"dataset.split={dataset.split}: {dataset.name} has {', '.join(source.splits)}"
        )
    if (source.hub is None) == (source.folder is None):
        raise ConfigError(
            f"dataset={dataset.name}: give dataset.source.hub or dataset.source.folder, not both"
        )
    for name in dataset.transforms:
        if name not in TRANSFORMS:
            raise ConfigError(f"dataset.transforms: {name}: there are {', '.join(TRANSFORMS)}")
    needed = {
        "join": ("files", "column", "key"),
        "holdout": ("first", "sort_by", "seed"),
    }
    for part, keys in needed.items():
        given = [getattr(getattr(dataset, part), key) is not None for key in keys]
        if any(given) and not all(given):
            raise ConfigError(f"dataset.{part}: needs {', '.join(keys)}, or none of them")


# --- files ----------------------------------------------------------------------------------------


class Folder(NamedTuple):
    """A data set's folder, and the folder that its images must not leave."""

    path: Path
    within: Path


def find_folder(dataset: DatasetConfig, *, fetch: bool) -> Folder:
    """The folder of a data set, from the hub where it says so. Raises DataError or ConfigError."""
    source = dataset.source
    if source.folder is not None:
        folder = Path(source.folder).expanduser().absolute()
        if not folder.is_dir():
            how = f"; {source.obtain}" if source.obtain else ""
            raise DataError(f"dataset.source.folder={source.folder}: no such folder{how}")
        return Folder(folder, folder)
    assert source.hub is not None
    patterns = [_pattern(dataset, files) for files in _all_files(dataset)]
    parts = [f"hf download {source.hub} --repo-type dataset"]
    parts += [f"--revision {source.revision}"] if source.revision else []
    parts += [f"--include '{pattern}'" for pattern in patterns]
    try:
        folder = snapshot(
            source.hub,
            source.revision,
            "dataset",
            patterns,
            lambda path: _missing(path, patterns),
            fetch=fetch,
            command=" ".join(parts),
        )
    except HubError as error:
        raise DataError(f"dataset.source.hub={source.hub}: {error}") from error
    # In the hub's cache a snapshot is made of links into the repository's blobs.
    return Folder(folder, folder.parents[1])


def _all_files(dataset: DatasetConfig) -> list[str]:
    return [files for files in (dataset.source.files, dataset.join.files) if files is not None]


def _pattern(dataset: DatasetConfig, files: str) -> str:
    return files.replace("{split}", dataset.split)


def _missing(folder: Path, patterns: Sequence[str]) -> str:
    """What a snapshot lacks: a pattern without a file, or a part of a file in several parts."""
    for pattern in patterns:
        files = _glob(folder, pattern)
        if not files:
            return pattern
        names = {file.relative_to(folder).as_posix() for file in files}
        for name in names:
            part = re.search(r"-\d{5}-of-(\d{5})", name)
            if part is None:
                continue
            before = name[: part.start()]
            # Parts may carry a hash of their own behind their number.
            like = [n for n in names if n.startswith(f"{before}-") and f"-of-{part[1]}" in n]
            if len(like) < int(part[1]):
                return f"{int(part[1]) - len(like)} of the {int(part[1])} parts of {before}"
    return ""


def _glob(folder: Path, pattern: str) -> list[Path]:
    if pattern == ".":
        return [folder]
    try:
        return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))
    except (NotImplementedError, ValueError) as error:
        raise ConfigError(f"dataset.source.files={pattern}: {error}") from error


def open_rows(dataset: DatasetConfig, folder: Path) -> Rows:
    """The rows of a data set's split, joined with those that complete them.

    Raises DataError where files are missing or cannot be read.
    """
    source, join = dataset.source, dataset.join
    wanted = _wanted(dataset)
    rows = _open(dataset, folder, source.files, source.records, wanted)
    if join.files is None or join.column is None or join.key is None:
        return rows
    others = _open(dataset, folder, join.files, join.records, wanted)
    for name, table, key in ((join.column, rows, "column"), (join.key, others, "key")):
        if name not in table.names:
            raise ConfigError(
                f"dataset.join.{key}={name}: no such column; there are {', '.join(table.names)}"
            )
    return JoinedRows(rows, others, join.column, join.key)


def _open(
    dataset: DatasetConfig,
    folder: Path,
    files: str,
    records: str | None,
    wanted: Callable[[str], bool],
) -> Rows:
    pattern = _pattern(dataset, files)
    found = _glob(folder, pattern)
    if not found:
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:8])
        raise DataError(f"{folder}: has no {pattern}; it has {there or 'nothing'}")
    match dataset.source.form:
        case Form.parquet:
            return ParquetRows(found, wanted)
        case Form.json:
            return read_json(found, records)
        case Form.imagefolder:
            return read_imagefolder(found[0])
        case Form.saved:
            return read_saved(found[0], dataset.split, wanted)
        case form:
            raise ConfigError(f"dataset.source.form={form.value}: only for the set of that name")


def _expressions(dataset: DatasetConfig) -> dict[str, str]:
    """Every column, field or template that the config names, by the key that names it."""
    columns = dataset.columns
    found = {
        f"columns.{key}": value
        for key, value in vars(columns).items()
        if key != "attributes" and value is not None
    }
    found |= {f"columns.attributes.{key}": value for key, value in columns.attributes.items()}
    found |= {f"where.{key}": key for key in dataset.where}
    found |= {f"lists_as_text: {key}": key for key in dataset.lists_as_text}
    if dataset.source.image_url:
        found["source.image_url"] = dataset.source.image_url
    if dataset.unnest:
        found["unnest"] = dataset.unnest
    if dataset.holdout.sort_by:
        found["holdout.sort_by"] = dataset.holdout.sort_by
    return found


def _wanted(dataset: DatasetConfig) -> Callable[[str], bool]:
    """Whether a column or a field of one is read: tables can hold far more than the questions."""
    names = {name for text in _expressions(dataset).values() for name in names_in(text)}
    names |= {name for t in dataset.transforms for name in TRANSFORMS[t].columns}
    names |= {name for name in (dataset.join.column, dataset.join.key) if name is not None}

    def wanted(path: str) -> bool:
        ends = [i for i, character in enumerate(path) if character == "."]
        return any(path[:end] in names for end in (*ends, len(path)))

    return wanted


def _check_columns(dataset: DatasetConfig, rows: Rows) -> None:
    if not len(rows):
        raise DataError(f"dataset={dataset.name}: {dataset.split} has no rows")
    for key, expression in _expressions(dataset).items():
        name = missing_from(expression, rows.names)
        if name is not None:
            raise ConfigError(
                f"dataset.{key}={name}: no such column; there are {', '.join(rows.names)}"
            )


# --- which rows -----------------------------------------------------------------------------------


def _units(dataset: DatasetConfig, rows: Rows) -> list[Unit]:
    """Every question of the split, before the draw."""
    kept = list(range(len(rows)))
    for name, wanted in dataset.where.items():
        if wanted == "present":
            fits = rows.present(name)
        else:
            fits = [value == wanted for value in rows.column(name)]
        kept = [row for row in kept if fits[row]]
    if dataset.holdout.sort_by is not None:
        values = rows.column(dataset.holdout.sort_by)
        kept.sort(key=lambda row: values[row])
        np.random.RandomState(dataset.holdout.seed).shuffle(kept)
        kept = kept[: dataset.holdout.first]
    if dataset.unnest is None:
        return [Unit(row) for row in kept]
    nested = rows.column(dataset.unnest)
    return [Unit(row, item) for row in kept for item in range(len(nested_items(nested[row])))]


def _question_types(dataset: DatasetConfig, rows: Rows, units: Sequence[Unit]) -> list[str] | None:
    """The question type of each unit; None where the set has none."""
    name = dataset.columns.question_type
    if name is None and not dataset.transforms:
        return None
    if dataset.transforms or dataset.unnest or (name is not None and name not in rows.names):
        return [_type_of(dataset, unit, row) for unit, row in _rows_of(dataset, rows, units)]
    assert name is not None
    values = rows.column(name)
    return [_as_type(values[unit.row]) for unit in units]


def _type_of(dataset: DatasetConfig, unit: Unit, row: Row) -> str:
    try:
        return _asked(dataset, row).question_type
    except DataError:
        return ""


def _rows_of(
    dataset: DatasetConfig, rows: Rows, units: Sequence[Unit]
) -> Iterator[tuple[Unit, Row]]:
    """Each unit with its row, in which a nested column holds the one item that is asked."""
    for start in range(0, len(units), _BATCH):
        batch = units[start : start + _BATCH]
        for unit, row in zip(batch, rows.take([unit.row for unit in batch]), strict=True):
            if unit.item is None or dataset.unnest is None:
                yield unit, row
            else:
                item = nested_items(row[dataset.unnest])[unit.item]
                yield unit, {**row, dataset.unnest: item}


# --- samples --------------------------------------------------------------------------------------


class _Pictures:
    """Where the images of the drawn rows are, and which of them are the same."""

    def __init__(self, dataset: DatasetConfig, rows: Rows, folder: Folder, *, fetch: bool) -> None:
        self._dataset, self._rows, self._fetch = dataset, rows, fetch
        self._column = dataset.columns.image
        self._stored = self._column in rows.stored
        self._folder, self._within = _image_folder(dataset, folder)
        self._cells: Mapping[int, Cell] = {}
        self._first: dict[str, int] = {}
        self._not_had: dict[Path, str] = {}

    def prepare(self, ids: Sequence[str | None], units: Sequence[Unit]) -> None:
        """Find the images of the drawn rows: of rows with one image id, only the first's.

        Raises DataError where there is no folder of images.
        """
        source = self._dataset.source
        if self._stored:
            for image_id, unit in zip(ids, units, strict=True):
                if image_id is not None:
                    self._first[image_id] = min(unit.row, self._first.get(image_id, unit.row))
            pairs = zip(ids, units, strict=True)
            places = sorted({self._place(image_id, unit.row) for image_id, unit in pairs})
            self._cells = dict(zip(places, self._rows.images(self._column, places), strict=True))
        elif source.image_url is not None:
            if self._fetch:
                self._download(source.image_url, units)
        elif not self._folder.is_dir():
            how = f"; {source.obtain}" if source.obtain else ""
            raise DataError(f"dataset.source.images={source.images}: no such folder{how}")

    def _download(self, column: str, units: Sequence[Unit]) -> None:
        addresses = {}
        for _, row in _rows_of(self._dataset, self._rows, units):
            name, url = value_of(row, self._column), value_of(row, column)
            if name and url:
                addresses[self._file(text_of(name)).path] = text_of(url)
        self._not_had = download_images(addresses)

    def of(self, image_id: str | None, unit: Unit, row: Row) -> tuple[AnyImage, str]:
        """Image and image id of a row. Raises DataError where it has none, _OutsideError."""
        if self._stored:
            cell = self._cells[self._place(image_id, unit.row)]
            if isinstance(cell.image, str):
                return self._file(cell.image), image_id or cell.image
            if cell.image is None:
                raise DataError("the row has no image")
            return cell.image, image_id or cell.digest or str(unit.row)
        name = value_of(row, self._column)
        if not name:
            raise DataError("the row has no image")
        file = self._file(text_of(name))
        if reason := self._not_had.get(file.path):
            raise DataError(reason)
        if self._dataset.source.image_url and not self._fetch and not file.path.is_file():
            raise DataError("not downloaded yet; a run without plan=true does it")
        return file, image_id or text_of(name)

    def _place(self, image_id: str | None, row: int) -> int:
        return row if image_id is None else self._first[image_id]

    def _file(self, name: str) -> ImageFile:
        try:
            return ImageFile(inside(self._folder, name, self._within))
        except DataError as error:
            raise _OutsideError(str(error)) from error


def _image_folder(dataset: DatasetConfig, folder: Folder) -> tuple[Path, Path]:
    """The folder that rows name images in, and the one that these must not leave."""
    source = dataset.source
    images = Path(_pattern(dataset, source.images)).expanduser()
    if source.form == Form.imagefolder:
        return folder.path / _pattern(dataset, source.files), folder.within
    if source.image_url is not None and source.images == ".":
        path = cache_folder() / "downloaded" / dataset.name
        return path, path
    path = folder.path / images
    if images.is_absolute() or (source.folder is not None and source.images != "."):
        return path, path  # as the user gave it, it may be a link to elsewhere
    return path, folder.within


class _OutsideError(Exception):
    """An image outside the data folder: no failed sample, but the end."""


def _samples(
    dataset: DatasetConfig, rows: Rows, units: Sequence[Unit], pictures: _Pictures
) -> LoadedSamples:
    """Samples of the drawn questions, in order."""
    columns = dataset.columns
    ids = _image_ids(columns, rows, units)
    try:
        pictures.prepare(ids, units)
    except _OutsideError as error:
        raise DataError(f"dataset={dataset.name}: {error}") from error
    samples: list[Sample] = []
    failed: list[FailedSample] = []
    seen: set[str] = set()
    for image_id, (unit, row) in zip(ids, _rows_of(dataset, rows, units), strict=True):
        sample_id = _sample_id(dataset, unit, row)
        if sample_id in seen:
            raise ConfigError(
                f"dataset.columns.sample_id={columns.sample_id}: {sample_id} is there twice; name "
                "a column that differs, or null for the row's number"
            )
        seen.add(sample_id)
        try:
            asked = _asked(dataset, row)
            image, image_id = pictures.of(image_id, unit, row)
            samples.append(_sample(dataset, sample_id, image_id, image, asked))
        except DataError as error:
            failed.append(FailedSample(sample_id, str(error)))
        except _OutsideError as error:
            raise DataError(f"dataset={dataset.name}: sample {sample_id}: {error}") from error
    return LoadedSamples(samples, failed)


def _image_ids(columns: ColumnsConfig, rows: Rows, units: Sequence[Unit]) -> list[str | None]:
    """The image id of each unit that the set's column gives, else None."""
    name = columns.image_id
    if name is None:
        return [None] * len(units)
    if name in rows.names:
        values = rows.column(name)
        found = [values[unit.row] for unit in units]
    else:
        found = []
        for start in range(0, len(units), _BATCH):
            batch = [unit.row for unit in units[start : start + _BATCH]]
            found += [value_of(row, name) for row in rows.take(batch)]
    return [None if value is None else text_of(value) for value in found]


def _sample_id(dataset: DatasetConfig, unit: Unit, row: Row) -> str:
    name = dataset.columns.sample_id
    value = None if name is None else value_of(row, name)
    text = f"{dataset.split}-{unit.row}" if value is None else text_of(value)
    nested = name is not None and dataset.unnest is not None and name.startswith(dataset.unnest)
    return text if unit.item is None or nested else f"{text}-{unit.item}"


def _asked(dataset: DatasetConfig, row: Row) -> Asked:
    """The question of a row. Raises DataError, saying why it cannot be asked."""
    columns = dataset.columns
    row = _with_lists(dataset, row)
    asked = Asked(
        question=_question(columns, row),
        question_type=_as_type(_optional(row, columns.question_type)),
        references=texts_of(_optional(row, columns.answers)),
        options=texts_of(_optional(row, columns.options) or []),
        answer_index=_answer_index(columns, row),
        attributes=_attributes(columns, row),
    )
    if asked.answer_index is not None and not 0 <= asked.answer_index < len(asked.options):
        raise DataError(f"answer {asked.answer_index} of {len(asked.options)} options")
    for name in dataset.transforms:
        TRANSFORMS[name].apply(asked, row)
    return asked


def _with_lists(dataset: DatasetConfig, row: Row) -> Row:
    texts = {name: list_in_text(row.get(name)) for name in dataset.lists_as_text}
    return {**row, **texts} if texts else row


def _optional(row: Row, expression: str | None) -> Any:
    return None if expression is None else value_of(row, expression)


def _question(columns: ColumnsConfig, row: Row) -> str:
    if columns.question is None:
        return ""
    value = value_of(row, columns.question)
    if value is None:
        raise DataError("the row has no question")
    return text_of(value)


def _answer_index(columns: ColumnsConfig, row: Row) -> int | None:
    value = _optional(row, columns.answer_index)
    if value is None:
        return None
    text = text_of(value).strip()
    if re.fullmatch("[A-Z]", text):
        return LETTERS.index(text)
    try:
        return int(text)
    except ValueError:
        raise DataError(f"answer {text!r} is neither a number nor a letter") from None


def _as_type(value: Any) -> str:
    """A question type as text; lists, as DocVQA has them, in one."""
    return " + ".join(texts_of(value))


def _attributes(columns: ColumnsConfig, row: Row) -> dict[str, float | str]:
    found: dict[str, float | str] = {}
    for key, name in columns.attributes.items():
        value = value_of(row, name)
        if value is not None:
            found[key] = value if isinstance(value, int | float) else _as_type(value)
    return found


def _sample(
    dataset: DatasetConfig, sample_id: str, image_id: str, image: AnyImage, asked: Asked
) -> Sample:
    if asked.unusable:
        raise DataError(asked.unusable)
    references, attributes = asked.references, asked.attributes
    if asked.answer_index is not None:
        right = asked.options[asked.answer_index]
        if len(asked.options) > len(LETTERS):
            raise DataError(f"{len(asked.options)} options are more than there are letters")
        references = [LETTERS[asked.answer_index] if asked.lettered else right]
        attributes = {**attributes, "answer_index": asked.answer_index}
    if not references:
        raise DataError("the row has no answer")
    return Sample(
        sample_id=sample_id,
        image_id=image_id,
        image=image,
        question=asked.question,
        # Answers repeat: one object each, or 200 000 questions of ten take hundreds of MiB.
        references=tuple(map(sys.intern, references)),
        question_type=sys.intern(asked.question_type),
        options=tuple(map(sys.intern, asked.options)),
        attributes=attributes,
        style=asked.style or dataset.styles.get(asked.question_type),
    )
