"""Numbers and sentences of a comparison as text, alike wherever they stand."""

from __future__ import annotations

from collections.abc import Sequence

from vtexp.analysis.answer import points
from vtexp.analysis.findings import Analysis, Series
from vtexp.analysis.guess import margins_sentence
from vtexp.analysis.rows import ComparedRun


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
        said.append(f"{name}{series.answer.sentence}")
        said += [f"- {line}" for line in beside(series)]
        said += [f"- {caveat}" for caveat in series.answer.caveats]
        said += [f"- {line}" for line in _power(series)]
    if analysis.shared:
        said.append("- all this is of the questions that all runs on a data set answered")
    said += [f"- {line}" for line in analysis.reductions]
    said += [f"- not fair: {line}" for line in analysis.caveats]
    if analysis.errors:
        said.append(f"- {len(analysis.errors)} of {len(runs)} runs have no result")
    return said


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
        f"as good as the best loses at most {points(series.power.margin)} points (80 % power)"
    ]


def p_value(p: float, at_floor: bool = False) -> str:
    """A p-value with two digits; one at the floor of its draws with `<`."""
    if p < 0.001:
        return "<0.001"
    text = f"{p:.2g}" if p < 0.1 else f"{p:.2f}"
    return f"<{text}" if at_floor and p < 1 else text
