"""Files of a run: written under a temporary name, then renamed, so that none is ever half there."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import yaml

from vtexp.errors import DataError, VtexpError
from vtexp.utils import environment

Value = TypeVar("Value")

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
RANK_RESULT = "rank_result.json"
PROGRESS = "progress.json"
NO_CONFIG = "not the config of a run"
#: No config of a run is longer, or deeper: it is written by `frozen.freeze`.
MOST_CONFIG_BYTES, MOST_CONFIG_DEPTH = 1_000_000, 20


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or nothing. Raises VtexpError if it cannot be written."""
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
    """Like `write_bytes`, in UTF-8; what it cannot hold, such as half a character, is escaped."""
    write_bytes(path, text.encode(errors="backslashreplace"))


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

    def go_on(self, read: Callable[[dict[str, Any]], Value]) -> list[Value]:
        """Keep what an earlier try left, up to the first row that is damaged: what `read` makes.

        `read` raises ValueError for a row that is not to be kept.
        """
        values: list[Value] = []
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
                    values.append(read(_parsed(line)))
                except ValueError:
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
                places[_parsed(line)[key]] = (number, at)
                at += len(line)
                rows += 1
        if rows != len(order) or places.keys() != set(order):
            raise DataError(
                f"{target.parent}: the records are not those of the run's {len(order)} samples; "
                "is another process working on the same run?"
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
    """Hold the lock of a file: one process at a time; others wait.

    On a file system without locks, a file beside it is the lock. Raises VtexpError where neither
    can be had.
    """
    from filelock import FileLock

    lock = FileLock(path)
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def is_whole(path: Path) -> bool:
    """Whether a file is there and holds a JSON object; False of one that is cut short."""
    try:
        _parsed(_read(path))
    except OSError:
        return path.is_file()  # why it cannot be read is for its readers to say
    except ValueError:
        return False
    return True


def read_config(folder: Path) -> dict[str, Any]:
    """The resolved config of a run. Raises DataError if it is damaged, or not of a run.

    It is small and plain, as `frozen.freeze` writes it: no aliases (a few lines of them can stand
    for gigabytes), no tags, and no deep nesting (it makes libyaml crash).
    """
    path = folder / CONFIG
    # libyaml, where PyYAML has it, takes a tenth of the time: a report reads hundreds of them.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        with _opened(path) as file:
            data = file.read(MOST_CONFIG_BYTES + 1)
        _require_plain_yaml(data, loader)
        config = yaml.load(data, loader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(config, dict) or not _is_plain(config):
        raise damaged(path, NO_CONFIG)
    return config


def _require_plain_yaml(data: bytes, loader: Any) -> None:
    """Raises ValueError for YAML that cannot be a run's config; the events take little memory."""
    if len(data) > MOST_CONFIG_BYTES:
        raise ValueError(f"longer than {MOST_CONFIG_BYTES} bytes")
    depth = 0
    for event in yaml.parse(data, loader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None):
            raise ValueError("it has aliases or tags")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MOST_CONFIG_DEPTH:
            raise ValueError(f"nested deeper than {MOST_CONFIG_DEPTH} levels")


def _is_plain(value: Any) -> bool:
    """Whether a value of a config can be JSON: no dates, and no keys but texts."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(own) for key, own in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises DataError if it is damaged."""
    try:
        return _parsed(_read(path))
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file. Raises DataError if it is damaged."""
    return list(rows_of(path))


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a JSON-lines file, one after the other. Raises DataError if it is damaged."""
    try:
        with _opened(path) as file:
            for line in file:
                yield _parsed(line)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _opened(path: Path) -> BinaryIO:
    """A file to be read. Raises OSError for a pipe, too: to open one would wait for its writer."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # open() refuses a folder itself
        raise OSError(errno.EINVAL, "not a file")
    return path.open("rb")


def _read(path: Path) -> bytes:
    with _opened(path) as file:
        return file.read()


#: Errors of the system that mean damage. Others, such as of permission, say nothing of the file.
_DAMAGE = (errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.EINVAL)


def _unreadable(path: Path, error: Exception) -> DataError:
    said = error.strerror if isinstance(error, OSError) else str(error)
    text = f"cannot be read ({' '.join(str(said or error).split())})"
    if isinstance(error, OSError) and error.errno not in _DAMAGE:
        return DataError(f"{path}: {text}")
    return damaged(path, text)


def damaged(path: Path, what: str) -> DataError:
    """The error for a file that is not as it was written, with what helps where it is a run's."""
    again = "and python -m vtexp resume reruns it"
    if path.name in (RESULT, FAILURE):
        advice = f"; delete it, {again}"
    elif path.name == PLANNED:
        advice = "; delete it, and python -m vtexp resume rewrites it"
    elif path.name in (SAMPLES, LATENCY, ENVIRONMENT):
        advice = f"; delete it and the {RESULT} beside it, {again}"
    elif path.name == CONFIG:
        advice = "; restore it, or delete the run's folder and type the sweep's command again"
    else:
        advice = ""
    return DataError(f"{path}: {what}{advice}")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


#: None of our files holds NaN or an infinity: `write_json` refuses them.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _parsed(data: bytes) -> dict[str, Any]:
    """The object that JSON holds. Raises ValueError where it is damaged or none."""
    try:
        value = _DECODER.decode(data.decode())
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value
