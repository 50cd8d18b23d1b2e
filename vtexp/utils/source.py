"""The source of vtexp that this process runs, and how another process runs the same."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

import vtexp

#: Environment variable with the fingerprint of the source that submitted a job.
SUBMITTED = "VTEXP_SUBMITTED_SOURCE"


def root() -> Path:
    """The folder that vtexp is imported from: a checkout, or site-packages."""
    return Path(vtexp.__file__).resolve().parents[1]


@functools.cache
def fingerprint() -> str:
    """16 hex digits of all modules of vtexp, as they were when this process first asked."""
    digest = hashlib.sha256()
    package = root() / "vtexp"
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def same_source() -> dict[str, str]:
    """Variables with which another Python runs this source, wherever it is started.

    An installed package is found without them; the current folder is never searched first.
    """
    found = {"PYTHONSAFEPATH": "1", SUBMITTED: fingerprint()}
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = [path for path in given if path and Path(path).resolve() != root()]
    if (root() / "launch.py").is_file():
        paths = [str(root()), *paths]
    return found | ({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})
