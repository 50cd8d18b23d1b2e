"""Token reductions against the floors, at equal measured tokens: is a method worth its trouble?

A method is compared with `reduction=resize` where both read nearly as many tokens on average, and
with `random` and `stride` at the same number of kept tokens, question by question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vtexp.analysis.rows import ComparedRun
from vtexp.analysis.samples import SampleColumns
from vtexp.budget.reduction import RESIZE
from vtexp.metrics import metric
from vtexp.stats.comparison import differences, paired_scores
from vtexp.stats.permutation import PValues, holm, sign_flip_tests
from vtexp.utils.text import listed

#: Floors that work behind the connector, and the share by which mean tokens of a method and of
#: resizing may differ to be called equal.
FLOORS, EQUAL = ("random", "stride"), 0.05


@dataclass(frozen=True)
class AgainstFloor:
    """A method's accuracy minus a floor's, on the same questions and with as many tokens.

    low and high: 95 % interval of this pair, None where the images carry none. p_holm: of no
    difference, corrected for all pairs against this floor; `at_floor`: an upper bound of it.
    """

    run: ComparedRun
    floor: ComparedRun
    difference: float
    low: float | None
    high: float | None
    p_holm: float
    at_floor: bool

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or `no better`: the interval holds both, or there is none."""
        if self.low is None or self.high is None:
            return "no better"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "no better"


def against_floors(
    runs: Sequence[ComparedRun], read: Mapping[Path, SampleColumns]
) -> list[AgainstFloor]:
    """Each reduced run against each floor that answered the same questions with as many tokens."""
    reduced = [run for run in runs if run.result is not None and run.asked.reduction]
    found = []
    for floor in (RESIZE, *FLOORS):
        floors = [run for run in reduced if run.asked.reduction == floor]
        pairs = [
            (run, other)
            for run in reduced
            if run.asked.reduction not in (RESIZE, *FLOORS)
            or (floor == RESIZE and run.asked.reduction != RESIZE)
            if (other := _nearest(run, floors)) is not None
        ]
        found += _tested(pairs, read)
    return found


def _nearest(run: ComparedRun, floors: Sequence[ComparedRun]) -> ComparedRun | None:
    """The floor's run on the same questions whose mean tokens are equal to a run's, or nearly."""

    def distance(other: ComparedRun) -> float:
        return abs(other.vision_tokens / run.vision_tokens - 1)

    alike = [other for other in floors if _same_questions(run, other)]
    nearest = min(alike, key=distance, default=None)
    return None if nearest is None or distance(nearest) > EQUAL else nearest


def _same_questions(run: ComparedRun, other: ComparedRun) -> bool:
    asked, theirs = run.asked, other.asked
    keys = ("model", "weights", "dataset", "split", "metric", "hardware")
    prints = run.found.samples_fingerprint, other.found.samples_fingerprint
    return prints[0] == prints[1] and all(getattr(asked, k) == getattr(theirs, k) for k in keys)


def _tested(
    pairs: Sequence[tuple[ComparedRun, ComparedRun]], read: Mapping[Path, SampleColumns]
) -> list[AgainstFloor]:
    scored = []
    for run, floor in pairs:
        columns = [read[own.folder] for own in (run, floor) if own.folder in read]
        if len(columns) == 2 and np.array_equal(columns[0].questions, columns[1].questions):
            scores = np.column_stack([own.scores for own in columns])
            if not np.isnan(scores).any() and len(np.unique(columns[0].images)) > 1:
                highest = metric(run.asked.metric).highest
                scored.append(
                    (run, floor, paired_scores(scores, columns[0].images, (0.0, highest)))
                )
    tests = [sign_flip_tests(paired.sums, len(scored)) for _, _, paired in scored]
    p_values = PValues(
        np.array([test.value[0, 1] for test in tests]),
        np.array([test.at_floor[0, 1] for test in tests]),
    )
    corrected = holm(p_values).value
    found = []
    for i, (run, floor, paired) in enumerate(scored):
        own = differences(paired)
        low, high = (
            None if np.isnan(end[0, 1]) else float(end[0, 1]) for end in (own.low, own.high)
        )
        found.append(
            AgainstFloor(
                run,
                floor,
                float(own.difference[0, 1]),
                low,
                high,
                float(corrected[i]),
                bool(p_values.at_floor[i]),
            )
        )
    return found


def reduction_findings(
    runs: Sequence[ComparedRun], read: Mapping[Path, SampleColumns]
) -> tuple[str, ...]:
    """What a reader must know of the token reductions among runs, one sentence each."""
    reduced = [run for run in runs if run.result is not None and run.asked.reduction]
    methods = [run for run in reduced if run.asked.reduction != RESIZE]
    if not methods:
        return ()
    tested = against_floors(runs, read)
    found = [_sentence(own) for own in tested if own.floor.asked.reduction == RESIZE]
    found += [_sentence(own) for own in tested if own.floor.asked.reduction != RESIZE]
    resized = {own.run.name for own in tested if own.floor.asked.reduction == RESIZE}
    lacking = [run for run in methods if run.name not in resized]
    return (*found, *_without_resize(lacking, reduced), *_slower(methods, runs))


def _sentence(own: AgainstFloor) -> str:
    """One comparison, such as `max_min at 144 vision tokens is no better than resize: ...`."""
    dataset, floor = own.run.asked.dataset, own.floor.asked.reduction
    text = (
        f"{dataset}: {_method(own.run)} at {own.run.vision_tokens:.5g} vision tokens is "
        f"{own.verdict} than {floor}"
    )
    if own.floor.vision_tokens != own.run.vision_tokens:
        text += f" at {own.floor.vision_tokens:.5g}"
    text += f": {100 * own.difference:+.1f} points"
    if own.low is not None and own.high is not None:
        text += f" ({100 * own.low:+.1f} to {100 * own.high:+.1f})"
    sign = "<" if own.at_floor else "="
    return f"{text}, p {sign} {own.p_holm:.2g} (Holm)"


def _method(run: ComparedRun) -> str:
    """A method with the settings in which its runs differ."""
    shown = [part for part in run.settings.split(", ") if part.startswith(("reduction.", "knob."))]
    name = run.asked.reduction or ""
    return f"{name} ({', '.join(shown)})" if shown else name


def _without_resize(lacking: Sequence[ComparedRun], reduced: Sequence[ComparedRun]) -> list[str]:
    """Runs that nothing says to be worth it, as no resizing has as many tokens."""
    by_dataset: dict[str, list[ComparedRun]] = {}
    for run in lacking:
        by_dataset.setdefault(run.asked.dataset, []).append(run)
    found = []
    for dataset, runs in by_dataset.items():
        budgets = sorted({round(run.vision_tokens) for run in runs})
        own = [run for run in reduced if run.asked.dataset == dataset]
        resized = sorted({round(run.vision_tokens) for run in own if run.asked.reduction == RESIZE})
        tokens = listed([str(count) for count in budgets])
        text = f"{dataset}: no run with reduction=resize has {tokens} vision tokens"
        text += f" (there are {listed([str(n) for n in resized])})" if resized else "; add one"
        found.append(text)
    return found


def _slower(methods: Sequence[ComparedRun], runs: Sequence[ComparedRun]) -> list[str]:
    """Reduced runs whose median prefill is longer than that of the same crops without a reduction,
    or than that of resizing to as many tokens."""
    found = []
    done = [run for run in runs if run.result is not None]
    resized = [run for run in done if run.asked.reduction == RESIZE]
    for run in methods:
        plain = [
            other
            for other in done
            if other.asked.knob == "max_crops"
            and other.asked.num_crops == run.asked.num_crops
            and _same_questions(run, other)
        ]
        nearest = _nearest(run, resized)
        for other, what in ((plain[0] if plain else None, "no reduction"), (nearest, RESIZE)):
            own, theirs = run.found.median("prefill_ms"), None
            if other is not None:
                theirs = other.found.median("prefill_ms")
            if own is not None and theirs is not None and own > theirs:
                spent = run.found.median("reduction_ms") or 0.0
                found.append(
                    f"{run.asked.dataset}: {_method(run)} at {run.vision_tokens:.5g} vision tokens "
                    f"makes prefill slower than {what}: {own:.1f} against {theirs:.1f} ms, of "
                    f"which the reduction itself takes {spent:.1f}"
                )
    return found
