"""A run: latency, accuracy and counts of one knob value, written to the run's folder."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np

from vtexp import environment, measuring, records
from vtexp.batching import BatchSize
from vtexp.data.base import FailedSample, Sample, fingerprint
from vtexp.errors import CountMismatchError, VtexpError
from vtexp.geometry import Tiling, theoretical_tokens, token_layout
from vtexp.metrics import metric
from vtexp.metrics.registry import Score
from vtexp.models.runner import PreparedSample, Runner
from vtexp.planning import Plan, PlannedRun, tiling_summary
from vtexp.probe import Counts
from vtexp.progress import progress
from vtexp.statistics import clustered_mean


class Measurement:
    """One run under way: started and timed, answered part by part, then finished.

    The runs of a job are under way together, so that an image that has been decoded serves them
    all. Answers are added to the records as they come: a run that was interrupted goes on behind
    the last one. Each method raises VtexpError for what a user can mend.
    """

    def __init__(self, plan: Plan, run: PlannedRun, runner: Runner, score: Score | None) -> None:
        """`score` scores a prediction; None with random weights, whose answers mean nothing."""
        self.plan, self.run, self.runner, self._score = plan, run, runner, score
        #: Samples, from the first, that need no answer any more.
        self.position = 0
        hardware = plan.config.hardware
        self._batches = BatchSize(hardware.batch_size, hardware.auto_adjust_batch_size)
        self._samples = records.RowsFile(run.folder / records.SAMPLES)
        self._duration_s = 0.0

    def start(self, indices: Sequence[int]) -> None:
        """Write down what is measured on what, and time prefills of the samples of these indices.

        Not again where an earlier try was interrupted behind that. With random weights the timed
        samples are all there is.
        """
        folder = self.run.folder
        if self._goes_on():
            self._surroundings = records.read_json(folder / records.ENVIRONMENT)
            self._latency_rows = records.read_jsonl(folder / records.LATENCY)
            return
        with self._at_work():
            self.discard()
            (folder / records.FAILURE).unlink(missing_ok=True)
            records.write_text(folder / records.CONFIG, self.run.resolved_config(self.plan.config))
            self._surroundings = environment.describe(self.runner.device)
            self._latency_rows, other_cores = self._time(indices)
            self._surroundings["other_cores_busy"] = other_cores
            records.write_json(folder / records.ENVIRONMENT, self._surroundings)
            records.write_jsonl(folder / records.LATENCY, self._latency_rows)

    def _goes_on(self) -> bool:
        """Whether this code has timed the run, and the answers that it left are those of the first
        samples, every one; then they are kept."""
        folder = self.run.folder
        if not (folder / records.LATENCY).is_file():
            return False
        made = records.read_json(folder / records.ENVIRONMENT)["git"]
        if self._score is None or made != environment.git_state():
            return False
        answered = self._samples.go_on("sample_id")
        self.position = len(answered)
        return answered == [sample.sample_id for sample in self.plan.samples[: self.position]]

    def _time(self, indices: Sequence[int]) -> tuple[list[dict[str, Any]], float | None]:
        """Rows of the timed prefills, and the cores that other processes kept busy meanwhile."""
        plan, run, runner = self.plan, self.run, self.runner
        measure, style = plan.config.measure, plan.config.dataset.style
        samples = [plan.samples[i] for i in indices]
        timed: list[dict[str, Any]] = []

        def check(place: int, counts: Counts, length: int) -> None:
            counted = check_counts(run, samples[place], run.tilings[indices[place]], counts)
            row = _about(plan, samples[place]) | {"prediction": None, "score": None} | counted
            timed.append(row | {"sequence_length": length, "answer_tokens": 0})

        rows: list[dict[str, Any]] = []
        count = len(samples) * measure.latency_repeats
        with progress(f"{run.label} prefill", count) as advance:
            load = measuring.OtherLoad()
            for row in measuring.time_prefills(runner, samples, run.setting, style, measure, check):
                rows.append(row)
                advance(1)
            other_cores = load.cores()
        if self._score is None:
            self._samples.write(timed)
        return rows, other_cores

    def answer(self, images: Mapping[int, np.ndarray], advance: Callable[[int], None]) -> None:
        """Answer some samples, given the pixels of each by its index; `advance` hears of each.

        To be called in the order of the samples; those before `position` are left out.
        """
        plan, run, runner, score = self.plan, self.run, self.runner, self._score
        assert score is not None
        dataset = plan.config.dataset
        images = {i: pixels for i, pixels in images.items() if i >= self.position}
        # Like with like: batches of equal tilings have no padding crops, of equal lengths no
        # padding at all. Stable, so deterministic.
        order = sorted(images, key=lambda i: (run.tilings[i].num_crops, run.prompt_lengths[i]))
        rows: dict[int, dict[str, Any]] = {}
        with self._at_work(), runner.probe() as probe:

            def process(
                batch: Sequence[int],
            ) -> tuple[list[PreparedSample], list[list[int]], list[Counts]]:
                probe.reset()  # a batch that ran out of memory leaves half a count
                prepared = [
                    runner.prepare(plan.samples[i], run.setting, dataset.style, images[i])
                    for i in batch
                ]
                return prepared, runner.answer(prepared, dataset.max_new_tokens), probe.take()

            for batch, (prepared, answers, counts) in self._batches.run(order, process):
                for i, inputs, ids, counted in zip(batch, prepared, answers, counts, strict=True):
                    sample = plan.samples[i]
                    prediction = runner.tokenizer.decode(ids)
                    rows[i] = {
                        **_about(plan, sample),
                        "prediction": prediction,
                        "score": score(prediction, sample),
                        **check_counts(run, sample, run.tilings[i], counted),
                        "sequence_length": len(inputs.input_ids),
                        "answer_tokens": len(ids),
                    }
                advance(len(batch))
            self._samples.write(rows[i] for i in sorted(rows))

    def finish(self, failed: Mapping[int, FailedSample]) -> dict[str, Any]:
        """Sum up the records; `result.json` comes last and says that the run is whole.

        `failed`: samples, by index, that turned out impossible to ask. Raises VtexpError where the
        records are not of the others, each once.
        """
        plan = self.plan
        kept = [i for i in range(len(plan.samples)) if i not in failed]
        samples = [plan.samples[i] for i in kept]
        run = replace(
            self.run,
            failed=(*self.run.failed, *failed.values()),
            tilings=tuple(self.run.tilings[i] for i in kept),
            prompt_lengths=tuple(self.run.prompt_lengths[i] for i in kept),
        )
        with self._at_work():
            columns = _by_column(self._samples.rows())
            if plan.answers and columns["sample_id"] != [sample.sample_id for sample in samples]:
                raise VtexpError(
                    f"{run.folder}: the records are not those of the run's {len(samples)} samples; "
                    "does another process make the same run?"
                )
            result = summarise(plan, run, columns, self._latency_rows)
            self._samples.finish()
        other_cores = self._surroundings["other_cores_busy"]
        tokens = result["measured_vision_tokens"]
        result["samples_fingerprint"] = fingerprint(samples)
        result["warnings"] += measuring.doubts(self._latency_rows, tokens, other_cores)
        result |= {
            "other_cores_busy": other_cores,
            "batch_size": self._batches.most,
            "out_of_memory_count": self._batches.out_of_memory_count,
            "device": self._surroundings["device"]["name"],
            "duration_s": round(self._duration_s, 2),
        }
        records.write_json(run.folder / records.RESULT, result)
        return result

    def discard(self) -> None:
        """Leave no answers and no times of a run that failed."""
        self._samples.discard()
        with suppress(OSError):
            (self.run.folder / records.LATENCY).unlink()
        self.position = 0

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Adds to the seconds that this run took: those of other runs of the job are not its."""
        began = time.monotonic()
        yield
        self._duration_s += time.monotonic() - began


def _about(plan: Plan, sample: Sample) -> dict[str, Any]:
    wording = plan.checkpoint.tokenizer.form.wording
    return {
        "sample_id": sample.sample_id,
        "image_id": sample.image_id,
        "question_type": sample.question_type,
        **sample.attributes,
        "question": sample.question,
        "options": list(sample.options),
        "style": sample.style,
        "message": wording.message(sample, plan.config.dataset.style),
        "references": list(sample.references),
    }


def check_counts(
    run: PlannedRun, sample: Sample, tiling: Tiling, measured: Counts
) -> dict[str, Any]:
    """Theoretical, measured and actual counts of one sample.

    Raises CountMismatchError where the hooks counted something else than the layout predicts;
    with force_full_tokens, actual is the theoretical count then, and `actual_overridden` is true.
    """
    shown = None if measured.tiling is None else tiling  # some models do not show theirs
    theoretical = Counts(
        tiling.num_crops, theoretical_tokens(tiling.num_crops, run.geometry), shown
    )
    full = run.setting.force_full_tokens
    layout = token_layout(tiling, run.geometry, force_full_tokens=full)
    predicted = Counts(tiling.num_crops, layout.vision_tokens, shown)
    if measured != predicted and not full:
        raise CountMismatchError(
            f"sample {sample.sample_id}: the layout predicts {_text(predicted)}, but the model "
            f"read {_text(measured)}; the run's numbers would be wrong"
        )
    overridden = full and measured != theoretical
    actual = theoretical if overridden else measured
    return {
        **_columns("theoretical", theoretical),
        **_columns("measured", measured),
        **_columns("actual", actual),
        "actual_overridden": overridden,
    }


def _text(counts: Counts) -> str:
    return f"{counts.num_crops} crops ({counts.tiling}) and {counts.vision_tokens} vision tokens"


def _columns(kind: str, counts: Counts) -> dict[str, Any]:
    return {
        f"{kind}_tiling": None if counts.tiling is None else str(counts.tiling),
        f"{kind}_num_crops": counts.num_crops,
        f"{kind}_vision_tokens": counts.vision_tokens,
    }


#: Columns of the sample rows that a result is made of.
COUNTS = ("num_crops", "vision_tokens")
SUMMARISED = (
    *(f"{kind}_{count}" for kind in ("theoretical", "measured", "actual") for count in COUNTS),
    *("measured_tiling", "actual_tiling", "actual_overridden", "sequence_length"),
    *("score", "sample_id", "image_id", "question_type"),
)


def _by_column(rows: Iterable[dict[str, Any]]) -> dict[str, list[Any]]:
    """What is summarised of rows: little beside their texts, of which there may be 200 000."""
    columns: dict[str, list[Any]] = {name: [] for name in SUMMARISED}
    for row in rows:
        for name, values in columns.items():
            value = row[name]
            values.append(sys.intern(value) if isinstance(value, str) else value)
    return columns


def summarise(
    plan: Plan,
    run: PlannedRun,
    columns: Mapping[str, Sequence[Any]],
    latency_rows: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """The result of a run: what was asked first, then counts, accuracy and latency.

    `columns` are the SUMMARISED ones of the sample rows.
    """
    means = {name: fmean(columns[name]) for name in SUMMARISED if name.endswith(COUNTS)}
    tilings = {name: _tilings(columns[name]) for name in ("measured_tiling", "actual_tiling")}
    overridden = any(columns["actual_overridden"])
    warnings = list(run.warnings)
    if not plan.answers:
        warnings.append("random weights: counts and latency only, no accuracy")
    if overridden:
        warnings.append(
            "force_full_tokens: the model read other counts than the theoretical ones; actual_* "
            "are the theoretical counts, measured_* what was read"
        )
    return {
        "status": "done",
        **run.columns(plan.config),
        **means,
        **tilings,
        "actual_overridden": overridden,
        **_accuracy(
            columns["score"],
            columns["image_id"],
            columns["question_type"],
            metric(plan.config.dataset.metric).highest,
        ),
        "sequence_length": fmean(columns["sequence_length"]),
        "prefill_vision_tokens": fmean(row["vision_tokens"] for row in latency_rows),
        "latency": measuring.summarise(latency_rows),
        "inputs_fingerprint": run.inputs_fingerprint,
        "verdict": run.verdict.level,
        "warnings": warnings,
    }


def _tilings(found: Sequence[str | None]) -> str | None:
    """Summary of the tilings that the model showed, None where it shows none."""
    shown = [tiling for tiling in found if tiling is not None]
    return tiling_summary(shown) if shown else None


def _accuracy(
    scores: Sequence[float | None],
    image_ids: Sequence[str],
    question_types: Sequence[str],
    highest: float,
) -> dict[str, Any]:
    """Mean score with error and interval clustered by image, and the mean per question type.

    Scores are from 0 to `highest`. All None where nothing was answered.
    """
    answered = [score for score in scores if score is not None]
    if not answered:
        names = ("accuracy", "accuracy_standard_error", "accuracy_low", "accuracy_high")
        nothing = dict.fromkeys(names) | {"accuracy_by_question_type": {}}
        return nothing | {"num_samples": len(scores), "num_images": len(set(image_ids))}
    overall = clustered_mean(answered, image_ids, highest)
    low, high = overall.interval or (None, None)
    by_type: dict[str, list[float]] = defaultdict(list)
    for kind, score in zip(question_types, answered, strict=True):
        by_type[kind].append(score)
    return {
        "accuracy": overall.mean,
        "accuracy_standard_error": overall.standard_error,
        "accuracy_low": low,
        "accuracy_high": high,
        "num_samples": overall.n,
        "num_images": overall.images,
        "accuracy_by_question_type": {
            kind: {"accuracy": fmean(scores), "n": len(scores)}
            for kind, scores in sorted(by_type.items())
        },
    }
