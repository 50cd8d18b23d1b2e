"""What the timings say, and that the protocol notices what would make them wrong."""

from __future__ import annotations

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from tests.helpers.facts import says
from tests.helpers.made_records import latency_row, stage_times
from tests.helpers.sweeps import run_without_report
from vtexp.budget.geometry import MOLMO, Tiling
from vtexp.budget.knobs import CropSetting
from vtexp.config.schema import Config, MeasureConfig
from vtexp.measure import quality
from vtexp.measure.protocol import MOST_WARM_UP_ROUNDS, Reference, Timing
from vtexp.measure.timings import LatencyRow
from vtexp.models.clocks import StageClock
from vtexp.models.probe import Counts
from vtexp.models.runner import PreparedSample, Runner
from vtexp.stages import STAGES, StageTimes
from vtexp.stats.trend import kendall_z, relative_change
from vtexp.utils import files

SETTING = CropSetting(4)


class CountsOfOne:
    """In place of a probe: every sample has 4 crops."""

    def __enter__(self) -> CountsOfOne:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def take(self) -> list[Counts]:
        return [Counts(4, 544, Tiling(2, 2))]


@dataclass(frozen=True)
class StagedRunner(Runner):
    """A model whose stages take the seconds they are told to, on a device of its own if asked."""

    delays_s: dict[str, float] = field(default_factory=dict)
    device_queue: queue.Queue | None = None
    waits: bool = True
    calls: list[Callable[[], None]] = field(default_factory=list)
    #: Seconds that stages really took: a busy machine wakes a sleeper late.
    spent_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        if self.device_queue is not None:
            threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        assert self.device_queue is not None
        while True:
            self.device_queue.get()()
            self.device_queue.task_done()

    def _spend(self, stage: str, *, host: bool = False) -> None:
        def spend() -> None:
            began = time.perf_counter()
            time.sleep(self.delays_s.get(stage, 0.0))
            self.spent_s[stage].append(time.perf_counter() - began)

        if self.device_queue is None or host:
            spend()
        else:
            self.device_queue.put(spend)

    @property
    def gpus(self) -> list[torch.device]:
        return []

    def wait(self) -> None:
        if self.device_queue is not None and self.waits:
            self.device_queue.join()

    @classmethod
    def model_class(cls, config: dict[str, Any]) -> Any:
        raise NotImplementedError

    def read_image(self, pixels: Any, setting: CropSetting) -> Any:
        raise NotImplementedError

    shape = graph_inputs = graph_stages = None  # type: ignore[assignment]

    def sample(self) -> Any:
        """A question whose image takes its time to be decoded."""
        decode = lambda: self._spend("image_decode", host=True)  # noqa: E731
        return SimpleNamespace(sample_id="a", pixels=decode)

    def prepare(self, *_: Any) -> PreparedSample:
        self._spend("preprocess", host=True)
        return PreparedSample(torch.zeros(10), None, 0)

    def inputs(self, batch: Sequence[PreparedSample]) -> dict[str, Any]:
        self._spend("transfer")
        return {}

    def on_encoded(self, call: Callable[[], None]) -> Any:
        self.calls.append(call)
        return SimpleNamespace(remove=self.calls.pop)

    def encode(self, inputs: Any) -> None:
        self._spend("vision_encoder")
        self.calls[-1]()
        self._spend("connector")

    def prefill(self, inputs: Any, features: Any) -> torch.Tensor:
        self._spend("llm_prefill")
        runner = self

        class Logits(torch.Tensor):
            def __getitem__(self, _: Any) -> Any:  # reading the token waits for the device
                if runner.device_queue is not None:
                    runner.device_queue.join()
                return torch.zeros(3)

        return torch.zeros(1, 1, 3).as_subclass(Logits)

    def generate(self, inputs: Any, max_new_tokens: int, on_token: Any = None) -> torch.Tensor:
        for _ in range(max_new_tokens):
            self._spend("decode")
            on_token()
        return torch.zeros(1, max_new_tokens, dtype=torch.long)

    def probe(self) -> Any:
        return CountsOfOne()


def staged(**options: Any) -> StagedRunner:
    return StagedRunner(None, None, MOLMO, torch.device("cpu"), torch.float32, **options)  # type: ignore[arg-type]


class Event:
    """A GPU's event on a clock of the test's own."""

    now_ms = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: str) -> None:
        assert stream == "stream of cuda:0"
        self.at_ms = Event.now_ms

    def elapsed_time(self, later: Event) -> float:
        return later.at_ms - self.at_ms


def test_events_of_one_gpu_are_its_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda gpu: f"stream of {gpu}")
    waits: list[float] = []
    clock = StageClock([torch.device("cuda:0")], lambda: waits.append(Event.now_ms))
    for stage, ms in zip(STAGES, (7.0, 2.0, 1.0, 20.0, 3.0, 40.0, 0.5), strict=True):
        Event.now_ms += ms
        clock.end_of(stage)
    times = clock.times()
    stages = [getattr(times, name) for name in STAGES[1:]]
    assert stages == [2.0, 1.0, 20.0, 3.0, 40.0, 0.5]
    assert (times.vision_ms, times.prefill_ms) == (23.0, 63.0)
    assert times.ttft_without_preprocess_ms == 64.5
    assert waits == [0.0, 73.5]  # at both ends, nowhere between
    assert times.ttft_ms >= times.image_decode_ms > 0  # the wall clock's


def test_several_gpus_are_waited_for_at_each_border() -> None:
    waits: list[int] = []
    gpus = [torch.device("cuda:0"), torch.device("cuda:1")]
    clock = StageClock(gpus, lambda: waits.append(1))
    for stage in STAGES:
        clock.end_of(stage)
    assert len(waits) == 1 + len(STAGES) + 1
    assert clock.times().prefill_ms >= 0


DELAYS_S = {
    "image_decode": 0.02, "preprocess": 0.03, "transfer": 0.02, "vision_encoder": 0.04,
    "connector": 0.02,
    "llm_prefill": 0.05,
}  # fmt: skip


def test_injected_delays_are_measured_within_two_percent() -> None:
    runner = staged(delays_s=DELAYS_S)
    times = [runner.timed_prefill(runner.sample(), SETTING, "") for _ in range(9)]
    assert all(min(runner.spent_s[stage]) >= delay_s for stage, delay_s in DELAYS_S.items())

    def injected(*stages: str) -> float:
        return 1000 * float(np.median(np.sum([runner.spent_s[stage] for stage in stages], axis=0)))

    vision, prefill = (
        ("vision_encoder", "connector"),
        ("vision_encoder", "connector", "llm_prefill"),
    )
    together = {
        "vision_ms": vision, "prefill_ms": prefill,
        "ttft_without_preprocess_ms": ("transfer", *prefill), "ttft_ms": tuple(DELAYS_S),
    }  # fmt: skip
    for name, stages in ({f"{stage}_ms": (stage,) for stage in DELAYS_S} | together).items():
        measured = np.median([getattr(t, name) for t in times])
        assert measured == pytest.approx(injected(*stages), rel=0.02)


def test_decoding_is_measured_within_two_percent() -> None:
    runner = staged(delays_s={"decode": 0.02})
    ms = [runner.timed_decode(None, SETTING, "", 4) for _ in range(5)]  # type: ignore[arg-type]
    # The first token's time is not decoding.
    injected = [1000 * np.mean(runner.spent_s["decode"][4 * i + 1 : 4 * i + 4]) for i in range(5)]
    assert np.median(ms) == pytest.approx(np.median(injected), rel=0.02)


def test_a_device_that_answers_early_is_waited_for_or_caught() -> None:
    """Work is queued: whoever forgets to wait would find prefill done in no time."""
    delays = {"vision_encoder": 0.03, "llm_prefill": 0.03}

    runners = {
        w: staged(delays_s=delays, device_queue=queue.Queue(), waits=w) for w in (True, False)
    }

    def rows(waits: bool) -> list[LatencyRow]:
        runner = runners[waits]
        timing = Timing(runner, [runner.sample()], SETTING, "", MeasureConfig())
        timing.count(lambda *_: None)
        for _ in range(5):
            timing.round(lambda: None)
        return timing.rows

    found = rows(waits=True)
    # All of it is in the wall clock around the pass, whatever the borders say.
    spent = runners[True].spent_s
    injected = 1000 * (np.array(spent["vision_encoder"]) + spent["llm_prefill"])[1:]
    measured, wake_up_ms = np.median([row.ttft_ms for row in found]), 6
    assert 0.98 * np.median(injected) <= measured <= 1.02 * np.median(injected) + wake_up_ms
    doubts = quality.timing_warnings(rows(waits=False), [], 0.03)
    assert any("not finished" in doubt for doubt in doubts)


# --- the protocol ----------------------------------------------------------------------------


@dataclass(frozen=True)
class ScriptedRunner(StagedRunner):
    """Prefills take the milliseconds that a script says, given how many there were before."""

    script: Callable[[int], float] = lambda number: 10.0
    times: list[float] = field(default_factory=list)

    def timed_prefill(self, *_: Any) -> StageTimes:
        ms = self.script(len(self.times))
        self.times.append(ms)
        return stage_times(ms)

    def eager_prefill(self, *_: Any) -> None:
        self.timed_prefill()


def scripted(script: Callable[[int], float], samples: int, **measure: Any) -> Timing:
    runner = ScriptedRunner(None, None, MOLMO, torch.device("cpu"), torch.float32, script=script)  # type: ignore[arg-type]
    asked = [SimpleNamespace(sample_id=str(i)) for i in range(samples)]
    timing = Timing(runner, asked, SETTING, "", MeasureConfig(**measure))  # type: ignore[arg-type]
    timing.count(lambda *_: None)
    return timing


def test_warm_up_lasts_until_times_fall_no_more() -> None:
    falling = scripted(lambda n: max(100.0 - 7 * n, 30.0) + 0.01 * (n % 2), 1, warmup_repeats=2)
    falling.warm_up()
    assert falling.about["warm"] and falling.about["warm_up_rounds"] >= 10
    rng = np.random.default_rng(0)
    level = scripted(lambda n: 30.0 + rng.random(), 1, warmup_repeats=2)
    level.warm_up()
    assert level.about["warm_up_rounds"] <= 6
    halved = scripted(lambda n: 100.0 * 0.5 ** (min(n, 10) / 10), 1, warmup_repeats=2)
    halved.warm_up()
    assert halved.about["warm"] and halved.about["warm_up_rounds"] >= 10
    forever = scripted(lambda n: 100.0 * 0.97**n, 1, warmup_repeats=2)
    forever.warm_up()
    assert forever.about["warm_up_rounds"] == MOST_WARM_UP_ROUNDS and not forever.about["warm"]


def test_rounds_go_on_until_the_median_is_well_known() -> None:
    rng = np.random.default_rng(0)
    rule = {"latency_repeats": 2, "min_seconds": 0, "max_half_width": 0.03, "max_seconds": 1e9}
    noisy = scripted(lambda n: 100 * (1 + 0.2 * rng.standard_normal()), 8, **rule)
    while not noisy.ended:
        noisy.round(lambda: None)
    assert noisy.about["stopped_by"] == "max_half_width" and noisy.about["half_width"] <= 0.03
    # 1.96 * 1.2533 * 0.2 / sqrt(n) = 0.03 at n = 268.
    assert 150 <= len(noisy.rows) <= 450
    assert {row.sample_id for row in noisy.rows} == set(map(str, range(8)))
    counts = [sum(row.sample_id == str(i) for row in noisy.rows) for i in range(8)]
    assert len(set(counts)) == 1  # every sample equally often


@pytest.mark.parametrize(
    ("rule", "rounds", "by"),
    [
        ({"latency_repeats": 5, "min_seconds": 0, "max_seconds": 9}, 5, "max_half_width"),
        ({"latency_repeats": 1, "min_seconds": 2, "max_seconds": 9}, 20, "max_half_width"),
        ({"latency_repeats": 2, "min_seconds": 0, "max_seconds": 0, "max_half_width": 0},
         2, "max_seconds"),
        ({"latency_repeats": 1, "min_seconds": 0, "max_seconds": 1, "max_half_width": 0},
         10, "max_seconds"),
    ],
)  # fmt: skip
def test_each_part_of_the_stopping_rule(rule: dict[str, float], rounds: int, by: str) -> None:
    timing = scripted(lambda n: 50.0 + 0.001 * (n % 7), 2, **rule)
    while not timing.ended:
        timing.round(lambda: None)
    assert (timing.about["rounds"], timing.about["stopped_by"]) == (rounds, by)


def test_injected_drift_is_flagged() -> None:
    rng = np.random.default_rng(0)

    def reference(script: Callable[[int], float]) -> list[float]:
        timing = scripted(script, 4)
        found = Reference(timing)
        for _ in range(160):
            found.tick()
        return [row["prefill_ms"] for row in found.rows]

    def noise() -> float:
        return 1 + 0.02 * rng.standard_normal()

    assert quality.drift(reference(lambda n: 50 * noise())) == []
    (slower,) = quality.drift(reference(lambda n: 50 * (1 + 0.01 * n) * noise()))
    assert "slower" in slower
    (step,) = quality.drift(reference(lambda n: (50 if n < 24 else 40) * noise()))
    assert "faster" in step
    (spell,) = quality.drift(reference(lambda n: (75 if 18 < n < 31 else 50) * noise()))
    assert "for a while" in spell


def test_false_alarms_of_drift_are_few() -> None:
    rng = np.random.default_rng(0)
    alarms = sum(bool(quality.drift(50 * (1 + 0.1 * rng.standard_normal(64)))) for _ in range(500))
    assert alarms <= 0.02 * 500 + 3 * np.sqrt(500 * 0.02)


def test_a_reference_that_fails_leaves_the_others_alone() -> None:
    def script(number: int) -> float:
        if number > 6:
            raise RuntimeError("out of memory")
        return 50.0

    reference = Reference(scripted(script, 4))
    for _ in range(40):
        reference.tick()
    assert len(reference.rows) >= 1
    assert reference.failure is not None
    assert reference.failure.startswith("RuntimeError: ") and "out of memory" in reference.failure
    row = latency_row(50.0)
    quiet = {"other_cores_busy": 0.0, "cores": 2, "busy_share": 0.0, "cpu_throttle_events": 0}
    about = {
        "monitor": quiet | {"gpus": [], "quota_stopped_share": 0.0}, "reference": reference.rows,
        "warm": True, "half_width": 0.01, "stopped_by": "max_half_width",
    }  # fmt: skip
    assert quality.timing_warnings([row], [about | {"reference_failure": None}], 0.03) == []
    (doubt,) = quality.timing_warnings(
        [row], [about | {"reference_failure": reference.failure}], 0.03
    )
    assert "drift" in doubt and "out of memory" in doubt


def test_clocks_that_contradict_each_other_are_flagged() -> None:
    fine, wrong = latency_row(50.0), latency_row(50.0, ttft_ms=45.0)
    assert quality.timing_warnings([fine], [], 0.03) == []
    (doubt,) = quality.timing_warnings([fine, wrong], [], 0.03)
    assert says(doubt, "1 of 2", "stages", "more")


def test_timed_and_all_questions_that_differ_are_told() -> None:
    rows = [latency_row(vision_tokens=288)] * 4
    assert quality.unlike_all(rows, 288.0) == []
    (told,) = quality.unlike_all(rows, 821.0)
    assert says(told, "timed", "288", "all", "821")


def test_spread_is_within_a_question_not_between() -> None:
    def rows(noise: float) -> list[LatencyRow]:
        return [
            latency_row(10.0 ** (i + 1) * (1 + noise * repeat), sample_id=str(i))
            for repeat in range(4)
            for i in range(3)
        ]

    assert quality.timing_warnings(rows(0.01), [], 0.03) == []
    (doubt,) = quality.timing_warnings(rows(0.5), [], 0.03)
    assert "spreads over" in doubt


# --- trends ----------------------------------------------------------------------------------


def test_trends_against_scipy() -> None:
    rng = np.random.default_rng(0)
    for n in (4, 10, 50):
        values = rng.normal(size=n) + 0.1 * np.arange(n)
        tau = stats.kendalltau(np.arange(n), values).statistic
        score = tau * n * (n - 1) / 2
        z = (score - np.sign(score)) / np.sqrt(n * (n - 1) * (2 * n + 5) / 18)
        assert kendall_z([values.tolist()]) == pytest.approx(z)
        slope = stats.theilslopes(values + 10).slope
        change = slope * (n - 1) / np.median(values + 10)
        assert relative_change(list(values + 10)) == pytest.approx(change)


# --- the machine -----------------------------------------------------------------------------


@pytest.mark.slow
def test_fresh_processes_time_too(
    make_config: Callable[..., Config], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = make_config("knob.sizes=[336x336,560x560]", "measure.repeats=3")
    run_without_report(config)
    for folder in (tmp_path / "sweep").glob("image_size*"):
        rows = files.read_jsonl(folder / files.LATENCY)
        assert [row["process"] for row in rows] == [0] * 4 + [1] * 4 + [2] * 4
        result = files.read_json(folder / files.RESULT)
        assert result["prefill_ms_between_processes"]["n"] == 3
        assert not any("processes only" in warning for warning in result["warnings"])
    assert capfd.readouterr().out.count("loading ") == 3
