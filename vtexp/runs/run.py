"""A run: latency, accuracy and counts of one knob value, written to the run's folder."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from vtexp.budget.geometry import Tiling, theoretical_tokens
from vtexp.data.sample import FailedSample, Sample, fingerprint, require_few_failed
from vtexp.errors import CountMismatchError, DataError, VtexpError
from vtexp.measure.energy import EnergyMeter
from vtexp.measure.protocol import Reference, Timing
from vtexp.measure.timings import LatencyRow
from vtexp.metrics import metric
from vtexp.metrics.registry import Score
from vtexp.models.answer_clock import AnswerClock
from vtexp.models.probe import Counts
from vtexp.runs.batching import BatchSize
from vtexp.runs.plan import Plan
from vtexp.runs.planned_run import PlannedRun
from vtexp.runs.ranks import (
    ProcessTimes,
    RankResult,
    rank_folder,
    read_processes,
    record_rank_result,
    wait_for_ranks,
)
from vtexp.runs.records import (
    AnswerTimes,
    Environment,
    ProcessTiming,
    Result,
    SampleCounts,
    SampleRow,
    read_environment,
    read_latency,
    read_samples,
    sample_from_json,
    sample_to_json,
    write,
    write_latency,
)
from vtexp.runs.result import EARLY_AND_LATE, by_column, summarise_run
from vtexp.runs.surroundings import describe
from vtexp.runs.throughput import answer_times, of_all_ranks
from vtexp.utils import environment, files
from vtexp.utils.console import ProgressFile

if TYPE_CHECKING:
    from vtexp.models.runner import PreparedSample, Runner


class Measurement:
    """One run under way in one process: started, timed, answered part by part, then finished.

    The runs of a job are under way together, so that their timed prefills are interleaved, and so
    that an image that has been decoded serves them all. Of a run with several processes
    (`hardware.gpus_per_run`) each, by its rank, answers its share of the samples and times prefills
    of the same ones; rank 0 then puts all together. Answers are added to the records as they come:
    a run that was interrupted goes on with what is missing. Each method raises VtexpError for what
    a user can mend.
    """

    def __init__(
        self,
        plan: Plan,
        run: PlannedRun,
        runner: Runner,
        score: Score | None,
        rank: int = 0,
        process: int = 0,
    ) -> None:
        """`score` scores a prediction; None with random weights, whose answers mean nothing.

        `process` is 0 but in further processes that only time: see `measure.repeats`.
        """
        self.plan, self.run, self.runner, self._score, self._rank = plan, run, runner, score, rank
        self._process = process
        hardware = plan.config.hardware
        #: Indices of the samples that this process still has to answer.
        self.waiting = set(range(rank, len(plan.samples), hardware.gpus_per_run))
        #: What is to be timed; None where times of an earlier try are kept.
        self.timing: Timing | None = None
        self._batches = BatchSize(hardware.batch_size, hardware.auto_adjust_batch_size)
        self._folder = rank_folder(run.folder, rank)
        self._answers = files.RowsFile(self._folder / files.ANSWERS)
        self._progress = ProgressFile(self._folder / files.PROGRESS)
        self._environment: Environment = describe(runner.device)
        self._duration_s = 0.0
        self._batch_times: list[AnswerTimes] = []

    def start(self, indices: Sequence[int]) -> None:
        """Get ready to time prefills of the samples of these indices: counted and warmed up.

        Answers and times of an earlier try are kept: answers of the same code, times of the same
        code on the same machine. With random weights the timed samples are all there is.
        """
        with self._at_work():
            self._environment = describe(self.runner.device)
            if self._process or not self._timed_before():
                self._warm_up(indices)

    def _timed_before(self) -> bool:
        """Whether an earlier try left times that can be kept; takes over its answers."""
        folder = self._folder
        (folder / files.RANK_RESULT).unlink(missing_ok=True)
        (folder / files.FAILURE).unlink(missing_ok=True)
        before = self._earlier_try()
        if before is None:
            self._discard()
            return False
        return before.same_machine(self._environment) and self._has_times()

    def _has_times(self) -> bool:
        """Whether there are whole times of an earlier try; damaged ones are taken again."""
        try:
            return bool(list(read_latency(self._folder / files.LATENCY)))
        except DataError:
            return False

    def _earlier_try(self) -> Environment | None:
        """What an earlier try of this code ran on; its answers are taken over; else None."""
        folder = self._folder
        if self._score is None or not (folder / files.ENVIRONMENT).is_file():
            return None
        try:
            before = read_environment(folder)
        except DataError:  # what the answers were made by is not known
            return None
        if not before.same_code(self._environment):
            return None
        places = {self.plan.samples[i].sample_id: i for i in self.waiting}
        answered = self._answers.go_on(partial(self._place_of_answer, places))
        if len(set(answered)) < len(answered):
            return None
        self.waiting -= set(answered)
        return before

    def _place_of_answer(self, places: Mapping[str, int], plain: dict[str, Any]) -> int:
        """Index of the sample that a row of an earlier try answers; `places` are theirs by id.

        Raises ValueError for a damaged row, and for one of another question, as of changed data.
        """
        row = sample_from_json(plain)
        highest = metric(self.plan.config.dataset.metric).highest * (1 + 1e-9)  # rounded sums
        if row.prediction is None or row.score is None or row.score > highest:
            raise ValueError
        i = places.get(row.sample_id)
        keys = ("image_id", "question", "references", "options")
        if i is None or any(
            getattr(row, key) != getattr(self.plan.samples[i], key) for key in keys
        ):
            raise ValueError
        return i

    def _warm_up(self, indices: Sequence[int]) -> None:
        plan, run = self.plan, self.run
        samples = [plan.samples[i] for i in indices]
        counted: list[SampleRow] = []

        def check(place: int, counts: Counts, length: int) -> None:
            found = check_counts(run, samples[place], run.tilings[indices[place]], counts)
            unanswered = {"prediction": None, "score": None, "answer_tokens": 0}
            counted.append(
                sample_row(plan, samples[place], found, sequence_length=length, **unanswered)
            )

        config = plan.config
        timing = Timing(
            self.runner,
            samples,
            run.setting,
            config.dataset.style,
            config.measure,
            rank=self._rank,
            process=self._process,
        )
        timing.count(check)
        timing.capture()
        timing.warm_up()
        self.timing = timing
        self._progress.start("prefill", len(samples) * config.measure.latency_repeats)
        if self._score is None and self._rank == 0 and not self._process:
            self._answers.write(map(sample_to_json, counted))

    @property
    def wants_times(self) -> bool:
        """Whether a further round of timed prefills is needed."""
        return self.timing is not None and not self.timing.ended

    def time_round(self, on_prefill: Callable[[], None]) -> None:
        """Time each sample once; `on_prefill` is called after each."""
        assert self.timing is not None

        def advance() -> None:
            on_prefill()
            self._progress.advance(1)

        with self._at_work():
            self.timing.round(advance)

    def note_times(
        self,
        monitor: dict[str, Any],
        reference: Reference,
        meter: EnergyMeter | None,
    ) -> None:
        """Write down the times, and what the machine did meanwhile.

        `monitor` is what a `Monitor` saw; the energy of prefills is taken now.
        """
        timing, seconds = self.timing, self.plan.config.measure.energy_seconds
        if timing is None:
            return
        with self._at_work():
            timing.note_memory()
            timing.note_busy()
            about = timing.about | {
                "monitor": monitor,
                "reference": reference.rows,
                "reference_failure": reference.failure,
            }
            if meter is not None:
                about |= meter.measure(timing.prefills_alone(), self.runner.wait, seconds)
        here, rows = self._environment, timing.rows
        own = ProcessTiming(
            rank=self._rank, process=self._process, host=here.host, device=here.device, timing=about
        )
        here = replace(here, processes=(own,))
        if self._process:
            ProcessTimes(environment=here, rows=tuple(rows)).write(self._folder, self._process)
            return
        # Times come last: those that are there are of this environment.
        (self._folder / files.LATENCY).unlink(missing_ok=True)
        write(self._folder / files.ENVIRONMENT, here)
        write_latency(self._folder / files.LATENCY, rows)

    def start_answers(self) -> None:
        """Report that prefills are timed and answers follow, except those of an earlier try."""
        plan = self.plan
        total = len(range(self._rank, len(plan.samples), plan.config.hardware.gpus_per_run))
        self._progress.start("answers", total, total - len(self.waiting))

    def answer(self, images: Mapping[int, np.ndarray], advance: Callable[[int], None]) -> None:
        """Answer those samples that wait for it, given the pixels of some by their index.

        `advance` is called after each batch.
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
                began_s = time.perf_counter()
                prepared = [
                    runner.prepare(plan.samples[i], run.setting, dataset.style, images[i])
                    for i in batch
                ]
                runner.wait()
                preprocess_s, clock = time.perf_counter() - began_s, AnswerClock(runner.wait)
                answers = runner.answer(prepared, dataset.max_new_tokens, clock)
                counts = probe.take()
                self._note_batch(counts, preprocess_s, clock)
                return prepared, answers, counts

            for batch, (prepared, answers, counts) in self._batches.run(order, process):
                rows = []
                for i, inputs, ids, counted in zip(batch, prepared, answers, counts, strict=True):
                    sample = plan.samples[i]
                    prediction = runner.tokenizer.decode(ids)
                    found = check_counts(run, sample, run.tilings[i], counted)
                    row = sample_row(
                        plan,
                        sample,
                        found,
                        prediction=prediction,
                        score=score(prediction, sample),
                        sequence_length=inputs.sequence_length,
                        answer_tokens=len(ids),
                    )
                    rows.append(sample_to_json(row))
                # Batch by batch: what is scored stays so, whenever the process ends.
                self._answers.write(rows)
                self.waiting.difference_update(batch)
                advance(len(batch))
                self._progress.advance(len(batch))

    def _note_batch(
        self, counts: Sequence[Counts], preprocess_s: float, clock: AnswerClock
    ) -> None:
        self._batch_times.append(
            AnswerTimes(
                batch_size=len(counts),
                samples=len(counts),
                preprocess_s=preprocess_s,
                prefill_s=clock.prefill_s,
                decode_s=clock.decode_s,
                vision_tokens=fmean(own.vision_tokens for own in counts),
            )
        )

    def finish_part(self, broken: Mapping[int, FailedSample]) -> None:
        """This process has answered all that it could but `broken`, samples by index."""
        self._answers.finish()
        result = RankResult(
            start=environment.attempt(),
            broken={str(index): failed.reason for index, failed in broken.items()},
            batch_size=self._batches.most,
            out_of_memory_count=self._batches.out_of_memory_count,
            duration_s=round(self._duration_s, 2),
            answer_times=answer_times(self._batch_times),
        )
        record_rank_result(self._folder, result)

    def finish(self) -> Result:
        """Put what all ranks did together; `result.json` comes last: the run is whole.

        Raises VtexpError where a rank failed, or the records are not of all samples, each once.
        """
        plan, run = self.plan, self.run
        folders = [
            rank_folder(run.folder, rank) for rank in range(plan.config.hardware.gpus_per_run)
        ]
        ranks = wait_for_ranks(folders)
        broken = self._broken(ranks)
        latency_rows, surroundings = self._gather_times(folders)
        kept = [i for i in range(len(plan.samples)) if i not in broken]
        if not plan.answers:
            timed = {row.sample_id for row in latency_rows}
            kept = [i for i in kept if plan.samples[i].sample_id in timed]
        samples = [plan.samples[i] for i in kept]
        self._merge_answers(folders, samples)
        write_latency(run.folder / files.LATENCY, latency_rows)
        write(run.folder / files.ENVIRONMENT, surroundings)
        run = replace(
            run,
            failed=(*run.failed, *broken.values()),
            tilings=tuple(run.tilings[i] for i in kept),
            prompt_lengths=tuple(run.prompt_lengths[i] for i in kept),
        )
        result = summarise_run(
            plan,
            run,
            by_column(read_samples(run.folder / files.SAMPLES)),
            latency_rows,
            surroundings,
            samples_fingerprint=fingerprint(samples),
            batch_size=max(rank.batch_size for rank in ranks),
            answer_times=of_all_ranks([rank.answer_times for rank in ranks]),
            out_of_memory_count=sum(rank.out_of_memory_count for rank in ranks),
            duration_s=max(rank.duration_s for rank in ranks),
        )
        (run.folder / files.FAILURE).unlink(missing_ok=True)
        write(run.folder / files.RESULT, result)
        shutil.rmtree(run.folder / files.RANKS, ignore_errors=True)
        return result

    def _merge_answers(self, folders: Sequence[Path], samples: Sequence[Sample]) -> None:
        """Write samples.jsonl from the answers of all ranks; of random weights rank 0 has all."""
        folder = self.run.folder
        answers = [own / files.ANSWERS for own in (folders if self.plan.answers else folders[:1])]
        ids = [sample.sample_id for sample in samples]
        try:
            files.merge_rows(answers, folder / files.SAMPLES, "sample_id", ids)
        except DataError:  # they would fail the next try as well
            shutil.rmtree(folder / files.RANKS, ignore_errors=True)
            raise

    def _broken(self, ranks: Sequence[RankResult]) -> dict[int, FailedSample]:
        """Samples by index whose image turned out to be broken, in any rank.

        Raises DataError where they are more than allowed.
        """
        plan = self.plan
        reasons = {int(i): why for rank in ranks for i, why in rank.broken.items()}
        broken = {i: FailedSample(plan.samples[i].sample_id, reasons[i]) for i in sorted(reasons)}
        dataset = plan.config.dataset
        require_few_failed(
            (*broken.values(), *plan.failed),
            dataset.max_failed,
            len(plan.samples) - len(broken),
            dataset.name,
        )
        return broken

    def _gather_times(self, folders: Sequence[Path]) -> tuple[list[LatencyRow], Environment]:
        """Timings of all processes of all ranks, and rank 0's environment with how each timed."""
        rows: list[LatencyRow] = []
        processes: list[ProcessTiming] = []
        for folder in folders:
            first = read_environment(folder)
            rows += read_latency(folder / files.LATENCY)
            processes += first.processes
            for times in read_processes(folder).values():
                rows += times.rows
                processes += times.environment.processes
        if len({process.host for process in processes}) > 1:
            raise VtexpError(f"{self.run.folder}: its ranks were timed on several nodes")
        return rows, replace(read_environment(self._folder), processes=tuple(processes))

    def _discard(self) -> None:
        """Leave no answers and no times of an earlier try that were not made in this way."""
        self._answers.discard()
        with suppress(OSError):
            (self._folder / files.LATENCY).unlink()

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Adds to the seconds that this run took; excludes time spent on the job's other runs."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._duration_s += time.monotonic() - began


def sample_row(plan: Plan, sample: Sample, counts: SampleCounts, **answer: Any) -> SampleRow:
    """The record of a sample: as it was asked, its counts, and the fields of its answer."""
    wording = plan.checkpoint.tokenizer.form.wording
    return SampleRow(
        sample_id=sample.sample_id,
        image_id=sample.image_id,
        question_type=sample.question_type,
        attributes=sample.attributes,
        question=sample.question,
        options=tuple(sample.options),
        style=sample.style,
        message=wording.message(sample, plan.config.dataset.style),
        references=tuple(sample.references),
        **asdict(counts),
        **answer,
    )


def check_counts(run: PlannedRun, sample: Sample, tiling: Tiling, measured: Counts) -> SampleCounts:
    """Theoretical, measured and actual counts of one sample.

    Raises CountMismatchError if the hooks counted anything but what the layout predicts; with
    force_full_tokens, actual is the theoretical count then, and `actual_overridden` is true.
    """
    shown = None if measured.tiling is None else tiling  # some models do not show theirs
    theoretical = Counts(
        tiling.num_crops, theoretical_tokens(tiling.num_crops, run.geometry), shown
    )
    full = run.setting.force_full_tokens
    predicted = Counts(tiling.num_crops, run.predicted_tokens(tiling), shown, run.by_block(tiling))
    if measured != predicted and not full:
        raise CountMismatchError(
            f"sample {sample.sample_id}: the layout predicts {_text(predicted)}, but the model "
            f"read {_text(measured)}; the run's numbers would be wrong"
        )
    asked = run.setting.behind_connector
    reduced = asked is not None
    if reduced and measured != predicted:
        raise CountMismatchError(
            f"sample {sample.sample_id}: a reduction to {_text(predicted)} left {_text(measured)}; "
            "the run's numbers would be wrong"
        )
    overridden = full and not reduced and measured != theoretical
    actual = theoretical if overridden else measured
    kinds = {"theoretical": theoretical, "measured": measured, "actual": actual}
    columns = {key: value for kind, own in kinds.items() for key, value in _columns(kind, own)}
    if asked is not None and asked.layer is not None:
        ends = measured.by_block or (int(measured.vision_tokens),)
        columns |= dict(zip(EARLY_AND_LATE, (ends[0], ends[-1]), strict=True))
    return SampleCounts(**columns, actual_overridden=overridden)


def _text(counts: Counts) -> str:
    crops = f"{counts.num_crops} crops ({counts.tiling})"
    blocks = f" (by block: {', '.join(map(str, counts.by_block))})" if counts.by_block else ""
    return f"{crops} and {counts.vision_tokens:.5g} vision tokens{blocks}"


def _columns(kind: str, counts: Counts) -> Iterator[tuple[str, Any]]:
    yield f"{kind}_tiling", None if counts.tiling is None else str(counts.tiling)
    yield f"{kind}_num_crops", counts.num_crops
    yield f"{kind}_vision_tokens", counts.vision_tokens
