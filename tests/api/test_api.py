"""The public API: against golden counts, the runner's own hooks, and the files of a sweep."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vtexp
from vtexp.budget.geometry import Tiling
from vtexp.errors import ConfigError, DataError, VtexpError
from vtexp.utils import extras, files

ROOT = Path(__file__).parents[2]
SMALL = (
    *("dataset=easy_vqa", "dataset.limit=4", "measure.latency_samples=1", "tracking=none"),
    *("measure.latency_repeats=2", "measure.min_seconds=0", "measure.max_seconds=0"),
)


def test_import_is_quick_and_counting_needs_no_torch() -> None:
    code = (
        "import sys, vtexp; light = len(sys.modules)\n"
        "vtexp.count_tokens('molmo_7b_d', size=(900, 1200), max_crops=12)\n"
        "print(light, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    made = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    light, *heavy = made.stdout.split()
    assert heavy == ["False", "False"]
    assert int(light) < 200


def test_every_public_name_is_there() -> None:
    for name in vtexp.__all__:
        assert getattr(vtexp, name) is not None
        assert name in dir(vtexp)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = vtexp.no_such_name  # type: ignore[attr-defined]


# --- count_tokens --------------------------------------------------------------------------------


def test_counts_are_the_references(golden_dir: Path) -> None:
    """Of each tiling the reference processor's pooled tokens and length of the image's tokens."""
    for row in json.loads((golden_dir / "counts.json").read_text())["table"]:
        size = (row["rows"] * 224 + 112, row["cols"] * 224 + 112)
        counts = vtexp.count_tokens("molmo_7b_d", image_size=size)
        assert counts.tiling == (row["rows"], row["cols"])
        assert counts.theoretical_vision_tokens == row["pooled_slots"]
        assert counts.measured_vision_tokens == row["valid_idx"]
        assert counts.image_tokens == row["sequence_tokens"]
        assert counts.prompt_tokens == row["sequence_tokens"] + 1  # the beginning of text


def test_each_knob_counts() -> None:
    counts = vtexp.count_tokens("molmo_7b_d", size=(900, 1200), max_crops=12)
    assert (counts.tiling, counts.num_crops, counts.canvas) == ((3, 4), 12, (784, 1008))
    assert vtexp.count_tokens("molmo_7b_d", "900x1200", max_crops=12) == counts
    targeted = vtexp.count_tokens("molmo_7b_d", size=(900, 1200), vision_tokens=1872)
    assert (targeted.num_crops, targeted.theoretical_vision_tokens) == (12, 1872)
    fixed = vtexp.count_tokens("molmo_7b_d", image_size="560x784")
    assert (fixed.tiling, fixed.theoretical_vision_tokens) == ((2, 3), 1008)
    full = vtexp.count_tokens("molmo_7b_d", image_size="560x784", force_full_tokens=True)
    assert full.measured_vision_tokens == 1008
    assert vtexp.count_tokens("molmo2_8b", image_size=(378, 378)).theoretical_vision_tokens == 392


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"size": (9, 9)}, "none"),
        ({"size": (9, 9), "max_crops": 1, "vision_tokens": 288}, "max_crops and vision_tokens"),
        ({"max_crops": 4}, "size"),
        ({"size": (0, 9), "max_crops": 4}, r"size\[0\]=0"),
        ({"size": 9, "max_crops": 4}, "size=9"),
        ({"size": (9, 9), "max_crops": 0}, "0"),
        ({"size": (9, 9), "vision_tokens": 10}, "288"),
        ({"image_size": "big"}, "big"),
        ({"image_size": "336x336", "fit": "squash"}, "fit=squash"),
        ({"model": "nothing", "image_size": "336x336"}, "model=nothing"),
        ({"model": "molmo", "image_size": "336x336"}, "model.path"),
        ({"path": "/nowhere", "image_size": "336x336"}, "/nowhere"),
    ],
)
def test_what_cannot_be_counted_is_one_line(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(VtexpError, match=says) as raised:
        vtexp.count_tokens(**arguments)
    assert "\n" not in str(raised.value)


# --- load_model ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> vtexp.Model:
    quick = ["measure.min_seconds=0", "measure.max_seconds=0", "measure.latency_repeats=6"]
    return vtexp.load_model("molmo_tiny", overrides=quick)


@pytest.fixture
def picture() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (500, 700, 3), dtype=np.uint8)


def test_arrays_pictures_and_paths_are_read_alike(
    model: vtexp.Model, picture: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(picture).save(path)
    alpha = np.dstack([picture, np.full((500, 700), 9, np.uint8)])
    forms = [picture, picture[:, :, ::-1][:, :, ::-1], Image.fromarray(picture), path, str(path),
             Image.fromarray(alpha)]  # fmt: skip
    read = [model.preprocess(form, max_crops=4) for form in forms]
    for own in read:
        assert own.counts == read[0].counts
        assert np.array_equal(own.inputs.patches, read[0].inputs.patches)
    grey = picture[:, :, 0]
    both = [model.preprocess(form, max_crops=1).inputs.patches
            for form in (grey, Image.fromarray(grey), grey[:, :, None])]  # fmt: skip
    assert np.array_equal(both[0], both[1]) and np.array_equal(both[0], both[2])


@pytest.mark.parametrize(
    "budget", [{"max_crops": 4}, {"image_size": (560, 336)}, {"vision_tokens": 720}]
)
def test_counts_are_what_the_model_reads(
    model: vtexp.Model, picture: np.ndarray, budget: dict[str, Any]
) -> None:
    read = model.preprocess(picture, **budget)
    predicted = vtexp.count_tokens("molmo_tiny", size=(500, 700), **budget)
    assert read.counts.tiling == predicted.tiling == read.inputs.tiling
    assert len(read.inputs.image_tokens) == read.counts.image_tokens == predicted.image_tokens
    kept = int((read.inputs.image_input_idx >= 0).sum())
    assert kept == read.counts.measured_vision_tokens == predicted.measured_vision_tokens
    times = model.time_prefill(picture, "what is shown?", **budget)  # compares with hooks
    asked = vtexp.count_tokens("molmo_tiny", (500, 700), question="what is shown?", **budget)
    assert times.counts == asked


def test_fewer_blocks_are_those_that_work(model: vtexp.Model, picture: np.ndarray) -> None:
    quick = ["measure.min_seconds=0", "measure.max_seconds=0", "measure.latency_repeats=6"]
    fewer = vtexp.load_model("molmo_tiny", overrides=[*quick, "model.active_blocks=[0,3]"])
    ran: list[int] = []
    hooks = [
        block.register_forward_hook(lambda *_, i=i: ran.append(i))
        for i, block in enumerate(fewer.runner.model.model.transformer.blocks)
    ]
    fewer.answer(picture, "what is shown?", max_new_tokens=1, max_crops=1)
    assert ran == [0, 3] and len(hooks) == 4
    with pytest.raises(VtexpError, match="block 3 is missing"):
        vtexp.load_model("molmo_tiny", overrides=["model.active_blocks=[0,1]"])


def test_times_are_those_of_the_protocol(model: vtexp.Model, picture: np.ndarray) -> None:
    times = model.time_prefill(picture, "what is shown?", max_crops=2)
    assert times.n == len(times.rows) >= 6
    assert times.prefill_ms == pytest.approx(np.median([r["prefill_ms"] for r in times.rows]))
    assert times.low_ms is not None and times.high_ms is not None
    assert times.low_ms <= times.prefill_ms <= times.high_ms
    assert 0 < times.stages["llm_prefill_ms"] < times.stages["ttft_ms"]


@pytest.mark.slow
def test_answers_are_those_of_a_run(model: vtexp.Model, tmp_path: Path) -> None:
    sweep = vtexp.launch(
        ["dataset.limit=3", "knob.sizes=784x784", "tracking=none", "measure.latency_samples=1",
         "measure.min_seconds=0", "measure.max_seconds=0", f"sweep.folder={tmp_path}"]
    )  # fmt: skip
    assert sweep is not None
    from vtexp.config.compose import compose_config
    from vtexp.data.load import load_samples

    found = load_samples(compose_config(["dataset.limit=3"]).dataset)
    for sample, row in zip(found.samples, sweep.samples.itertuples(), strict=True):
        pixels = sample.pixels()
        said = model.answer(pixels, sample.question, max_new_tokens=8, image_size="784x784")
        assert said == row.prediction


@pytest.mark.parametrize("image", [None, 5, "no.png", np.zeros((4, 4, 3)), np.zeros(4, np.uint8)])
def test_what_is_no_image_is_one_line(model: vtexp.Model, image: Any) -> None:
    with pytest.raises(DataError) as raised:
        model.preprocess(image, max_crops=1)
    assert "\n" not in str(raised.value)


def test_what_cannot_be_asked_is_refused(model: vtexp.Model, picture: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="4096"):
        model.answer(picture, "is it so? " * 4000, max_crops=1)
    random = vtexp.load_model(weights="random")
    with pytest.raises(ConfigError, match="random weights"):
        random.answer(picture, "what?", max_crops=1)
    with pytest.raises(ConfigError, match="hardware=nothing"):
        vtexp.load_model(hardware="nothing")


# --- launch and load_sweep -----------------------------------------------------------------------


@pytest.fixture
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_checkpoint: Path) -> str:
    monkeypatch.chdir(tmp_path)
    return f"model.path={small_checkpoint}"


@pytest.mark.parametrize("multirun", [[], pytest.param(["-m"], marks=pytest.mark.slow)])
def test_a_sweep_is_launched_and_read(in_a_folder: str, multirun: list[str]) -> None:
    sweep = vtexp.launch([*multirun, in_a_folder, *SMALL, "knob.sizes=336x336,560x336"])
    assert sweep is not None
    assert sweep.path.parent == Path("outputs").absolute()
    assert list(sweep.runs["tiling"]) == ["1x1", "2x1"]
    assert list(sweep.runs["measured_vision_tokens"]) == [288, 384]
    again = vtexp.load_sweep(sweep.path.name)
    assert again.path == sweep.path
    for row in again.runs.itertuples():
        folder = Path(row.folder)
        own = again.samples[again.samples["run"] == row.run]
        records = files.read_jsonl(folder / files.SAMPLES)
        assert list(own["score"]) == [record["score"] for record in records]
        times = again.latency[again.latency["run"] == row.run]
        records = files.read_jsonl(folder / files.LATENCY)
        assert list(times["prefill_ms"]) == [record["prefill_ms"] for record in records]
        assert row.accuracy == own["score"].mean()
    with (sweep.path / "comparison.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [float(r["accuracy"]) for r in written] == list(again.runs["accuracy"])
    assert again.answer in (sweep.path / "comparison.md").read_text()


@pytest.mark.slow
def test_groups_are_swept(in_a_folder: str) -> None:
    sweep = vtexp.launch(["-m", in_a_folder, *SMALL, "knob.sizes=336x336",
                          "hardware.dtype=float32,bfloat16"])  # fmt: skip
    assert sweep is not None
    assert len(sweep.runs) == 2
    assert sorted(sweep.runs["settings"]) == ["hardware.dtype=bfloat16", "hardware.dtype=float32"]


def test_a_plan_makes_no_sweep(in_a_folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert vtexp.launch([in_a_folder, *SMALL, "plan=true"]) is None
    assert vtexp.launch(["-m", in_a_folder, *SMALL, "plan=true"]) is None
    assert "560x336" in capsys.readouterr().out
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["knob.size=336x336"], "knob.size"),
        (["dataset=nothing"], "dataset=nothing"),
        (["--config-dir=x"], "config_dir"),
        (["-m", "sweep.name=a,b"], "one name"),
        (["-m", "=="], "="),
        ("plan=true", "list"),
    ],
)
def test_a_wrong_argument_is_one_line(arguments: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as raised:
        vtexp.launch(arguments)
    assert "\n" not in str(raised.value)


def test_no_sweep_and_no_pandas_are_one_line(
    made_runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="nowhere"):
        vtexp.load_sweep("nowhere")
    monkeypatch.setitem(extras.EXTRAS, "report", ("no_pandas",))
    with pytest.raises(ConfigError, match=r"no_pandas: pip install .vtexp\[report\]"):
        _ = vtexp.load_sweep(made_runs).runs


# --- score ---------------------------------------------------------------------------------------


def test_scores_are_the_references(golden_dir: Path) -> None:
    assert vtexp.score("vqa_accuracy", "red", ["red"] * 10) == 1.0
    # The official program cleans texts only where the references differ.
    assert vtexp.score("vqa_accuracy", "Red.", ["red"] * 10) == 0.0
    assert vtexp.score("vqa_accuracy", "Red.", ["red"] * 9 + ["dark red"]) == 1.0
    # Two of ten: the official mean over the subsets of nine.
    expected = np.mean([min((2 - own) / 3, 1) for own in [1] * 2 + [0] * 8])
    assert vtexp.score("vqa_accuracy", "red", ["red"] * 2 + ["blue"] * 8) == pytest.approx(expected)
    assert vtexp.score("multiple_choice", "B", "B", options=["red", "blue"]) == 1.0
    assert vtexp.score("multiple_choice", "A", ["B"], options=["red", "blue"]) == 0.0
    assert vtexp.score("counting", "There are 3", "3") == 1.0
    precise = {"answer_type": "float", "precision": 1.0}
    assert vtexp.score("math_vista_no_network", "1.23", "1.2", attributes=precise) == 1.0


def test_what_cannot_be_scored_is_one_line() -> None:
    for name, options in (("nothing", ()), ("multiple_choice", ()), ("cider", ())):
        with pytest.raises(VtexpError) as raised:
            vtexp.score(name, "a", "a", options=options)
        assert name in str(raised.value)


def test_tilings_are_tuples() -> None:
    make: Callable[..., vtexp.TokenCounts] = vtexp.count_tokens
    assert isinstance(make(image_size="336x336").tiling, Tiling)
