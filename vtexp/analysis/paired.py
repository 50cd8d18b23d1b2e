"""The records of several runs side by side: the scores of the same questions, compared in pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from pathlib import Path

import numpy as np

from vtexp.analysis.findings import Difference
from vtexp.analysis.rows import ComparedRun
from vtexp.analysis.samples import SampleColumns
from vtexp.errors import DataError
from vtexp.metrics import metric
from vtexp.stats.comparison import (
    Differences,
    Scores,
    differences,
    mean_scores,
    paired_scores,
)
from vtexp.stats.paired import bootstrap_means, mcnemar_p_value
from vtexp.stats.permutation import PValues, holm, sign_flip_tests
from vtexp.utils.grouping import grouped
from vtexp.utils.typed import known


def on_shared_questions(
    runs: Sequence[ComparedRun], read: dict[Path, SampleColumns]
) -> dict[Path, SampleColumns]:
    """The records cut down to the questions that all runs on a data set answered, in one order.

    Raises DataError where there are none.
    """
    cut = {}
    for dataset, own in grouped(runs, lambda run: run.asked.dataset).items():
        folders = [run.folder for run in own]
        common = reduce(np.intersect1d, [read[folder].questions for folder in folders])
        if not len(common):
            raise DataError(f"{dataset}: the runs share no question; they cannot be compared")
        for folder in folders:
            columns = read[folder]
            cut[folder] = columns.at(np.flatnonzero(np.isin(columns.questions, common)))
    return cut


@dataclass(frozen=True)
class PairedRuns:
    """k runs that answered the same n questions; i and j count them.

    scores (n, k) from 0 to `highest`; images (n,): which image each question is about.
    """

    runs: Sequence[ComparedRun]
    scores: np.ndarray
    images: np.ndarray
    highest: float

    @cached_property
    def sums(self) -> Scores:
        """Scores of 0 to 1; `.scale` is the metric's highest."""
        return paired_scores(self.scores, self.images, (0.0, self.highest))

    @property
    def several_images(self) -> bool:
        """Without two images there is nothing to test."""
        return len(self.sums.images.sizes) > 1

    @cached_property
    def means(self) -> np.ndarray:
        """(k,) accuracies."""
        return mean_scores(self.scores)

    @property
    def best(self) -> int:
        """The most accurate run, the first of several."""
        return int(np.argmax(self.means))

    @property
    def scored(self) -> bool:
        """Whether anything scored more than 0."""
        return bool(self.scores.any())

    @cached_property
    def drawn(self) -> np.ndarray:
        """(draws, k) accuracies of bootstrap draws, as parts of the highest."""
        return bootstrap_means(self.sums.sums, self.sums.images.sizes)

    @cached_property
    def alone(self) -> Differences:
        """Intervals of differences, each by itself."""
        return differences(self.sums)

    @cached_property
    def together(self) -> Differences:
        """Intervals of differences that all hold at once."""
        return differences(self.sums, simultaneous=True)

    @cached_property
    def p_values(self) -> PValues:
        """(k, k) p-values of no difference."""
        return sign_flip_tests(self.sums.sums)

    @cached_property
    def p_holm(self) -> np.ndarray:
        """p-values corrected for all pairs."""
        corrected = np.ones_like(self.p_values.value)
        pairs = np.triu_indices(len(self.runs), 1)
        own = PValues(self.p_values.value[pairs], self.p_values.at_floor[pairs])
        corrected[pairs] = holm(own).value
        corrected.T[pairs] = corrected[pairs]
        return corrected

    def difference(self, i: int, j: int, found: Differences) -> Difference:
        """Run i against baseline j."""
        wins = int((self.scores[:, i] > self.scores[:, j]).sum())
        losses = int((self.scores[:, i] < self.scores[:, j]).sum())
        zero_one = bool(np.isin(self.scores[:, [i, j]], (0.0, 1.0)).all())
        return Difference(
            run=self.runs[i].name,
            baseline=self.runs[j].name,
            difference=float(found.difference[i, j]),
            low=known(found.low[i, j]),
            high=known(found.high[i, j]),
            p_value=float(self.p_values.value[i, j]),
            p_holm=float(self.p_holm[i, j]),
            p_at_floor=bool(self.p_values.at_floor[i, j]),
            p_mcnemar=mcnemar_p_value(wins, losses) if zero_one else None,
            wins=wins,
            losses=losses,
        )


def paired_runs(
    runs: Sequence[ComparedRun], read: Mapping[Path, SampleColumns]
) -> PairedRuns | None:
    """None where the runs answered different questions, or one has no scores or no records."""
    if not runs or any(run.folder not in read for run in runs):
        return None
    columns = [read[run.folder] for run in runs]
    first = columns[0]
    if any(not np.array_equal(own.questions, first.questions) for own in columns):
        return None
    scores = np.column_stack([own.scores for own in columns])
    if np.isnan(scores).any():
        return None
    return PairedRuns(runs, scores, first.images, metric(runs[0].asked.metric).highest)
