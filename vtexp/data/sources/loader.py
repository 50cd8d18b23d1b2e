"""The one loader: from the files and columns that a YAML file names to samples."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from string import ascii_uppercase as LETTERS
from typing import Any

from vtexp.config.choices import Form
from vtexp.config.dataset_schema import ColumnsConfig, DatasetConfig
from vtexp.data.images import AnyImage
from vtexp.data.sample import FailedSample, LoadedSamples, Sample, drawn, require_split
from vtexp.data.sources.columns import (
    CellError,
    Row,
    list_in_text,
    missing_from,
    names_in,
    options_of,
    read,
    text_of,
    texts_of,
    value_of,
)
from vtexp.data.sources.files import find_folder, is_whole, open_rows
from vtexp.data.sources.images import OutsideError, RowImages
from vtexp.data.sources.questions import BATCH, Place, places_of, rows_of
from vtexp.data.sources.rows import Rows
from vtexp.data.sources.transforms import TRANSFORMS, QuestionDraft
from vtexp.errors import ConfigError, DataError, error_line
from vtexp.utils.text import cut, listed, shown

#: More characters than any id has: such a column holds something else.
LONGEST_ID = 1000
#: What unforeseen values of a row can raise.
_UNFORESEEN = (TypeError, ValueError, ArithmeticError, LookupError, RecursionError)


def load(dataset: DatasetConfig, *, fetch: bool, index: int | None = None) -> LoadedSamples:
    """Draw the samples of a data set; `fetch` downloads what the hub's cache lacks.

    With `index`, the sample at that place of the draw alone. Raises ConfigError for keys that do
    not fit together or the files, DataError for files that cannot be read or name images outside
    their folder. Rows that cannot be asked are `failed`.
    """
    _check(dataset)
    if dataset.source.function is not None:
        raise ConfigError("dataset.source.function: only with dataset.source.form=python")
    image = dataset.columns.image.replace("{split}", dataset.split)
    dataset = replace(dataset, columns=replace(dataset.columns, image=image))
    folder = find_folder(dataset, fetch=fetch)
    rows = open_rows(dataset, folder, _wanted(dataset))
    _check_columns(dataset, rows)
    units = places_of(dataset, rows)
    strata = _question_types(dataset, rows, units) if dataset.stratify else None
    asked = [units[i] for i in drawn(dataset, len(units), strata, index)]
    return _samples(dataset, rows, asked, RowImages(dataset, rows, folder, fetch=fetch))


def is_here(dataset: DatasetConfig) -> bool:
    """Whether a run finds all of a data set without a network; nothing is downloaded.

    Its tables must be there with all their parts, and so must the folder of its images, without a
    check of single ones. Images that rows name by address must have been downloaded. Raises
    ConfigError for keys that do not fit together.
    """
    _check(dataset)
    try:
        folder = find_folder(dataset, fetch=False)
        if not is_whole(dataset, folder):
            return False
        if dataset.source.form in (Form.imagefolder, Form.saved):  # a folder says nothing yet
            count_questions(dataset)
        if dataset.source.image_url is None:
            return True
        found = load(replace(dataset, limit=None), fetch=False)
    except DataError:
        return False
    return len(found.failed) <= dataset.max_failed


def count_questions(dataset: DatasetConfig) -> int:
    """Questions of a split that is on this machine. Raises ConfigError or DataError as `load`."""
    _check(dataset)
    folder = find_folder(dataset, fetch=False)
    return len(places_of(dataset, open_rows(dataset, folder, _wanted(dataset))))


def _check(dataset: DatasetConfig) -> None:
    source = dataset.source
    require_split(dataset, source.splits)
    if (source.hub is None) == (source.folder is None):
        raise ConfigError(
            f"dataset={dataset.name}: give dataset.source.hub or dataset.source.folder, not both"
        )
    for name in dataset.transforms:
        if name not in TRANSFORMS:
            raise ConfigError(
                f"dataset.transforms: {name}: no such transform; there are {', '.join(TRANSFORMS)}"
            )
    needed = {
        "join": ("files", "column", "key"),
        "holdout": ("first", "sort_by", "seed"),
    }
    for part, keys in needed.items():
        given = [getattr(getattr(dataset, part), key) is not None for key in keys]
        if any(given) and not all(given):
            raise ConfigError(f"dataset.{part}: needs {', '.join(keys)}, or none of them")


# --- columns --------------------------------------------------------------------------------------


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
                f"dataset.{key}={name}: no such column; there are {listed(rows.names)}"
            )


# --- which rows -----------------------------------------------------------------------------------


def _question_types(dataset: DatasetConfig, rows: Rows, units: Sequence[Place]) -> list[str] | None:
    """The question type of each unit; None where the set has none."""
    name = dataset.columns.question_type
    if name is None and not dataset.transforms:
        return None
    if dataset.transforms or dataset.unnest or (name is not None and name not in rows.names):
        return [_type_of(dataset, row) for _, row in rows_of(dataset, rows, units)]
    assert name is not None
    values = rows.column(name)
    return [_type_in({name: values[unit.row]}, name) for unit in units]


def _type_of(dataset: DatasetConfig, row: Row) -> str:
    """The question type of a row, empty where it cannot be asked: it fails when it is drawn."""
    try:
        return _asked(dataset, row).question_type
    except DataError:
        return ""


def _type_in(row: Row, name: str) -> str:
    try:
        return _as_type(value_of(row, name))
    except DataError:
        return ""


# --- samples --------------------------------------------------------------------------------------


def _samples(
    dataset: DatasetConfig, rows: Rows, units: Sequence[Place], pictures: RowImages
) -> LoadedSamples:
    """Samples of the drawn questions, in order."""
    columns = dataset.columns
    ids = _image_ids(columns, rows, units)
    try:
        pictures.prepare(ids, units)
    except OutsideError as error:
        raise DataError(f"dataset={dataset.name}: {error}") from error
    samples: list[Sample] = []
    failed: list[FailedSample] = []
    seen: set[str] = set()
    for image_id, (unit, row) in zip(ids, rows_of(dataset, rows, units), strict=True):
        sample_id, unusable = _sample_id(dataset, unit, row)
        if sample_id in seen:
            raise ConfigError(
                f"dataset.columns.sample_id={columns.sample_id}: {cut(sample_id)} appears twice "
                f"(again at {rows.origin(unit.row)}); name a column that differs, or null for the "
                "row's number"
            )
        seen.add(sample_id)
        try:
            if unusable:
                raise CellError(unusable)
            asked = _asked(dataset, row)
            if image_id is None and columns.image_id is not None:
                _require_id_or_none(row, columns.image_id)
            image, image_id = pictures.of(image_id, unit, row)
            samples.append(sample_of(dataset, sample_id, image_id, image, asked))
        except CellError as error:
            failed.append(FailedSample(sample_id, f"{rows.origin(unit.row)}: {error}"))
        except DataError as error:
            failed.append(FailedSample(sample_id, str(error)))
        except OutsideError as error:
            raise DataError(f"dataset={dataset.name}: sample {sample_id}: {error}") from error
    return LoadedSamples(samples, failed)


def _image_ids(columns: ColumnsConfig, rows: Rows, units: Sequence[Place]) -> list[str | None]:
    """The image id of each unit that the set's column gives, else None."""
    name = columns.image_id
    if name is None:
        return [None] * len(units)
    if name in rows.names and name not in rows.stored:
        values = rows.column(name)
        return [_id_of({name: values[unit.row]}, name) for unit in units]
    found: list[str | None] = []
    for start in range(0, len(units), BATCH):
        batch = [unit.row for unit in units[start : start + BATCH]]
        found += [_id_of(row, name) for row in rows.take(batch)]
    return found


def _id_of(row: Row, name: str) -> str | None:
    """The image id of a row, None where it has none."""
    try:
        value = value_of(row, name)
        return None if value is None else _short(text_of(value))
    except DataError:  # an empty column of a template, or a cell of the wrong kind
        return None


def _require_id_or_none(row: Row, name: str) -> None:
    """Raises CellError where a row's image id is there but cannot be one."""
    try:
        value = value_of(row, name)
    except DataError:
        return
    if value is not None:
        read(row, name, lambda found: _short(text_of(found)))


def _sample_id(dataset: DatasetConfig, unit: Place, row: Row) -> tuple[str, str]:
    """The id of a sample, and the reason if the row's own id cannot be used."""
    name = dataset.columns.sample_id
    text, unusable, nested = f"{dataset.split}-{unit.row}", "", False
    try:
        value = None if name is None else value_of(row, name)
        if name is not None and value is not None:
            text = _short(text_of(value))
            nested = dataset.unnest is not None and name.startswith(dataset.unnest)
    except DataError as error:
        unusable = f"dataset.columns.sample_id={name}: {error}"
    return text if unit.item is None or nested else f"{text}-{unit.item}", unusable


def _short(text: str) -> str:
    if len(text) > LONGEST_ID:
        raise DataError(f"{shown(text)} is too long for an id")
    return text


def _asked(dataset: DatasetConfig, row: Row) -> QuestionDraft:
    """The question of a row. Raises DataError, saying why it cannot be asked."""
    try:
        return _question_of(dataset, row)
    except _UNFORESEEN as error:
        raise DataError(f"the row cannot be used ({cut(error_line(error))})") from error


def _question_of(dataset: DatasetConfig, row: Row) -> QuestionDraft:
    columns, row = dataset.columns, _with_lists(dataset, row)
    name, index = columns.question_type, columns.answer_index
    asked = QuestionDraft(
        question=_question(columns, row),
        question_type="" if name is None else read(row, name, _as_type),
        references=[] if columns.answers is None else read(row, columns.answers, texts_of),
        options=[] if columns.options is None else read(row, columns.options, options_of),
        answer_index=None if index is None else read(row, index, _as_index),
        attributes=_attributes(columns, row),
    )
    if (right := asked.answer_index) is not None:
        if not 0 <= right < len(asked.options):
            raise DataError(f"answer {right} of {len(asked.options)} options")
        if not asked.options[right].strip():
            raise DataError(f"the right option, {right}, is empty")
    for name in dataset.transforms:
        TRANSFORMS[name].apply(asked, row)
    return asked


def _with_lists(dataset: DatasetConfig, row: Row) -> Row:
    texts = {name: read(row, name, list_in_text) for name in dataset.lists_as_text}
    return {**row, **texts} if texts else row


def _question(columns: ColumnsConfig, row: Row) -> str:
    if columns.question is None:
        return ""
    text = read(row, columns.question, _text_or_none)
    if text is None:
        raise DataError("the row has no question")
    return text


def _text_or_none(value: Any) -> str | None:
    return None if value is None else text_of(value)


def _as_index(value: Any) -> int | None:
    """The place that a number or a letter gives."""
    if value is None:
        return None
    text = text_of(value).strip()
    if re.fullmatch("[A-Za-z]", text):
        return LETTERS.index(text.upper())
    try:
        return int(text)
    except ValueError:
        raise DataError(f"answer {shown(text)} is neither a number nor a letter") from None


def _as_type(value: Any) -> str:
    """A question type as text; lists, as DocVQA has them, in one."""
    return " + ".join(texts_of(value))


def _attributes(columns: ColumnsConfig, row: Row) -> dict[str, float | str]:
    found: dict[str, float | str] = {}
    for key, name in columns.attributes.items():
        value = read(row, name, _as_attribute)
        if value is not None:
            found[key] = value
    return found


def _as_attribute(value: Any) -> float | str | None:
    if value is None or (isinstance(value, int | float) and abs(value) <= sys.float_info.max):
        return value
    return _as_type(value)


def sample_of(
    dataset: DatasetConfig, sample_id: str, image_id: str, image: AnyImage, asked: QuestionDraft
) -> Sample:
    """A question with its image. Raises DataError where it cannot be asked or has no answer."""
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
