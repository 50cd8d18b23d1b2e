"""The samples of a data set, wherever they come from."""

from __future__ import annotations

from collections.abc import Callable

from vtexp.config import DatasetConfig, Form
from vtexp.data import easy_vqa, small_print
from vtexp.data.base import LoadedSamples, Sample, choose
from vtexp.errors import ConfigError

#: Sets that are made or come with a package: all samples of a split, and their splits.
BUILT_IN: dict[Form, tuple[Callable[[str], list[Sample]], tuple[str, ...]]] = {
    Form.easy_vqa: (easy_vqa.load, easy_vqa.SPLITS),
    Form.small_print: (small_print.load, small_print.SPLITS),
}


def load_samples(dataset: DatasetConfig, *, fetch: bool = False) -> LoadedSamples:
    """The samples of a run, in order; `fetch` downloads what the hub's cache lacks.

    Raises ConfigError or DataError, naming what to do.
    """
    if dataset.source.form not in BUILT_IN:
        from vtexp.data.loader import load

        return load(dataset, fetch=fetch)
    read, splits = BUILT_IN[dataset.source.form]
    if dataset.split not in splits:
        raise ConfigError(f"dataset.split={dataset.split}: {dataset.name} has {', '.join(splits)}")
    samples = read(dataset.split)
    strata = [sample.question_type for sample in samples] if dataset.stratify else None
    order = choose(len(samples), dataset.limit, dataset.seed, strata)
    return LoadedSamples([samples[i] for i in order], [])
