"""Files of a run: written under a temporary name, then renamed, so that none is ever half there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from vtexp.errors import DataError, VtexpError

RESULT = "result.json"
FAILURE = "failure.json"
SAMPLES = "samples.jsonl"
LATENCY = "latency.jsonl"
CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or nothing. Raises VtexpError where the disk does not take it."""
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise VtexpError(f"{path}: cannot be written ({error.strerror or error})") from error


def write_text(path: Path, text: str) -> None:
    """Like `write_bytes`, in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Like `write_text`, indented; NaN is refused (it is not JSON)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """One JSON object per line, the whole file at once."""
    write_text(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


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
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); delete its folder to run it again"
        ) from error
