"""Fixtures of the tests of models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vtexp.config.schema import HardwareConfig
from vtexp.data.sample import Sample
from vtexp.models.checkpoints import find_checkpoint
from vtexp.models.molmo.runner import MolmoRunner

SHAPES = [(300, 300), (300, 900), (900, 1000), (900, 1010)]


@pytest.fixture(scope="module")
def runner(small_checkpoint: Path) -> MolmoRunner:
    """The small checkpoint of Molmo v1, loaded once per file; no test may change it."""
    checkpoint = find_checkpoint(str(small_checkpoint))
    return MolmoRunner.load(checkpoint, checkpoint.family.geometry, HardwareConfig())


@pytest.fixture(scope="module")
def samples(draw_noise: Callable[[list[tuple[int, int]]], list[Sample]]) -> list[Sample]:
    """Images of noise: one of each tiling, and two of one tiling but different sizes."""
    return draw_noise(SHAPES)
