"""What the runs of a comparison say together: differences, the Pareto front, and the answer.

`analyse(runs)` takes the runs of `rows.collect` and reads the sample and latency records of the
finished ones, column by column; `findings.py` has what comes out. `docs/reports.md` explains the
statistics.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np

from vtexp.analysis import answer
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
    Ratio,
    Series,
)
from vtexp.analysis.rows import ComparedRun, SeriesKey, collect, run_names
from vtexp.analysis.samples import Labels, SampleColumns, read_columns
from vtexp.errors import ConfigError, DataError
from vtexp.measure.limits import LEAST_BUSY
from vtexp.metrics import metric
from vtexp.runs.folder import run_folders
from vtexp.runs.records import read_latency
from vtexp.stats.paired import (
    DRAWS,
    Critical,
    PairedScores,
    bootstrap_means,
    bootstrap_medians,
    clustered_mean,
    critical_values,
    detectable_difference,
    difference_intervals,
    holm,
    images_for_margin,
    mcnemar_p_value,
    on_front,
    paired_scores,
    sign_flip_p_values,
    worse_than_best,
)
from vtexp.utils import files
from vtexp.utils.text import listed

#: `report.margin` where no sweep says one.
MARGIN = 1.0

METHODS = (
    "Accuracy: mean score; 95 % interval clustered by image (Liang and Zeger 1986).",
    "Differences: between budgets on the same questions, clustered by image; critical values from "
    f"{DRAWS} bootstrap draws of whole images, with Student's distribution for few "
    "images, and not below what Wilson's variance (1927) says where few images change.",
    "p-values: signs of the images' differences flipped at random, two-sided; corrected for all "
    "pairs of budgets of a series by Holm's method (1979). McNemar's exact test (1947) is given "
    "besides; it takes questions about one image as independent.",
    "Answer: a budget is enough where it is not worse than the best one by more than the margin, "
    "with 95 % confidence. The bounds hold for all budgets of a series at once and whichever is "
    "the best (simultaneous comparisons with the best, Hsu 1984), so that choosing the best and "
    "the answer from the same data is paid for. A budget is called needed where all smaller ones "
    "are worse by more than the margin, with Bonferroni's bounds for all pairs. Several series "
    "are not corrected for each other.",
    "Speed-up: ratio of the medians of prefill on the same timed questions, 95 % interval by "
    "bootstrap over these questions and over the rounds of timing. It says nothing of other "
    "processes, days or machines.",
    "Pareto front: share of the bootstrap draws in which no other budget is at least as accurate "
    "and as fast.",
    "Power: one two-sided test at 5 %, not corrected for others, 80 % power, normal approximation, "
    "with the errors seen here, and Wilson's variance where few images change.",
)


def analyse(
    runs: Sequence[ComparedRun], margin: float = MARGIN, *, shared: bool = False
) -> Analysis:
    """The analysis of the runs of `rows.collect`; `margin` in points of 0.01 accuracy.

    Reads the records in the folders of finished runs; one without samples.jsonl is compared with
    none, one without latency.jsonl has no speed-up. Runs that answered different questions are not
    compared, unless `shared`: then on the questions that all of a data set's runs answered.
    Raises DataError where a record is damaged, or no question is shared.
    """
    done = [run for run in runs if run.result is not None]
    read = {
        run.folder: read_columns(path, run.found.num_samples)
        for run in done
        if (path := run.folder / files.SAMPLES).exists()
    }
    if shared:
        read = _shared([run for run in done if run.folder in read], read)
    by_series: dict[SeriesKey, list[ComparedRun]] = defaultdict(list)
    for run in done:
        by_series[run.series_key].append(run)
    series = tuple(
        _with_lacking(_series(name, own, read, margin), runs)
        for name, own in zip(_names(list(by_series)), by_series.values(), strict=True)
    )
    questions = {folder: columns.questions for folder, columns in read.items()}
    return Analysis(
        margin=margin,
        series=series,
        between=_between(list(by_series.values()), read),
        caveats=tuple(caveats(runs, questions, shared=shared)),
        errors=tuple(_error(run) for run in runs if run.result is None),
        methods=METHODS,
        shared=shared,
    )


def of_sweep(sweep: Path, margin: float | None = None) -> Analysis:
    """The analysis of a sweep's folder; with the margin that it was configured with if None."""
    return analyse(collect(sweep), configured_margin([sweep]) if margin is None else margin)


def configured_margin(sweeps: Sequence[Path]) -> float:
    """`report.margin` of sweeps: what the latest runs of each were configured with.

    Raises ConfigError where several sweeps have several.
    """
    latest = [
        max(folders, key=lambda folder: (folder / files.CONFIG).stat().st_mtime)
        for sweep in sweeps
        if (folders := run_folders(sweep))
    ]
    found = sorted({_margin(folder) for folder in latest})
    if len(found) > 1:
        margins = ", ".join(f"{margin:g}" for margin in found)
        raise ConfigError(f"report.margin: the sweeps have {margins}; give one with --margin")
    return found[0] if found else MARGIN


def _margin(folder: Path) -> float:
    """`report.margin` of a run's config."""
    try:
        margin = float(files.read_config(folder)["report"]["margin"])
    except (KeyError, TypeError, ValueError, OverflowError):
        margin = np.nan
    if not (margin >= 0 and np.isfinite(margin)):
        raise DataError(f"{folder / files.CONFIG}: report.margin is no number from 0 on")
    return margin


def _error(run: ComparedRun) -> str:
    why = "no result yet" if run.error is None else f"failed: {run.error}"
    return f"{run.long_label}: {why}"


def _with_lacking(series: Series, runs: Sequence[ComparedRun]) -> Series:
    """The series, its answer with a caveat where some of its runs have no result."""
    key = SeriesKey(*(getattr(series, name) for name in SeriesKey._fields))
    lacking = [run.label for run in runs if run.result is None and run.series_key == key]
    if not lacking:
        return series
    caveat = f"{listed(lacking)}: no result, so the answer is among the others"
    return replace(series, answer=replace(series.answer, caveats=(*series.answer.caveats, caveat)))


def _names(series: Sequence[SeriesKey]) -> list[str]:
    """What series are called: model and data set, and in what else they differ."""
    differing = [key for key in SeriesKey._fields if len({getattr(o, key) for o in series}) > 1]
    names = []
    for own in series:
        parts = [value for key in differing if (value := getattr(own, key))]
        names.append(", ".join(parts) or f"{own.model} on {own.dataset}")
    return names


# --- the records of several runs side by side --------------------------------------------------


def _shared(
    runs: Sequence[ComparedRun], read: dict[Path, SampleColumns]
) -> dict[Path, SampleColumns]:
    """The records cut down to the questions that all runs on a data set answered, in one order.

    Raises DataError where there are none.
    """
    by_dataset: dict[str, list[Path]] = defaultdict(list)
    for run in runs:
        by_dataset[run.asked.dataset].append(run.folder)
    cut = {}
    for dataset, folders in by_dataset.items():
        common = read[folders[0]].questions
        for folder in folders[1:]:
            common = np.intersect1d(common, read[folder].questions)
        if not len(common):
            raise DataError(f"{dataset}: the runs share no question; they cannot be compared")
        for folder in folders:
            own = read[folder]
            cut[folder] = own.at(np.flatnonzero(np.isin(own.questions, common)))
    return cut


@dataclass(frozen=True)
class _Paired:
    """Runs that answered the same questions; i and j count them."""

    runs: Sequence[ComparedRun]
    scores: np.ndarray
    images: np.ndarray
    highest: float

    @cached_property
    def sums(self) -> PairedScores:
        return paired_scores(self.scores, self.images, self.highest)

    @cached_property
    def drawn(self) -> np.ndarray:
        return bootstrap_means(self.sums)

    @cached_property
    def critical(self) -> Critical:
        return critical_values(self.sums, self.drawn)

    @cached_property
    def intervals(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return difference_intervals(self.sums, self.critical)

    @cached_property
    def p_values(self) -> np.ndarray:
        return sign_flip_p_values(self.sums)

    @cached_property
    def p_holm(self) -> np.ndarray:
        """p-values corrected for all pairs."""
        corrected = np.ones_like(self.p_values)
        pairs = np.triu_indices(len(self.runs), 1)
        corrected[pairs] = holm(self.p_values[pairs])
        corrected.T[pairs] = corrected[pairs]
        return corrected

    def difference(self, i: int, j: int) -> Difference:
        """Run i against baseline j."""
        difference, low, high = (float(matrix[i, j]) for matrix in self.intervals)
        wins = int((self.scores[:, i] > self.scores[:, j]).sum())
        losses = int((self.scores[:, i] < self.scores[:, j]).sum())
        zero_one = bool(np.isin(self.scores[:, [i, j]], (0.0, 1.0)).all())
        return Difference(
            run=self.runs[i].name,
            baseline=self.runs[j].name,
            difference=difference,
            low=low,
            high=high,
            p_value=float(self.p_values[i, j]),
            p_holm=float(self.p_holm[i, j]),
            p_mcnemar=mcnemar_p_value(wins, losses) if zero_one else None,
            wins=wins,
            losses=losses,
        )


def _paired(runs: Sequence[ComparedRun], read: dict[Path, SampleColumns]) -> _Paired | None:
    """None where the runs answered different questions, or one has no scores or no records."""
    if not runs or any(run.folder not in read for run in runs):
        return None
    columns = [read[run.folder] for run in runs]
    first = columns[0]
    if any(not np.array_equal(own.questions, first.questions) for own in columns):
        return None
    scores = np.column_stack([own.scores for own in columns])
    if np.isnan(scores).any():
        return None
    return _Paired(runs, scores, first.images, metric(runs[0].asked.metric).highest)


# --- one series ---------------------------------------------------------------------------------


def _series(
    name: str, own: Sequence[ComparedRun], read: dict[Path, SampleColumns], margin: float
) -> Series:
    own = sorted(own, key=lambda run: (run.vision_tokens, run.name))
    candidates = [run for run in own if not run.same_inputs_as]
    known = [run for run in candidates if run.folder in read]
    paired = _paired(known, read)
    count, images = _counts(own, known, read)
    runs = [_run(run, read.get(run.folder)) for run in own]
    power: Power | None = None
    groupings: tuple[Grouping, ...] = ()
    if paired is not None and images > 1 and len(known) > 1:
        runs = _with_differences(runs, paired, margin)
        power = _power(paired, margin)
        groupings = _groupings(paired, read[known[0].folder].groups)
    runs = _with_times(runs, candidates, paired if images > 1 else None)
    names = run_names(own)
    found = _answer(runs, candidates, known, paired, names, margin, count, power)
    if lacking := [names[run.name] for run in candidates if run not in known]:
        caveat = f"{listed(lacking)}: no samples.jsonl, so the answer is among the others"
        found = replace(found, caveats=(*found.caveats, caveat))
    return Series(
        name=name,
        **own[0].series_key._asdict(),
        num_samples=count,
        num_images=images,
        runs=tuple(runs),
        groupings=groupings,
        power=power,
        answer=found,
    )


def _answer(
    runs: Sequence[AnalysedRun],
    candidates: Sequence[ComparedRun],
    known: Sequence[ComparedRun],
    paired: _Paired | None,
    names: dict[str, str],
    margin: float,
    count: int,
    power: Power | None,
) -> Answer:
    """The answer of a series: `known` are those of its candidates that have their samples."""
    scored = all(run.found.accuracy is not None for run in candidates)
    if scored and not known:
        return answer.different_samples("no run has its samples.jsonl")
    if scored and paired is None:
        return answer.different_samples("the runs answered different questions")
    with_records = {run.name for run in known}
    comparable = [run for run in runs if run.same_inputs_as or run.run in with_records]
    highest = metric(candidates[0].asked.metric).highest
    return answer.answer(comparable or runs, names, margin, count, power, highest)


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
    accuracy: tuple[float | None, ...] = (None, None, None)
    if columns is None:
        accuracy = (found.accuracy, found.accuracy_low, found.accuracy_high)
    elif not np.isnan(columns.scores).any():
        mean = clustered_mean(columns.scores, columns.images, metric(found.metric).highest)
        accuracy = (mean.mean, *(mean.interval or (None, None)))
    return AnalysedRun(
        run=run.name,
        folder=str(run.folder),
        label=run.label,
        knob_value=found.knob_value,
        vision_tokens=found.measured_vision_tokens,
        accuracy=accuracy[0],
        accuracy_low=accuracy[1],
        accuracy_high=accuracy[2],
        prefill_ms=found.median("prefill_ms"),
        same_inputs_as=run.same_inputs_as,
        timing_warnings=run.timing_warnings,
        host_bound=found.gpu_busy_ratio is not None and found.gpu_busy_ratio < LEAST_BUSY,
        execution=found.execution,
    )


def _with_differences(
    runs: Sequence[AnalysedRun], paired: _Paired, margin: float
) -> list[AnalysedRun]:
    at_least, at_most = worse_than_best(paired.sums, paired.critical)
    place = {run.name: i for i, run in enumerate(paired.runs)}
    best = int(np.argmax(paired.sums.means))
    found = []
    for run in runs:
        if (i := place.get(run.run)) is None:
            found.append(run)
            continue
        found.append(
            replace(
                run,
                at_least_worse=float(at_least[i]),
                at_most_worse=float(at_most[i]),
                sufficient=bool(100 * at_most[i] <= margin),
                versus_best=None if i == best else paired.difference(i, best),
                versus_smaller=paired.difference(i, i - 1) if i else None,
            )
        )
    return found


def _power(paired: _Paired, margin: float) -> Power:
    """What the pair of neighbours that varies most can see; questions by the two best budgets."""
    sums = paired.sums
    errors, lumps = sums.errors(), sums.lumps()
    detectable = [
        detectable_difference(errors[i, i + 1], lumps[i, i + 1], sums.images)
        for i in range(len(errors) - 1)
    ]
    best = int(np.argmax(sums.means))
    others = np.delete(np.arange(len(errors)), best)
    near = others[np.argmax(sums.means[others])]
    images = images_for_margin(
        errors[best, near], lumps[best, near], paired.critical.from_best, sums.images, margin / 100
    )
    questions = images * len(paired.scores) / sums.images
    return Power(
        detectable=max(detectable),
        questions_for_margin=None if np.isinf(questions) else int(np.ceil(questions)),
    )


def _groupings(paired: _Paired, groups: dict[str, Labels]) -> tuple[Grouping, ...]:
    best = int(np.argmax(paired.sums.means))
    return tuple(_grouping(paired, name, labels, best) for name, labels in groups.items())


def _grouping(paired: _Paired, name: str, labels: Labels, best: int) -> Grouping:
    """Accuracy by group; p-values of differences from the best run by Holm over the whole table."""
    parts = []
    for code in range(len(labels.names)):
        inside = labels.codes == code
        parts.append(replace(paired, scores=paired.scores[inside], images=paired.images[inside]))
    others = [i for i in range(len(paired.runs)) if i != best]
    testable = [part for part in parts if part.sums.images > 1]
    p_values = np.array([part.p_values[others, best] for part in testable])
    corrected = iter(holm(p_values.ravel()).reshape(p_values.shape))
    found = []
    for value, part in zip(labels.names, parts, strict=True):
        p_holm = np.full(len(paired.runs), np.nan)
        if part.sums.images > 1:
            p_holm[others] = next(corrected)
        found.append(_group(value, part, best, p_holm))
    return Grouping(name, tuple(found))


def _group(value: str, part: _Paired, best: int, p_holm: np.ndarray) -> Group:
    cells = []
    for i, run in enumerate(part.runs):
        mean = clustered_mean(part.scores[:, i], part.images, part.highest)
        compared = i != best and mean.images > 1
        low, high = mean.interval or (None, None)
        cell = GroupCell(run.name, mean.mean, low, high)
        if compared:
            difference, below, above = (float(matrix[i, best]) for matrix in part.intervals)
            cell = replace(
                cell,
                difference=difference,
                difference_low=below,
                difference_high=above,
                p_holm=float(p_holm[i]),
            )
        cells.append(cell)
    return Group(value, len(part.scores), part.sums.images, tuple(cells))


# --- times --------------------------------------------------------------------------------------


def _with_times(
    runs: Sequence[AnalysedRun], candidates: Sequence[ComparedRun], paired: _Paired | None
) -> list[AnalysedRun]:
    """Speed-ups against the best run (the largest where there is no accuracy), and the front."""
    timed = [run for run in candidates if (run.folder / files.LATENCY).exists()]
    base = candidates[-1]
    if paired is not None:
        base = paired.runs[int(np.argmax(paired.sums.means))]
    times = prefill_times([run.folder for run in timed]) if base in timed else None
    if times is None:
        return list(runs)
    drawn = bootstrap_medians(times)
    medians = np.array([np.nanmedian(own) for own in times])
    baseline = timed.index(base)
    front: list[tuple[bool | None, float | None]] = [(None, None)] * len(times)
    if paired is not None and len(paired.runs) == len(timed) == len(candidates):
        share = on_front(paired.drawn[: len(drawn)], drawn).mean(axis=0)
        seen = on_front(paired.sums.means, medians)
        front = [(bool(on), float(s)) for on, s in zip(seen, share, strict=True)]
    place = {run.name: i for i, run in enumerate(timed)}
    found = []
    for run in runs:
        if (i := place.get(run.run)) is None:
            found.append(run)
            continue
        ratio = medians[baseline] / medians[i]
        low, high = np.quantile(drawn[:, baseline] / drawn[:, i], (0.025, 0.975))
        speed_up = Ratio(
            run=run.run,
            baseline=base.name,
            ratio=float(ratio),
            low=float(low),
            high=float(high),
            n=len(times[i]),
        )
        found.append(
            replace(
                run,
                on_front=front[i][0],
                front_share=front[i][1],
                speed_up=None if i == baseline else speed_up,
            )
        )
    return found


def prefill_times(folders: Sequence[Path]) -> list[np.ndarray] | None:
    """Prefill in ms of the questions that were timed in all runs: each (questions, rounds).

    NaN where a question was timed less often. None where no two questions were timed in all.
    """
    by_run: list[dict[str, list[float]]] = []
    for folder in folders:
        times: dict[str, list[float]] = defaultdict(list)
        for row in read_latency(folder / files.LATENCY):
            times[row.sample_id].append(row.prefill_ms)
        by_run.append(times)
    common = [sample for sample in by_run[0] if all(sample in times for times in by_run)]
    if len(common) < 2:
        return None
    return [_block([times[sample] for sample in common]) for times in by_run]


def _block(rows: Sequence[Sequence[float]]) -> np.ndarray:
    block = np.full((len(rows), max(map(len, rows))), np.nan)
    for place, row in enumerate(rows):
        block[place, : len(row)] = row
    return block


# --- several series -----------------------------------------------------------------------------


def _between(
    series: Sequence[Sequence[ComparedRun]], read: dict[Path, SampleColumns]
) -> tuple[Difference, ...]:
    """The same budget in two series on one data set: the later minus the earlier.

    p-values are Holm's over all of these.
    """
    found = []
    for one, other in combinations(series, 2):
        first, second = one[0].asked, other[0].asked
        if any(getattr(first, k) != getattr(second, k) for k in ("dataset", "split", "metric")):
            continue
        of_one = {run.label: run for run in one}
        for run in other:
            twin = of_one.get(run.label)
            pair = None if twin is None else _paired([run, twin], read)
            if pair is not None and pair.sums.images > 1:
                found.append(pair.difference(0, 1))
    corrected = holm([difference.p_value for difference in found])
    return tuple(
        replace(difference, p_holm=float(p)) for difference, p in zip(found, corrected, strict=True)
    )
