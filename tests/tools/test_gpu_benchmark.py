"""Parts of benchmarks/gpu.py as far as they come without a GPU: to their plans; what is kept."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from vtexp.config.compose import compose_config
from vtexp.runs import job
from vtexp.runs.plan import make_plan

PLANNED = "it was planned"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The benchmark, on a machine that says it has an H100."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    import gpu

    return gpu


def plan(*overrides: str) -> None:
    """Work the runs out: raises what is wrong with the keys."""
    own = [each for each in overrides if each != "-m" and not each.startswith("dataset.limit")]
    made = make_plan(compose_config([*own, "dataset.limit=2"]))
    assert made.runs
    made.require_feasible()


@pytest.mark.parametrize(
    "part", ["sweep_7b", "default_sweep", "experts", "blocks", "float8_tiny", "repeatability"]
)
def test_what_a_part_launches_can_be_planned(
    gpu: Any, tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(folder: Path, *overrides: str, **_: str) -> float:
        plan(*overrides, "tracking=none", f"sweep.folder={folder.parent}")
        raise gpu.Failed(PLANNED)

    monkeypatch.setattr(gpu, "launch", launch)
    with pytest.raises(gpu.Failed, match=PLANNED):
        gpu.PARTS[part][0](tmp_path, Namespace())


def test_models_that_are_loaded_in_place_can_be_planned(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_runner(_: object) -> None:
        raise gpu.Failed(PLANNED)

    monkeypatch.setattr(job, "load_runner", load_runner)
    args = Namespace(found=tmp_path / "found.json")
    for part, models in ((gpu.other_models, gpu.QUICK), (gpu.reduced_models, gpu.REDUCED)):
        failed = part(tmp_path, args)["failed_models"]
        assert failed.keys() == models.keys()
        assert set(failed.values()) == {f"Failed: {PLANNED}"}
    with pytest.raises(gpu.Failed, match=PLANNED):
        gpu.answers(tmp_path, args)


def test_reductions_of_one_model_are_kept_where_the_next_fails(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(_: Path, name: str, arguments: str) -> dict[str, Any]:
        if "7B" not in arguments:
            raise gpu.Failed("no memory")
        return {"prefills": {"none": {}}, "graph_failure": "broken", "rounds": 1}

    monkeypatch.setattr(gpu, "script", script)
    found = gpu.reductions(tmp_path, Namespace(found=tmp_path / "found.json"))
    assert found["molmo_7b_d"] == {"graph_failure": "broken", "prefills": {"none": {}}}
    assert found["molmo_tiny"] == {"failed": "no memory"}
    assert json.loads((tmp_path / "found.json").read_text()) == found


def test_ways_to_run_are_kept_where_time_ends_in_the_next(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def launch(folder: Path, *_: str, **__: str) -> float:
        if folder.name == "sharded":
            raise KeyboardInterrupt
        if folder.name == "ranks":
            raise gpu.Failed("no GPU")
        (folder / "run").mkdir(parents=True)
        (folder / "run" / "result.json").write_text('{"knob_value": "336x336"}')
        rows = [{"sample_id": id_, "prediction": text} for id_, text in ("0a", "1b")]
        rows[0]["prediction"] += folder.name[:1] if folder.name == "workers" else ""
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "run" / "samples.jsonl").write_text(lines)
        return 1.0

    monkeypatch.setattr(gpu, "launch", launch)
    with pytest.raises(KeyboardInterrupt):
        gpu.processes(tmp_path, Namespace(found=tmp_path / "found.json"))
    assert json.loads((tmp_path / "found.json").read_text()) == {
        "one": {"answers": 2, "as_alone": 2},
        "ranks": {"failed": "no GPU"},
        "workers": {"answers": 2, "as_alone": 1},
    }


def test_rows_of_fewer_blocks_have_a_name_of_their_own_and_no_reference(gpu: Any) -> None:
    """The reference code ran all blocks."""
    asked = {"model": "molmo_7b_d", "knob_value": "14"}
    names = [gpu.name_of(Namespace(**asked, knob=k)) for k in ("transformer_blocks", "image_size")]
    assert names == ["molmo_7b_d, transformer_blocks=14", "molmo_7b_d"]
    rows = [{"model": name, "crops": 12, "reference_ms": None} for name in names]
    parts = {
        "blocks": {"rows": rows},
        "beside_reference": {"crops": [{"crops": 12, "reference_ms": 64.7}]},
    }
    found = gpu.collected(parts)["rows"]
    assert [row["reference_ms"] for row in found] == [None, 64.7]
