"""Rows of Parquet files and of saved Arrow tables: their text at once, their images never.

Parquet is read column by column, and the images of the drawn rows are copied once into an Arrow
file that is memory-mapped from then on: random access to Parquet would decompress a row group for
each image, and converting all of it (as `datasets` does) would store the image again for each
question of VQA v2.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtexp.data.images import StoredImage, arrow_table
from vtexp.data.sources.columns import Unreadable
from vtexp.data.sources.guard import reading, require_own, writing
from vtexp.data.sources.paths import cache_folder
from vtexp.data.sources.rows import FilePlaces, ImageCell, Rows
from vtexp.errors import DataError
from vtexp.utils.console import progress

if TYPE_CHECKING:
    import pyarrow as pa

#: Rows that are taken or copied at once.
BATCH = 32


class TableRows(Rows):
    """Rows whose text columns are a table of Arrow."""

    _parts: FilePlaces

    def __init__(self, text: pa.Table, names: tuple[str, ...], stored: frozenset[str]) -> None:
        self._text, self.names, self.stored = text, names, stored

    def __len__(self) -> int:
        return self._text.num_rows

    def column(self, name: str) -> list[Any]:
        """See Rows."""
        return _values(self._text.column(name))

    def take(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """See Rows."""
        found = self._text.take(list(rows))
        values = zip(*map(_values, found.columns), strict=True)
        return [dict(zip(found.column_names, row, strict=True)) for row in values]

    def present(self, name: str) -> list[bool]:
        """See Rows."""
        return self._text.column(name).is_valid().to_pylist()

    def origin(self, row: int) -> str:
        """See Rows."""
        return self._parts.origin(row)


class ParquetRows(TableRows):
    """Rows of Parquet files; of their text columns and their fields, the `wanted` ones are read."""

    def __init__(self, files: Sequence[Path], wanted: Callable[[str], bool]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._files, tables, schemas = list(files), [], []
        for file in files:
            with reading(file), pq.ParquetFile(file) as parquet:
                schema = parquet.schema_arrow
                stored = _stored_columns(schema)
                leaves = [parquet.schema.column(i).path for i in range(len(parquet.schema))]
                text = [p for p in leaves if wanted(_field(p)) and p.split(".")[0] not in stored]
                # A column is always read: without any, a table of no columns has no rows.
                tables.append(parquet.read(columns=text or leaves[:1]))
                schemas.append(schema)
        with reading(self._files[0]):
            text = pa.concat_tables(tables, promote_options="permissive")
        super().__init__(text, tuple(schemas[0].names), _stored_columns(schemas[0]))
        self._parts = FilePlaces([(f, t.num_rows) for f, t in zip(files, tables, strict=True)])

    def present(self, name: str) -> list[bool]:
        """See Rows; of images, only where they are is read."""
        if name not in self.stored:
            return super().present(name)
        found: list[bool] = []
        for file, _, batch in self._batches(name, range(len(self)), leaf="path", size=4096):
            with reading(file):
                found += batch.column(0).is_valid().to_pylist()
        return found

    def images(self, name: str, rows: Sequence[int]) -> list[ImageCell]:
        """See Rows; they are copied to the cache folder where they are not there yet."""
        wanted = sorted(set(rows))
        path = cache_folder() / f"images-{self._key(name, wanted)}.arrow"
        if not path.is_file():
            self._extract(name, wanted, path)
        try:
            table = arrow_table(str(path))
            filled = table.column("bytes").is_valid().to_pylist()
            paths, digests = table.column("path").to_pylist(), table.column("digest").to_pylist()
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read ({error}); delete it") from error
        cells = {}
        known: dict[str, StoredImage] = {}
        for at, row in enumerate(wanted):
            file, inner = self._parts.place(row)
            stored = StoredImage(str(path), "bytes", at, str(self._files[file]), inner)
            # Rows of the same content have one image, which is then decoded once.
            image = known.setdefault(digests[at], stored) if filled[at] else paths[at]
            cells[row] = ImageCell(image, digests[at])
        return [cells[row] for row in rows]

    def _key(self, name: str, rows: list[int]) -> str:
        """Hash of what is extracted: the files as they are now, the column and the rows."""
        about = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in self._files]
        return hashlib.sha256(json.dumps([about, name, rows]).encode()).hexdigest()[:16]

    def _extract(self, name: str, rows: list[int], path: Path) -> None:
        """Copy the encoded images of some rows (sorted) into an Arrow file, in one pass."""
        import pyarrow as pa

        schema = pa.schema([("bytes", pa.large_binary()), ("path", "string"), ("digest", "string")])
        with (
            writing(path) as partial,
            pa.OSFile(str(partial), "wb") as sink,
            pa.ipc.new_stream(sink, schema) as writer,
            progress("copying images", len(rows)) as advance,
        ):
            for file, offset, batch in self._batches(name, rows, size=BATCH):
                with reading(file):
                    first = bisect.bisect_left(rows, offset)
                    last = bisect.bisect_left(rows, offset + batch.num_rows)
                    if first == last:
                        continue
                    mine = [row - offset for row in rows[first:last]]
                    data, paths = _parts(batch.column(0).take(pa.array(mine)))
                    columns = [data.cast(pa.large_binary()), paths, _digests(data)]
                writer.write_batch(pa.record_batch(columns, schema=schema))
                advance(len(mine))

    def _batches(
        self, name: str, rows: Sequence[int], *, size: int, leaf: str | None = None
    ) -> Iterator[tuple[Path, int, pa.RecordBatch]]:
        """(file, number of the first row, batch) over the row groups that hold any of the rows."""
        import pyarrow.parquet as pq

        for file, start in zip(self._files, self._parts.offsets, strict=False):
            with reading(file), pq.ParquetFile(file) as parquet:
                leaves = {parquet.schema.column(i).path for i in range(len(parquet.schema))}
                column = f"{name}.{leaf}" if f"{name}.{leaf}" in leaves else name
                for group in range(parquet.num_row_groups):
                    stop = start + parquet.metadata.row_group(group).num_rows
                    if bisect.bisect_left(rows, start) < bisect.bisect_left(rows, stop):
                        at = start
                        for batch in parquet.iter_batches(size, [group], [column]):
                            yield file, at, batch
                            at += batch.num_rows
                    start = stop


class SavedRows(TableRows):
    """Rows of a folder of `Dataset.save_to_disk`, images where they lie: memory-mapped already."""

    def __init__(self, files: Sequence[Path], wanted: Callable[[str], bool]) -> None:
        import pyarrow as pa

        self._files = [str(file) for file in files]
        with reading(files[0]):
            self._tables = [arrow_table(file) for file in self._files]
            schema = self._tables[0].schema
            stored = _stored_columns(schema)
            text = [name for name in schema.names if wanted(name) and name not in stored]
            text = text or schema.names[:1]
            table = pa.concat_tables([table.select(text) for table in self._tables])
        super().__init__(table, tuple(schema.names), stored)
        counts = [table.num_rows for table in self._tables]
        self._parts = FilePlaces(list(zip(self._files, counts, strict=True)))

    def present(self, name: str) -> list[bool]:
        """See Rows."""
        if name not in self.stored:
            return super().present(name)
        return [valid for t in self._tables for valid in t.column(name).is_valid().to_pylist()]

    def images(self, name: str, rows: Sequence[int]) -> list[ImageCell]:
        """See Rows."""
        filled, paths = [], []
        for file, table in zip(self._files, self._tables, strict=True):
            with reading(Path(file)):
                data, path = _parts(table.column(name))
            filled.append(data.is_valid())
            paths.append(path)
        cells = []
        for row in rows:
            at, inner = self._parts.place(row)
            file = self._files[at]
            cells.append(
                ImageCell(
                    StoredImage(file, name, inner, file, inner)
                    if filled[at][inner].as_py()
                    else paths[at][inner].as_py()
                )
            )
        return cells


def read_saved(folder: Path, split: str, wanted: Callable[[str], bool], within: Path) -> SavedRows:
    """Rows of a split of a folder of `save_to_disk`.

    Raises DataError if it is not such a folder, or names files outside `within`: the library that
    wrote it would open any file named there, so this is checked first.
    """
    from datasets import Dataset

    with reading(folder):
        splits, state = folder / "dataset_dict.json", folder / "state.json"
        if not state.is_file() and splits.is_file():
            names = _json_within(splits, within)["splits"]
            if split not in names:
                raise DataError(f"{folder}: has no split {split}; it has {', '.join(names)}")
            state = folder / split / state.name
        content = _json_within(state, within)
        if content.get("_indices_data_files"):  # rows chosen by a file, as old versions wrote
            raise ValueError("its rows are reordered; save it again after flatten_indices()")
        names = [part["filename"] for part in content["_data_files"]]
        if not names:
            raise ValueError("it has no rows")
        if any(Path(name).is_absolute() or ".." in Path(name).parts for name in names):
            raise ValueError("its state.json names files that are not in it")
        for name in ("dataset_info.json", *names):
            require_own(state.parent / name, within)
        found = Dataset.load_from_disk(str(state.parent))
        return SavedRows([Path(part["filename"]) for part in found.cache_files], wanted)


def _json_within(file: Path, within: Path) -> Any:
    require_own(file, within)
    return json.loads(file.read_text(encoding="utf-8"))


#: What a cell raises that Python cannot represent, such as a day of the year 300 000.
_NO_VALUE = (ValueError, ArithmeticError, NotImplementedError)


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Python's values of a column; `Unreadable` where a cell has none."""
    try:
        return column.to_pylist()
    except _NO_VALUE:
        return [_value(cell) for cell in column]


def _value(cell: pa.Scalar) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError as error:
        return Unreadable(f"the cell holds text that is not UTF-8 ({error})")
    except _NO_VALUE as error:
        return Unreadable(f"the cell is a {cell.type} that cannot be read ({error})")


def _field(leaf: str) -> str:
    """`answers.answer` for `answers.list.element.answer`, as Parquet names a leaf within a list."""
    return re.sub(r"\.list\.(element|item)|\.bag\.array_element|\.array", "", leaf)


def _stored_columns(schema: pa.Schema) -> frozenset[str]:
    """Columns that hold encoded images: binary ones, and structs with `bytes`, as of `datasets`."""
    import pyarrow as pa

    def stored(kind: pa.DataType) -> bool:
        if pa.types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0
        return _holds_bytes(kind) and not pa.types.is_null(kind)

    return frozenset(name for name in schema.names if stored(schema.field(name).type))


def _holds_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    types = pa.types
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_null(kind)


def _parts(cells: Any) -> tuple[Any, Any]:
    """Encoded images and paths of a stored column (array or chunked array)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_struct(cells.type):
        return cells, pa.nulls(len(cells), pa.string())
    data = pc.struct_field(cells, "bytes")
    if not _holds_bytes(data.type):
        raise TypeError(f"the bytes of its images are {data.type}")
    if cells.type.get_field_index("path") < 0:
        return data, pa.nulls(len(cells), pa.string())
    return data, pc.struct_field(cells, "path").cast(pa.string())


def _digests(data: pa.Array) -> pa.Array:
    """Short hashes of the cells, null for empty ones."""
    import pyarrow as pa

    return pa.array(
        [hashlib.sha256(c.as_buffer()).hexdigest()[:16] if c.is_valid else None for c in data],
        pa.string(),
    )
