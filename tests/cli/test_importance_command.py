"""`vtexp importance`: what each block is worth, against whole runs without it; and its mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.sweeps import run_without_report
from tests.runs.test_llm_runs import molmoe as molmoe  # a fixture
from tests.runs.test_llm_runs import order_file
from vtexp.analysis.rows import collect
from vtexp.cli.main import main
from vtexp.config.schema import Config
from vtexp.runs.block_order import read_block_order

MakeConfig = Callable[..., Config]
QUESTIONS = ("dataset=easy_vqa", "dataset.limit=12", "knob=max_crops", "knob.max_crops=[1]")


@pytest.mark.slow
def test_losses_are_those_of_whole_runs(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny, path = ("model.path=embedded:molmo_tiny", *QUESTIONS), tmp_path / "order.json"
    assert main(["importance", *tiny, "--out", str(path)]) == 0
    found = read_block_order(str(path))
    for blocks in ("null", "[0,2,3]", "[0,1,3]"):
        run_without_report(make_config(*tiny, f"model.active_blocks={blocks}"))
    runs = {run.asked.blocks: run.found for run in collect(tmp_path / "sweep")}
    whole = runs[None]
    assert found.fingerprint and found.accuracy == whole.accuracy and found.questions == 12
    losses = {one.block: one.loss for one in found.blocks}
    for block, left in ((1, (0, 2, 3)), (2, (0, 1, 3))):
        assert whole.accuracy is not None and runs[left].accuracy is not None
        assert losses[block] == pytest.approx(whole.accuracy - runs[left].accuracy)
    assert [losses[block] for block in found.order] == sorted(losses.values())
    for one in found.blocks:
        assert one.low is not None and one.high is not None and one.low < one.loss < one.high
    screen = capsys.readouterr().out
    assert "dataset.split" in screen and f"model.block_order={path}" in screen.replace("\n", "")


@pytest.mark.slow
def test_the_order_is_used_and_its_own_questions_are_told(
    make_config: MakeConfig, molmoe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, asked = tmp_path / "order.json", (f"model.path={molmoe}", *QUESTIONS)
    assert main(["importance", *asked, "--out", str(path)]) == 0
    assert "the same" in capsys.readouterr().out  # of random weights nothing is right
    found = read_block_order(str(path))
    assert found.order == (2, 1) and found.alike == ((2, 1),)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"order": [1, 2]}))
    for split, told in (("test", True), ("train", False)):
        own = ("model.active_blocks=3", f"model.block_order={path}", f"dataset.split={split}")
        run_without_report(make_config(*asked, *own, f"sweep.name={split}"))
        (run,) = collect(tmp_path / split)
        assert run.asked.blocks == (0, 2, 3)
        assert any("model.block_order" in warning for warning in run.found.warnings) == told


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("model.path=CHECKPOINT",), "2 blocks"),
        (("model.weights=random",), "random weights"),
        (("knob=max_crops", "knob.max_crops=1,2"), "one value"),
        (("model.active_blocks=[0,1,3]",), "model.active_blocks"),
        (("knob=transformer_blocks", "knob.blocks=3"), "transformer_blocks"),
        (
            ("knob=kept_tokens", "knob.kept=32", "knob.max_crops=1", "reduction=early_layer"),
            "early_layer",
        ),
        (("easy_vqa",), "KEY=VALUE"),
        (("model.path=MOLMOE",), "another model"),
    ],
)
def test_mistakes_are_one_line(
    small_checkpoint: Path,
    molmoe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    overrides: tuple[str, ...],
    says: str,
) -> None:
    path = order_file(tmp_path, molmoe, fingerprint="0" * 16)
    paths = {"CHECKPOINT": str(small_checkpoint), "MOLMOE": str(molmoe)}
    for name, folder in paths.items():
        overrides = tuple(word.replace(name, folder) for word in overrides)
    few = ("dataset=easy_vqa", "dataset.limit=2", "--out", str(path))
    assert main(["importance", *overrides, *few]) == 2
    error = capsys.readouterr().err.strip()
    assert says in error and "Traceback" not in error
    assert read_block_order(str(path)).fingerprint == "0" * 16


@pytest.mark.parametrize("out", ["/proc/none/order.json", "."])
def test_a_file_that_cannot_be_written_is_known_before(
    capsys: pytest.CaptureFixture[str], out: str
) -> None:
    """Within a second: nothing is loaded or measured."""
    few = ("dataset=easy_vqa", "dataset.limit=2", "--out", out)
    assert main(["importance", *few]) == 2
    caught = capsys.readouterr()
    assert "--out" in caught.err and "Traceback" not in caught.err and "questions" not in caught.out
