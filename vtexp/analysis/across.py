"""One budget for several data sets: enough on each of them, and on average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from vtexp.analysis.answer import at_most, in_points
from vtexp.analysis.findings import Across, AcrossBudget, AnalysedRun, Series
from vtexp.stats.across import average_at_most_worse
from vtexp.stats.comparison import Scores, paired_scores
from vtexp.utils.grouping import grouped
from vtexp.utils.text import listed
from vtexp.utils.typed import known


@dataclass(frozen=True)
class Answered:
    """A series with its scores (questions, budgets) by `labels`, and the images of the questions.

    Scores are from 0 to `highest`.
    """

    series: Series
    labels: tuple[str, ...]
    scores: np.ndarray
    images: np.ndarray
    highest: float

    def run(self, label: str) -> AnalysedRun | None:
        """The run of a budget, or the one with the same inputs; None where it has no bounds."""
        by_label = {run.label: run for run in self.series.runs}
        found = by_label.get(label)
        if found is not None and found.same_inputs_as is not None:
            found = by_label.get(found.same_inputs_as)
        return None if found is None or found.at_most_worse is None else found

    def sufficient(self, label: str) -> bool:
        """Whether a budget is known to be enough here."""
        run = self.run(label)
        return run is not None and bool(run.sufficient)

    @property
    def all_wrong(self) -> bool:
        """Whether every budget scored 0."""
        return not self.scores.any()

    def of(self, labels: Sequence[str]) -> Scores:
        """The scores under budgets of these labels."""
        runs = [self.run(label) for label in labels]
        columns = [self.labels.index(run.label) for run in runs if run is not None]
        return paired_scores(self.scores[:, columns], self.images, (0.0, self.highest))


def across(answered: Sequence[Answered], margin: float) -> tuple[Across, ...]:
    """Findings over series that differ in their data set alone; `margin` in points.

    Scores of several metrics have no average, so the metric is the same too.
    """

    def all_else(one: Answered) -> tuple[str, ...]:
        own = one.series
        return own.model, own.weights, own.hardware, own.settings, own.metric

    groups = grouped(answered, all_else)
    several = len(groups) > 1
    found = []
    for key, parts in groups.items():
        if len({part.series.dataset for part in parts}) == len(parts) > 1:
            name = ", ".join(part for part in key if part) if several else ""
            together = _across(parts, margin, name)
            found += [] if together is None else [together]
    return tuple(found)


def _across(parts: Sequence[Answered], margin: float, name: str) -> Across | None:
    """None where fewer than two budgets were measured on all data sets."""
    labels = list(dict.fromkeys(run.label for part in parts for run in part.series.runs))
    common = [label for label in labels if all(part.run(label) is not None for part in parts)]
    if len(common) < 2:
        return None
    average = dict(zip(common, average_at_most_worse([p.of(common) for p in parts]), strict=True))
    budgets = [_budget(label, parts, known(average[label])) for label in common]
    budgets.sort(key=lambda budget: budget.vision_tokens)
    on_average = [
        b for b in budgets if b.average_at_most is not None and b.average_at_most <= margin / 100
    ]
    for_all = [b for b in budgets if all(p.sufficient(b.label) for p in parts)]
    made = Across(
        name=name,
        datasets=tuple(part.series.dataset for part in parts),
        budgets=tuple(budgets),
        enough_for_all=for_all[0].label if for_all else None,
        enough_on_average=on_average[0].label if on_average else None,
        sentence="",
    )
    return Across(**vars(made) | {"sentence": _sentence(made, parts, margin)})


def _budget(label: str, parts: Sequence[Answered], average: float | None) -> AcrossBudget:
    runs = {part.series.dataset: run for part in parts if (run := part.run(label)) is not None}
    worst = max(runs, key=lambda dataset: runs[dataset].at_most_worse or 0.0)
    return AcrossBudget(
        label=label,
        vision_tokens=fmean(run.vision_tokens for run in runs.values()),
        accuracy=fmean(run.accuracy or 0.0 for run in runs.values()),
        worst_at_most=runs[worst].at_most_worse or 0.0,
        worst_dataset=worst,
        average_at_most=average,
    )


def _sentence(found: Across, parts: Sequence[Answered], margin: float) -> str:
    by_label = {budget.label: budget for budget in found.budgets}
    of = f" ({found.name})" if found.name else ""
    wrong = [part.series.dataset for part in parts if part.all_wrong]
    said = [f"{listed(found.datasets)} together{of}:"]
    if wrong:
        said.append(f"no budget is known to be enough on each: on {listed(wrong)} all scored 0.")
    else:
        said.append(_for_all(found, by_label, margin))
    if found.enough_on_average is None:
        said.append("On average over the data sets none is known to be enough.")
    else:
        budget = by_label[found.enough_on_average]
        lost = at_most(budget.average_at_most or 0.0)
        said.append(f"On average {budget.label} is enough: it loses at most {lost} points.")
    own = [f"{part.series.dataset}: {_own(part.series)}" for part in parts]
    return " ".join([*said, f"Each by itself: {'; '.join(own)}."])


def _for_all(found: Across, by_label: Mapping[str, AcrossBudget], margin: float) -> str:
    unit = in_points(margin)
    if found.enough_for_all is not None:
        budget = by_label[found.enough_for_all]
        return (
            f"{budget.label} is the smallest budget measured on all that is enough on each (within "
            f"{unit} of the best, with 95 % confidence); it loses at most "
            f"{at_most(budget.worst_at_most)} points, on {budget.worst_dataset}."
        )
    nearest = min(found.budgets, key=lambda budget: budget.worst_at_most)
    return (
        f"no budget measured on all is known to be within {unit} on each. {nearest.label} is "
        f"nearest: it loses at most {at_most(nearest.worst_at_most)} points, on "
        f"{nearest.worst_dataset}."
    )


def _own(series: Series) -> str:
    labels = {run.run: run.label for run in series.runs}
    return "not known" if series.answer.run is None else labels[series.answer.run]
