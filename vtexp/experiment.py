"""A run: latency, accuracy and counts of one knob value, written to the run's folder."""

from __future__ import annotations

import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from vtexp import environment, measuring, records
from vtexp.batching import BatchSize
from vtexp.data.base import FailedSample, Sample, fingerprint, require_few_failed
from vtexp.errors import CountMismatchError, VtexpError, error_line
from vtexp.geometry import Tiling, theoretical_tokens, token_layout
from vtexp.metrics import metric
from vtexp.metrics.registry import Score
from vtexp.models.runner import PreparedSample, Runner
from vtexp.planning import Plan, PlannedRun, tiling_summary
from vtexp.probe import Counts
from vtexp.progress import ProgressFile, progress
from vtexp.statistics import clustered_mean

#: A rank that has changed no file for so long is taken for dead; loading a large model is slow.
SILENT_S = 3600


class Measurement:
    """One run under way in one process: started and timed, answered part by part, then finished.

    The runs of a job are under way together, so that an image that has been decoded serves them
    all. Of a run with several processes (`hardware.gpus_per_run`) each, by its rank, answers its
    share of the samples and times prefills of the same ones; rank 0 then puts all together. Answers
    are added to the records as they come: a run that was interrupted goes on with what is missing.
    Each method raises VtexpError for what a user can mend.
    """

    def __init__(
        self, plan: Plan, run: PlannedRun, runner: Runner, score: Score | None, rank: int = 0
    ) -> None:
        """`score` scores a prediction; None with random weights, whose answers mean nothing."""
        self.plan, self.run, self.runner, self._score, self._rank = plan, run, runner, score, rank
        hardware = plan.config.hardware
        #: Indices of the samples that this process still has to answer.
        self.waiting = set(range(rank, len(plan.samples), hardware.gpus_per_run))
        self._batches = BatchSize(hardware.batch_size, hardware.auto_adjust_batch_size)
        self._folder = _share_folder(run, rank)
        self._answers = records.RowsFile(self._folder / records.ANSWERS)
        self._progress = ProgressFile(self._folder / records.PROGRESS)
        self._duration_s = 0.0

    def start(self, indices: Sequence[int]) -> None:
        """Write down what is measured on what, and time prefills of the samples of these indices.

        Answers and times of an earlier try are kept: answers of the same code, times of the same
        code on the same machine. With random weights the timed samples are all there is.
        """
        folder = self._folder
        with self._at_work():
            (folder / records.SHARE).unlink(missing_ok=True)
            (folder / records.FAILURE).unlink(missing_ok=True)
            surroundings = environment.describe(self.runner.device)
            before = self._earlier_try(surroundings)
            if before is None:
                self.discard()
            timed = (folder / records.LATENCY).is_file()
            if before is None or not timed or not same_machine(before, surroundings):
                self._time(indices, surroundings)
        self._progress.start("answers", len(self.waiting))

    def _earlier_try(self, surroundings: dict[str, Any]) -> dict[str, Any] | None:
        """Surroundings of an earlier try of this code, whose answers are taken over; else None."""
        folder = self._folder
        if self._score is None or not (folder / records.ENVIRONMENT).is_file():
            return None
        before = records.read_json(folder / records.ENVIRONMENT)
        if before["git"] != surroundings["git"]:
            return None
        index = {self.plan.samples[i].sample_id: i for i in self.waiting}
        answered = self._answers.go_on("sample_id")
        if len(set(answered)) < len(answered) or not index.keys() >= set(answered):
            return None
        self.waiting -= {index[sample_id] for sample_id in answered}
        return before

    def _time(self, indices: Sequence[int], surroundings: dict[str, Any]) -> None:
        """Time prefills; `surroundings` learn how many cores others kept busy meanwhile."""
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
        self._progress.start("prefill", count)
        with progress(f"{run.label} prefill", count) as advance:
            load = measuring.OtherLoad()
            for row in measuring.time_prefills(runner, samples, run.setting, style, measure, check):
                rows.append({"rank": self._rank} | row)
                advance(1)
                self._progress.advance(1)
            surroundings["other_cores_busy"] = load.cores()
        if self._score is None and self._rank == 0:
            self._answers.write(timed)
        # Times come last: those that are there are of these surroundings.
        (self._folder / records.LATENCY).unlink(missing_ok=True)
        records.write_json(self._folder / records.ENVIRONMENT, surroundings)
        records.write_jsonl(self._folder / records.LATENCY, rows)

    def answer(self, images: Mapping[int, np.ndarray], advance: Callable[[int], None]) -> None:
        """Answer those samples that wait for it, given the pixels of some by their index.

        `advance` hears of each batch.
        """
        plan, run, runner, score = self.plan, self.run, self.runner, self._score
        assert score is not None
        dataset = plan.config.dataset
        # Like with like: batches of equal tilings have no padding crops, of equal lengths no
        # padding at all. Stable, so deterministic.
        order = sorted(
            (i for i in images if i in self.waiting),
            key=lambda i: (run.tilings[i].num_crops, run.prompt_lengths[i]),
        )
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
                rows = []
                for i, inputs, ids, counted in zip(batch, prepared, answers, counts, strict=True):
                    sample = plan.samples[i]
                    prediction = runner.tokenizer.decode(ids)
                    rows.append(
                        {
                            **_about(plan, sample),
                            "prediction": prediction,
                            "score": score(prediction, sample),
                            **check_counts(run, sample, run.tilings[i], counted),
                            "sequence_length": len(inputs.input_ids),
                            "answer_tokens": len(ids),
                        }
                    )
                # Batch by batch: what is scored stays so, whenever the process ends.
                self._answers.write(rows)
                self.waiting.difference_update(batch)
                advance(len(batch))
                self._progress.advance(len(batch))

    def finish_share(self, broken: Mapping[int, FailedSample]) -> None:
        """This process has answered all that it could but `broken`, samples by index."""
        self._answers.finish()
        share = {
            "attempt": environment.attempt(),
            "broken": {str(index): failed.reason for index, failed in broken.items()},
            "batch_size": self._batches.most,
            "out_of_memory_count": self._batches.out_of_memory_count,
            "duration_s": round(self._duration_s, 2),
        }
        records.write_json(self._folder / records.SHARE, share)

    def finish(self) -> dict[str, Any]:
        """Put the shares of all ranks together; `result.json` comes last: the run is whole.

        Raises VtexpError where a rank failed, or the records are not of all samples, each once.
        """
        plan, run = self.plan, self.run
        folders = [_share_folder(run, rank) for rank in range(plan.config.hardware.gpus_per_run)]
        surroundings = records.read_json(self._folder / records.ENVIRONMENT)
        shares = wait_for_shares(folders)
        broken = {
            int(index): FailedSample(plan.samples[int(index)].sample_id, reason)
            for share in shares
            for index, reason in share["broken"].items()
        }
        failed = [broken[index] for index in sorted(broken)]
        require_few_failed(
            (*failed, *plan.failed),
            plan.config.dataset.max_failed,
            len(plan.samples) - len(failed),
            plan.config.dataset.name,
        )
        latency_rows = [row for f in folders for row in records.read_jsonl(f / records.LATENCY)]
        kept = [i for i in range(len(plan.samples)) if i not in broken]
        if not plan.answers:
            timed = {row["sample_id"] for row in latency_rows}
            kept = [i for i in kept if plan.samples[i].sample_id in timed]
        samples = [plan.samples[i] for i in kept]
        order = [sample.sample_id for sample in samples]
        answers = [folder / records.ANSWERS for folder in folders]
        if not plan.answers:
            answers = answers[:1]
        records.merge_rows(answers, run.folder / records.SAMPLES, "sample_id", order)
        records.write_jsonl(run.folder / records.LATENCY, latency_rows)
        surroundings["ranks"] = [
            {key: found[key] for key in ("host", "device", "other_cores_busy")}
            for found in (records.read_json(f / records.ENVIRONMENT) for f in folders)
        ]
        if len({rank["host"] for rank in surroundings["ranks"]}) > 1:
            raise VtexpError(f"{run.folder}: its ranks were timed on several nodes")
        records.write_json(run.folder / records.ENVIRONMENT, surroundings)
        run = replace(
            run,
            failed=(*run.failed, *failed),
            tilings=tuple(run.tilings[i] for i in kept),
            prompt_lengths=tuple(run.prompt_lengths[i] for i in kept),
        )
        columns = _by_column(records.rows_of(run.folder / records.SAMPLES))
        result = summarise(plan, run, columns, latency_rows)
        busy = [rank["other_cores_busy"] for rank in surroundings["ranks"]]
        other_cores = max((cores for cores in busy if cores is not None), default=None)
        tokens = result["measured_vision_tokens"]
        result["samples_fingerprint"] = fingerprint(samples)
        result["warnings"] += measuring.doubts(latency_rows, tokens, other_cores)
        result |= {
            "prefill_ms_by_rank": measuring.median_by_rank(latency_rows),
            "other_cores_busy": other_cores,
            "batch_size": max(share["batch_size"] for share in shares),
            "out_of_memory_count": sum(share["out_of_memory_count"] for share in shares),
            "device": surroundings["device"]["name"],
            "duration_s": max(share["duration_s"] for share in shares),
        }
        (run.folder / records.FAILURE).unlink(missing_ok=True)
        records.write_json(run.folder / records.RESULT, result)
        shutil.rmtree(run.folder / records.RANKS, ignore_errors=True)
        return result

    def discard(self) -> None:
        """Leave no answers and no times of a run that failed."""
        self._answers.discard()
        with suppress(OSError):
            (self._folder / records.LATENCY).unlink()

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Adds to the seconds that this run took: those of other runs of the job are not its."""
        began = time.monotonic()
        yield
        self._duration_s += time.monotonic() - began


def _share_folder(run: PlannedRun, rank: int) -> Path:
    """Where a process of a run keeps what it has so far."""
    return run.folder / records.RANKS / str(rank)


def same_machine(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether times of two surroundings can be taken together."""
    return all(one[key] == other[key] for key in ("host", "device"))


def wait_for_shares(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """The shares of all ranks, of this start of the job, as soon as all are there.

    Raises VtexpError where one failed, or none of its files has changed for `SILENT_S`.
    """
    shares: list[dict[str, Any]] = []
    for rank, folder in enumerate(folders):
        began = time.time()
        while (share := _of_this_start(folder / records.SHARE)) is None:
            if (failed := _of_this_start(folder / records.FAILURE)) is not None:
                raise VtexpError(f"rank {rank}: {failed['error']}")
            if time.time() - max(began, _last_change(folder)) > SILENT_S:
                raise VtexpError(
                    f"rank {rank}: nothing heard of it for {SILENT_S // 60} min; see its log"
                )
            time.sleep(0.2)
        shares.append(share)
    return shares


def _of_this_start(path: Path) -> dict[str, Any] | None:
    """What a rank wrote since this job was started, None if there is nothing yet."""
    if not path.is_file():
        return None
    row = records.read_json(path)
    return row if row["attempt"] == environment.attempt() else None


def record_rank_failure(folder: Path, rank: int, error: BaseException) -> None:
    """Leave word in a run's folder that a rank failed, for rank 0 to find."""
    row = {"attempt": environment.attempt(), "error": error_line(error)}
    records.write_json(folder / records.RANKS / str(rank) / records.FAILURE, row)


def _last_change(folder: Path) -> float:
    """Time of the newest file of a folder, 0 if there is none."""
    try:
        return max((path.stat().st_mtime for path in folder.iterdir()), default=0.0)
    except OSError:
        return 0.0


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
