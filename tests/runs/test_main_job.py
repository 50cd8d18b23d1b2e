"""The main job on real images: runs, records, comparison, failures, resuming."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.helpers.facts import says
from tests.helpers.sweeps import HARDLY_TIMED, run_without_report
from vtexp.analysis.rows import collect
from vtexp.budget.geometry import Tiling
from vtexp.config.schema import Config
from vtexp.errors import CheckpointError, ConfigError, CountMismatchError, RunFailedError
from vtexp.jobs.here import run_job
from vtexp.models.probe import Counts
from vtexp.report.columns import COLUMNS
from vtexp.runs import run as experiment
from vtexp.runs.plan import make_plan
from vtexp.runs.records import (
    Result,
    read_environment,
    read_failure,
    read_latency,
    read_result,
    read_samples,
)
from vtexp.utils import files

ROOT = Path(__file__).parents[2]
MakeConfig = Callable[..., Config]


def results(folder: Path) -> dict[str, Result]:
    """Results of a sweep folder by knob value."""
    found = [read_result(path.parent) for path in sorted(folder.glob(f"*/{files.RESULT}"))]
    return {result.knob_value: result for result in found}


def run_folder(folder: Path, value: str) -> Path:
    return next(folder.glob(f"*-{value}_*"))


@pytest.mark.parametrize(("full", "measured"), [(False, (384, 928)), (True, (432, 1440))])
def test_counts_of_the_users_command(
    make_config: MakeConfig, tmp_path: Path, full: bool, measured: tuple[int, int]
) -> None:
    sizes = ("knob.sizes=[560x336,784x784]", "dataset.limit=2")
    run_without_report(make_config(*sizes, f"force_full_tokens={full}"))
    small, large = (results(tmp_path / "sweep")[size] for size in ("560x336", "784x784"))
    assert (small.tiling, large.tiling) == ("2x1", "3x3")
    assert (small.measured_tiling, large.measured_tiling) == ("2x1", "3x3")
    assert (small.measured_num_crops, large.measured_num_crops) == (2, 9)
    assert (small.theoretical_vision_tokens, large.theoretical_vision_tokens) == (432, 1440)
    assert (small.measured_vision_tokens, large.measured_vision_tokens) == measured
    assert (small.actual_vision_tokens, large.actual_vision_tokens) == measured
    assert not small.actual_overridden and not large.actual_overridden


def test_files_of_a_run(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config("knob.sizes=[560x560]")
    run_without_report(config)
    folder = run_folder(tmp_path / "sweep", "560x560")
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml", "planned.json", "environment.json", "samples.jsonl", "latency.jsonl",
        "result.json",
    }  # fmt: skip
    result = results(tmp_path / "sweep")["560x560"]

    samples = list(read_samples(folder / "samples.jsonl"))
    plan = make_plan(config)
    assert [row.sample_id for row in samples] == [s.sample_id for s in plan.samples]
    for row, sample in zip(samples, plan.samples, strict=True):
        assert row.question == sample.question
        assert row.references == sample.references
        assert row.score == float(row.prediction == sample.references[0])
        assert row.measured_vision_tokens == row.actual_vision_tokens == 544
        assert row.theoretical_vision_tokens == 720
    assert result.accuracy == np.mean([row.score for row in samples])
    assert result.num_samples == 6

    timings = list(read_latency(folder / "latency.jsonl"))
    assert [(row.sample_id, row.repeat) for row in timings] == [
        (plan.samples[i].sample_id, repeat) for repeat in (0, 1) for i in (0, 1)
    ]
    for row in timings:
        assert row.vision_ms > 0 and row.llm_prefill_ms > 0
        # Both are measured around the same two stages, by the same clock.
        assert row.prefill_ms == pytest.approx(row.vision_ms + row.llm_prefill_ms)
        assert row.ttft_ms > row.prefill_ms + row.preprocess_ms
    prefill = result.latency["prefill_ms"]
    assert prefill.median == pytest.approx(median(row.prefill_ms for row in timings))
    assert prefill.n == 4
    assert prefill.p90 is None  # too few timings for one

    resolved = yaml.safe_load((folder / "config.yaml").read_text())
    assert resolved["run"]["value"] == "560x560"
    assert resolved["dataset"]["limit"] == 6
    environment = read_environment(folder)
    assert torch.__version__.startswith(environment.packages["torch"])  # or with +cu130
    assert environment.device.type == "cpu"


@pytest.mark.usefixtures("picture")
def test_comparison_has_one_row_per_value(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_job(make_config("knob=max_crops", "knob.max_crops=[1,4]"))
    with (tmp_path / "sweep" / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:5] == [column.key for column in COLUMNS[:5]]
    assert [row["knob_value"] for row in rows] == ["1", "4"]
    assert [row["target_vision_tokens"] for row in rows] == ["288", "720"]
    assert [row["same_inputs_as"] for row in rows] == ["", "max_crops=1"]
    assert float(rows[0]["prefill_ms_median"]) > 0
    with Image.open(tmp_path / "sweep" / "comparison.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 500
    assert says(capsys.readouterr().out, "same inputs", "max_crops=1")


def test_same_inputs_give_the_same_answers(make_config: MakeConfig, tmp_path: Path) -> None:
    run_without_report(
        make_config("knob=max_crops", "knob.max_crops=[1,12]", "sweep.identical_runs=true")
    )
    predictions = [
        [row["prediction"] for row in files.read_jsonl(path)]
        for path in sorted((tmp_path / "sweep").glob("*/samples.jsonl"))
    ]
    assert len(predictions) == 2 and predictions[0] == predictions[1]


@pytest.mark.slow
def test_batch_size_does_not_change_answers(make_config: MakeConfig, tmp_path: Path) -> None:
    predictions = {}
    for size in (1, 5):
        config = make_config("knob.sizes=[560x336]", f"hardware.batch_size={size}",
                             f"sweep.name=batch{size}")  # fmt: skip
        run_without_report(config)
        folder = run_folder(tmp_path / f"batch{size}", "560x336")
        rows = files.read_jsonl(folder / "samples.jsonl")
        predictions[size] = [row["prediction"] for row in rows]
        assert read_result(folder).batch_size == min(size, 4)
    assert predictions[1] == predictions[5]


@pytest.mark.slow
def test_finished_runs_are_kept(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_without_report(make_config("knob.sizes=[336x336]"))
    first = run_folder(tmp_path / "sweep", "336x336") / files.RESULT
    before = first.read_bytes()
    run_without_report(make_config("knob.sizes=[336x336,560x336]"))
    assert first.read_bytes() == before
    assert set(results(tmp_path / "sweep")) == {"336x336", "560x336"}
    assert "336x336: has a result" in capsys.readouterr().out


@pytest.mark.slow
def test_a_failing_run_is_survived_and_named(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = experiment.check_counts

    def broken(run, sample, tiling, measured):
        wrong = measured._replace(vision_tokens=measured.vision_tokens - (run.num_crops == 4))
        return real(run, sample, tiling, wrong)

    monkeypatch.setattr(experiment, "check_counts", broken)
    config = make_config("knob.sizes=[336x336,560x560,560x336]")
    with pytest.raises(
        RunFailedError, match=r"1 of 3 runs failed: image_size=560x560 \(sample .*failure\.json"
    ):
        run_without_report(config)
    sweep = tmp_path / "sweep"
    assert set(results(sweep)) == {"336x336", "560x336"}
    failure = read_failure(run_folder(sweep, "560x560"))
    assert "4 crops (2x2) and 544 vision tokens" in failure.error
    assert not list(sweep.glob("*/*.partial"))
    assert [run.status for run in collect(sweep)].count("failed") == 1

    monkeypatch.undo()  # the cause is mended: only the failed run is made
    run_without_report(config)
    assert len(results(sweep)) == 3
    assert not list(sweep.glob(f"*/{files.FAILURE}"))


def test_miscount_fails_unless_full_tokens_are_forced(make_config: MakeConfig) -> None:
    for full in (False, True):
        plan = make_plan(make_config("knob.sizes=[560x336]", f"force_full_tokens={full}"))
        run, sample = plan.runs[0], plan.samples[0]
        wrong = Counts(2, 400, Tiling(2, 1))
        if not full:
            with pytest.raises(CountMismatchError, match="384"):
                experiment.check_counts(run, sample, Tiling(2, 1), wrong)
            continue
        counts = experiment.check_counts(run, sample, Tiling(2, 1), wrong)
        assert counts.measured_vision_tokens == 400
        assert counts.actual_vision_tokens == counts.theoretical_vision_tokens == 432
        assert counts.actual_overridden


def test_refused_value_stops_before_anything_loads(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "vtexp.models.runner", None)
    with pytest.raises(ConfigError, match="take fewer crops"):
        run_without_report(make_config("knob.sizes=[336x336,1904x1904]"))
    assert not (tmp_path / "sweep").exists()


def test_no_gpu_is_one_line(make_config: MakeConfig, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="no usable CUDA GPU; take hardware=cpu"):
        run_without_report(make_config("hardware=local_gpu"))
    assert not (tmp_path / "sweep").exists()


def test_weights_that_do_not_fit_are_one_line(
    make_config: MakeConfig, small_checkpoint: Path, tmp_path: Path
) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(small_checkpoint, broken)
    weights = load_file(broken / "model.safetensors")
    weights.pop("model.transformer.ln_f.weight")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 missing keys: model.transformer.ln_f.weight"):
        run_without_report(make_config(f"model.path={broken}"))
    (broken / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(CheckpointError, match="as Molmo v1"):
        run_without_report(make_config(f"model.path={broken}"))


@pytest.mark.slow
def test_multirun_as_the_user_types_it(small_checkpoint: Path, tmp_path: Path) -> None:
    """Two jobs, each with its own value; the second sweep groups both values into one job."""
    common = [
        sys.executable, str(ROOT / "launch.py"), "-m", "knob=image_size",
        f"model.path={small_checkpoint}", "dataset.limit=3", *HARDLY_TIMED,
    ]  # fmt: skip
    for sweep, arguments, jobs in (
        ("a", ["knob.sizes=[560x336,784x784]"], 2),
        ("b", ["knob.sizes=560x336,784x784", "sweep.values_per_job=2"], 1),
    ):
        command = [*common, *arguments, f"sweep.name={sweep}"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"{jobs} job" in done.stdout and ", results in" in done.stdout
        found = results(tmp_path / "outputs" / sweep)
        assert {v: r.measured_vision_tokens for v, r in found.items()} == {
            "560x336": 384, "784x784": 928,
        }  # fmt: skip
        assert (tmp_path / "outputs" / sweep / "comparison.csv").is_file()
        assert {p.name for p in tmp_path.iterdir()} <= {"outputs", "home"}


@pytest.mark.slow
def test_multirun_survives_a_job_and_says_which(small_checkpoint: Path, tmp_path: Path) -> None:
    """One swept model has no weights that load: its job fails, the other one's result is kept."""
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(small_checkpoint, broken)
    (broken / "model.safetensors").write_bytes(b"not weights")
    command = [
        sys.executable, str(ROOT / "launch.py"), "-m", "knob.sizes=[336x336]",
        f"model.path={small_checkpoint},{broken}", "dataset.limit=3", *HARDLY_TIMED, "sweep.name=c",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: 1 of 2 runs failed: image_size=336x336 (")
    assert "as Molmo v1" in done.stderr
    runs = collect(tmp_path / "outputs" / "c")
    assert sorted(run.status for run in runs) == ["done", "failed"]
    (error,) = (run.error for run in runs if run.error is not None)
    assert "as Molmo v1" in error
