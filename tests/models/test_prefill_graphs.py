"""Prefills as CUDA graphs, answers step by step, float8, and how much of the time the GPU works.

What only a GPU can show is marked `gpu` and skipped without one; the rest runs the same code here.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationMixin

from tests.helpers.made_records import latency_row
from tests.helpers.sweeps import run_without_report
from vtexp.analysis.answer import _doubtful
from vtexp.analysis.findings import AnalysedRun
from vtexp.budget.knobs import CropSetting
from vtexp.budget.reduction import Reduction
from vtexp.config.choices import Device, Dtype
from vtexp.config.schema import Config, HardwareConfig
from vtexp.data.sample import Sample
from vtexp.errors import ConfigError, VtexpError
from vtexp.measure import quality, summary
from vtexp.measure.protocol import Timing, undisturbed
from vtexp.models import prefill_graphs
from vtexp.models.busy import busy_ms
from vtexp.models.checkpoints import find_checkpoint
from vtexp.models.clocks import StageMemory
from vtexp.models.devices import require_float8
from vtexp.models.molmo import answering
from vtexp.models.molmo.answering import AnswerSteps, BufferSizes
from vtexp.models.molmo.configuration import MolmoConfig
from vtexp.models.molmo.float8 import LARGEST, Float8Linear, to_float8
from vtexp.models.molmo.runner import MolmoRunner
from vtexp.models.prefill_graphs import GraphStages, PrefillGraphs
from vtexp.utils import files

MakeConfig = Callable[..., Config]
SHAPES = [(300, 300), (300, 900), (900, 1000), (900, 1010)]
SETTING = CropSetting(12)
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


class FakeGraph:
    """In place of a captured prefill: runs its stages on what was loaded."""

    captured: list[Any] = []  # noqa: RUF012
    bytes = 2**20
    inputs_bytes = 2**19

    def __init__(self, stages: GraphStages, pool: object, stream: object) -> None:
        if "broken" in FakeGraph.captured:
            raise RuntimeError("operation not permitted when stream is capturing")
        self._stages = stages._replace(inputs={k: v.clone() for k, v in stages.inputs.items()})
        FakeGraph.captured.append(stages)

    def load(self, inputs: dict[str, torch.Tensor]) -> None:
        for name, tensor in inputs.items():
            self._stages.inputs[name].copy_(tensor)

    def encode(self) -> None:
        self._read = self._stages.encode(self._stages.inputs)

    def connect(self) -> None:
        self._features = self._stages.connect(self._stages.inputs, self._read)

    @property
    def reads_early(self) -> bool:
        return self._stages.read_early is not None

    def read_early(self) -> None:
        if self._stages.read_early is not None:
            self._features = self._stages.read_early(self._stages.inputs, self._features)

    @property
    def reduces(self) -> bool:
        return self._stages.reduce is not None

    def reduce(self) -> None:
        if self._stages.reduce is not None:
            self._features = self._stages.reduce(self._stages.inputs, self._features)

    def read_prompt(self) -> torch.Tensor:
        return self._stages.read_prompt(self._stages.inputs, self._features)


@pytest.fixture
def fake_graphs(monkeypatch: pytest.MonkeyPatch) -> type[FakeGraph]:
    """Graphs on the CPU: the cache, its keys and its bound are the real ones."""
    FakeGraph.captured = []
    memory = type("Properties", (), {"total_memory": 100 * 2**20})
    monkeypatch.setattr(prefill_graphs, "PrefillGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: memory)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    return FakeGraph


@pytest.fixture(scope="module")
def runner(small_checkpoint: Path) -> MolmoRunner:
    checkpoint = find_checkpoint(str(small_checkpoint))
    return MolmoRunner.load(checkpoint, checkpoint.family.geometry, HardwareConfig())


@pytest.fixture(scope="module")
def samples(draw_noise: Callable[[list[tuple[int, int]]], list[Sample]]) -> list[Sample]:
    return draw_noise(SHAPES)


def test_a_shape_is_captured_once_and_replayed(
    runner: MolmoRunner, samples: list[Sample], fake_graphs: type[FakeGraph]
) -> None:
    graphed = replace(runner, graphs=PrefillGraphs(torch.device("cpu")))
    asked = [(sample, SETTING, "easy_vqa") for sample in samples]
    for one in [*asked, *asked]:
        graphed.capture(*one)
    # The last two images differ in size and question, but not in tiling; their prompts' lengths do.
    assert len(fake_graphs.captured) == len({graphed.shape(graphed.prepare(*a)) for a in asked})
    for one in asked:
        assert graphed.timed_prefill(*one).cuda_graph
        prepared = runner.prepare(*one)
        with torch.inference_mode():
            inputs = runner.inputs([prepared])
            expected = runner.prefill(inputs, runner.encode(inputs))
            graph = graphed.graphs.get(graphed.shape(prepared))  # type: ignore[union-attr]
            assert torch.equal(graph.read_prompt(), expected)  # type: ignore[union-attr]
    new = (samples[0], CropSetting(2, 2), "easy_vqa")
    assert not graphed.timed_prefill(*new).cuda_graph  # not captured: eager, and said so


@pytest.mark.parametrize(
    "method", ["random", "stride", "pool", "max_min", "cls_attention", "early_layer"]
)
def test_a_reduction_is_a_stage_of_the_graph(
    runner: MolmoRunner, samples: list[Sample], fake_graphs: type[FakeGraph], method: str
) -> None:
    graphed = replace(runner, graphs=PrefillGraphs(torch.device("cpu")))
    layer = 1 if method == "early_layer" else None
    reduced, plain = (
        (samples[0], CropSetting(1, reduction=own), "easy_vqa")
        for own in (Reduction(method, kept=40, layer=layer), None)
    )
    for asked in (reduced, plain):
        graphed.capture(*asked)
        times = graphed.timed_prefill(*asked)
        assert times.cuda_graph and (times.reduction_ms is not None) == (asked is reduced)
    prepared = runner.prepare(*reduced)
    with torch.inference_mode():
        expected = runner._eager_stages(prepared, lambda _: None)
        runner.prefill_alone(*reduced)()
        assert torch.equal(runner.graph_stages(prepared).run(), expected)
        graphed.prefill_alone(*reduced)()
        graph = graphed.graphs.get(graphed.shape(prepared))  # type: ignore[union-attr]
        assert torch.equal(graph.read_prompt(), expected)  # type: ignore[union-attr]


def test_counting_passes_are_eager(
    runner: MolmoRunner, samples: list[Sample], fake_graphs: type[FakeGraph]
) -> None:
    graphed = replace(runner, graphs=PrefillGraphs(torch.device("cpu")))
    graphed.capture(samples[0], SETTING, "easy_vqa")
    with graphed.probe() as probe:
        graphed.eager_prefill(samples[0], SETTING, "easy_vqa")
        (counts,) = probe.take()
    assert counts.num_crops == 1


def test_memory_of_graphs_is_bounded(
    runner: MolmoRunner, samples: list[Sample], fake_graphs: type[FakeGraph]
) -> None:
    graphs = PrefillGraphs(torch.device("cpu"), most_memory=0.015)  # 1.5 MiB, of 1 MiB each
    graphed = replace(runner, graphs=graphs)
    for sample in samples:
        graphed.capture(sample, SETTING, "easy_vqa")
    assert len(fake_graphs.captured) == 2 and graphs.memory_mib == 2
    assert graphs.failure is not None and "2 shapes take 2 MiB" in graphs.failure


def test_a_shape_that_cannot_be_captured_leaves_graphs_to_the_others(
    runner: MolmoRunner, samples: list[Sample], fake_graphs: type[FakeGraph]
) -> None:
    graphs = PrefillGraphs(torch.device("cpu"))
    graphed = replace(runner, graphs=graphs)
    fake_graphs.captured.append("broken")
    graphed.capture(samples[0], SETTING, "easy_vqa")
    fake_graphs.captured.clear()
    for sample in samples:  # the first again, too: it is not tried twice
        graphed.capture(sample, SETTING, "easy_vqa")
    replayed = [graphed.timed_prefill(s, SETTING, "easy_vqa").cuda_graph for s in samples]
    assert replayed == [False, True, True, True]
    assert "stream is capturing" in (graphs.failure or "")


def test_where_captures_keep_failing_no_more_are_tried(
    runner: MolmoRunner, samples: list[Sample], fake_graphs: type[FakeGraph]
) -> None:
    graphs = PrefillGraphs(torch.device("cpu"))
    tried = []

    def stages() -> GraphStages:
        tried.append(1)
        raise RuntimeError("no kernel for this GPU")

    for shape in range(10):
        graphs.capture(shape, stages)
    assert len(tried) == prefill_graphs.MOST_FAILURES
    assert "no kernel for this GPU" in (graphs.failure or "")


def test_memory_of_a_pass_is_without_graphs(
    runner: MolmoRunner,
    samples: list[Sample],
    fake_graphs: type[FakeGraph],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graphs = PrefillGraphs(torch.device("cpu"))
    replace(runner, graphs=graphs).capture(samples[0], SETTING, "easy_vqa")
    mib = 2**20
    segments = [
        {"segment_pool_id": (0, 0), "allocated_size": 30 * mib, "total_size": 40 * mib},
        {"segment_pool_id": (0, 3), "allocated_size": 2 * mib, "total_size": 20 * mib},
        {"segment_pool_id": (0, 7), "allocated_size": 1 * mib, "total_size": 2 * mib},
    ]
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: segments)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 33 * mib)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: 62 * mib)
    memory = StageMemory([torch.device("cuda:0")], graphs.held_mib())
    memory.end_of("connector_ms")
    # Half a MiB are the graph's copy of the inputs, which lies in the pool of all.
    assert memory.peaks == {"connector": {"allocated": 29.5, "reserved": 39.5}}


def test_what_cannot_be_captured_runs_eagerly_with_a_warning(
    make_config: MakeConfig, tmp_path: Path, fake_graphs: type[FakeGraph], monkeypatch: Any
) -> None:
    fake_graphs.captured.append("broken")
    monkeypatch.setattr("vtexp.runs.job._loaded", {})  # not the model that another test loaded
    real = MolmoRunner.load.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(
        MolmoRunner,
        "load",
        classmethod(lambda *a: replace(real(*a), graphs=PrefillGraphs(torch.device("cpu")))),
    )
    run_without_report(make_config("knob.sizes=[336x336]"))
    (path,) = tmp_path.glob("sweep/*/result.json")
    result = files.read_json(path)
    assert result["execution"] == "eager" and result["graph_memory_mib"] == 0
    (warning,) = [w for w in result["warnings"] if "CUDA graph" in w]
    assert "stream is capturing" in warning and "4 of 4" in warning


def test_replayed_runs_say_so_in_result_and_table(
    make_config: MakeConfig, tmp_path: Path, fake_graphs: type[FakeGraph], monkeypatch: Any
) -> None:
    from vtexp.analysis.rows import collect
    from vtexp.report.format import title

    real = MolmoRunner.load.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr("vtexp.runs.job._loaded", {})
    monkeypatch.setattr(
        MolmoRunner,
        "load",
        classmethod(lambda *a: replace(real(*a), graphs=PrefillGraphs(torch.device("cpu")))),
    )
    run_without_report(make_config("knob.sizes=[336x336]", "hardware.batch_size=2"))
    runs = collect(tmp_path / "sweep")
    assert runs[0].found.execution == "CUDA graphs" and "CUDA graphs" in title(runs)
    assert runs[0].found.graph_memory_mib == len(fake_graphs.captured)


def test_how_a_run_was_executed_is_told() -> None:
    replayed, eager = latency_row(cuda_graph=True), latency_row()
    assert summary.execution([replayed], [{"compiled": True}]) == "CUDA graphs, compiled"
    assert summary.execution([eager], [{}]) == "eager"
    assert summary.execution([eager, replayed], [{}]) == "partly CUDA graphs"


# --- busy -----------------------------------------------------------------------------------------


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


# --- answers --------------------------------------------------------------------------------------


def test_answers_are_those_of_transformers_generate(
    runner: MolmoRunner, samples: list[Sample]
) -> None:
    """Prompts of several lengths and tilings, alone and in one batch padded on the right."""
    prepared = [runner.prepare(sample, SETTING, "easy_vqa") for sample in samples]
    never = 10**9
    for batch in ([prepared[0]], prepared):
        inputs = runner.inputs(batch)
        with torch.inference_mode():
            expected = runner.model.generate(
                **inputs, max_new_tokens=7, eos_token_id=never, pad_token_id=0
            )
            heard: list[None] = []
            found = runner.generate(inputs, 7, partial(heard.append, None))
        assert found.tolist() == expected.tolist()
        assert len(heard) == 7
    assert isinstance(runner.model, GenerationMixin)


def test_an_answer_ends_at_the_end_of_text(
    runner: MolmoRunner, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = [runner.prepare(sample, SETTING, "easy_vqa") for sample in samples]
    inputs = runner.inputs(prepared)
    with torch.inference_mode():
        whole = runner.generate(inputs, 6, lambda: None).tolist()
    stop = whole[0][2]
    monkeypatch.setattr(runner._answering, "_end_ids", (stop,))
    with torch.inference_mode():
        found = runner.generate(inputs, 6).tolist()
    for own, full in zip(found, whole, strict=True):
        end = full.index(stop) + 1 if stop in full else len(full)
        assert own[:end] == full[:end][: len(own)]
        assert set(own[end:]) <= {stop}
    monkeypatch.undo()


def test_buffers_of_a_batch_hold_nothing_of_the_one_before(
    runner: MolmoRunner, samples: list[Sample]
) -> None:
    long, short = (runner.prepare(s, SETTING, "easy_vqa") for s in (samples[3], samples[0]))
    with torch.inference_mode():
        alone = runner.generate(runner.inputs([short]), 5).tolist()
        for (
            steps
        ) in runner._answering._steps.values():  # as a batch whose numbers overflowed leaves it
            for buffer in (*steps._cache.keys, *steps._cache.values):
                buffer.fill_(torch.nan)
        assert runner.generate(runner.inputs([short]), 5).tolist() == alone
        runner.generate(runner.inputs([long]), 5)


def test_buffers_of_earlier_shapes_stay_while_there_is_room(
    runner: MolmoRunner, samples: list[Sample]
) -> None:
    own = replace(runner)  # with answers of its own
    prepared = own.prepare(samples[0], SETTING, "easy_vqa")

    def kept() -> list[int]:
        for count in (1, 2, 3):
            own.answer([prepared] * count, 2)
        return [sizes.batch for sizes in own._answering._steps]

    assert kept() == [3]  # nothing is captured on the host, so there is nothing to keep
    (sizes,) = own._answering._steps
    own._answering._most_tokens = 5 * sizes.tokens
    assert kept() == [2, 3]
    own._answering._most_tokens = 6 * sizes.tokens
    assert kept() == [1, 2, 3]


def test_room_for_buffers_is_a_tenth_of_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Molmo-7B-D keeps 2 x 28 x 4 x 128 numbers of 16 bits per token: 56 KiB."""
    weight = SimpleNamespace(device=torch.device("cuda:0"), element_size=lambda: 2)
    block = SimpleNamespace(attn_norm=SimpleNamespace(weight=weight))
    parts = SimpleNamespace(transformer=SimpleNamespace(blocks=[block]))
    config = MolmoConfig(num_hidden_layers=28, num_key_value_heads=4, hidden_size=3584)
    model: Any = SimpleNamespace(config=config, model=parts)
    gpu = SimpleNamespace(total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    assert config.head_dim == 128
    assert answering.most_tokens(model) == 8 * 2**30 // (56 * 2**10)


def test_answers_by_logits_that_are_no_numbers_fail(
    small_checkpoint: Path, samples: list[Sample]
) -> None:
    """Also where only a later token's are, which no timed prefill sees."""
    checkpoint = find_checkpoint(str(small_checkpoint))
    broken = MolmoRunner.load(checkpoint, checkpoint.family.geometry, HardwareConfig())
    prepared = [broken.prepare(sample, SETTING, "easy_vqa") for sample in samples[:2]]
    first = broken.answer(prepared, 1)[1][0]
    table = broken.model.model.transformer.wte.embedding
    table[first] = torch.nan  # read as the second row's next input
    assert broken.answer(prepared, 1)[1][0] == first
    with pytest.raises(VtexpError, match="not finite"):
        broken.answer(prepared, 3)


def test_prompts_wait_for_a_step_whose_capture_failed(
    runner: MolmoRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes to their buffers on a stream of its own."""
    heard: list[str] = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            heard.append(f"{self.name} waits for {other.name}")

    def captured(*_: object) -> None:
        heard.append("captures")
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream("main"))
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(answering, "captured", captured)
    with torch.inference_mode():
        steps = AnswerSteps(runner.model, BufferSizes(1, 128))
        steps.prepare(Stream("own"))  # type: ignore[arg-type]
    assert heard == ["own waits for main", "captures", "main waits for own"]


# --- float8 ---------------------------------------------------------------------------------------


def test_float8_rows_are_off_by_half_a_step_of_the_type() -> None:
    rows = torch.randn(64, 256, generator=torch.Generator().manual_seed(0)) * torch.logspace(
        -6, 6, 64
    ).unsqueeze(1)
    rounded, scale = to_float8(rows)
    assert rounded.dtype == torch.float8_e4m3fn and scale.shape == (64, 1)
    back = rounded.float() * scale
    largest = rows.abs().amax(dim=1, keepdim=True)
    # Three bits behind the point: half a step is 1/16 of a value, and 2^-10 of the scale below it.
    bound = np.maximum(rows.abs() / 16, largest / LARGEST * 2**-10) * (1 + 1e-5)
    assert bool(((back - rows).abs() <= bound).all())
    zeros, scale = to_float8(torch.zeros(2, 16))
    assert bool((zeros.float() * scale == 0).all())


def test_float8_answers_have_caches_of_the_activations_type(
    small_checkpoint: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    def multiplied(layer: Float8Linear, x: torch.Tensor) -> torch.Tensor:
        rounded, scale = to_float8(x.flatten(0, -2))
        weight = layer.weight.float() * layer.scale.view(-1, 1)
        out = (rounded.float() * scale) @ weight.t()
        out = out if layer.bias is None else out + layer.bias.float()
        return out.to(x.dtype).view(*x.shape[:-1], -1)

    checkpoint = find_checkpoint(str(small_checkpoint))
    hardware = HardwareConfig(dtype=Dtype.bfloat16)
    float8 = MolmoRunner.load(checkpoint, checkpoint.family.geometry, hardware)
    float8.use_float8()
    monkeypatch.setattr(Float8Linear, "forward", multiplied)
    prepared = [float8.prepare(sample, SETTING, "easy_vqa") for sample in samples]
    answers = float8.answer(prepared, 4)
    assert len(answers) == len(samples) and all(answers)
    cache = next(iter(float8._answering._steps.values()))._cache
    assert {buffer.dtype for buffer in (*cache.keys, *cache.values)} == {torch.bfloat16}
    float8.forget_answers()
    assert not float8._answering._steps


def test_float8_is_refused_on_other_devices() -> None:
    for device in ("cpu", "cuda"):
        if device == "cpu" or not torch.cuda.is_available():
            with pytest.raises(ConfigError, match="Hopper"):
                require_float8(device)


def test_different_ways_to_run_are_a_caveat() -> None:
    run = AnalysedRun(
        run="a", folder="a", label="a", knob_value="a", vision_tokens=1.0, accuracy=None,
        accuracy_low=None, accuracy_high=None, prefill_ms=1.0, execution="eager",
    )  # fmt: skip
    other = replace(run, run="b", label="max_crops=4", execution="CUDA graphs", host_bound=True)
    mixed, alone = (_doubtful(runs) for runs in ([run, other], [run]))
    assert any("CUDA graphs, eager" in caveat for caveat in mixed) and not alone
    assert any("software stack" in caveat and "max_crops=4" in caveat for caveat in mixed)


@pytest.mark.parametrize("key", ["dtype=float8", "cuda_graphs=true"])
def test_what_needs_a_gpu_is_refused_without_one(make_config: MakeConfig, key: str) -> None:
    with pytest.raises(ConfigError, match=f"hardware.{key}: only"):
        make_config(f"hardware.{key}")


# --- on a GPU -------------------------------------------------------------------------------------


@on_a_gpu
@pytest.mark.parametrize("dtype", [Dtype.float32, Dtype.bfloat16])
def test_replayed_logits_are_the_eager_ones_bit_for_bit(
    small_checkpoint: Path, samples: list[Sample], dtype: Dtype
) -> None:
    checkpoint = find_checkpoint(str(small_checkpoint))
    hardware = HardwareConfig(device=Device.cuda, dtype=dtype, cuda_graphs=True, compile=False)
    runner = MolmoRunner.load(checkpoint, checkpoint.family.geometry, hardware)
    for sample in samples:
        runner.capture(sample, SETTING, "easy_vqa")
    for sample in samples:
        assert runner.timed_prefill(sample, SETTING, "easy_vqa").cuda_graph
        prepared = runner.prepare(sample, SETTING, "easy_vqa")
        with torch.inference_mode():
            inputs = runner.inputs([prepared])
            expected = runner.prefill(inputs, runner.encode(inputs))
        replayed = runner.graphs.get(runner.shape(prepared))._logits  # type: ignore[union-attr]
        assert torch.equal(replayed, expected)
