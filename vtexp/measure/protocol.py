"""The protocol of timing prefills: counted, warmed up, then in rounds until well known.

docs/measuring.md says why each step is there.
"""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from statistics import median
from typing import TYPE_CHECKING, Any

from vtexp.budget.knobs import CropSetting
from vtexp.config.schema import MeasureConfig
from vtexp.data.sample import Sample
from vtexp.errors import error_line
from vtexp.measure.summary import half_width
from vtexp.measure.timings import LatencyRow, TimedQuestion
from vtexp.models.probe import Counts
from vtexp.stats.trend import LEAST_ROUNDS, settled

if TYPE_CHECKING:
    from vtexp.models.runner import Runner

#: Warm-up ends after this many rounds even if times still fall.
MOST_WARM_UP_ROUNDS = 20
#: Timed prefills between two of the reference point.
REFERENCE_EVERY = 4
#: Timings are judged again when there are this many times more.
JUDGED_EVERY = 1.25


@contextmanager
def undisturbed() -> Iterator[None]:
    """No garbage collection meanwhile, and none later of what is there now.

    A collection walks over all objects of a process that holds torch and a plan, in the middle of a
    prefill.
    """
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
        gc.unfreeze()


class Timing:
    """Prefills of one knob value in one process: the same samples, each timed equally often."""

    _warm = False  # whether this process has made a pass

    def __init__(
        self,
        runner: Runner,
        samples: Sequence[Sample],
        setting: CropSetting,
        style: str,
        measure: MeasureConfig,
        *,
        rank: int = 0,
        process: int = 0,
    ) -> None:
        """`rank` and `process`: which of a run's processes this is, as its rows say."""
        self._runner, self._samples, self._measure = runner, samples, measure
        self._asked, self._rank, self._process = (setting, style), rank, process
        self._counted: list[TimedQuestion] = []
        self._seconds, self._judged = 0.0, 0
        #: Whether no more rounds are needed.
        self.ended = False
        #: One row of counts and stage times per timed prefill.
        self.rows: list[LatencyRow] = []
        #: Facts about all of them, JSON-ready.
        self.about: dict[str, Any] = {}

    def count(self, check: Callable[[int, Counts, int], None]) -> None:
        """One untimed pass per sample in which hooks count what it reads.

        `check` is given the sample's index, counts and prompt length. Before it, the very first
        pass of the process is the cold one, whose time is kept apart.
        """
        self.about["cold_ttft_ms"] = self._cold_ttft_ms()
        with self._runner.probe() as probe:
            for index, sample in enumerate(self._samples):
                self._runner.eager_prefill(sample, *self._asked)
                (counts,) = probe.take()
                length = self._runner.prepare(sample, *self._asked).sequence_length
                check(index, counts, length)
                self._counted.append(
                    TimedQuestion(
                        rank=self._rank,
                        process=self._process,
                        sample_id=sample.sample_id,
                        tiling=None if counts.tiling is None else str(counts.tiling),
                        num_crops=counts.num_crops,
                        vision_tokens=counts.vision_tokens,
                        sequence_length=length,
                    )
                )

    def capture(self) -> None:
        """Have the samples' shapes captured as CUDA graphs, where the hardware asks for them."""
        for sample in self._samples:
            self._runner.capture(sample, *self._asked)

    def _cold_ttft_ms(self) -> float | None:
        """Time to first token of the process's first pass of all; None if that was before."""
        if Timing._warm:
            return None
        Timing._warm = True
        return self._runner.timed_prefill(self._samples[0], *self._asked).ttft_ms

    def warm_up(self) -> None:
        """Rounds over one sample of each shape, until their times stop falling."""
        least = self._measure.warmup_repeats
        self.about["warm_up_rounds"] = 0
        self.about["warm"] = True
        if least == 0:
            return
        shapes, began = self._one_of_each_shape(), time.monotonic()
        times: dict[int, list[float]] = defaultdict(list)
        for number in range(1, MOST_WARM_UP_ROUNDS + 1):
            for index in shapes:
                spent = self._runner.timed_prefill(self._samples[index], *self._asked)
                times[index].append(spent.prefill_ms)
            self.about["warm_up_rounds"] = number
            self.about["warm"] = settled(list(times.values()))
            long = time.monotonic() - began > self._measure.max_seconds
            if number >= max(least, LEAST_ROUNDS) and (self.about["warm"] or long):
                break
        if self._measure.decode_tokens:
            self._runner.timed_decode(self._samples[0], *self._asked, self._measure.decode_tokens)

    def _one_of_each_shape(self) -> list[int]:
        """Indices of the first sample of each number of crops and prompt length."""
        first: dict[tuple[Any, ...], int] = {}
        for index, row in enumerate(self._counted):
            shape = (row.num_crops, row.tiling, row.sequence_length)
            first.setdefault(shape, index)
        return list(first.values())

    def note_memory(self) -> None:
        """Peaks of one pass of the longest prompt, by stage, and over all stages."""
        lengths = [row.sequence_length for row in self._counted]
        longest = self._samples[lengths.index(max(lengths))]
        by_stage = self._runner.prefill_memory(longest, *self._asked)
        kinds = {kind for peaks in by_stage.values() for kind in peaks}
        graphs = self._runner.graphs
        self.about["graph_memory_mib"] = None if graphs is None else graphs.memory_mib
        self.about["graph_failure"] = self._runner.graph_failure
        self.about["compiled"] = self._runner.compiled
        self.about["memory_by_stage"] = by_stage
        self.about["memory_peak_mib"] = {
            kind: max(peaks[kind] for peaks in by_stage.values()) for kind in sorted(kinds)
        }

    def note_busy(self) -> None:
        """Share of a prefill's time in which the GPU is at work; None without a GPU.

        Time of the kernels of one profiled pass over the middle sample, over the median of its
        prefills, which were timed without the profiler.
        """
        sample = self.middle_sample
        kernels_ms = self._runner.kernels_ms(sample, *self._asked)
        times = [row.prefill_ms for row in self.rows if row.sample_id == sample.sample_id]
        self.about["gpu_busy_ratio"] = None if kernels_ms is None else kernels_ms / median(times)

    def round(self, on_prefill: Callable[[], None]) -> None:
        """Time each sample once; `on_prefill` is called after each."""
        number = self.rounds
        for sample, counted in zip(self._samples, self._counted, strict=True):
            times = self._runner.timed_prefill(sample, *self._asked)
            self._seconds += times.ttft_ms / 1000
            decode_ms = None
            if self._measure.decode_tokens:
                decode_ms = self._runner.timed_decode(
                    sample, *self._asked, self._measure.decode_tokens
                )
            asked = asdict(replace(counted, repeat=number))
            self.rows.append(LatencyRow(**asked, **asdict(times), decode_ms_per_token=decode_ms))
            on_prefill()
        self.ended = self._well_known()

    @property
    def rounds(self) -> int:
        """How often each sample has been timed."""
        return len(self.rows) // len(self._samples)

    def _well_known(self) -> bool:
        """Whether the stopping rule is met: rounds, seconds and the interval's width, or the cap.

        Notes in `about` which one was met.
        """
        measure = self._measure
        if self.rounds < measure.latency_repeats or self._seconds < measure.min_seconds:
            return False
        if len(self.rows) < JUDGED_EVERY * self._judged and self._seconds < measure.max_seconds:
            return False
        self._judged = len(self.rows)
        width = half_width(self.rows)
        narrow = width is not None and width <= measure.max_half_width
        self.about |= {
            "rounds": self.rounds,
            "seconds": round(self._seconds, 3),
            "half_width": width,
            "stopped_by": "max_half_width" if narrow else "max_seconds",
        }
        return narrow or self._seconds >= measure.max_seconds

    @property
    def middle_sample(self) -> Sample:
        """The sample with the median number of tokens in its prompt."""
        places = sorted(range(len(self._samples)), key=lambda i: self._counted[i].sequence_length)
        return self._samples[places[len(places) // 2]]

    def prefills_alone(self) -> list[Callable[[], None]]:
        """Functions that prefill one sample each, its inputs on the device."""
        return [self._runner.prefill_alone(sample, *self._asked) for sample in self._samples]

    def timed_middle(self) -> float:
        """Milliseconds of one prefill of the middle sample, which is in no row."""
        return self._runner.timed_prefill(self.middle_sample, *self._asked).prefill_ms


class Reference:
    """One prefill that is repeated between all others: what changes in it is the machine."""

    def __init__(self, timing: Timing) -> None:
        self._timing, self._calls = timing, 0
        self._began_s = time.monotonic()
        #: Seconds since the start and milliseconds of each.
        self.rows: list[dict[str, float]] = []
        #: Why it could not be repeated to the end; None where it could.
        self.failure: str | None = None

    def tick(self) -> None:
        """Call it after each timed prefill; times the reference now and then.

        If it fails, timing continues without it and all times of the job are flagged.
        """
        if self._calls % REFERENCE_EVERY == 0 and self.failure is None:
            at_s = round(time.monotonic() - self._began_s, 3)
            try:
                self.rows.append({"at_s": at_s, "prefill_ms": self._timing.timed_middle()})
            except Exception as error:  # the run's own timing tells of it as of any other
                self.failure = error_line(error)
        self._calls += 1
