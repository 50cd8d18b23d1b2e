"""Numbers and sentences of a comparison as text, alike wherever they stand."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from vtexp.analysis.answer import at_most
from vtexp.analysis.findings import Analysis, Answer, Series
from vtexp.analysis.grids import grid_sentences
from vtexp.analysis.guess import margins_sentence
from vtexp.analysis.rows import ComparedRun
from vtexp.metrics import METRICS
from vtexp.utils.text import percent


def title(runs: Sequence[ComparedRun]) -> str:
    """What all runs have in common, and how many questions each answered."""
    parts = [_common(runs, key) for key in ("model", "dataset", "hardware")]
    if any(run.asked.weights == "random" for run in runs):
        parts.insert(1, "random weights")
    done = [run.result for run in runs if run.result is not None]
    if how := sorted({result.execution for result in done}):
        parts[-1] += f" ({' or '.join(how)})"
    counts = sorted({result.num_samples for result in done})
    return f"{', '.join(parts)}, {' or '.join(map(str, counts)) or 'no'} questions"


def _common(runs: Sequence[ComparedRun], key: str) -> str:
    """The one value of a key in all runs, else `several KEYs`."""
    values = {str(getattr(run.asked, key)) for run in runs}
    return values.pop() if len(values) == 1 else f"several {key}s"


def sentences(runs: Sequence[ComparedRun], analysis: Analysis) -> list[str]:
    """The answer of each series, what must be known with it, and what the data can see."""
    said = []
    for series in analysis.series:
        name = f"{series.name}: " if len(analysis.series) > 1 else ""
        first, *rest = answer_lines(series)
        said += [f"{name}{first}", *(f"- {line}" for line in rest)]
    return said + [f"- {line}" for line in common_lines(runs, analysis)]


def answer_lines(series: Series) -> list[str]:
    """The answer of a series, what stands beside it, its caveats, and what its data can see."""
    return [
        series.answer.sentence,
        *beside(series),
        *series.answer.caveats,
        *_power(series),
    ]


def common_lines(runs: Sequence[ComparedRun], analysis: Analysis) -> list[str]:
    """What must be known of all series."""
    said = [one.sentence for one in analysis.across]
    if analysis.shared:
        said.append("all of this is about the questions that all runs on a data set answered")
    said += analysis.reductions
    said += [line for grid in analysis.grids for line in grid_sentences(grid)]
    said += [f"not fair: {line}" for line in analysis.caveats]
    if analysis.errors:
        have = "has" if len(analysis.errors) == 1 else "have"
        said.append(f"{len(analysis.errors)} of {len(runs)} runs {have} no result")
    return said


def headline(series: Series, margin: float) -> str:
    """The answer of a series in a line that is read at a glance; `margin` in points."""
    answer = series.answer
    labels = {run.run: run.label for run in series.runs}
    if answer.verdict == "cannot_tell":
        guess = "" if series.guess is None else f"; best guess: {labels[series.guess.run]}"
        return f"No budget is known to be within {_in_points(margin)} of the best{guess}"
    if answer.verdict == "smaller":
        return f"{labels[str(answer.run)]} is enough: {_gain(answer)}"
    if answer.verdict == "best":
        said = "is needed: smaller ones lose too much" if answer.needed else "is enough"
        return f"{labels[str(answer.run)]} {said}"
    if answer.verdict == "larger":
        best = labels[str(answer.best)]
        return f"{labels[str(answer.run)]} is enough; {best} scored highest, but may lose more"
    return _NOTHING[answer.verdict]


#: Headlines where budgets were not compared.
_NOTHING = {
    "one_value": "One budget was measured: nothing to compare",
    "no_accuracy": "Random weights: no accuracy, times alone",
    "different_samples": "No answer: the runs answered different questions",
}


def _in_points(margin: float) -> str:
    return f"{margin:g} point" + ("s" if margin != 1 else "")


def _gain(answer: Answer) -> str:
    """What the budget of an answer saves against the best one."""
    assert answer.tokens_saved is not None and answer.vision_tokens is not None
    share = answer.tokens_saved / (answer.tokens_saved + answer.vision_tokens)
    # Fewer experts or blocks leave the tokens as they are.
    saved = f"{percent(share)} fewer vision tokens" if share else ""
    ratio = answer.speed_up
    if ratio is None:
        return saved or "no time was measured"
    if ratio.low is not None and ratio.low > 1:
        return f"{saved}, ".lstrip(", ") + f"{ratio.ratio:.2f} times as fast"
    slower = ratio.high is not None and ratio.high < 1
    speed = "slower" if slower else "not known to be faster"
    return f"{saved}, but {speed}" if saved else speed


def beside(series: Series) -> list[str]:
    """What stands beside the answer: a best guess, the budget within limits, other margins."""
    found = [] if series.guess is None else [series.guess.sentence]
    if series.under_limits is not None:
        found.append(series.under_limits.sentence)
    return found + ([margins_sentence(series.margins, series.runs)] if series.margins else [])


def _power(series: Series) -> list[str]:
    if series.power is None:
        return []
    return [
        f"{series.num_samples} questions about {series.num_images} images can show that a budget "
        f"as good as the best loses at most {at_most(series.power.margin)} points (80 % power)"
    ]


def budget_name(knob: str, value: str) -> str:
    """What a budget is called where nothing else names the knob: `max_crops=4`, but `560x560`."""
    return f"{knob}={value}" if value[:1].isdigit() and "x" not in value else value


def short_label(label: str) -> str:
    """The same of a run's label, such as `max_crops=4` or `image_size=560x560`."""
    knob, _, value = label.partition("=")
    return budget_name(knob, value)


def score_unit(metrics: Collection[str]) -> tuple[str, str]:
    """What the scores of these metrics are called, and their unit: `accuracy` in `%`.

    Metrics that go beyond 1, such as CIDEr, give points (hundredths), and are no accuracy.
    """
    if all(name not in METRICS or METRICS[name].highest == 1 for name in metrics):
        return "accuracy", "%"
    return (next(iter(metrics)) if len(metrics) == 1 else "score"), "points"


def score_title(metrics: Collection[str]) -> str:
    """What stands first in a plot's title: `Accuracy`, or the metric's name."""
    name, _ = score_unit(metrics)
    return {"accuracy": "Accuracy", "score": "Score", "cider": "CIDEr"}.get(name, name)


def score_label(metrics: Collection[str]) -> str:
    """An axis of scores, such as `accuracy, % (exact_match)`."""
    name, unit = score_unit(metrics)
    own = " or ".join(sorted(metrics)) if len(metrics) < 3 else f"{len(metrics)} metrics"
    return f"{name}, {unit}" + ("" if name == own else f" ({own})")
