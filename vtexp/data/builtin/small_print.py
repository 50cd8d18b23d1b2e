"""small_print: drawn pages whose questions are answered by reading print of 10 to 32 px.

Made once from its seeds and kept as an Arrow file in the cache folder (VTEXP_CACHE_DIR, by default
~/.cache/vtexp), from which pages are read when they are needed. The splits use different seeds and
share no page.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from vtexp.data.builtin.small_print_pages import draw_page
from vtexp.data.images import arrow_table
from vtexp.data.sample import Sample, StoredImage
from vtexp.data.sources.guard import writing
from vtexp.data.sources.paths import cache_folder
from vtexp.errors import DataError
from vtexp.utils.console import progress

#: Raise it whenever a page would come out differently.
VERSION = 4
#: Pages of each split, and the first number of its seed.
PAGES = {"train": 2000, "validation": 100, "test": 300}
SEEDS = {"train": 1, "validation": 2, "test": 3}
SPLITS = tuple(PAGES)
#: Questions asked about one page, at most.
QUESTIONS_PER_PAGE = 6


def load(split: str) -> list[Sample]:
    """All questions of a split, page by page; the first call draws them.

    Raises DataError where the cache cannot be written or read.
    """
    path = cache_path(split)
    if not path.is_file():
        _write(split, path)
    return _read(split, path)


def cache_path(split: str) -> Path:
    """Arrow file of a split. Another version of Pillow may draw other pixels: another file."""
    return cache_folder() / f"small_print-v{VERSION}-pillow{PIL.__version__}-{split}.arrow"


def draw_rows(split: str) -> Iterator[dict[str, Any]]:
    """One row per page: number, kind, JPEG bytes, and its questions as JSON."""
    for number in range(PAGES[split]):
        page = draw_page(np.random.default_rng((SEEDS[split], number)))
        buffer = io.BytesIO()
        page.image.save(buffer, "JPEG", quality=92)
        fields = [
            {"question": asked.question, "answer": asked.answer, "print_px": asked.print_px}
            for asked in page.fields[:QUESTIONS_PER_PAGE]
        ]
        yield {
            "page": number,
            "kind": page.kind,
            "image": buffer.getvalue(),
            "questions": json.dumps(fields),
        }


def _write(split: str, path: Path) -> None:
    import pyarrow as pa

    schema = pa.schema(
        [("page", "int32"), ("kind", "string"), ("image", "binary"), ("questions", "string")]
    )
    with (
        writing(path) as partial,
        pa.OSFile(str(partial), "wb") as sink,
        pa.ipc.new_stream(sink, schema) as writer,
        progress(f"drawing small_print {split}", PAGES[split]) as advance,
    ):
        for row in draw_rows(split):
            writer.write_batch(pa.RecordBatch.from_pylist([row], schema=schema))
            advance(1)


def _read(split: str, path: Path) -> list[Sample]:
    try:
        table = arrow_table(str(path)).select(["page", "kind", "questions"])
        rows = table.to_pylist()
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: cannot be read ({error}); delete it to draw it again") from error
    samples = []
    for place, row in enumerate(rows):
        image_id = f"{split}-{row['page']}"
        image = StoredImage(str(path), "image", place, str(path), place)
        for number, asked in enumerate(json.loads(row["questions"])):
            samples.append(
                Sample(
                    sample_id=f"{image_id}-{number}",
                    image_id=image_id,
                    image=image,
                    question=asked["question"],
                    references=(asked["answer"],),
                    question_type=row["kind"],
                    attributes={"print_px": asked["print_px"]},
                )
            )
    return samples
