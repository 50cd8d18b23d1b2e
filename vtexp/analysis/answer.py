"""The answer in words: the smallest budget that suffices, or why the data cannot tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vtexp.analysis.findings import AnalysedRun, Answer, Difference, Power, Ratio
from vtexp.analysis.times import scope
from vtexp.stats.decision import Decision
from vtexp.utils.text import bound_text, listed, listed_of, percent

#: More questions than this are no advice (`stats.power`).
_MOST = "a million"


@dataclass(frozen=True)
class Evidence:
    """What an answer rests on.

    `margin` in points; scores are from 0 to `highest`. `budgets` and `labels` name all budgets of
    the series from the smallest to the largest, those without a result too; `decision` counts
    them, and is None where nothing was compared. `reason`: why the data carries no interval.
    """

    margin: float
    questions: int
    highest: float = 1.0
    budgets: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    decision: Decision | None = None
    reason: str | None = None
    power: Power | None = None

    def named(self, places: Sequence[int]) -> list[str]:
        """Labels of budgets by their places."""
        return [self.labels[i] for i in places]


def answer(runs: Sequence[AnalysedRun], evidence: Evidence) -> Answer:
    """The answer of a series whose runs are in the order of their tokens.

    Budgets that give the same inputs as a smaller one are no candidates. The smallest budget that
    is known to be enough may be larger than the one that scored highest.
    """
    candidates = [run for run in runs if run.same_inputs_as is None]
    scored = [run for run in candidates if run.accuracy is not None]
    if not scored:
        return Answer("no_accuracy", _without_accuracy(candidates), _doubtful(candidates))
    best = most_accurate(scored)
    decision = evidence.decision
    if len(scored) == 1 or decision is None:
        return Answer("one_value", _one_value(best, runs), _doubtful(scored), best=best.run)
    caveats = _caveats(scored, best)
    if best.accuracy == 0:
        all_of = "Both" if len(scored) == 2 else f"All {len(scored)}"
        sentence = f"{all_of} budgets scored 0, so none can be called enough."
        return Answer("cannot_tell", sentence, caveats, best=best.run)
    by_name = {run.run: run for run in scored}
    if decision.smallest is None:
        sentence = _cannot_tell(scored, best, evidence)
        return Answer("cannot_tell", sentence, caveats, best=best.run)
    found = by_name[evidence.budgets[decision.smallest]]
    return Answer(
        verdict=_verdict(found, best, scored),
        sentence=_enough(found, best, by_name, evidence, decision),
        caveats=(*_of_enough(found, scored, evidence, decision), *caveats),
        run=found.run,
        best=best.run,
        vision_tokens=found.vision_tokens,
        tokens_saved=best.vision_tokens - found.vision_tokens,
        speed_up=found.speed_up,
        needed=decision.needed,
        worse_larger=tuple(evidence.budgets[i] for i in decision.worse_larger),
    )


def _verdict(found: AnalysedRun, best: AnalysedRun, scored: Sequence[AnalysedRun]) -> str:
    if found is best:
        return "best"
    return "smaller" if scored.index(found) < scored.index(best) else "larger"


def different_samples(reason: str) -> Answer:
    """The answer where the runs of a series did not answer the same questions."""
    return Answer("different_samples", f"No answer: {reason}.")


def most_accurate(runs: Sequence[AnalysedRun]) -> AnalysedRun:
    """The most accurate of runs in the order of their tokens.

    Among equals the smallest; without any accuracy the largest.
    """
    if all(run.accuracy is None for run in runs):
        return runs[-1]
    return max(runs, key=lambda run: (run.accuracy or 0.0, -run.vision_tokens))


def points(value: float, *, signed: bool = False) -> str:
    """A difference of scores in points, such as `1.3`."""
    text = f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"
    return text.replace("-0.0", "0.0").replace("+0.0", "0.0")


def at_most(value: float) -> str:
    """An upper bound of a difference of scores in points, rounded up."""
    return bound_text(100 * value, 1, up=True)


def _at_least(value: float) -> str:
    """A lower bound of the same, rounded down."""
    return bound_text(100 * value, 1, up=False)


def points_interval(low: float, high: float, *, signed: bool = False) -> str:
    """An interval of differences of scores in points, rounded outward, such as `+0.2 to +1.5`."""
    lower, upper = (
        bound_text(100 * end, 1, up=up, signed=signed) for end, up in ((low, False), (high, True))
    )
    return f"{lower} to {upper}"


def in_points(margin: float) -> str:
    """A margin with its unit, such as `1 point` or `2.5 points`."""
    return "1 point" if margin == 1 else f"{margin:g} points"


def interval(found: Difference | Ratio) -> str:
    """The 95 % interval of a difference in points, or of a ratio; empty without one."""
    if found.low is None or found.high is None:
        return ""
    if isinstance(found, Ratio):
        return ratio_ends(found.low, found.high)
    return points_interval(found.low, found.high, signed=True)


def ratio_ends(low: float, high: float) -> str:
    """An interval of a ratio, rounded outward; one beside 1 does not touch it."""
    lower, upper = (
        bound_text(end, 2, up=up, beside=1.0) for end, up in ((low, False), (high, True))
    )
    return f"{lower} to {upper}"


def _tokens(run: AnalysedRun) -> str:
    return f"{run.vision_tokens:.5g} vision tokens"


def _speed(ratio: Ratio) -> str:
    """How much faster or slower than its baseline, in words."""
    if ratio.low is None or ratio.high is None:
        return "is not known to be faster"
    within = scope(ratio.processes, side_by_side=ratio.side_by_side)
    if ratio.low > 1:
        return f"is {ratio.ratio:.2f} times as fast ({interval(ratio)} {within})"
    if ratio.high < 1:
        longer = f"{1 / ratio.ratio:.2f} times as long"
        return f"is slower ({longer}, {ratio_ends(1 / ratio.high, 1 / ratio.low)} {within})"
    return (
        f"is not known to be faster ({ratio.ratio:.2f} times as fast, {interval(ratio)} {within})"
    )


def _enough(
    found: AnalysedRun,
    best: AnalysedRun,
    by_name: dict[str, AnalysedRun],
    evidence: Evidence,
    decision: Decision,
) -> str:
    """Which budget is enough, what it saves, and what is known of smaller ones."""
    needed = "needed: it is " if decision.needed else ""
    said = [
        f"{found.label} ({_tokens(found)}) is {needed}the smallest measured budget that is good "
        f"enough (within {in_points(evidence.margin)} of the best, with 95 % confidence)."
    ]
    if found is not best:
        said.append(f"It loses at most {at_most(found.at_most_worse or 0.0)} points.")
    if _verdict(found, best, list(by_name.values())) == "smaller":
        said += [text] if (text := saved_text(found, best)) else []
    smaller = [by_name[evidence.budgets[i]] for i in decision.not_enough]
    if smaller:
        said.append(_lost(most_accurate(smaller), found is best))
    if decision.unknown:
        said.append(_unknown([by_name[evidence.budgets[i]] for i in decision.unknown], best))
    if decision.missing:
        names = listed(evidence.named(decision.missing))
        said.append(
            f"{names}, smaller, has no result and may be enough too."
            if len(decision.missing) == 1
            else f"{names}, all smaller, have no result and may be enough too."
        )
    return " ".join(said)


def saved_text(found: AnalysedRun, best: AnalysedRun) -> str:
    """What a budget saves against the one that scored highest."""
    saved = best.vision_tokens - found.vision_tokens
    said = []
    if saved:  # fewer experts or blocks leave the tokens as they are
        of = f"{saved:.5g} of {best.vision_tokens:.5g} tokens per image"
        said.append(f"saves {of} ({percent(saved / best.vision_tokens)})")
    if found.speed_up is not None:
        said.append(_speed(found.speed_up))
    if not said:
        return ""
    return f"Compared with {best.label}, which scored highest, it {' and '.join(said)}."


def loss_of(run: AnalysedRun) -> float:
    """What was lost against the run that scored highest; 0 of that run itself."""
    return 0.0 if run.versus_best is None else -run.versus_best.difference


def lower_text(loss: float) -> str:
    """How a budget scored that scored so much less than the highest."""
    if loss == 0:
        return "scored as high"
    least = points(0.001)
    said = f"less than {least}" if points(loss) == points(0.0) else points(loss)
    return f"scored {said} points lower"


def _lost(near: AnalysedRun, with_speed: bool) -> str:
    """What the best of the smaller budgets loses; its speed against the one that scored highest."""
    text = f"{near.label} loses {points(loss_of(near))} points{interval_text(near)}"
    if with_speed and near.speed_up is not None:
        text += f" and {_speed(near.speed_up)}"
    return f"{text}."


def interval_text(run: AnalysedRun) -> str:
    """The interval of the loss against the run that scored highest, such as ` (1.0 to 2.0)`."""
    found = run.versus_best
    if found is None or found.low is None or found.high is None:
        return ""
    return f" ({points_interval(-found.high, -found.low)})"


def _unknown(runs: Sequence[AnalysedRun], best: AnalysedRun) -> str:
    """Smaller budgets of which the data cannot tell whether they are enough."""
    near = most_accurate(runs)
    names = listed([run.label for run in runs])
    worst = at_most(near.at_most_worse or 0.0)
    scored = "scored highest" if near is best else lower_text(loss_of(near))
    return (
        f"Whether {names} would do is not known: {near.label} {scored} and may lose up to {worst} "
        "points."
    )


def _of_enough(
    found: AnalysedRun, scored: Sequence[AnalysedRun], evidence: Evidence, decision: Decision
) -> list[str]:
    """Caveats of a budget that is enough."""
    caveats = []
    if all(run.accuracy == evidence.highest for run in scored):
        caveats.append("every answer is right: these questions cannot tell budgets apart")
    if 100 * (most_accurate(scored).accuracy or 0.0) <= evidence.margin:
        caveats.append(
            f"no budget scored more than the margin of {in_points(evidence.margin)}: with it, one "
            "that answers nothing would be enough"
        )
    if decision.smallest == 0:
        caveats.append(f"{found.label} is the smallest budget measured: smaller ones may do too")
    if decision.worse_larger:
        names = listed(evidence.named(decision.worse_larger))
        caveats.append(f"larger, but significantly less accurate than {found.label}: {names}")
    return caveats


def _cannot_tell(scored: Sequence[AnalysedRun], best: AnalysedRun, evidence: Evidence) -> str:
    """Why no budget is known to be enough, and what it would take."""
    if evidence.reason is not None:
        return f"These questions cannot carry an answer: {evidence.reason}."
    assert evidence.decision is not None
    margin = in_points(evidence.margin)
    alike = sum(run.accuracy == best.accuracy for run in scored) - 1
    highest = f"{best.label} scored highest"
    if alike:
        others = "1 other" if alike == 1 else f"{alike} others"
        highest = f"{best.label} and {others} scored highest"
    said = [
        f"{evidence.questions} questions cannot tell which budget is within {margin} of the best.",
        f"{highest}, but the truly best budget could be up to "
        f"{at_most(best.at_most_worse or 0.0)} points better.",
    ]
    by_name = {run.run: run for run in scored}
    worse = [by_name[evidence.budgets[i]] for i in evidence.decision.not_enough]
    if worse:
        told = [
            f"{run.label} loses at least {_at_least(run.at_least_worse or 0.0)}" for run in worse
        ]
        said.append(f"Not enough, in points: {listed(told)}.")
    wider, enough = _wider_margin(scored)
    said.append(f"With a margin of {in_points(wider)}, {enough.label} would be enough.")
    said += _questions(evidence)
    return " ".join(said)


def _questions(evidence: Evidence) -> list[str]:
    """How many questions it takes; empty for a margin of 0, which nothing shows."""
    if evidence.power is None or evidence.margin <= 0:
        return []
    needed = evidence.power.questions_for_margin
    many = f"more than {_MOST}" if needed is None else f"about {count_text(needed)}"
    return [
        f"It takes {many} questions to show that an equally good budget is within "
        f"{in_points(evidence.margin)}."
    ]


def _wider_margin(runs: Sequence[AnalysedRun]) -> tuple[float, AnalysedRun]:
    """The smallest margin in tenths of points that one of the runs keeps, and the first that does.

    The bounds hold for all budgets at once, so that the margin may be chosen after the fact.
    """
    worse = [100 * (run.at_most_worse or 0.0) for run in runs]
    wider = math.ceil(10 * min(worse)) / 10
    return wider, next(run for run, own in zip(runs, worse, strict=True) if own <= wider)


def rounded_up(count: int) -> int:
    """A number of questions, up to two digits: fewer would show less."""
    step = 10 ** max(0, len(str(count)) - 2)
    return -(-count // step) * step


def count_text(count: int) -> str:
    """The same in words, such as `1 300`."""
    return f"{rounded_up(count):,}".replace(",", " ")


def _one_value(best: AnalysedRun, runs: Sequence[AnalysedRun]) -> str:
    others = [run.label for run in runs if run.same_inputs_as is not None]
    if others:
        return (
            f"{listed(others)} gave the same inputs as {best.label} for every image: there is "
            "nothing to compare."
        )
    return f"Only {best.label} was measured: there is nothing to compare it with."


def _without_accuracy(runs: Sequence[AnalysedRun]) -> str:
    text = "Random weights have no accuracy, so no budget can be called enough"
    ratio = runs[0].speed_up if runs else None
    if ratio is None or ratio.run == ratio.baseline:
        return f"{text}."
    base = next(run.label for run in runs if run.run == ratio.baseline)
    return f"{text}. {runs[0].label}, compared with {base}, {_speed(ratio)}."


def _caveats(scored: Sequence[AnalysedRun], best: AnalysedRun) -> tuple[str, ...]:
    """What a reader must know with the answer."""
    found = []
    if best is scored[-1] and len(scored) > 1 and not best.most:
        found.append(f"{best.label} is the largest budget measured: larger ones may score higher")
    return (*found, *_doubtful(scored))


def _timed_apart(run: AnalysedRun) -> bool:
    ratio = run.speed_up
    return ratio is not None and ratio.processes == 1 and not ratio.side_by_side


def _doubtful(runs: Sequence[AnalysedRun]) -> tuple[str, ...]:
    """Caveats about timings: that some are doubtful, or of the software more than of the model."""
    found = []
    if doubtful := [run.label for run in runs if run.timing_warnings]:
        found.append(
            f"timings are doubtful ({listed_of(doubtful, len(runs), 'budgets')}): see the warnings"
        )
    if idle := [run.label for run in runs if run.host_bound]:
        found.append(
            f"the GPU waited for the host ({listed_of(idle, len(runs), 'budgets')}): speed-ups are "
            "of this software stack, not of the model"
        )
    if apart := [run.label for run in runs if _timed_apart(run)]:
        found.append(
            f"speed-ups of {listed_of(apart, len(runs), 'budgets')} compare different processes, "
            "and how processes differ is not in their intervals: time all budgets in one job "
            "(sweep.values_per_job) or set measure.repeats=4"
        )
    if len(ways := sorted({run.execution for run in runs if run.execution})) > 1:
        found.append(f"prefills were run in several ways ({', '.join(ways)}): speed-ups mix them")
    return tuple(found)
