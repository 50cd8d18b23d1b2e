"""Data sets that a function of the user's own makes: `dataset.source.form=python`.

`dataset.source.function=module:function` names it. It is called with the split and gives the
questions, one mapping each: see KEYS and docs/datasets.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vtexp.config.dataset_schema import DatasetConfig
from vtexp.data.images import AnyImage, image_of
from vtexp.data.sample import FailedSample, LoadedSamples, Sample, drawn, require_split
from vtexp.data.sources.columns import text_of, texts_of
from vtexp.data.sources.loader import sample_of
from vtexp.data.sources.transforms import QuestionDraft
from vtexp.errors import ConfigError, DataError, VtexpError, error_line
from vtexp.utils.own_code import own_function, require_form, was_imported
from vtexp.utils.typed import is_whole_number

NEEDED = ("image", "question")
#: What a question may have; `references`, or `options` with `answer_index`, say what is right.
KEYS = (
    *NEEDED,
    *("references", "options", "answer_index"),
    *("sample_id", "image_id", "question_type", "attributes", "style"),
)
_KEY = "dataset.source.function"


def load(dataset: DatasetConfig, *, may_import: bool, index: int | None = None) -> LoadedSamples:
    """Draw the samples that the function gives; with `index`, that place of the draw alone.

    Questions that cannot be asked are `failed`. Without `may_import`, only a function that a run of
    this process asked for is called. Raises ConfigError for a function that is not there, DataError
    where it raises or gives no questions.
    """
    rows = _rows(dataset, may_import=may_import)
    strata = [_text(row, "question_type") for row in rows] if dataset.stratify else None
    images: dict[int, tuple[AnyImage, str]] = {}
    samples: list[Sample] = []
    failed: list[FailedSample] = []
    seen: set[str] = set()
    for i in drawn(dataset, len(rows), strata, index):
        own_id = f"{dataset.split}-{i}"
        try:
            own_id = _text(rows[i], "sample_id") or own_id
            samples.append(_sample(dataset, own_id, rows[i], images))
        except DataError as error:
            failed.append(FailedSample(own_id, str(error)))
        if own_id in seen:
            raise ConfigError(f"{_asked(dataset)}: two questions have the sample_id {own_id}")
        seen.add(own_id)
    return LoadedSamples(samples, failed)


def require_function(dataset: DatasetConfig) -> None:
    """Raise ConfigError where the config names no function, or no such split."""
    source = dataset.source
    if source.function is None:
        raise ConfigError(f"dataset.source.form=python: name the function, {_KEY}=module:function")
    require_form(_KEY, source.function)
    require_split(dataset, source.splits)


def _asked(dataset: DatasetConfig) -> str:
    return f"{_KEY}={dataset.source.function}"


def _rows(dataset: DatasetConfig, *, may_import: bool) -> list[Mapping[str, Any]]:
    require_function(dataset)
    name = dataset.source.function
    assert name is not None
    if not may_import and not was_imported(name):
        raise DataError(f"{_asked(dataset)}: only runs call the function")
    function = own_function(_KEY, name)
    try:
        rows = list(function(dataset.split))
    except (Exception, SystemExit) as error:  # it is anyone's code
        if isinstance(error, VtexpError):
            raise
        raise DataError(f"{_asked(dataset)} raised {error_line(error)}") from error
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DataError(
                f"{_asked(dataset)}: question {i} is a {type(row).__name__}; give mappings with "
                f"{', '.join(KEYS)}"
            )
    return rows


def _sample(
    dataset: DatasetConfig,
    own_id: str,
    row: Mapping[str, Any],
    images: dict[int, tuple[AnyImage, str]],
) -> Sample:
    if unknown := [str(key) for key in row if key not in KEYS]:
        raise DataError(f"a question has no {unknown[0]}; it may have {', '.join(KEYS)}")
    if missing := [key for key in NEEDED if row.get(key) is None]:
        raise DataError(f"the question lacks {', '.join(missing)}")
    asked = QuestionDraft(
        question=text_of(row["question"]),
        question_type=_text(row, "question_type"),
        references=_texts(row, "references"),
        options=_texts(row, "options"),
        answer_index=_answer_index(row),
        attributes=_attributes(row),
        style=_text(row, "style") or None,
    )
    # Of several questions about one object in memory, the image is encoded once.
    value = row["image"]
    if id(value) not in images:
        image = image_of(value)
        images[id(value)] = (image, str(value) if isinstance(value, str) else own_id)
    image, image_id = images[id(value)]
    return sample_of(dataset, own_id, _text(row, "image_id") or image_id, image, asked)


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    return "" if value is None else text_of(value)


def _texts(row: Mapping[str, Any], key: str) -> list[str]:
    value = row.get(key)
    return texts_of([] if value is None else list(value) if isinstance(value, tuple) else value)


def _answer_index(row: Mapping[str, Any]) -> int | None:
    value, options = row.get("answer_index"), _texts(row, "options")
    if value is None:
        return None
    if not is_whole_number(value) or not 0 <= value < len(options):
        raise DataError(f"answer_index={value!r} of {len(options)} options")
    return value


def _attributes(row: Mapping[str, Any]) -> dict[str, float | str]:
    given = row.get("attributes") or {}
    if not isinstance(given, Mapping):
        raise DataError(f"attributes: needs a mapping, not a {type(given).__name__}")
    numbers = {str(k): v for k, v in given.items() if isinstance(v, int | float)}
    return numbers | {str(k): text_of(v) for k, v in given.items() if str(k) not in numbers}
