"""Metrics and data sets of a user's own: what they give, and one line for each mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.sweeps import NO_FIGURES
from vtexp.config.schema import Config
from vtexp.data.load import load_samples
from vtexp.data.sample import Sample
from vtexp.errors import ConfigError, DataError, VtexpError
from vtexp.jobs.here import run_job
from vtexp.metrics import metric
from vtexp.runs.plan import make_plan
from vtexp.utils import files, own_code

MakeConfig = Callable[..., Config]

#: A set of one picture in each form, and metrics, as a user writes them.
CODE = """
import numpy as np
from PIL import Image

def pages(split):
    picture = Image.new("RGB", (90, 60), "red")
    Image.new("RGB", (50, 70), "blue").save("blue.png")
    for i in range(4):
        yield {"image": picture, "question": f"what is {i}?", "references": ["yes", "no"],
               "question_type": "kind", "attributes": {"number": i}}
    yield {"image": "blue.png", "question": "which?", "options": ["red", "blue"],
           "answer_index": 1, "sample_id": "blue"}
    yield {"image": np.zeros((40, 30, 3), np.uint8), "question": "dark?", "references": "yes"}

def first_letter(prediction, sample):
    return prediction[:1] == sample.references[0][:1]

def too_much(prediction, sample):
    return 3

def no_number(prediction, sample):
    return "1"

def not_any(prediction, sample):
    return float("nan")

def raises(prediction, sample):
    raise KeyError("gone")

def wants_one(prediction):
    return 1

def two_ids(split):
    return [{"image": "a.png", "question": "?", "references": "a", "sample_id": "x"}] * 2

def numbers(split):
    return [1, 2]

def nothing(split):
    return None

def breaks(split):
    yield {}
    raise RuntimeError("the disk\\nis gone")

number = 5
"""


@pytest.fixture(autouse=True)
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`mine`, in the current folder, and `broken`, which raises when it is imported."""
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "broken.py").write_text("1 / 0")
    (tmp_path / "lacking.py").write_text("import no_such_package")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own_code, "_imported", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("mine", "broken", "lacking"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def of_python(name: str, *more: str) -> list[str]:
    form = "dataset.source.form=python"
    return [form, f"dataset.source.function={name}", "dataset.name=mine", *more]


def test_samples_are_what_the_function_gives(make_config: MakeConfig) -> None:
    config = make_config(*of_python("mine:pages", "dataset.limit=null", "dataset.stratify=false"))
    samples = {s.sample_id: s for s in make_plan(config).samples}
    assert set(samples) == {"test-0", "test-1", "test-2", "test-3", "blue", "test-5"}
    first = samples["test-0"]
    assert (first.question, first.references) == ("what is 0?", ("yes", "no"))
    assert (first.question_type, dict(first.attributes)) == ("kind", {"number": 0})
    assert {samples[f"test-{i}"].image_id for i in range(4)} == {first.image_id}
    assert first.image_id != samples["test-5"].image_id
    assert np.array_equal(first.pixels(), np.full((60, 90, 3), (255, 0, 0), np.uint8))
    assert not samples["test-5"].pixels().any()
    blue = samples["blue"]
    assert (blue.references, blue.options, blue.image_id) == (("B",), ("red", "blue"), "blue.png")
    assert blue.image_size() == (70, 50)


def test_a_run_with_both_names_the_metric_in_full(make_config: MakeConfig, tmp_path: Path) -> None:
    own = of_python("mine:pages", "dataset.metric=mine:first_letter", "knob.sizes=[336x336]")
    run_job(make_config(*own))
    folder = next((tmp_path / "sweep").glob("*336x336*"))
    result = files.read_json(folder / files.RESULT)
    assert result["metric"] == "mine:first_letter"
    assert result["num_samples"] == 6
    rows = files.read_jsonl(folder / files.SAMPLES)
    expected = [float(r["prediction"][:1] == r["references"][0][:1]) for r in rows]
    assert [r["score"] for r in rows] == expected
    # Its page shows the images: the function has been called for this process's run.
    assert "no images" not in (tmp_path / "sweep" / "report.html").read_text()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere:f", "no module nowhere"),
        ("mine.part:f", "mine.part"),
        ("broken:f", "ZeroDivisionError"),
        ("lacking:f", "no_such_package"),
        ("mine:first_leter", "mean first_letter"),
        ("mine:number", "not a function"),
        ("mine:", "module:function"),
        (":f", "module:function"),
        ("mine:f:g", "module:function"),
        ("mine:raises", "KeyError.*gone"),
        ("mine:wants_one", "TypeError"),
        ("mine:too_much", "gave 3"),
        ("mine:no_number", "gave '1'"),
        ("mine:not_any", "gave nan"),
    ],
)
def test_a_mistake_in_a_metric_is_one_line_before_any_run(
    make_config: MakeConfig, name: str, says: str
) -> None:
    with pytest.raises(VtexpError, match=says) as raised:
        make_plan(make_config(f"dataset.metric='{name}'"))
    assert "dataset.metric" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere:f", "no module nowhere"),
        ("mine:pags", "mean pages"),
        ("mine:two_ids", "sample_id x"),
        ("mine:numbers", "question 0 is a int"),
        ("mine:nothing", "TypeError"),
        ("mine:breaks", "RuntimeError: the disk is gone"),
    ],
)
def test_a_mistake_in_a_data_set_is_one_line(make_config: MakeConfig, name: str, says: str) -> None:
    with pytest.raises(VtexpError, match=says) as raised:
        make_plan(make_config(*of_python(name)))
    assert "dataset.source.function" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"question": "?", "references": "a"}, "lacks image"),
        ({"image": "a.png", "references": "a"}, "lacks question"),
        ({"image": "a.png", "question": "?"}, "no answer"),
        ({"image": "a.png", "question": "?", "answers": "a"}, "no answers"),
        ({"image": "nowhere.png", "question": "?", "references": "a"}, "no such image"),
        ({"image": 5, "question": "?", "references": "a"}, "not an image"),
        ({"image": np.zeros((4, 4, 3)), "question": "?", "references": "a"}, "float64"),
        ({"image": "a.png", "question": "?", "options": ["x"], "answer_index": 1}, "answer_index"),
        ({"image": "a.png", "question": "?", "references": "a", "attributes": 1}, "attributes"),
    ],
)  # fmt: skip
def test_a_question_that_cannot_be_asked_is_named(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, row: dict[str, object], says: str
) -> None:
    Image.new("RGB", (40, 40)).save("a.png")
    whole = {"image": "a.png", "question": "?", "references": "a"}
    monkeypatch.setattr(own_code, "_imported", {"mine:rows": lambda split: [whole, row]})
    with pytest.raises(DataError, match=f"sample test-1: .*{says}"):
        make_plan(make_config(*of_python("mine:rows")))


def test_form_and_function_belong_together(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"dataset\.source\.function"):
        make_plan(make_config("dataset.source.form=python"))
    with pytest.raises(ConfigError, match="form=python"):
        make_plan(make_config("dataset.source.form=json", "dataset.source.function=mine:pages",
                              "dataset.source.folder=."))  # fmt: skip
    with pytest.raises(ConfigError, match="train, test"):
        make_plan(make_config(*of_python("mine:pages", "dataset.split=dev")))


def test_a_report_imports_nothing(make_config: MakeConfig) -> None:
    """Of a sweep that a stranger made, whose config names any module of this machine."""
    config = make_config(*of_python("mine:pages"))
    with pytest.raises(DataError, match="only runs call"):
        load_samples(config.dataset)
    assert metric("os:system").highest == 1.0
    assert "mine" not in sys.modules


def test_a_metric_is_imported_only_when_it_is_prepared() -> None:
    scored = metric("mine:first_letter")
    assert "mine" not in sys.modules
    sample = Sample("a", "a", None, "?", ("yes",), "")  # type: ignore[arg-type]
    assert scored.prepare([sample])("yellow", sample) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["here", "local"])
def test_jobs_find_the_module_in_the_current_folder(
    launcher: str, tmp_path: Path, small_checkpoint: Path
) -> None:
    command = [sys.executable, "-m", "vtexp", "launch", "-m", f"model.path={small_checkpoint}",
               *of_python("mine:pages"), "dataset.metric=mine:first_letter", "tracking=none",
               "knob.sizes=336x336", "sweep.name=own", f"hardware.launcher={launcher}",
               "measure.latency_samples=1", "measure.max_seconds=0", "measure.min_seconds=0",
               "measure.repeats=2"]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": NO_FIGURES}
    made = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    (path,) = (tmp_path / "outputs" / "own").glob("*/result.json")
    result = json.loads(path.read_text())
    assert (result["metric"], result["num_samples"]) == ("mine:first_letter", 6)
