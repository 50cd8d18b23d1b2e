"""How much of a prefill the GPU works, and what a process keeps from disturbing it."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from tests.helpers.made_records import latency_row
from vtexp.budget.knobs import CropSetting
from vtexp.data.sample import Sample
from vtexp.measure import quality
from vtexp.measure.protocol import Timing, undisturbed
from vtexp.models.busy import busy_ms
from vtexp.models.molmo.runner import MolmoRunner

SETTING = CropSetting(12)


def test_busy_time_is_that_of_a_made_up_trace() -> None:
    def event(cat: str, ts: float, dur: float) -> dict[str, Any]:
        return {"cat": cat, "ts": ts, "dur": dur}

    trace = [
        event("kernel", 100, 50),
        event("kernel", 140, 20),  # beside the first for 10
        event("kernel", 145, 1),  # within both
        event("gpu_memcpy", 1000, 30),
        event("cuda_runtime", 0, 5000),  # the host's
        {"ph": "M", "name": "process_name"},
    ]
    assert busy_ms(trace) == pytest.approx(0.060 + 0.030)
    assert busy_ms([]) == 0


@pytest.mark.parametrize(
    ("busy", "flagged"), [(0.5, True), (0.89, True), (0.9, False), (None, False)]
)
def test_an_idle_gpu_is_host_bound(busy: float | None, flagged: bool) -> None:
    found = quality.of_the_host([latency_row(cuda_graph=True)], [{"gpu_busy_ratio": busy}])
    assert [text.startswith("host_bound: ") for text in found] == [True] * flagged


def test_no_garbage_is_collected_while_prefills_are_timed() -> None:
    assert gc.isenabled()
    with undisturbed():
        assert not gc.isenabled() and gc.get_freeze_count() > 0
    assert gc.isenabled() and gc.get_freeze_count() == 0


def test_the_share_is_of_times_without_the_profiler(
    runner: MolmoRunner, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vtexp.config.schema import MeasureConfig

    measure = MeasureConfig(latency_repeats=1, min_seconds=0, max_seconds=0, warmup_repeats=0)
    timing = Timing(runner, samples[:1], SETTING, "easy_vqa", measure)
    timing.count(lambda *_: None)
    timing.round(lambda: None)
    monkeypatch.setattr(MolmoRunner, "kernels_ms", lambda *_: timing.rows[0].prefill_ms / 4)
    timing.note_busy()
    assert timing.about["gpu_busy_ratio"] == pytest.approx(0.25)
