"""The samples of a data set, wherever they come from."""

from __future__ import annotations

from collections.abc import Callable

from vtexp.config.choices import Form
from vtexp.config.dataset_schema import DatasetConfig
from vtexp.data.builtin import easy_vqa, small_print
from vtexp.data.sample import LoadedSamples, Sample, drawn, require_split
from vtexp.data.sources import loader, own

#: Sets that are made or come with a package: all samples of a split, and their splits.
BUILT_IN: dict[Form, tuple[Callable[[str], list[Sample]], tuple[str, ...]]] = {
    Form.easy_vqa: (easy_vqa.load, easy_vqa.SPLITS),
    Form.small_print: (small_print.load, small_print.SPLITS),
}


#: Sets whose questions are not counted without loading them.
UNCOUNTED = (*BUILT_IN, Form.python)


def load_samples(
    dataset: DatasetConfig,
    *,
    fetch: bool = False,
    index: int | None = None,
    may_import: bool = False,
) -> LoadedSamples:
    """The samples of a run, in order; with `index`, the one at that place alone.

    `fetch` downloads what the hub's cache lacks; `may_import`: for a run that the user asked for,
    so that a function of theirs may be imported. Raises ConfigError or DataError, naming what to
    do.
    """
    if dataset.source.form == Form.python:
        return own.load(dataset, may_import=may_import, index=index)
    if dataset.source.form not in BUILT_IN:
        return loader.load(dataset, fetch=fetch, index=index)
    read, splits = BUILT_IN[dataset.source.form]
    require_split(dataset, splits)
    samples = read(dataset.split)
    strata = [sample.question_type for sample in samples] if dataset.stratify else None
    order = drawn(dataset, len(samples), strata, index)
    return LoadedSamples([samples[i] for i in order], [])


def is_here(dataset: DatasetConfig) -> bool:
    """Whether a run finds the whole split without a network; see `sources.loader.is_here`."""
    match dataset.source.form:
        case Form.small_print:
            return True  # drawn from its seeds
        case Form.easy_vqa:
            return easy_vqa.is_here()
        case Form.python:
            own.require_function(dataset)
            return True  # as far as anyone can tell without calling it
        case _:
            return loader.is_here(dataset)
