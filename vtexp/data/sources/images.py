"""Where the images of drawn rows are: in their table, in files, or on the web, and fetched."""

from __future__ import annotations

import hashlib
import re
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from vtexp.config.dataset_schema import DatasetConfig
from vtexp.data.images import AnyImage, ImageFile
from vtexp.data.sources.columns import CellError, Row, read, text_of, value_of
from vtexp.data.sources.files import Folder, image_folder
from vtexp.data.sources.guard import writing
from vtexp.data.sources.paths import inside
from vtexp.data.sources.questions import Place, rows_of
from vtexp.data.sources.rows import ImageCell, Rows
from vtexp.errors import DataError
from vtexp.utils.console import progress
from vtexp.utils.text import cut, shown

#: Connections at a time, seconds without an answer, and the largest image.
_CONNECTIONS = 16
_TIMEOUT_S = 20
_MOST_BYTES = 64 * 2**20
#: Characters of a path, at most, on Linux; a longer name is an image itself, such as base64.
LONGEST_PATH = 4096


class OutsideError(Exception):
    """An image outside the data folder. It ends the run; it is not a failed sample."""


class RowImages:
    """Where the images of the drawn rows are, and which of them are the same."""

    def __init__(self, dataset: DatasetConfig, rows: Rows, folder: Folder, *, fetch: bool) -> None:
        self._dataset, self._rows, self._fetch = dataset, rows, fetch
        self._column = dataset.columns.image
        self._stored = self._column in rows.stored
        self._folder, self._within = image_folder(dataset, folder)
        self._cells: Mapping[int, ImageCell] = {}
        self._first: dict[str, int] = {}
        self._not_had: dict[Path, str] = {}

    def prepare(self, ids: Sequence[str | None], units: Sequence[Place]) -> None:
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

    def _download(self, column: str, units: Sequence[Place]) -> None:
        addresses = {}
        for _, row in rows_of(self._dataset, self._rows, units):
            with suppress(DataError):  # such a row fails by itself, below
                name, url = value_of(row, self._column), value_of(row, column)
                if name and url:
                    addresses[self._file(text_of(name)).path] = text_of(url)
        self._not_had = download_images(addresses)

    def of(self, image_id: str | None, unit: Place, row: Row) -> tuple[AnyImage, str]:
        """Image and image id of a row. Raises DataError where it has none, OutsideError."""
        if self._stored:
            cell = self._cells[self._place(image_id, unit.row)]
            if isinstance(cell.image, str):
                return self._file(cell.image), image_id or cell.image
            if cell.image is None:
                raise DataError("the row has no image")
            return cell.image, image_id or cell.digest or str(unit.row)
        name = read(row, self._column, lambda value: text_of(value) if value else "")
        if not name:
            raise DataError("the row has no image")
        file = self._file(name)
        if reason := self._not_had.get(file.path):
            raise DataError(reason)
        if self._dataset.source.image_url and not self._fetch and not file.path.is_file():
            raise DataError("not downloaded yet; a run without plan=true does it")
        return file, image_id or name

    def _place(self, image_id: str | None, row: int) -> int:
        return row if image_id is None else self._first[image_id]

    def _file(self, name: str) -> ImageFile:
        if len(name) > LONGEST_PATH:
            raise CellError(f"column {self._column}: {shown(name)} is not the path of an image")
        try:
            return ImageFile(inside(self._folder, name, self._within))
        except DataError as error:
            raise OutsideError(str(error)) from error


def download_images(addresses: Mapping[Path, str]) -> dict[Path, str]:
    """Download what is not there yet; gives the reasons for those that could not be downloaded.

    A name of 64 hex digits is the SHA-256 that the content must have. Raises DataError where all of
    them failed, or where the folder cannot be written to.
    """
    wanted = {path: url for path, url in addresses.items() if not path.is_file()}
    had = len(addresses) - len(wanted)
    failed: dict[Path, str] = {}
    if not wanted:
        return failed
    with (
        ThreadPoolExecutor(_CONNECTIONS) as pool,
        progress("downloading images", len(wanted)) as advance,
    ):
        tasks = {pool.submit(_download, path, url): path for path, url in wanted.items()}
        for task in as_completed(tasks):
            if reason := task.result():
                failed[tasks[task]] = reason
            else:
                had += 1
            if not had and len(failed) >= 2 * _CONNECTIONS:  # there seems to be no network
                pool.shutdown(cancel_futures=True)
                break
            advance(1)
    if not had:
        raise DataError(
            f"none of {len(wanted)} images could be downloaded: {next(iter(failed.values()))}"
        )
    return failed


def _download(path: Path, url: str) -> str:
    """Download one image; gives the reason if that failed."""
    name = cut(url)  # some sets have the image itself in its address
    try:
        if urlsplit(url).scheme not in ("http", "https"):
            return f"{name}: not a web address"
        # Some sites turn away clients without a name.
        request = urllib.request.Request(url, headers={"User-Agent": "vtexp"})
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            data = answer.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # of urllib and http alike
        return f"{name}: {' '.join(str(error).split())}"
    except Exception as error:  # http.client's own have no common class with those
        return f"{name}: {type(error).__name__}"
    if len(data) > _MOST_BYTES:
        return f"{name}: larger than {_MOST_BYTES // 2**20} MiB"
    digest = hashlib.sha256(data).hexdigest()
    if re.fullmatch("[0-9a-f]{64}", path.stem) and digest != path.stem:
        return f"{name}: the image at this address has changed (its SHA-256 differs)"
    with writing(path) as partial:
        partial.write_bytes(data)
    return ""
