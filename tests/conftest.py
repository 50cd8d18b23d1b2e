"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("WANDB_MODE", "offline")


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Folder of the reference data: VTEXP_GOLDEN_DIR, or the project's own copy."""
    default = Path(__file__).parent / "golden"
    return Path(os.environ.get("VTEXP_GOLDEN_DIR", default))
