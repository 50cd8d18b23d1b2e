"""A run under way: latency, counts and answers of one knob value, written to the run's folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vtexp.data.sample import FailedSample
from vtexp.errors import DataError
from vtexp.measure.energy import EnergyMeter
from vtexp.measure.protocol import Reference, Timing
from vtexp.metrics import metric
from vtexp.metrics.registry import Score
from vtexp.models.answer_clock import AnswerClock
from vtexp.models.probe import Counts, Probe
from vtexp.runs.batching import BatchSize
from vtexp.runs.plan import Plan
from vtexp.runs.planned_run import PlannedRun
from vtexp.runs.ranks import (
    ProcessTimes,
    RankResult,
    rank_folder,
    record_rank_result,
)
from vtexp.runs.records import (
    AnswerTimes,
    Environment,
    ProcessTiming,
    SampleRow,
    read_environment,
    read_latency,
    sample_from_json,
    sample_to_json,
    write,
    write_latency,
)
from vtexp.runs.sample_rows import check_counts, sample_row
from vtexp.runs.surroundings import describe
from vtexp.runs.throughput import TimedBatch, answer_times
from vtexp.utils import environment, files
from vtexp.utils.console import ProgressFile

if TYPE_CHECKING:
    from vtexp.models.runner import Runner


class _Answered(NamedTuple):
    """What the model made of a sample: its answer's ids, its prompt's tokens, and its counts."""

    ids: list[int]
    sequence_length: int
    counts: Counts


class Measurement:
    """One run under way in one process: started, timed, answered part by part, then finished.

    The runs of a job are under way together, so that their timed prefills are interleaved, and so
    that an image that has been decoded serves them all. Where a run has several processes
    (`hardware.gpus_per_run`), each answers its rank's share of the samples and times prefills of
    the same ones; `gather` then puts all together. Answers are added to the records as they come: a
    run that was interrupted goes on with what is missing. Each method raises VtexpError for what a
    user can mend.
    """

    def __init__(
        self,
        plan: Plan,
        run: PlannedRun,
        runner: Runner,
        score: Score | None,
        rank: int,
        process: int,
    ) -> None:
        """`score` scores a prediction; None with random weights, whose answers mean nothing.

        `process` is 0 but in further processes that only time: see `measure.repeats`.
        """
        self.plan, self.run, self.runner, self._score, self._rank = plan, run, runner, score, rank
        self._process = process
        hardware = plan.config.hardware
        #: Indices of the samples that this process still has to answer.
        self.waiting = set(plan.share(rank))
        #: What is to be timed; None where times of an earlier try are kept.
        self.timing: Timing | None = None
        self._batches = BatchSize(hardware.batch_size, hardware.auto_adjust_batch_size)
        self._folder = rank_folder(run.folder, rank)
        self._answers = files.RowsFile(self._folder / files.ANSWERS)
        self._progress = ProgressFile(self._folder / files.PROGRESS)
        self._environment: Environment = describe(runner.device)
        self._duration_s = 0.0
        self._batch_times: list[TimedBatch] = []

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
        total = len(self.plan.share(self._rank))
        self._progress.start("answers", total, total - len(self.waiting))

    def answer(self, images: Mapping[int, np.ndarray], advance: Callable[[int], None]) -> None:
        """Answer those samples that wait for it, given the pixels of some by their index.

        `advance` is called after each batch.
        """
        run = self.run
        # Like with like: batches of equal tilings have no padding crops, of equal lengths no
        # padding at all. Stable, so deterministic.
        order = sorted(
            (i for i in images if i in self.waiting),
            key=lambda i: (run.tilings[i].num_crops, run.prompt_lengths[i]),
        )
        with self._at_work(), self.runner.probe() as probe:
            process = partial(self._answer_batch, probe, images)
            for batch, answered in self._batches.run(order, process):
                rows = [self._row(i, own) for i, own in zip(batch, answered, strict=True)]
                # Batch by batch: what is scored stays so, whenever the process ends.
                self._answers.write(map(sample_to_json, rows))
                self.waiting.difference_update(batch)
                advance(len(batch))
                self._progress.advance(len(batch))

    def _answer_batch(
        self, probe: Probe, images: Mapping[int, np.ndarray], batch: Sequence[int]
    ) -> list[_Answered]:
        plan, runner, dataset = self.plan, self.runner, self.plan.config.dataset
        probe.reset()  # a batch that ran out of memory leaves half a count
        began_s = time.perf_counter()
        prepared = [
            runner.prepare(plan.samples[i], self.run.setting, dataset.style, images[i])
            for i in batch
        ]
        runner.wait()
        preprocess_s, clock = time.perf_counter() - began_s, AnswerClock(runner.wait)
        answers = runner.answer(prepared, dataset.max_new_tokens, clock)
        counts = probe.take()
        self._note_batch(counts, preprocess_s, clock)
        lengths = [own.sequence_length for own in prepared]
        return [_Answered(*own) for own in zip(answers, lengths, counts, strict=True)]

    def _row(self, index: int, answered: _Answered) -> SampleRow:
        """The record of an answer, scored; its counts are checked."""
        assert self._score is not None
        sample, run = self.plan.samples[index], self.run
        prediction = self.runner.tokenizer.decode(answered.ids)
        return sample_row(
            self.plan,
            sample,
            check_counts(run, sample, run.tilings[index], answered.counts),
            prediction=prediction,
            score=self._score(prediction, sample),
            sequence_length=answered.sequence_length,
            answer_tokens=len(answered.ids),
        )

    def _note_batch(
        self, counts: Sequence[Counts], preprocess_s: float, clock: AnswerClock
    ) -> None:
        times = AnswerTimes(
            batch_size=len(counts),
            samples=len(counts),
            preprocess_s=preprocess_s,
            prefill_s=clock.prefill_s,
            decode_s=clock.decode_s,
            vision_tokens=fmean(own.vision_tokens for own in counts),
        )
        self._batch_times.append(TimedBatch(times, clock.replayed))

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
