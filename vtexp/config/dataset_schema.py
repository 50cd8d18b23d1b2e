"""Schema of the group `dataset`: where questions come from, and how they are asked and scored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from vtexp.config.choices import Form
from vtexp.config.fields import MOST_SEED, name_field, number

#: More rows than any data set has.
MOST_ROWS = 10**9


@dataclass
class SourceConfig:
    """Where the rows of a data set lie: in a repository of the hub or a folder, in which files.

    `files` is a pattern below it, `{split}` in it the split; `records` the key of a JSON file whose
    list has the rows; `images` the folder of the images that rows name; `image_url` a column of
    addresses to download them from; `obtain` says how to get the folder, to a user who lacks it.
    With form python, `function` (module:function) gives the questions instead.
    """

    form: Form = MISSING
    function: str | None = None
    hub: str | None = None
    revision: str | None = None
    folder: str | None = None
    files: str = "data/{split}-*.parquet"
    records: str | None = None
    images: str = "."
    image_url: str | None = None
    splits: list[str] = MISSING
    obtain: str | None = None


@dataclass
class JoinConfig:
    """A second table that completes the rows: where the row's `column` equals the table's `key`.

    All None where there is none.
    """

    files: str | None = None
    records: str | None = None
    column: str | None = None
    key: str | None = None


@dataclass
class HoldoutConfig:
    """A split of one's own: rows sorted by a column, shuffled by a seed, the first so many.

    All None for all rows.
    """

    first: int | None = number(None, 1, MOST_ROWS, "rows")
    sort_by: str | None = None
    seed: int | None = number(None, 0, MOST_SEED)


@dataclass
class ColumnsConfig:
    """Which column, field of one, or template of several a sample's parts come from."""

    question: str | None = "question"
    answers: str | None = "answers"
    options: str | None = None
    answer_index: str | None = None
    image: str = "image"
    sample_id: str | None = None
    image_id: str | None = None
    question_type: str | None = None
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass
class DatasetConfig:
    """Questions about images: where they come from, how they are asked and answers are scored.

    `num_questions`: questions in each split, if known; shown to people only.
    """

    name: str = name_field()
    split: str = "test"
    num_questions: dict[str, int] = number(dict, 0, MOST_ROWS, "questions")
    limit: int | None = number(None, 1, MOST_ROWS, "questions")
    seed: int = number(0, 0, MOST_SEED)
    stratify: bool = True
    max_failed: int = number(0, 0, MOST_ROWS, "samples")
    style: str = MISSING
    styles: dict[str, str] = field(default_factory=dict)
    max_new_tokens: int = number(12, 1, 10**6, "tokens")
    metric: str = "exact_match"
    licence: str = "unknown"
    source: SourceConfig = field(default_factory=SourceConfig)
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    join: JoinConfig = field(default_factory=JoinConfig)
    where: dict[str, Any] = field(default_factory=dict)
    holdout: HoldoutConfig = field(default_factory=HoldoutConfig)
    unnest: str | None = None
    lists_as_text: list[str] = field(default_factory=list)
    transforms: list[str] = field(default_factory=list)
