"""The answer in words: the smallest budget that suffices, or why the data cannot tell."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vtexp.analysis.findings import AnalysedRun, Answer, Difference, Power, Ratio
from vtexp.utils.text import listed


def answer(
    runs: Sequence[AnalysedRun],
    names: dict[str, str],
    margin: float,
    num_samples: int,
    power: Power | None,
    highest: float = 1.0,
) -> Answer:
    """The answer of a series whose runs are in the order of their tokens.

    `names`: what each run is called. `margin` in points, scores from 0 to `highest`. Budgets that
    give the same inputs as a smaller one are no candidates. A budget above the best one is none
    either: it costs more and scored less.
    """
    candidates = [run for run in runs if run.same_inputs_as is None]
    scored = [run for run in candidates if run.accuracy is not None]
    if not scored:
        return Answer(
            "no_accuracy", _without_accuracy(candidates, names), _doubtful(candidates, names)
        )
    scored = [run for run in scored if run.at_most_worse is not None] or scored  # with records
    best = _best(scored)
    if len(scored) == 1:
        words = _one_value(best, names, runs)
        return Answer("one_value", words, _doubtful(scored, names), best=best.run)
    caveats = _caveats(scored, best, names)
    if best.accuracy == 0:
        sentence = f"All {len(scored)} budgets scored 0, so none can be called enough."
        return Answer("cannot_tell", sentence, caveats, best=best.run)
    enough = [run for run in scored[: scored.index(best) + 1] if run.sufficient]
    if not enough:
        sentence = "All questions are about one image: nothing can be said beyond it."
        if best.at_most_worse is not None:
            sentence = _cannot_tell(scored, best, names, margin, num_samples, power)
        return Answer("cannot_tell", sentence, caveats, best=best.run)
    found = enough[0]
    if found is scored[0]:
        smallest = f"{names[found.run]} is the smallest budget measured: smaller ones may do too"
        caveats = (smallest, *caveats)
    if all(run.accuracy == highest for run in scored):
        caveats = ("every answer is right: these questions cannot tell budgets apart", *caveats)
    words = _best_needed(scored, best, names, margin)
    if found is not best:
        words = _smaller(found, best, names, margin)
    return Answer(
        verdict="best" if found is best else "smaller",
        sentence=words,
        caveats=caveats,
        run=found.run,
        best=best.run,
        vision_tokens=found.vision_tokens,
        tokens_saved=best.vision_tokens - found.vision_tokens,
        speed_up=found.speed_up,
    )


def different_samples(reason: str) -> Answer:
    """The answer where the runs of a series did not answer the same questions."""
    return Answer("different_samples", f"No answer: {reason}.")


def _best(runs: Sequence[AnalysedRun]) -> AnalysedRun:
    """The most accurate run; among equals the one with the fewest tokens."""
    return max(runs, key=lambda run: (run.accuracy or 0.0, -run.vision_tokens))


def points(value: float, *, signed: bool = False) -> str:
    """A difference of scores in points, such as `1.3`."""
    text = f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"
    return text.replace("-0.0", "0.0").replace("+0.0", "0.0")


def _of(margin: float) -> str:
    return "1 point" if margin == 1 else f"{margin:g} points"


def interval(found: Difference | Ratio) -> str:
    """The 95 % interval of a difference in points, or of a ratio."""
    if isinstance(found, Ratio):
        return f"{found.low:.2f} to {found.high:.2f}"
    return f"{points(found.low, signed=True)} to {points(found.high, signed=True)}"


def _tokens(run: AnalysedRun) -> str:
    return f"{run.vision_tokens:.5g} vision tokens"


def _faster(ratio: Ratio | None) -> str:
    """How much faster, in words; nothing where the times were not taken on the same questions."""
    if ratio is None:
        return ""
    return f"prefills {ratio.ratio:.2f} times as fast ({interval(ratio)})"


def _smaller(found: AnalysedRun, best: AnalysedRun, names: dict[str, str], margin: float) -> str:
    saved = best.vision_tokens - found.vision_tokens
    gains = [
        f"saves {saved:.5g} of {best.vision_tokens:.5g} tokens an image "
        f"({saved / best.vision_tokens:.0%})"
    ]
    if fast := _faster(found.speed_up):
        gains.append(fast)
    return (
        f"{names[found.run]} ({_tokens(found)}) is enough: with 95 % confidence it is at most "
        f"{points(found.at_most_worse or 0.0)} points worse than the best budget, within the "
        f"margin of {margin:g}. Against {names[best.run]}, which scored highest, it "
        f"{' and '.join(gains)}."
    )


def _best_needed(
    scored: Sequence[AnalysedRun], best: AnalysedRun, names: dict[str, str], margin: float
) -> str:
    smaller = scored[: scored.index(best)]
    start = f"{names[best.run]} ({_tokens(best)})"
    if not smaller:
        return (
            f"{start}, the smallest budget, is enough: with 95 % confidence no larger one "
            f"is better by more than {_of(margin)}."
        )
    unknown = [run for run in smaller if not _is_worse(run, margin)]
    if not unknown:
        near = _best(smaller)
        which = "the next smaller budget" if near is smaller[-1] else "the best of the smaller ones"
        text = f"{start} is needed: {names[near.run]}, {which}, is {_lost(near)}"
    else:
        near = _best(unknown)
        text = (
            f"{start} is the smallest budget known to be enough: {names[near.run]} scored "
            f"{points(_loss(near))} points lower and may be {points(near.at_most_worse or 0.0)} "
            f"points worse, more than the margin of {margin:g}"
        )
        if others := [names[run.run] for run in unknown if run is not near]:
            text += f"; not known either: {listed(others)}"
        text += _not_enough(smaller, names, margin)
    fast = _faster(near.speed_up)
    return f"{text}; {names[near.run]} {fast}." if fast else f"{text}."


def _is_worse(run: AnalysedRun, margin: float) -> bool:
    """Whether a budget is known to be worse than the best one by more than the margin."""
    return 100 * (run.at_least_worse or 0.0) > margin


def _loss(run: AnalysedRun) -> float:
    """What was lost against the run that scored highest; 0 of that run itself."""
    return 0.0 if run.versus_best is None else -run.versus_best.difference


def _lost(run: AnalysedRun) -> str:
    text = f"{points(_loss(run))} points worse"
    if run.versus_best is None:
        return text
    return f"{text} ({points(-run.versus_best.high)} to {points(-run.versus_best.low)})"


def _not_enough(runs: Sequence[AnalysedRun], names: dict[str, str], margin: float) -> str:
    """The budgets that are known to be worse by more than the margin; empty without any."""
    worse = [run for run in runs if _is_worse(run, margin)]
    if not worse:
        return ""
    told = [f"{names[run.run]} (at least {points(run.at_least_worse or 0.0)})" for run in worse]
    return f"; not enough, by points worse: {listed(told)}"


def _cannot_tell(
    scored: Sequence[AnalysedRun],
    best: AnalysedRun,
    names: dict[str, str],
    margin: float,
    num_samples: int,
    power: Power | None,
) -> str:
    alike = sum(run.accuracy == best.accuracy for run in scored) - 1
    highest = f"{names[best.run]} scored highest, but even it"
    if alike:
        others = "1 other" if alike == 1 else f"{alike} others"
        highest = f"{names[best.run]} and {others} scored highest alike, but even {names[best.run]}"
    text = (
        f"{num_samples} questions cannot tell which budget is within {_of(margin)} of the best: "
        f"{highest} may be {points(best.at_most_worse or 0.0)} points worse than the best one"
    )
    text += _not_enough(scored, names, margin)
    wider, enough = _wider_margin(scored[: scored.index(best) + 1])
    text += f"; with a margin of {wider:g} points, {names[enough.run]} would be enough"
    if power is None or power.questions_for_margin is None:
        return f"{text}."
    return (
        f"{text}; to show it of an equal budget at {_of(margin)} takes about "
        f"{_rounded(power.questions_for_margin)} questions."
    )


def _wider_margin(runs: Sequence[AnalysedRun]) -> tuple[float, AnalysedRun]:
    """The smallest margin in tenths of points that one of the runs keeps, and the first that does.

    The bounds hold for all budgets at once, so that the margin may be chosen after the fact.
    """
    worse = [100 * (run.at_most_worse or 0.0) for run in runs]
    wider = math.ceil(10 * min(worse)) / 10
    return wider, next(run for run, own in zip(runs, worse, strict=True) if own <= wider)


def _rounded(count: int) -> str:
    """A number of questions to two digits."""
    return f"{int(float(f'{count:.2g}')):,}".replace(",", " ")


def _one_value(best: AnalysedRun, names: dict[str, str], runs: Sequence[AnalysedRun]) -> str:
    others = [names[run.run] for run in runs if run.same_inputs_as is not None]
    if others:
        return (
            f"{listed(others)} gave the same inputs as {names[best.run]} for every image: there "
            "is nothing to compare."
        )
    return f"Only {names[best.run]} was measured: there is nothing to compare it with."


def _without_accuracy(runs: Sequence[AnalysedRun], names: dict[str, str]) -> str:
    text = "Random weights have no accuracy, so no budget can be called enough"
    ratio = runs[0].speed_up if runs else None
    if ratio is None or ratio.run == ratio.baseline:
        return f"{text}."
    return f"{text}; {names[ratio.run]} {_faster(ratio)} as {names[ratio.baseline]}."


def _caveats(
    scored: Sequence[AnalysedRun], best: AnalysedRun, names: dict[str, str]
) -> tuple[str, ...]:
    """What a reader must know with the answer."""
    found = []
    if best is scored[-1] and len(scored) > 1:
        found.append(
            f"{names[best.run]} is the largest budget measured: larger ones may score higher"
        )
    return (*found, *_doubtful(scored, names))


def _doubtful(runs: Sequence[AnalysedRun], names: dict[str, str]) -> tuple[str, ...]:
    """Caveats about timings: that some are doubtful, or of the software more than of the model."""
    found = []
    if doubtful := [names[run.run] for run in runs if run.timing_warnings]:
        found.append(f"timings are doubtful ({listed(doubtful)}): see the warnings")
    if idle := [names[run.run] for run in runs if run.host_bound]:
        found.append(
            f"the GPU waited for the host ({listed(idle)}): speed-ups are of this software stack, "
            "not of the model"
        )
    if len(ways := sorted({run.execution for run in runs if run.execution})) > 1:
        found.append(f"prefills were run in several ways ({', '.join(ways)}): speed-ups mix them")
    return tuple(found)
