"""One budget for several data sets: on each of them, and on average."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.helpers.facts import says
from tests.helpers.made_records import change_result
from tests.helpers.made_sweeps import make_run, steady_scores
from vtexp.analysis.analyse import analyse
from vtexp.analysis.findings import Analysis
from vtexp.analysis.rows import collect
from vtexp.report.columns import report_rows
from vtexp.report.files import markdown
from vtexp.stats.across import average_at_most_worse
from vtexp.stats.comparison import at_most_worse, paired_scores

BUDGETS = ((1, 288), (4, 544), (9, 928))


def made(folder: Path, images: int = 1500, **accuracies: tuple[float, ...]) -> Analysis:
    """A sweep of caps on several data sets, with these accuracies."""
    for number, (dataset, own) in enumerate(accuracies.items()):
        scores, names = steady_scores(own, images, 1, seed=number)
        for (value, tokens), column in zip(BUDGETS, scores.T, strict=False):
            run = make_run(
                folder, str(value), tokens, column.tolist(), images=names, knob="max_crops",
                questions=[f"{dataset}-{i}" for i in range(images)],
                settings={"dataset.name": dataset}, result={"dataset": dataset},
            )  # fmt: skip
            assert run.is_dir()
    return analyse(collect(folder), 5.0)


def test_worst_case_and_average(tmp_path: Path) -> None:
    """On `easy` the smallest is enough, on `hard` it loses 8 points: 4 on average."""
    analysis = made(tmp_path, easy=(0.8, 0.8, 0.8), hard=(0.62, 0.69, 0.7))
    (found,) = analysis.across
    assert found.datasets == ("easy", "hard")
    assert (found.enough_for_all, found.enough_on_average) == ("max_crops=4", "max_crops=1")
    own = {series.dataset: series for series in analysis.series}
    for budget in found.budgets:
        runs = [r for s in own.values() for r in s.runs if r.label == budget.label]
        assert budget.accuracy == pytest.approx(np.mean([run.accuracy for run in runs]))
        assert budget.worst_at_most == max(run.at_most_worse for run in runs)  # type: ignore[type-var]
    assert found.budgets[0].worst_dataset == "hard"
    assert says(found.sentence, "easy: max_crops=1") and says(found.sentence, "hard: max_crops=4")
    text = markdown(report_rows(collect(tmp_path), analysis), analysis)
    assert "## Across data sets" in text and found.sentence in text


def test_nothing_is_enough_for_all_where_one_cannot_tell(tmp_path: Path) -> None:
    (found,) = made(tmp_path, 60, easy=(0.8, 0.8, 0.8), hard=(0.5, 0.6, 0.7)).across
    assert found.enough_for_all is None and "is nearest" in found.sentence


def test_scores_of_several_metrics_have_no_average(tmp_path: Path) -> None:
    made(tmp_path, 100, a=(0.8, 0.8, 0.8), b=(0.7, 0.7, 0.7))
    for run in collect(tmp_path):
        if run.asked.dataset == "b":
            change_result(run.folder, metric="anls")
    analysis = analyse(collect(tmp_path), 5.0)
    assert [series.metric for series in analysis.series] == ["exact_match", "anls"]
    assert analysis.across == ()


def test_one_data_set_has_nothing_across(tmp_path: Path) -> None:
    assert made(tmp_path, 100, alone=(0.8, 0.8, 0.8)).across == ()


def test_the_average_bound_holds_and_is_no_wider_than_it_must_be() -> None:
    """Two budgets on three data sets; the first loses 2, 4 and 9 points: 5 on average."""
    rng, losses = np.random.default_rng(0), (0.02, 0.04, 0.09)
    held, widths, alone = 0, [], []
    for _ in range(400):
        parts = []
        for loss in losses:
            changed = rng.random((400, 2))
            scores = np.column_stack(
                [(changed[:, 0] < 0.7 - loss), (changed[:, 0] < 0.7) | (changed[:, 1] < 0.0)]
            )
            noise = rng.random(400) < 0.05  # either way alike
            scores[noise] = rng.random((noise.sum(), 1)) < 0.5
            parts.append(paired_scores(scores.astype(float), np.arange(400)))
        bound = average_at_most_worse(parts)[0]
        true = np.mean([0.95 * loss for loss in losses])
        held += bound >= true
        widths.append(bound - true)
        alone.append(at_most_worse(parts[0])[0] - 0.95 * losses[0])
    assert held / 400 > 0.95 - 3 * np.sqrt(0.05 * 0.95 / 400)
    assert np.mean(widths) < np.mean(alone)


def test_one_data_set_is_its_own_average() -> None:
    """With two budgets Bonferroni's level is Dunnett's: the bound is that of `compare`."""
    scores, images = steady_scores([0.7, 0.75], 300, 1)
    part = paired_scores(scores, images)
    assert average_at_most_worse([part]) == pytest.approx(at_most_worse(part))
    few = paired_scores(scores[:5], images[:5])
    assert np.isnan(average_at_most_worse([part, few])).all()
