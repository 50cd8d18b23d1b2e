"""What the runs of a comparison say together: differences, the Pareto front, and the answer.

`analyse(runs)` takes the runs of `rows.collect` and reads the sample and latency records of the
finished ones, column by column; `findings.py` has what comes out. `docs/reports.md` explains the
statistics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from vtexp.analysis import answer
from vtexp.analysis.across import Answered, across
from vtexp.analysis.answer import Evidence
from vtexp.analysis.configured import MARGIN, configured_limits, configured_margin
from vtexp.analysis.costs import with_costs
from vtexp.analysis.fairness import caveats
from vtexp.analysis.findings import (
    AnalysedRun,
    Analysis,
    Answer,
    Difference,
    Group,
    GroupCell,
    Grouping,
    Power,
    Series,
)
from vtexp.analysis.grids import grids
from vtexp.analysis.guess import at_margins, best_guess
from vtexp.analysis.limits import under_limits
from vtexp.analysis.methods import METHODS
from vtexp.analysis.paired import PairedRuns, on_shared_questions, paired_runs
from vtexp.analysis.reductions import reduction_findings
from vtexp.analysis.rows import ComparedRun, SeriesKey, collect
from vtexp.analysis.samples import Labels, SampleColumns, read_columns
from vtexp.analysis.times import front, timed_together, with_times
from vtexp.measure.limits import LEAST_BUSY
from vtexp.metrics import metric
from vtexp.runs.records import Result
from vtexp.stats.comparison import Comparison, accuracy, compare
from vtexp.stats.decision import decide
from vtexp.stats.permutation import PValues, holm, pair_tests, sign_flips_against
from vtexp.stats.power import margin_of, questions_needed
from vtexp.utils import files
from vtexp.utils.grouping import differing, grouped
from vtexp.utils.text import listed
from vtexp.utils.typed import known


def analyse(
    runs: Sequence[ComparedRun],
    margin: float = MARGIN,
    *,
    shared: bool = False,
    limits: Mapping[str, float] | None = None,
) -> Analysis:
    """The analysis of the runs of `rows.collect`; `margin` in points of 0.01 accuracy.

    `limits`: on the cost of a budget, by their keys in `report`, such as `max_prefill_ms`.

    Reads the records in the folders of finished runs; one without samples.jsonl is compared with
    none, one without latency.jsonl has no speed-up. Runs that answered different questions are not
    compared, unless `shared`: then on the questions that all of a data set's runs answered.
    Raises DataError where a record is damaged, or no question is shared.
    """
    done = [run for run in runs if run.result is not None]
    read = {
        run.folder: read_columns(path, run.found)
        for run in done
        if (path := run.folder / files.SAMPLES).exists()
    }
    if shared:
        read = on_shared_questions([run for run in done if run.folder in read], read)
    without = [run for run in runs if run.result is None]
    by_series = grouped(done, lambda run: run.series_key)
    lacking = grouped(without, lambda run: run.series_key)
    series = tuple(
        _series(name, own, lacking.get(key, []), read, margin, limits or {})
        for name, (key, own) in zip(_names(list(by_series)), by_series.items(), strict=True)
    )
    questions = {folder: columns.questions for folder, columns in read.items()}
    return Analysis(
        margin=margin,
        series=series,
        between=_between(list(by_series.values()), read),
        caveats=tuple(caveats(runs, questions, shared=shared)),
        reductions=reduction_findings(runs, read),
        grids=grids(runs, read),
        errors=tuple(map(_error, without)),
        methods=METHODS,
        shared=shared,
        across=across(_answered(series, list(by_series.values()), read), margin),
    )


def _answered(
    series: Sequence[Series],
    by_series: Sequence[Sequence[ComparedRun]],
    read: dict[Path, SampleColumns],
) -> list[Answered]:
    """The series whose budgets were compared, with their scores."""
    found = []
    for one, own in zip(series, by_series, strict=True):
        known = [run for run in own if not run.same_inputs_as and run.folder in read]
        paired = paired_runs(known, read)
        if paired is not None and one.answer.best is not None:
            labels = tuple(run.label for run in known)
            found.append(Answered(one, labels, paired.scores, paired.images, paired.highest))
    return found


def of_sweep(sweep: Path) -> Analysis:
    """The analysis of a sweep's folder, with the margin and limits that it was configured with."""
    limits = configured_limits([sweep])
    return analyse(collect(sweep), configured_margin([sweep]), limits=limits)


def _error(run: ComparedRun) -> str:
    why = "no result yet" if run.error is None else f"failed: {run.error}"
    return f"{run.long_label}: {why}"


def _names(series: Sequence[SeriesKey]) -> list[str]:
    """What series are called: model and data set, and in what else they differ."""
    keys = differing(SeriesKey._fields, series)
    names = []
    for own in series:
        parts = [value for key in keys if (value := getattr(own, key))]
        names.append(", ".join(parts) or f"{own.model} on {own.dataset}")
    return names


# --- one series ---------------------------------------------------------------------------------


def _series(
    name: str,
    own: Sequence[ComparedRun],
    lacking: Sequence[ComparedRun],
    read: dict[Path, SampleColumns],
    margin: float,
    limits: Mapping[str, float],
) -> Series:
    """A series of finished runs; `lacking` are its runs without a result."""
    own = sorted(own, key=lambda run: run.order)
    candidates = [run for run in own if not run.same_inputs_as]
    known = [run for run in candidates if run.folder in read]
    paired = paired_runs(known, read)
    count, images = _counts(own, known, read)
    runs = [_run(run, read.get(run.folder)) for run in own]
    evidence = Evidence(margin=margin, questions=count)
    groupings: tuple[Grouping, ...] = ()
    if paired is not None and len(known) > 1:
        found = compare(paired.scores, paired.images, margin / 100, (0.0, paired.highest))
        evidence = replace(evidence, **_evidence(paired, found, candidates, lacking, margin))
        if paired.several_images:
            runs = _with_differences(runs, paired, found)
            groups = read[known[0].folder].groups
            groupings = tuple(_grouping(paired, name, own) for name, own in groups.items())
    runs = with_costs(_with_times(runs, candidates, paired if images > 1 else None), own)
    said = _answer(runs, candidates, known, paired, evidence)
    compared = evidence.decision is not None and evidence.reason is None
    return Series(
        name=name,
        **own[0].series_key._asdict(),
        num_samples=count,
        num_images=images,
        runs=tuple(runs),
        groupings=groupings,
        power=evidence.power,
        answer=_with_lacking(said, [run for run in candidates if run not in known], lacking),
        guess=best_guess(runs, said, margin) if compared else None,
        margins=at_margins(runs, said) if compared else (),
        under_limits=under_limits(limits, runs, own),
    )


def _evidence(
    paired: PairedRuns,
    found: Comparison,
    candidates: Sequence[ComparedRun],
    lacking: Sequence[ComparedRun],
    margin: float,
) -> dict[str, Any]:
    """Fields of the answer's evidence: bounds of budgets in order, NaN for those not compared."""
    order = _in_order(candidates, lacking)
    place = {run.name: i for i, run in enumerate(order)}
    places = [place[run.name] for run in paired.runs]
    at_least, at_most = np.full((2, len(order)), np.nan)
    at_least[places], at_most[places] = found.at_least_worse, found.at_most_worse
    high = np.full((len(order), len(order)), np.nan)
    high[np.ix_(places, places)] = paired.together.high
    return {
        "budgets": tuple(run.name for run in order),
        "labels": tuple(run.label for run in order),
        "decision": decide(at_most, at_least, margin / 100, highest_difference=high),
        "reason": found.reason,
        "highest": paired.highest,
        "power": None if found.reason else _power(paired, margin),
    }


def _in_order(measured: Sequence[ComparedRun], lacking: Sequence[ComparedRun]) -> list[ComparedRun]:
    """All budgets in order; those without a result by their theoretical tokens."""
    order = list(measured)
    for run in sorted(lacking, key=lambda run: run.order):
        larger = (i for i, other in enumerate(order) if _planned(other) > _planned(run))
        order.insert(next(larger, len(order)), run)
    return order


def _planned(run: ComparedRun) -> tuple[float, int, int]:
    """What a budget is ordered by as far as a plan says it."""
    asked = run.asked
    return asked.theoretical_vision_tokens, asked.active_blocks or 0, asked.moe_top_k or 0


def _answer(
    runs: Sequence[AnalysedRun],
    candidates: Sequence[ComparedRun],
    known: Sequence[ComparedRun],
    paired: PairedRuns | None,
    evidence: Evidence,
) -> Answer:
    """The answer of a series: `known` are those of its candidates that have their samples."""
    scored = all(run.found.accuracy is not None for run in candidates)
    if scored and not known:
        return answer.different_samples("no run has its samples.jsonl")
    if scored and paired is None:
        return answer.different_samples("the runs answered different questions")
    with_records = {run.name for run in known}
    comparable = [run for run in runs if run.same_inputs_as or run.run in with_records]
    return answer.answer(comparable or runs, evidence)


def _with_lacking(
    found: Answer, unread: Sequence[ComparedRun], lacking: Sequence[ComparedRun]
) -> Answer:
    """The answer, with caveats where some runs have no samples or no result."""
    caveats = list(found.caveats)
    for runs, what in ((unread, "samples.jsonl"), (lacking, "result")):
        if runs:
            names = listed([run.label for run in runs])
            caveats.append(f"{names}: no {what}, so the answer is among the others")
    return replace(found, caveats=tuple(caveats))


def _counts(
    runs: Sequence[ComparedRun],
    known: Sequence[ComparedRun],
    read: dict[Path, SampleColumns],
) -> tuple[int, int]:
    """How many questions about how many images: of the records, or without any of the results."""
    if not known:
        return runs[0].found.num_samples, runs[0].found.num_images
    first = read[known[0].folder]
    return len(first.questions), len(np.unique(first.images))


def _run(run: ComparedRun, columns: SampleColumns | None) -> AnalysedRun:
    found = run.found
    scored: tuple[float | None, ...] = (None, None, None)
    if columns is None:
        scored = (found.accuracy, found.accuracy_low, found.accuracy_high)
    elif not np.isnan(columns.scores).any():
        own = accuracy(columns.scores, columns.images, (0.0, metric(found.metric).highest))
        scored = (own.mean, own.low, own.high)
    return AnalysedRun(
        run=run.name,
        folder=str(run.folder),
        label=run.label,
        knob_value=found.knob_value,
        vision_tokens=found.measured_vision_tokens,
        accuracy=scored[0],
        accuracy_low=scored[1],
        accuracy_high=scored[2],
        **_own_times(found),
        same_inputs_as=run.same_inputs_as,
        timing_warnings=run.timing_warnings,
        host_bound=found.gpu_busy_ratio is not None and found.gpu_busy_ratio < LEAST_BUSY,
        execution=found.execution,
        most=found.knob == "transformer_blocks" and found.blocks is None,
    )


def _own_times(found: Result) -> dict[str, Any]:
    """Mean prefill of a run over the questions that it timed itself."""
    prefill = found.latency.get("prefill_ms")
    if prefill is None:
        return {"prefill_ms": None}
    return {
        "prefill_ms": prefill.mean,
        "prefill_low": prefill.mean_low,
        "prefill_high": prefill.mean_high,
        "processes": found.num_processes,
    }


def _with_differences(
    runs: Sequence[AnalysedRun], paired: PairedRuns, compared: Comparison
) -> list[AnalysedRun]:
    place = {run.name: i for i, run in enumerate(paired.runs)}
    best, found = paired.best, []
    for run in runs:
        if (i := place.get(run.run)) is None:
            found.append(run)
            continue
        found.append(
            replace(
                run,
                at_least_worse=known(compared.at_least_worse[i]),
                at_most_worse=known(compared.at_most_worse[i]),
                # Where all scored 0, none is worse, but none does either.
                sufficient=None if compared.reason else bool(compared.enough[i] and paired.scored),
                versus_best=None if i == best else paired.difference(i, best, paired.together),
                versus_smaller=paired.difference(i, i - 1, paired.alone) if i else None,
            )
        )
    return found


def _power(paired: PairedRuns, margin: float) -> Power:
    return Power(
        margin=paired.highest * margin_of(paired.sums),
        questions_for_margin=questions_needed(paired.sums, margin / 100 / paired.highest),
    )


def _grouping(paired: PairedRuns, name: str, labels: Labels) -> Grouping:
    """Accuracy by group, and its difference from the run that is the best of all.

    p-values are Holm's over all pairs of runs in all groups: the same data chose the best.
    """
    best, parts = paired.best, []
    for code in range(len(labels.names)):
        inside = labels.codes == code
        parts.append(replace(paired, scores=paired.scores[inside], images=paired.images[inside]))
    others = [i for i in range(len(paired.runs)) if i != best]
    testable = [part for part in parts if part.several_images]
    comparisons = len(testable) * len(others) * len(paired.runs) // 2
    tests = [sign_flips_against(part.sums.sums, best, comparisons) for part in testable]
    value = np.array([test.value[others] for test in tests])
    at_floor = np.array([test.at_floor[others] for test in tests])
    corrected = iter(zip(holm(PValues(value, at_floor), comparisons).value, at_floor, strict=True))
    found = []
    for group, part in zip(labels.names, parts, strict=True):
        p_holm, floor = np.full((2, len(paired.runs)), np.nan)
        if part.several_images:
            p_holm[others], floor[others] = next(corrected)
        found.append(_group(group, part, best, p_holm, floor))
    return Grouping(name, tuple(found))


def _group(
    value: str, part: PairedRuns, best: int, p_holm: np.ndarray, at_floor: np.ndarray
) -> Group:
    cells = []
    for i, run in enumerate(part.runs):
        mean = accuracy(part.scores[:, i], part.images, (0.0, part.highest))
        cell = GroupCell(run.name, mean.mean, mean.low, mean.high)
        if i != best and mean.images > 1:
            cell = replace(
                cell,
                difference=float(part.together.difference[i, best]),
                difference_low=known(part.together.low[i, best]),
                difference_high=known(part.together.high[i, best]),
                p_holm=float(p_holm[i]),
                p_at_floor=bool(at_floor[i]),
            )
        cells.append(cell)
    return Group(value, len(part.scores), len(part.sums.images.sizes), tuple(cells))


# --- times --------------------------------------------------------------------------------------


def _with_times(
    runs: Sequence[AnalysedRun], candidates: Sequence[ComparedRun], paired: PairedRuns | None
) -> list[AnalysedRun]:
    """Speed-ups against the best run (the largest where there is no accuracy), and the front."""
    timed = timed_together(candidates)
    base = candidates[-1]
    if paired is not None:
        base = paired.runs[paired.best]
    if timed is None or (place := timed.place(base.name)) is None:
        return list(runs)
    fronts = None
    if paired is not None and len(paired.runs) == len(timed.runs) == len(candidates):
        fronts = front(paired.means, paired.drawn, timed)
    return with_times(runs, timed, place, fronts)


# --- several series -----------------------------------------------------------------------------


def _between(
    series: Sequence[Sequence[ComparedRun]], read: dict[Path, SampleColumns]
) -> tuple[Difference, ...]:
    """The same budget in two series on one data set: the later minus the earlier.

    p-values are Holm's over all of these.
    """
    pairs = []
    for one, other in combinations(series, 2):
        first, second = one[0].asked, other[0].asked
        if any(getattr(first, k) != getattr(second, k) for k in ("dataset", "split", "metric")):
            continue
        of_one = {run.label: run for run in one}
        for run in other:
            twin = of_one.get(run.label)
            # With tokens that leave within the language model, as many kept are more read.
            if twin is None or twin.asked.reduction_layer != run.asked.reduction_layer:
                continue
            pair = paired_runs([run, twin], read)
            if pair is not None and pair.several_images:
                pairs.append(pair)
    tests = pair_tests([pair.sums.sums for pair in pairs])
    return tuple(
        replace(
            pair.difference(0, 1, pair.alone),
            p_value=test.value,
            p_at_floor=test.at_floor,
            p_holm=test.holm,
        )
        for pair, test in zip(pairs, tests, strict=True)
    )
