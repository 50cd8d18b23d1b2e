"""Reading and writing data files: a damaged file is a one-line error, and no path leads out of the
data folder.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vtexp.errors import DataError

#: So many characters of another program's message are shown: some hold the file.
MOST_REASON = 400
#: What damaged files raise; pyarrow's own errors are subclasses of these.
_UNREADABLE = (
    *(OSError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError),
    *(NotImplementedError, RecursionError, csv.Error),
)


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Errors of reading a file as one line."""
    try:
        yield
    except _UNREADABLE as error:
        reason = " ".join(str(error)[:MOST_REASON].split()) or type(error).__name__
        raise DataError(f"{file}: cannot be read ({reason})") from error


def require_own(path: Path, within: Path) -> None:
    """Raises DataError where a path leads out of the folder `within`, or is a pipe or a device."""
    if not path.resolve().is_relative_to(within.resolve()):
        raise DataError(
            f"{path}: leads out of the data folder {within}: copy the file there, or set "
            "dataset.source.folder to the folder it is in"
        )
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise DataError(f"{path}: neither a file nor a folder")


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A name to write to; it becomes `path` once all is written. Raises DataError if it cannot."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error}); set VTEXP_CACHE_DIR to a folder with room"
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink()
