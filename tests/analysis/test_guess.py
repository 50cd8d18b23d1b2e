"""The best guess beside "cannot tell", and the smallest budget that is enough at other margins."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.made_sweeps import make_run, steady_scores
from vtexp.analysis.analyse import analyse
from vtexp.analysis.findings import Series
from vtexp.analysis.guess import MARGINS, margins_sentence
from vtexp.analysis.rows import collect

VALUES = (("336x336", 288), ("560x336", 384), ("560x560", 544), ("784x784", 928))


def series_of(sweep: Path, accuracies: list[float], images: int, margin: float) -> Series:
    scores, names = steady_scores(accuracies, images, 1)
    for (value, tokens), own in zip(VALUES, scores.T, strict=False):
        make_run(sweep, value, tokens, own.tolist(), images=names, prefill_ms=tokens / 30)
    (series,) = analyse(collect(sweep), margin).series
    return series


def test_the_smallest_budget_that_scored_within_the_margin_is_the_guess(tmp_path: Path) -> None:
    series = series_of(tmp_path, [0.4, 0.7, 0.71, 0.72], 100, 2.0)
    assert series.answer.verdict == "cannot_tell"
    guess, best = series.guess, series.runs[3]
    assert guess is not None and guess.run == series.runs[1].run
    assert guess.loss == pytest.approx(0.02) and guess.tokens_saved == 928 - 384
    assert guess.low is not None and guess.high is not None
    assert guess.low < 0.02 < guess.high <= 1
    assert guess.speed_up is not None and guess.speed_up.baseline == best.run
    assert guess.speed_up.ratio == pytest.approx(928 / 384, rel=0.03)
    assert "image_size=560x336 scored 2.0 points lower (" in guess.sentence
    assert "saves 544 of 928 tokens per image (59 %)" in guess.sentence
    assert "within one process" in guess.sentence


def test_the_best_budget_itself_may_be_the_guess(tmp_path: Path) -> None:
    series = series_of(tmp_path, [0.66, 0.7], 50, 1.0)
    assert series.answer.verdict == "cannot_tell" and series.guess is not None
    assert (series.guess.run, series.guess.loss) == (series.runs[1].run, 0.0)
    assert "Best guess: image_size=560x336." in series.guess.sentence


def test_a_run_whose_samples_are_gone_is_no_guess(tmp_path: Path) -> None:
    series_of(tmp_path, [0.2, 0.7, 0.72, 0.75], 100, 1.0)
    (gone,) = [folder for folder in tmp_path.iterdir() if "336x336" in folder.name]
    (gone / "samples.jsonl").unlink()
    (series,) = analyse(collect(tmp_path), 1.0).series
    assert series.answer.verdict == "cannot_tell" and series.guess is not None
    assert series.guess.run != gone.name


def test_there_is_no_guess_beside_an_answer(tmp_path: Path) -> None:
    series = series_of(tmp_path / "a", [0.4, 0.8, 0.8], 1000, 3.0)
    assert series.answer.verdict == "best" and series.guess is None
    none_right = series_of(tmp_path / "b", [0.0, 0.0], 100, 3.0)
    assert none_right.guess is None and none_right.margins == ()


def test_margins_follow_from_the_bounds(tmp_path: Path) -> None:
    """At each margin what an analysis at that margin calls enough."""
    series = series_of(tmp_path, [0.74, 0.78, 0.8, 0.8], 1000, 1.0)
    assert tuple(one.margin for one in series.margins) == MARGINS
    for one in series.margins:
        (other,) = analyse(collect(tmp_path), one.margin).series
        assert one.run == other.answer.run, one
    assert len({one.run for one in series.margins}) > 2
    said = margins_sentence(series.margins, series.runs)
    assert "10: image_size=336x336" in said and said.count(";") < len(MARGINS)


def test_small_losses_and_the_smallest_budget_are_said_as_they_are(tmp_path: Path) -> None:
    """0.03 of one of 120 questions is no loss of 0.0 points; below the smallest is nothing."""
    almost = [1.0] * 119 + [0.97]
    for (value, tokens), own in zip(VALUES, (almost, [1.0] * 120), strict=False):
        make_run(tmp_path / "a", value, tokens, own)
        make_run(tmp_path / "b", value, tokens, [1.0] * 120)
    (series,) = analyse(collect(tmp_path / "a"), 1.0).series
    assert series.guess is not None and "less than 0.1 points lower" in series.guess.sentence
    (series,) = analyse(collect(tmp_path / "b"), 1.0).series
    assert series.guess is not None and "No smaller budget was measured" in series.guess.sentence


def test_a_margin_above_all_scores_is_said_to_ask_for_nothing(tmp_path: Path) -> None:
    for (value, tokens), right in zip(VALUES, (0, 1), strict=False):
        make_run(tmp_path, value, tokens, [1.0] * right + [0.0] * (200 - right))
    (series,) = analyse(collect(tmp_path), 5.0).series
    assert series.answer.verdict == "smaller"
    assert any("answers nothing would be enough" in caveat for caveat in series.answer.caveats)
