"""Data set loaders by `dataset.name`."""

from __future__ import annotations

from collections.abc import Callable

from vtexp.config import DatasetConfig
from vtexp.data import easy_vqa, small_print
from vtexp.data.base import Sample, choose
from vtexp.errors import ConfigError

LOADERS: dict[str, tuple[Callable[[str], list[Sample]], tuple[str, ...]]] = {
    "easy_vqa": (easy_vqa.load, easy_vqa.SPLITS),
    "small_print": (small_print.load, small_print.SPLITS),
}


def load_samples(dataset: DatasetConfig) -> list[Sample]:
    """The samples of a run, in order. Raises ConfigError or DataError, naming what to do."""
    if dataset.name not in LOADERS:
        raise ConfigError(f"dataset.name={dataset.name}: data sets are {', '.join(LOADERS)}")
    load, splits = LOADERS[dataset.name]
    if dataset.split not in splits:
        raise ConfigError(f"dataset.split={dataset.split}: {dataset.name} has {', '.join(splits)}")
    return choose(load(dataset.split), dataset.limit, dataset.seed)
