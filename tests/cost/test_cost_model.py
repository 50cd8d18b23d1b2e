"""The cost model of finished sweeps, and what plans make of it: time, FLOPs and memory ahead."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import lsq_linear

from tests.helpers.facts import says
from vtexp.budget.geometry import Tiling, token_layout
from vtexp.config.schema import Config
from vtexp.cost import latency_fit, memory
from vtexp.cost.flops import Memory
from vtexp.cost.latency_fit import (
    Coefficients,
    Point,
    TimedRun,
    find_cost_model,
    fit,
    write_cost_model,
)
from vtexp.errors import ConfigError
from vtexp.jobs.here import run_job
from vtexp.report.plan import show_plan
from vtexp.runs.forecast import forecast
from vtexp.runs.frozen import freeze
from vtexp.runs.plan import Plan, make_plan
from vtexp.utils import files
from vtexp.utils.typed import to_json

MakeConfig = Callable[..., Config]
TRUTH = Coefficients(5.0, 12.0, 0.03, 2e-5)
SIZES = "knob.sizes=[336x336,560x336,560x560,784x784]"
TILINGS = [Tiling(1, 1), Tiling(2, 1), Tiling(2, 2), Tiling(3, 3), Tiling(3, 4)]


def points(tilings: list[Tiling], factor: float = 1.0) -> list[Point]:
    """Timed questions of two lengths each, as TRUTH times them."""
    found = []
    for tiling in tilings:
        for text in (20, 60):
            length = token_layout(tiling).sequence_length + text
            ms = factor * TRUTH.prefill_ms(tiling.num_crops, length)
            found.append(Point(tiling.num_crops, length, ms))
    return found


def timed(tiling: Tiling, factor: float = 1.0) -> TimedRun:
    own = tuple(points([tiling], factor))
    return TimedRun(str(tiling), str(tiling), {"dtype": "float32"}, None, own, 50, 30.0, ())


# --- the fit -------------------------------------------------------------------------------------


def test_fit_finds_the_coefficients_that_made_the_times() -> None:
    found = fit(points(TILINGS))
    for name in Coefficients.__slots__:
        assert getattr(found, name) == pytest.approx(getattr(TRUTH, name), rel=1e-6)


def test_fit_has_the_least_relative_errors_of_all_without_negative_terms() -> None:
    """Beside another solver, on times that pull one coefficient below zero."""
    rng = np.random.default_rng(0)
    noisy = [
        point._replace(prefill_ms=(2 + 9 * point.num_crops) * rng.uniform(0.8, 1.2))
        for point in points(TILINGS)
    ]
    crops, lengths, times = np.array(noisy).T
    terms = np.stack([np.ones_like(crops), crops, lengths, lengths**2], axis=1) / times[:, None]
    scale = terms.max(axis=0)
    best = lsq_linear(terms / scale, np.ones(len(times)), bounds=(0, np.inf), tol=1e-12)
    found = np.array([getattr(fit(noisy), name) for name in Coefficients.__slots__])
    assert (found >= 0).all() and (found == 0).any()
    assert ((terms @ found - 1) ** 2).sum() / 2 == pytest.approx(best.cost, rel=1e-6)


def test_held_out_error_is_that_of_settings_not_fitted_to() -> None:
    """One setting takes twice as long as all others say: left out, it is predicted at half."""
    runs = [timed(tiling) for tiling in TILINGS[:2]] + [timed(TILINGS[2], factor=2)]
    runs += [timed(tiling) for tiling in TILINGS[3:]]
    errors = latency_fit.held_out_errors(runs, latency_fit._prefill_ratio)
    assert errors[2] == pytest.approx(-0.5, abs=1e-3)
    straight = [timed(tiling) for tiling in TILINGS]
    assert latency_fit.held_out_errors(straight, latency_fit._prefill_ratio) == pytest.approx(
        [0] * 5, abs=1e-3
    )


def test_run_time_is_fitted_to_durations() -> None:
    runs = [timed(tiling) for tiling in TILINGS]
    runs = [replace(r, duration_s=7 + 3 * r.questions * r.prefill_ms / 1000) for r in runs]
    found = latency_fit.fit_run_time(runs)
    assert (found.intercept_s, found.per_prefill) == pytest.approx((7, 3))
    assert found.seconds(100, 40.0) == pytest.approx(7 + 3 * 4)


# --- from finished runs to cost_model.json -------------------------------------------------------


def finish(plan: Plan, off: Sequence[float] = (), **changed: Any) -> None:
    """Leave what finished runs of a plan leave, timed as TRUTH says, or `off` times as long."""
    freeze(plan)
    surroundings = {
        "device": {"name": "a processor"},
        "torch_threads": 2,
        "packages": {"torch": "2.13", "transformers": "5.23"},
        "git": None,
    }
    for number, run in enumerate(plan.runs):
        level = off[number] if off else 1.0
        rows = [
            {
                "sample_id": str(i),
                "num_crops": tiling.num_crops,
                "sequence_length": length,
                "prefill_ms": TRUTH.prefill_ms(tiling.num_crops, length) * slower * level,
            }
            for slower in (0.9, 0.8, 1.3)  # the mean counts
            for i, (tiling, length) in enumerate(zip(run.tilings, run.prompt_lengths, strict=True))
        ]
        result = to_json(run.asked(plan.config)) | {
            "status": "done",
            "inputs_fingerprint": run.inputs_fingerprint,
            "num_samples": len(plan.samples),
            "accuracy": 0.5,
            "duration_s": 4 + 2 * sum(row["prefill_ms"] for row in rows) / 1000,
            **changed,
        }
        files.write_jsonl(run.folder / files.LATENCY, rows)
        files.write_json(run.folder / files.ENVIRONMENT, surroundings)
        files.write_json(run.folder / files.RESULT, result)


@pytest.fixture
def earlier(make_config: MakeConfig, tmp_path: Path) -> Path:
    """A finished sweep with its cost model."""
    finish(make_plan(make_config(SIZES, "sweep.name=earlier")))
    path = write_cost_model(tmp_path / "earlier")
    assert path is not None
    return path


def test_a_sweep_is_fitted_with_its_conditions_and_errors(earlier: Path) -> None:
    (fitted,) = json.loads(earlier.read_text())["fits"]
    assert Coefficients(**fitted["coefficients"]).prefill_ms(6, 800) == pytest.approx(
        TRUTH.prefill_ms(6, 800), rel=0.01
    )
    assert fitted["conditions"]["hardware.dtype"] == "float32"
    assert fitted["conditions"]["device"] == "a processor"
    assert fitted["held_out_error"]["worst"] < 0.01
    for name, (low, high) in fitted["coefficient_intervals"].items():
        assert 0 <= low <= fitted["coefficients"][name] + 1e-12
        assert high is None or high >= fitted["coefficients"][name] - 1e-12
    assert set(fitted["not_told_apart"]) <= fitted["coefficients"].keys()
    assert [setting["num_crops"] for setting in fitted["settings"]] == [1, 2, 4, 9]
    assert fitted["run_time"]["held_out_error"]["worst"] < 0.1


def test_too_few_settings_are_not_fitted(
    make_config: MakeConfig, tmp_path: Path, earlier: Path
) -> None:
    """Two sizes; and caps under which every image has the same inputs are one setting."""
    finish(make_plan(make_config("knob.sizes=[336x336,784x784]", "sweep.name=two")))
    finish(make_plan(make_config("knob=max_crops", "knob.max_crops=[1,4,8,12]", "sweep.name=same")))
    for name in ("two", "same"):
        stale = tmp_path / name / latency_fit.COST_MODEL
        stale.write_bytes(earlier.read_bytes())
        assert write_cost_model(tmp_path / name) is None
        assert not stale.exists()


def test_unlike_runs_are_fitted_apart_and_damaged_ones_left_out(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    for dtype in ("float32", "bfloat16"):
        finish(make_plan(make_config(SIZES, f"hardware.dtype={dtype}")), timing_warnings=["drift"])
    sweep = tmp_path / "sweep"
    first, second = sweep.glob("*784x784*/latency.jsonl")
    first.write_text('{"half a')
    second.write_text('{"sample_id": "0", "num_crops": 9, "sequence_length": 9, "prefill_ms": NaN}')
    path = write_cost_model(sweep)
    assert path is not None
    fits = json.loads(path.read_text())["fits"]
    assert [len(fitted["settings"]) for fitted in fits] == [3, 3]
    assert {fitted["conditions"]["hardware.dtype"] for fitted in fits} == {"float32", "bfloat16"}
    assert fits[0]["settings"][0]["disturbed"] == ["drift"]


# --- plans ---------------------------------------------------------------------------------------


def test_a_plan_predicts_by_the_newest_cost_model_of_the_same(
    make_config: MakeConfig, tmp_path: Path, earlier: Path
) -> None:
    model = json.loads(earlier.read_text())
    for name, written, factor in (("older", "2001-01-01", 3), ("newer", "2101-01-01", 2)):
        (fitted,) = json.loads(json.dumps(model["fits"]))
        fitted["coefficients"] = {k: v * factor for k, v in fitted["coefficients"].items()}
        (tmp_path / name).mkdir()
        changed = model | {"written": written, "fits": [fitted]}
        (tmp_path / name / latency_fit.COST_MODEL).write_text(json.dumps(changed))
    broken = ("", "[]", "{}", '{"fits": [{"conditions": 1}]}', '{"fits": 3}')
    for number, text in enumerate(broken):
        (tmp_path / f"broken{number}").mkdir()
        (tmp_path / f"broken{number}" / latency_fit.COST_MODEL).write_text(text)
    plan = make_plan(make_config("knob.sizes=[560x784]"))
    expected = forecast(plan)
    prompts = plan.runs[0].prompts
    truth = sum(n * TRUTH.prefill_ms(6, p.sequence_length) for p, n in prompts.items()) / 6
    assert expected.runs[0].prefill_ms == pytest.approx(2 * truth, rel=0.01)
    assert not expected.runs[0].at_least
    assert str(tmp_path / "newer") in expected.basis and "2101-01-01" in expected.basis
    for other in ("hardware.dtype=bfloat16", "hardware.name=other", "model.weights=random"):
        assert find_cost_model(make_config(other)) is None


def test_predictions_are_frozen_with_the_run_and_values_beyond_the_fit_told(
    make_config: MakeConfig, earlier: Path
) -> None:
    plan = make_plan(make_config("knob.sizes=[336x336,1232x1232]"))
    expected = forecast(plan)
    assert expected.basis.endswith("image_size=1232x1232")
    freeze(plan)
    planned = files.read_json(plan.runs[0].folder / files.PLANNED)
    assert planned["predicted_prefill_ms"] == expected.runs[0].prefill_ms
    assert planned["predicted_flops_per_prefill"] == expected.runs[0].flops
    assert planned["predicted_memory_gb"] == plan.runs[0].memory.total / 1e9  # type: ignore[union-attr]
    assert planned["predicted_run_s"] > 4


def test_without_a_cost_model_a_plan_tells_the_roofline_or_why_not(
    make_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    show_plan(make_plan(make_config()))
    assert "unknown" in (shown := capsys.readouterr().out)
    assert "hardware.peak_tflops" in shown
    plan = make_plan(make_config("hardware.peak_tflops=1", "hardware.bandwidth_gb_per_s=1e6"))
    (predicted, *_) = forecast(plan).runs
    assert predicted.at_least and predicted.flops and predicted.prefill_ms
    # At 1 TFLOP/s as many ms as GFLOP, less the products that the causal mask hides.
    assert 0.9 < predicted.prefill_ms / (predicted.flops / 1e9) <= 1
    planned = predicted.planned(plan.runs[0].asked(plan.config))
    assert planned.predicted_prefill_ms is None  # a bound is no prediction
    show_plan(plan)
    assert f">{predicted.prefill_ms:#.3g}" in capsys.readouterr().out


def test_the_plans_table_fits_a_terminal(
    make_config: MakeConfig, earlier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show_plan(make_plan(make_config(SIZES)))
    lines = capsys.readouterr().out.splitlines()
    table = lines[: next(i for i, line in enumerate(lines) if line.startswith("prefill times"))]
    assert len(table) > 5 and max(len(line.rstrip()) for line in table) <= 100
    assert any("together take about" in line for line in lines)


def test_a_plan_of_too_few_images_promises_nothing(
    make_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    show_plan(make_plan(make_config(SIZES, "dataset.limit=2")))
    printed = capsys.readouterr().out
    (line,) = (line for line in printed.splitlines() if "enough" in line)
    assert says(line, "2 questions", "no budget") and "can show" not in printed


def test_a_plan_names_the_reduction_that_no_cost_model_has(
    make_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("knob=kept_tokens", "reduction=max_min", "knob.kept=[144]", "dataset.limit=2")
    show_plan(make_plan(make_config(*settings)))
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("prefill times"))
    assert says(line, "unknown", "cost model", "reduction=max_min")


# --- memory and context --------------------------------------------------------------------------


def test_a_model_larger_than_the_gpu_is_refused_before_anything_loads(
    make_config: MakeConfig,
) -> None:
    """7B-D takes 16.04 GB as bfloat16: not on 12, near the limit of 17, well on 80."""
    seven = ("model=molmo_7b_d", "model.path=allenai/Molmo-7B-D-0924", "model.weights=random",
             "hardware=h100", "knob.sizes=[336x336]")  # fmt: skip
    plan = make_plan(make_config(*seven, "hardware.memory_gb=12"))
    with pytest.raises(ConfigError, match=r"16\.1 GB as bfloat16, of 12 GB"):
        plan.require_feasible()
    for memory_gb, told in ((17, True), (80, False)):
        (run,) = make_plan(make_config(*seven, f"hardware.memory_gb={memory_gb}")).runs
        assert run.verdict.level == "recommended"
        assert (
            any(says(w, "near the limit", "one prompt", f"{memory_gb}") for w in run.warnings)
            == told
        )
    sharded = make_config(*seven, "hardware.memory_gb=12")
    four = replace(sharded.hardware, sharded=True, slurm=replace(sharded.hardware.slurm, gpus=4))
    assert memory.device_memory_gb(four) == 48


def test_a_batch_near_the_limit_is_told(make_config: MakeConfig) -> None:
    one, batch = Memory(10**9, 10**8, 10**8), Memory(10**9, 8 * 10**8, 8 * 10**8)
    for adjust, then in ((True, "halved"), (False, "smaller one")):
        config = make_config("hardware.memory_gb=2.5", f"hardware.auto_adjust_batch_size={adjust}")
        told = memory.warning(one, batch, 8, config)
        assert told is not None and "beyond the limit" in told and then in told
        assert "hardware.batch_size=8 needs about 2.6 GB of 2.5" in told
    told = memory.warning(one, batch, 8, make_config("hardware.memory_gb=2.7"))
    assert told is not None and "near the limit" in told
    assert memory.warning(one, batch, 8, make_config("hardware.memory_gb=3")) is None


def test_without_a_profile_a_processor_has_this_machines_memory(make_config: MakeConfig) -> None:
    memory_gb = memory.device_memory_gb(make_config().hardware)
    total_kib = int(Path("/proc/meminfo").read_text().split()[1])
    assert memory_gb == pytest.approx(total_kib * 1024 / 1e9, rel=1e-3)
    assert memory.device_memory_gb(make_config("hardware=local_gpu").hardware) is None
    unsized = make_config("hardware=slurm_gpu").hardware
    assert memory.device_memory_gb(unsized) is None


def test_a_prompt_that_just_fits_is_warned_about(make_config: MakeConfig) -> None:
    """The real prompts and the four tokens of an answer decide."""
    nine = ("knob.sizes=[784x784]", "force_full_tokens=true")
    longest = make_plan(make_config(*nine)).runs[0].longest_prompt
    for context, refused, told in (
        (longest + 3, True, False),
        (longest + 4, False, True),
        (2 * longest, False, False),
    ):
        (run,) = make_plan(make_config(*nine, f"model.max_sequence_length={context}")).runs
        assert (run.verdict.level == "refused") == refused
        assert any(w.startswith("near the limit") for w in run.warnings) == told


@pytest.mark.slow
def test_a_finished_sweep_has_a_cost_model(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_job(make_config("knob.sizes=[336x336,560x336,560x560]", "dataset.limit=3"))
    assert (tmp_path / "sweep" / "cost_model.json").is_file()
    found = find_cost_model(make_config())
    assert found is not None and found.path == tmp_path / "sweep" / "cost_model.json"
    assert found.settings == 3 and found.num_crops == (1, 4)
    again = forecast(make_plan(make_config("knob.sizes=[560x336]")))
    assert again.runs[0].prefill_ms and again.runs[0].run_s
