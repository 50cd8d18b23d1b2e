"""The hub's cache and downloads: what models and data sets have in common."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlparse

from vtexp.errors import VtexpError, message_of

#: Seconds within which the hub, or the way to it, must take a connection.
REACH_SECONDS = 3.0


class HubError(VtexpError):
    """A repository is not available; the caller knows which key named it."""


class HubNameError(HubError):
    """The given text is not the name of a repository."""


def snapshot(
    repository: str,
    revision: str | None,
    kind: str,
    patterns: list[str],
    missing: Callable[[Path], str],
    *,
    fetch: bool,
    command: str,
) -> Path:
    """Folder of a hub repository in the cache; with `fetch`, what `missing` names is downloaded.

    `kind` is `model` or `dataset`; `missing` says in words what a folder lacks, empty for nothing.
    Raises HubError: one line, at once where there is no network, with the `command` that fetches.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    try:
        folder = Path(
            snapshot_download(repository, repo_type=kind, revision=revision, local_files_only=True)
        )
        lacks = missing(folder)
        if not lacks:
            return folder
        what = f"the cache lacks {lacks}"
    except HFValidationError:
        raise HubNameError("not the name of a hub repository") from None
    except LocalEntryNotFoundError:
        what = "not in the cache of the hub"
    if not fetch:
        raise HubError(f"{what}; get it with: {command}")
    if reason := unreachable():
        raise HubError(f"{what}, and {reason}; with a network: {command}")
    enable_progress_bars()
    try:
        return Path(
            snapshot_download(
                repository, repo_type=kind, revision=revision, allow_patterns=patterns
            )
        )
    except Exception as error:  # the library's errors have no common class
        raise HubError(f"the download failed ({message_of(error)}); try: {command}") from error
    finally:
        disable_progress_bars()


def unreachable() -> str:
    """Why the hub cannot be reached, found out at once; empty if it can."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    proxy = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")
    url = proxy or constants.ENDPOINT
    try:
        address = urlparse(url if "://" in url else f"http://{url}")
        name = (address.hostname or "").strip() or "the proxy of HTTPS_PROXY"
    except ValueError:
        return "HTTPS_PROXY is not an address"
    reached = threading.Event()

    def knock() -> None:
        with suppress(OSError, ValueError):  # a port that is not a number
            port = address.port or (443 if address.scheme == "https" else 80)
            socket.create_connection((address.hostname or "", port)).close()
            reached.set()

    # Neither the look-up of a name nor a host with several addresses keeps to one limit of time.
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(REACH_SECONDS)
    return "" if reached.is_set() else f"{name} cannot be reached"
