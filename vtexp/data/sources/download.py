"""Images that a data set gives by address only: downloaded once, checked against their hash."""

from __future__ import annotations

import hashlib
import re
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from urllib.parse import urlsplit

from vtexp.data.sources.tables import writing
from vtexp.errors import DataError
from vtexp.utils.console import progress

#: Connections at a time, seconds without an answer, and the largest image.
_CONNECTIONS = 16
_TIMEOUT_S = 20
_MOST_BYTES = 64 * 2**20


def download_images(addresses: Mapping[Path, str]) -> dict[Path, str]:
    """Download what is not there yet; gives why, for the images that could not be had.

    A name of 64 hex digits is the SHA-256 that the content must have. Raises DataError where none
    could be had, or where the folder cannot be written to.
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
    """Download one image; gives why where it could not be had."""
    try:
        if urlsplit(url).scheme not in ("http", "https"):
            return f"{url}: no web address"
        # Some sites turn away clients without a name.
        request = urllib.request.Request(url, headers={"User-Agent": "vtexp"})
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            data = answer.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # of urllib and http alike
        return f"{url}: {' '.join(str(error).split())}"
    except Exception as error:  # http.client's own have no common class with those
        return f"{url}: {type(error).__name__}"
    if len(data) > _MOST_BYTES:
        return f"{url}: larger than {_MOST_BYTES // 2**20} MiB"
    digest = hashlib.sha256(data).hexdigest()
    if re.fullmatch("[0-9a-f]{64}", path.stem) and digest != path.stem:
        return f"{url}: is another image by now (its SHA-256 differs)"
    with writing(path) as partial:
        partial.write_bytes(data)
    return ""
