"""Prefills as CUDA graphs.

What only a GPU can show is skipped without one; the rest runs the same code here.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.made_records import latency_row
from tests.helpers.sweeps import run_without_report
from vtexp.analysis.answer import _doubtful
from vtexp.analysis.findings import AnalysedRun
from vtexp.budget.knobs import CropSetting
from vtexp.budget.reduction import Reduction
from vtexp.config.choices import Device, Dtype
from vtexp.config.schema import Config, HardwareConfig
from vtexp.data.sample import Sample
from vtexp.errors import ConfigError
from vtexp.measure import summary
from vtexp.models import prefill_graphs
from vtexp.models.checkpoints import find_checkpoint
from vtexp.models.clocks import StageMemory
from vtexp.models.molmo.runner import MolmoRunner
from vtexp.models.prefill_graphs import GraphStages, PrefillGraphs
from vtexp.utils import files

MakeConfig = Callable[..., Config]
SETTING = CropSetting(12)


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


class BrokenCapture:
    """torch.cuda.CUDAGraph of a capture that a host's wait breaks, as torch 2.11 ends it: it raises
    before it tells the generator of random numbers, which only a capture that ends well frees."""

    made: list[BrokenCapture] = []  # noqa: RUF012
    generator_captures = False

    def __init__(self) -> None:
        self.made.append(self)

    def capture_begin(self, **_: object) -> None:
        BrokenCapture.generator_captures = True

    def capture_end(self) -> None:
        if self is self.made[0]:
            raise RuntimeError("operation failed due to a previous error during capture")
        BrokenCapture.generator_captures = False


@pytest.mark.parametrize("raises", [True, False])
def test_random_numbers_can_be_drawn_after_a_broken_capture(
    monkeypatch: pytest.MonkeyPatch, raises: bool
) -> None:
    """It shows where the stage waits, or only at the end."""
    monkeypatch.setattr(torch.cuda, "CUDAGraph", BrokenCapture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    let_go: list[object] = []
    monkeypatch.setattr(
        torch._C, "_cuda_endAllocateToPool", lambda _, pool: let_go.append(pool), raising=False
    )
    BrokenCapture.made = []

    def stage() -> None:
        if raises:
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="stream is capturing" if raises else "previous error"):
        prefill_graphs.captured("pool", stage)
    assert not BrokenCapture.generator_captures and let_go == ["pool"]


@pytest.mark.parametrize("reduction", [None, Reduction("stride", kept=30)], ids=["all", "stride"])
def test_graphs_keep_no_pixels_of_the_sample_they_were_captured_with(
    runner: MolmoRunner, samples: list[Sample], reduction: Reduction | None
) -> None:
    prepared = runner.prepare(samples[0], CropSetting(2, reduction=reduction), "easy_vqa")
    pixels = weakref.ref(prepared.image.patches)
    stages = runner.graph_stages(prepared)._replace(inputs={})
    del prepared
    gc.collect()
    assert stages is not None and pixels() is None


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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
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
