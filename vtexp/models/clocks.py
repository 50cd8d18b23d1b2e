"""Clocks, and peaks of memory, that are read at the borders of the stages of a prefill."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import torch

from vtexp.stages import REDUCTION, STAGES, StageTimes

MIB = 2**20


class StageClock:
    """Times of one pass: the wall clock at its ends, and a mark at the end of each stage.

    Marks are events of the GPU's stream where the model is on one GPU, so that no stage waits for
    its predecessor to be read; on a CPU they are the wall clock. Where a model lies on several
    GPUs, whose streams have no common events, all of them are waited for at each border. The image
    is decoded on the host while the device has nothing to do, so the first mark is both.
    """

    def __init__(self, gpus: Sequence[torch.device], wait: Callable[[], None]) -> None:
        """`wait` returns when the device has done everything asked of it."""
        self._gpu = gpus[0] if len(gpus) == 1 else None
        self._several = len(gpus) > 1
        self._wait = wait
        wait()
        self._began_s = self._ended_s = time.perf_counter()
        self._decoded_s = self._began_s
        self._marks: list[tuple[str, float | torch.cuda.Event]] = []

    def end_of(self, stage: str) -> None:
        """Mark the end of a stage, or of a part of it: its parts are summed."""
        if self._several:
            self._wait()
        if stage == STAGES[0]:
            self._decoded_s = time.perf_counter()
        self._marks.append((stage, self._mark()))
        if stage == STAGES[-1]:
            self._wait()
            self._ended_s = time.perf_counter()

    def _mark(self) -> float | torch.cuda.Event:
        if self._gpu is None:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._gpu))
        return event

    def times(self, *, cuda_graph: bool = False) -> StageTimes:
        """The times of a pass that has ended."""
        marks = dict(self._marks)
        _, preprocessed, sent, _, connected, read, first = (marks[stage] for stage in STAGES)
        spent: dict[str, float] = defaultdict(float)
        for (_, before), (stage, after) in pairwise(self._marks):
            spent[stage] += _ms(before, after)
        return StageTimes(
            **{stage: spent[stage] for stage in STAGES[1:]},
            image_decode_ms=_ms(self._began_s, self._decoded_s),
            reduction_ms=spent.get(REDUCTION),
            vision_ms=_ms(sent, connected),
            prefill_ms=_ms(sent, read),
            ttft_without_preprocess_ms=_ms(preprocessed, first),
            ttft_ms=_ms(self._began_s, self._ended_s),
            cuda_graph=cuda_graph,
        )


def _ms(before: float | torch.cuda.Event, after: float | torch.cuda.Event) -> float:
    if isinstance(before, float) and isinstance(after, float):
        return 1000 * (after - before)
    assert isinstance(before, torch.cuda.Event) and isinstance(after, torch.cuda.Event)
    return before.elapsed_time(after)


class StageMemory:
    """Peak memory of each stage of one pass, in MiB.

    On GPUs what torch's allocator gave out and what it reserved, over all GPUs of the model; on
    Linux without one the resident memory of the process, where the kernel lets its peak be reset.
    Elsewhere nothing. The allocator counts on the host, so nothing needs to be waited for.
    """

    def __init__(self, gpus: Sequence[torch.device], others: Mapping[str, float]) -> None:
        """`others`: what of each kind, in MiB, is not the pass's nor the model's, and left out."""
        self._gpus, self._others = gpus, others
        self.peaks: dict[str, dict[str, float]] = {}
        self._resets = self._reset()

    def end_of(self, stage: str) -> None:
        """Note the peaks of a stage; of one in parts the higher ones."""
        if self._resets and (found := self._read()):
            peaks = {kind: peak - self._others.get(kind, 0.0) for kind, peak in found.items()}
            before = self.peaks.setdefault(stage.removesuffix("_ms"), peaks)
            before.update({kind: max(peak, before[kind]) for kind, peak in peaks.items()})
            self._reset()

    def _reset(self) -> bool:
        for gpu in self._gpus:
            torch.cuda.reset_peak_memory_stats(gpu)
        if self._gpus:
            return True
        with suppress(OSError):  # proc(5): 5 resets the peak of the resident memory
            Path("/proc/self/clear_refs").write_text("5")
            return True
        return False

    def _read(self) -> dict[str, float]:
        if self._gpus:
            return {
                "allocated": sum(map(torch.cuda.max_memory_allocated, self._gpus)) / MIB,
                "reserved": sum(map(torch.cuda.max_memory_reserved, self._gpus)) / MIB,
            }
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return {"resident": int(peak[1]) / 1024} if peak else {}
