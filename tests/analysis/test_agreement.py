"""Headline, sentence, table, margins and best guess say the same, whatever the answers were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.helpers.made_sweeps import make_run, unfinish
from vtexp.analysis.analyse import analyse
from vtexp.analysis.findings import Series
from vtexp.analysis.rows import collect
from vtexp.report.columns import CHOSEN, report_rows
from vtexp.report.format import headline, sentences

BUDGETS = (("1", 288), ("2", 384), ("4", 544), ("9", 928))
#: First and last question that a budget answers wrongly: overlaps make losses sure or doubtful.
WRONG = st.tuples(st.integers(0, 600), st.integers(0, 120)).map(lambda p: range(p[0], p[0] + p[1]))
ALL = range(0, 1000)


@st.composite
def sweeps(draw: st.DrawFn) -> tuple[int, list[range], set[int], float]:
    """Questions, which of them each budget answers wrongly, failed budgets, and a margin."""
    questions = draw(st.sampled_from([7, 60, 200, 600]))
    wrong = draw(st.lists(WRONG | st.just(range(0)) | st.just(ALL), min_size=2, max_size=4))
    failed = draw(st.sets(st.integers(0, 3), max_size=1))
    return questions, wrong, failed, draw(st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0, 10.0]))


def check(series: Series, words: dict[str, str | None], said: str, margin: float) -> None:
    """That all statements about one series agree."""
    answer, head = series.answer, headline(series, margin)
    labels = {run.run: run.label for run in series.runs}
    enough = [run.run for run in series.runs if run.sufficient]
    assert answer.run == (enough[0] if enough else None)
    assert [run for run in labels if words[run] in (CHOSEN, "enough")] == enough
    assert [run for run in labels if words[run] == CHOSEN] == enough[:1]
    # "Not known to be faster" is of times.
    assert ("known to be within" in head) == (not enough) or answer.verdict == "one_value"
    for run in enough[:1]:
        assert head.startswith(labels[run]) and said.startswith(f"{labels[run]} (")
    for one in series.margins:
        assert one.margin != margin or one.run == answer.run
        assert one.run is None or one.margin > margin or enough
    guess = series.guess
    assert guess is None or (not enough and words[guess.run] in ("cannot tell", None))
    assert not answer.needed or all(
        words[run.run] == "not enough" for run in series.runs[: list(labels).index(enough[0])]
    )


@settings(max_examples=30, deadline=None)
@given(sweeps())
@example((600, [range(0, 1), range(0)], set(), 1.0))  # enough, but not known to be faster
def test_all_statements_agree(
    tmp_path_factory: pytest.TempPathFactory, made: tuple[int, list[range], set[int], float]
) -> None:
    questions, wrong, failed, margin = made
    sweep: Path = tmp_path_factory.mktemp("sweep")
    folders = []
    for (value, tokens), own in zip(BUDGETS, wrong, strict=False):
        scores = 1.0 - np.isin(np.arange(questions), own)
        folders.append(make_run(sweep, value, tokens, scores.tolist(), knob="max_crops", timed=4))
    for place in failed & set(range(len(folders))):
        unfinish(folders[place], "out of memory")
    runs = collect(sweep)
    analysis = analyse(runs, margin)
    words = {row.run.name: row.values.get("verdict") for row in report_rows(runs, analysis)}
    said = sentences(runs, analysis)
    for series in analysis.series:
        check(series, words, said[0], margin)
