"""Files of a run: written under a temporary name, then renamed, so that none is ever half there."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from vtexp import environment
from vtexp.errors import DataError, VtexpError, error_line

RESULT = "result.json"
FAILURE = "failure.json"
PLANNED = "planned.json"
SAMPLES = "samples.jsonl"
LATENCY = "latency.jsonl"
CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
#: Below a run's folder, while it is made: what each of its processes has so far.
RANKS = "ranks"
ANSWERS = "answers.jsonl"
SHARE = "share.json"
PROGRESS = "progress.json"


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or nothing. Raises VtexpError where the disk does not take it."""
    # Of several processes that write the same file, one's whole file is left.
    partial = path.with_name(f"{path.name}.{environment.host()}-{os.getpid()}.partial")
    try:
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
    except VtexpError:
        with suppress(OSError):
            partial.unlink()
        raise


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise VtexpError(f"{path}: cannot be written ({error.strerror or error})") from error


def write_text(path: Path, text: str) -> None:
    """Like `write_bytes`, in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Like `write_text`, indented; NaN is refused (it is not JSON)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """One JSON object per line, the whole file at once."""
    write_bytes(path, _lines(rows))


def _lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()


class RowsFile:
    """A JSON-lines file that grows under a temporary name until `finish` gives it its own.

    Raises VtexpError where the disk does not take it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._partial = path.with_name(path.name + ".partial")
        self._mode = "wb"  # what an earlier try left is written over

    def write(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add rows."""
        with _writing(self.path), self._partial.open(self._mode) as file:
            self._mode = "ab"
            file.write(_lines(rows))

    def go_on(self, key: str) -> list[Any]:
        """Keep what an earlier try left, up to its last whole row: the values of a key in them."""
        values: list[Any] = []
        if self.path.is_file() and not self._partial.is_file():
            self.path.replace(self._partial)  # it had been finished, but what uses it had not
        if not self._partial.is_file():
            return values
        whole = 0
        with _writing(self.path), self._partial.open("rb+") as file:
            for line in file:
                if not line.endswith(b"\n"):  # cut short
                    break
                try:
                    values.append(json.loads(line)[key])
                except (ValueError, KeyError):  # damaged
                    break
                whole += len(line)
            file.truncate(whole)
        self._mode = "ab"
        return values

    def discard(self) -> None:
        """Leave nothing, as far as the disk allows."""
        self._mode = "wb"
        for path in (self._partial, self.path):
            with suppress(OSError):
                path.unlink()

    def finish(self) -> None:
        """Nothing is added any more: the file is on the disk as a whole."""
        with _writing(self.path):
            with self._partial.open("ab") as file:
                os.fsync(file.fileno())
            self._partial.replace(self.path)


def merge_rows(sources: Sequence[Path], target: Path, key: str, order: Sequence[Any]) -> None:
    """Write the rows of several JSON-lines files as one, each value of a key once, in this order.

    Raises DataError where they are not the rows of these values, each once.
    """
    places: dict[Any, tuple[int, int]] = {}
    with ExitStack() as stack, _writing(target):
        files = [stack.enter_context(path.open("rb")) for path in sources]
        rows = 0
        for number, file in enumerate(files):
            at = 0
            for line in file:
                places[json.loads(line)[key]] = (number, at)
                at += len(line)
                rows += 1
        if rows != len(order) or places.keys() != set(order):
            raise DataError(
                f"{target.parent}: the records are not those of the run's {len(order)} samples; "
                "does another process make the same run?"
            )
        partial = target.with_name(target.name + ".partial")
        with partial.open("wb") as out:
            for value in order:
                number, at = places[value]
                files[number].seek(at)
                out.write(files[number].readline())
            out.flush()
            os.fsync(out.fileno())
        partial.replace(target)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file: one process at a time, on file systems that have locks.

    Raises VtexpError where the file cannot be made.
    """
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    with file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read_config(folder: Path) -> dict[str, Any]:
    """The resolved config of a run. Raises DataError if it cannot be read."""
    import yaml

    path = folder / CONFIG
    # libyaml, where PyYAML has it, takes a tenth of the time: a report reads hundreds of them.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        config = yaml.load(path.read_bytes(), loader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path}: cannot be read ({error_line(error)})") from error
    if not isinstance(config, dict):
        raise DataError(f"{path}: not the config of a run")
    return config


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file. Raises DataError if it is damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); delete its folder to run it again"
        ) from error


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file. Raises DataError if it is damaged."""
    return list(rows_of(path))


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a JSON-lines file, one after the other. Raises DataError if it is damaged."""
    try:
        with path.open("rb") as file:
            for line in file:
                yield json.loads(line)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); delete its folder to run it again"
        ) from error
