"""One job: the knob values of a config on one loaded model and the same decoded images."""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vtexp.config.schema import Config
from vtexp.data.decoding import Chunk, decoded_chunks
from vtexp.data.sample import FailedSample, Sample, require_few_failed
from vtexp.errors import DataError, VtexpError, error_line
from vtexp.measure.energy import EnergyMeter, energy_counter
from vtexp.measure.monitor import Monitor, nvml_gpus
from vtexp.measure.protocol import Reference, undisturbed
from vtexp.metrics import metric
from vtexp.models.runners import runner_class
from vtexp.runs.folder import finished, record_failure, settled
from vtexp.runs.gather import gather
from vtexp.runs.identical import copy_results, originals
from vtexp.runs.plan import Plan
from vtexp.runs.planned_run import PlannedRun
from vtexp.runs.preemption import preempted
from vtexp.runs.ranks import drop_other_processes, process_path, rank_folder, record_rank_failure
from vtexp.runs.records import read_environment
from vtexp.runs.run import Measurement
from vtexp.runs.surroundings import git_state
from vtexp.utils.console import console, progress
from vtexp.utils.source import same_source
from vtexp.utils.text import percent

if TYPE_CHECKING:
    from vtexp.models.runner import Runner

#: Called with the folder of a run that has its result, and with its samples.
OnResult = Callable[[Config, Path, Sequence[Sample]], None]


def _nothing(config: Config, run: Path, samples: Sequence[Sample]) -> None:
    pass


def make_runs(plan: Plan, rank: int = 0, *, on_result: OnResult) -> None:
    """Make the runs of a plan that have no result yet, or the share that a rank has in them.

    `on_result` is called for each run that has its result, kept or new.
    """
    # One that failed since it was frozen is not made again when SLURM starts its job again.
    twins = originals(plan.runs, plan.config)
    waiting = [run for run in plan.runs if not settled(run.folder) and run.folder not in twins]
    time_in_fresh_processes(plan, waiting, rank)
    for run in plan.runs:
        if finished(run.folder) and rank == 0:
            console.print(f"{run.label}: has a result already, kept{_older_code(run)}")
            on_result(plan.config, run.folder, plan.samples)
    if waiting:
        RunsUnderWay(plan, waiting, load_runner(plan), rank, on_result=on_result).make()
    for run in copy_results(plan.runs, plan.config) if rank == 0 else []:
        console.print(f"{run.label}: the same inputs as {twins[run.folder].label}, not run again")
        on_result(plan.config, run.folder, plan.samples)


def _older_code(run: PlannedRun) -> str:
    """A remark where a kept result was made by another commit of vtexp."""
    try:
        made, now = read_environment(run.folder).git, git_state()
    except DataError as error:  # no reason not to make the others
        return f"; {error}"
    if made == now:
        return ""
    commit = made.commit[:12] if made else "an installed package"
    return f" (made by other code: {commit})"


#: The one model that this process holds, by what it was loaded from.
_loaded: dict[tuple, Runner] = {}


def load_runner(plan: Plan) -> Runner:
    """The model of a plan; a process loads it once for all jobs that want the same."""
    hardware = plan.config.hardware
    device, dtype = hardware.device.value, hardware.dtype.value
    checkpoint = plan.checkpoint
    how = (hardware.cuda_graphs, hardware.compile, hardware.preprocess, hardware.sharded)
    key = (checkpoint.folder, checkpoint.fingerprint, plan.geometry, device, dtype, *how)
    if key not in _loaded:
        _unload()  # first make room: two large models do not fit
        what = "" if plan.answers else "random weights of "
        console.print(f"loading {what}{checkpoint.name} on {device} ({dtype})")
        _loaded[key] = runner_class(checkpoint.family).load(checkpoint, plan.geometry, hardware)
    return _loaded[key]


def time_in_fresh_processes(plan: Plan, runs: Sequence[PlannedRun], rank: int) -> None:
    """Have further processes time runs that have no times of theirs: see `measure.repeats`.

    One after the other, before this process loads the model, so that it is there only once. Times
    of an earlier try on another machine, or of other code, are made again. Where a process fails,
    its times are missing, which the result says.
    """
    for number in range(1, plan.config.measure.repeats):
        folders = {run.folder: rank_folder(run.folder, rank) for run in runs}
        _unload()
        drop_other_processes(list(folders.values()), plan.config.hardware.device.value)
        wanted = [run for run, own in folders.items() if not process_path(own, number).is_file()]
        if wanted:
            console.print(
                f"timing in a fresh process, {number} of {plan.config.measure.repeats - 1}"
            )
            arguments = map(str, (number, rank, os.getpid(), *wanted))
            command = [sys.executable, "-m", "vtexp.runs.timing_process", *arguments]
            own = os.environ | same_source()
            made = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=own)
            if made.returncode:
                last = (made.stderr.strip().splitlines() or ["no word"])[-1]
                console.print(f"FAILED to time in a fresh process: {last}")


def _unload() -> None:
    """Let go of a model that an earlier job of this process loaded."""
    if _loaded:
        import torch

        _loaded.clear()
        gc.collect()
        torch.cuda.empty_cache()


class RunsUnderWay:
    """The runs of a job: timed in turns, then all answer the same images, decoded once for them.

    A run that fails is recorded and leaves; the others go on. A sample whose image turns out to be
    broken when it is decoded fails in all.
    """

    def __init__(
        self,
        plan: Plan,
        runs: Sequence[PlannedRun],
        runner: Runner,
        rank: int = 0,
        process: int = 0,
        on_result: OnResult = _nothing,
    ) -> None:
        """`process` is 0 but in the further processes of `measure.repeats`."""
        dataset = plan.config.dataset
        score = metric(dataset.metric).prepare(plan.samples) if plan.answers else None
        self.plan, self.runner, self.rank, self._process = plan, runner, rank, process
        self._on_result = on_result
        self.under_way = [Measurement(plan, run, runner, score, rank, process) for run in runs]
        self.broken: dict[int, FailedSample] = {}
        self.unrecorded: VtexpError | None = None

    def make(self) -> None:
        """Make all runs; one that fails says so and leaves its `failure.json`.

        Raises VtexpError where that could not be written.
        """
        try:
            self.time()
            if self.plan.answers:
                self._answer()
            self._each(lambda run: run.finish_part(self.broken))
            if self.rank == 0:
                self._each(self._finish)
        except Exception as error:  # of the images that all share
            if preempted.is_set():
                raise
            for measurement in self.under_way:
                if not finished(measurement.run.folder):
                    self._fail(measurement, error)
        if self.unrecorded is not None:
            raise self.unrecorded

    def time(self) -> None:
        """Time prefills of all runs in turns: each round draws their order again.

        A slow spell of the machine then touches all of them; a prefill that is repeated between
        them shows a lasting change.
        """
        measure = self.plan.config.measure
        indices = self._first_readable(measure.latency_samples)
        self._each(lambda run: run.start(indices))
        timings = [run.timing for run in self.under_way if run.timing is not None]
        if not timings:
            return
        gpus, rng = nvml_gpus(self.runner.gpus), random.Random(self.rank)
        reference = Reference(timings[0])
        total = len(timings) * len(indices) * measure.latency_repeats
        # For a GPU that NVML does not know, the processor's energy would be the wrong one.
        counter = None if self.runner.gpus and not gpus else energy_counter(gpus)
        wanted = measure.energy_seconds > 0 and not self._process
        meter = EnergyMeter(counter) if counter and wanted else None
        with undisturbed(), progress("prefill", total) as advance, Monitor(gpus) as monitor:

            def on_prefill() -> None:
                reference.tick()
                advance(1)

            while waiting := [run for run in self.under_way if run.wants_times]:
                in_turn = rng.sample(waiting, len(waiting))
                self._each(lambda run: run.time_round(on_prefill), in_turn)
        self._each(lambda run: run.note_times(monitor.report, reference, meter))

    def _each(
        self, step: Callable[[Measurement], None], runs: Sequence[Measurement] | None = None
    ) -> None:
        """Take a step with each run under way, or some: a sweep survives any failure of one run."""
        for measurement in list(self.under_way if runs is None else runs):
            try:
                step(measurement)
            except Exception as error:
                if preempted.is_set():
                    raise
                self.under_way.remove(measurement)
                self._fail(measurement, error)

    def _first_readable(self, count: int) -> list[int]:
        """Indices of the first samples whose image can be decoded."""
        found: list[int] = []
        for i, sample in enumerate(self.plan.samples):
            try:
                sample.pixels()
                found.append(i)
            except DataError as error:
                self._set_aside(i, str(error))
            if len(found) == count:
                break
        return found

    def _set_aside(self, index: int, reason: str) -> None:
        """Record a sample as failed. Raises DataError where they are more than allowed."""
        plan = self.plan
        self.broken[index] = FailedSample(plan.samples[index].sample_id, reason)
        failed, left = (*self.broken.values(), *plan.failed), len(plan.samples) - len(self.broken)
        require_few_failed(failed, left, plan.config.dataset)

    def _answer(self) -> None:
        plan, count = self.plan, len(self.under_way)
        total = len(plan.share(self.rank))
        waiting = sorted(set().union(*(run.waiting for run in self.under_way)) - set(self.broken))
        chunks = decoded_chunks(
            plan.samples,
            plan.image_sizes,
            indices=waiting,
            workers=plan.config.hardware.decode_workers,
        )
        for run in self.under_way:
            run.start_answers()
        label = "answers" if count == 1 else f"answers of {count} runs"
        kept = sum(total - len(run.waiting) for run in self.under_way)
        with progress(label, total * count, kept) as advance:
            while self.under_way and (chunk := next(chunks, None)) is not None:
                images = self._readable(chunk)
                self._each(partial(Measurement.answer, images=images, advance=advance))

    def _readable(self, chunk: Chunk) -> dict[int, np.ndarray]:
        """The images of a chunk but those that could not be decoded."""
        images: dict[int, np.ndarray] = {}
        for i, decoded in chunk.items():
            if isinstance(decoded, str):
                self._set_aside(i, decoded)
            elif i not in self.broken:
                images[i] = decoded
        return images

    def _finish(self, measurement: Measurement) -> None:
        run = measurement.run
        result = gather(self.plan, run)
        accuracy = "none" if result.accuracy is None else percent(result.accuracy, 1)
        console.print(
            f"{run.label}: {result.measured_vision_tokens:.5g} vision tokens, "
            f"accuracy {accuracy}, prefill {result.latency['prefill_ms'].mean:.1f} ms"
        )
        self._on_result(self.plan.config, run.folder, self.plan.samples)

    def _fail(self, measurement: Measurement, error: Exception) -> None:
        run = measurement.run
        console.print(f"{run.label}: FAILED: {error_line(error)}")
        if self._process:
            return
        try:
            if self.rank > 0:
                record_rank_failure(run.folder, self.rank, error)
            else:
                failed = replace(run, failed=(*run.failed, *self.broken.values()))
                record_failure(run.folder, error, failed.asked(self.plan.config))
        except VtexpError as trouble:  # the same disk, most likely
            self.unrecorded = trouble
