"""Where the files of a data set are: in a folder, or in the hub's cache."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from vtexp.config.choices import Form
from vtexp.config.dataset_schema import DatasetConfig
from vtexp.data.sources.guard import require_own
from vtexp.data.sources.listed import read_imagefolder, read_json
from vtexp.data.sources.paths import cache_folder
from vtexp.data.sources.rows import JoinedRows, Rows
from vtexp.data.sources.tables import ParquetRows, read_saved
from vtexp.errors import ConfigError, DataError
from vtexp.utils.hub import HubError, snapshot


class Folder(NamedTuple):
    """A data set's folder, and the folder that its files and images must not leave."""

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
    patterns = _patterns(dataset)
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


def is_whole(dataset: DatasetConfig, folder: Folder) -> bool:
    """Whether a data set's folder has all files of its tables, and the folder of its images."""
    images, _ = image_folder(dataset, folder)
    return not _missing(folder.path, _patterns(dataset)) and images.is_dir()


def _patterns(dataset: DatasetConfig) -> list[str]:
    """Pattern of the files of each table."""
    tables = (dataset.source.files, dataset.join.files)
    return [_pattern(dataset, files) for files in tables if files is not None]


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
        # A link of the hub's cache outlives the file that it leads to.
        return sorted(
            path for path in folder.glob(pattern) if not path.name.startswith(".") and path.exists()
        )
    except (NotImplementedError, ValueError) as error:
        raise ConfigError(f"dataset.source.files={pattern}: {error}") from error


def open_rows(dataset: DatasetConfig, folder: Folder, wanted: Callable[[str], bool]) -> Rows:
    """The rows of a data set's split, joined with those that complete them.

    Only `wanted` columns and fields of tables are read. Raises DataError where files are missing,
    lead out of the folder over links or cannot be read, ConfigError where they do not fit the
    config.
    """
    source, join = dataset.source, dataset.join
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
    folder: Folder,
    files: str,
    records: str | None,
    wanted: Callable[[str], bool],
) -> Rows:
    pattern = _pattern(dataset, files)
    found = _glob(folder.path, pattern)
    if not found:
        there = ", ".join(sorted(path.name for path in folder.path.iterdir())[:8])
        raise DataError(f"{folder.path}: has no {pattern}; it has {there or 'nothing'}")
    for path in found:
        require_own(path, folder.within)
    match dataset.source.form:
        case Form.parquet:
            return ParquetRows(found, wanted)
        case Form.json:
            return read_json(found, records)
        case Form.imagefolder:
            return read_imagefolder(found[0], folder.within)
        case Form.saved:
            return read_saved(found[0], dataset.split, wanted, folder.within)
        case form:
            raise ConfigError(f"dataset.source.form={form.value}: only for the set of that name")


def image_folder(dataset: DatasetConfig, folder: Folder) -> tuple[Path, Path]:
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
