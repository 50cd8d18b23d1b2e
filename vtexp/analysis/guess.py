"""What to take meanwhile: a best guess where the data cannot tell, and what other margins give."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from vtexp.analysis.answer import interval_text, loss_of, lower_text, saved_text
from vtexp.analysis.findings import AnalysedRun, Answer, AtMargin, Guess

#: Margins in points of the table from a margin to the smallest budget that is enough.
MARGINS = (1.0, 2.0, 3.0, 5.0, 10.0)


def best_guess(runs: Sequence[AnalysedRun], answer: Answer, margin: float) -> Guess | None:
    """The smallest budget whose loss, as estimated, is within the margin in points.

    Only where the answer is that the data cannot tell; None where even that has nothing to say.
    """
    # Without its samples a run has an accuracy, but no loss that is known.
    scored = [run for run in _candidates(runs) if run.run == answer.best or run.versus_best]
    best = next((run for run in scored if run.run == answer.best), None)
    if answer.verdict != "cannot_tell" or best is None or not best.accuracy:
        return None
    # A hair more than the margin is the margin: scores are sums of many numbers.
    own = next(run for run in scored if 100 * loss_of(run) <= margin + 1e-9)
    found = own.versus_best
    return Guess(
        run=own.run,
        loss=loss_of(own),
        low=None if found is None or found.high is None else -found.high,
        high=None if found is None or found.low is None else -found.low,
        tokens_saved=best.vision_tokens - own.vision_tokens,
        speed_up=own.speed_up,
        sentence=_sentence(own, best, smallest=own is scored[0]),
    )


def _candidates(runs: Sequence[AnalysedRun]) -> list[AnalysedRun]:
    return [run for run in runs if run.same_inputs_as is None]


def _sentence(own: AnalysedRun, best: AnalysedRun, *, smallest: bool) -> str:
    if own is best:
        within = "scored within the margin of it" if not smallest else "was measured"
        return f"Best guess: {best.label}. No smaller budget {within}."
    scored = f"{lower_text(loss_of(own))}{interval_text(own)}"
    return f"Best guess: {own.label} {scored}. {saved_text(own, best)}".strip()


def at_margins(runs: Sequence[AnalysedRun], answer: Answer) -> tuple[AtMargin, ...]:
    """The smallest budget that is known to be enough at each of MARGINS; empty without bounds.

    Margins may be chosen after the fact: the bounds hold for all budgets at once.
    """
    known = [run for run in _candidates(runs) if run.at_most_worse is not None]
    best = next((run for run in known if run.run == answer.best), None)
    if best is None or len(known) < 2 or not best.accuracy:
        return ()
    return tuple(AtMargin(margin, _smallest(known, margin)) for margin in MARGINS)


def _smallest(runs: Sequence[AnalysedRun], margin: float) -> str | None:
    return next((run.run for run in runs if (run.at_most_worse or 0.0) <= margin / 100), None)


def margins_sentence(found: Sequence[AtMargin], runs: Sequence[AnalysedRun]) -> str:
    """Such as `Enough at a margin of 1 or 2 points: not known; 3 or 5: A; 10: B.`"""
    labels = {run.run: run.label for run in runs}
    parts = []
    for run, own in groupby(found, key=lambda one: one.run):
        *first, last = [f"{one.margin:g}" for one in own]
        margins = f"{', '.join(first)} or {last}" if first else last
        parts.append(f"{margins}: {'not known' if run is None else labels[run]}")
    return f"Smallest budget that is enough, by margin in points: {'; '.join(parts)}."
