"""From a limit to settings: what a plan lists is what the cost model predicts, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.cost.test_cost_model import SIZES, TRUTH, earlier, finish
from vtexp.budget.geometry import Tiling, theoretical_tokens, tiling_to_resolution
from vtexp.config.schema import Config
from vtexp.cost.latency_fit import write_cost_model
from vtexp.report.plan import show_plan
from vtexp.runs import forecast, within
from vtexp.runs.forecast import Clock, clock_of
from vtexp.runs.plan import make_plan
from vtexp.runs.within import candidates, settings_within

MakeConfig = Callable[..., Config]
__all__ = ["earlier", "finish"]


def true_ms(plan, crops: int, run) -> float:
    lengths = run.prompt_lengths
    return sum(TRUTH.prefill_ms(crops, length) for length in lengths) / len(lengths)


def test_sizes_within_a_limit_are_those_that_the_truth_puts_there(
    make_config: MakeConfig, earlier: Path
) -> None:
    plan = make_plan(make_config(SIZES, "report.max_prefill_ms=90", "plan=true"))
    tried = candidates(plan, clock_of(plan))
    assert {one.run.tilings[0].num_crops for one in tried} <= set(range(1, 10))
    assert len(tried) == len({one.run.tilings[0] for one in tried})
    within = []
    for one in tried:
        tiling = one.run.tilings[0]
        truth = true_ms(plan, tiling.num_crops, one.run)
        assert one.prefill_ms == pytest.approx(truth, rel=0.01)
        if truth <= 90:
            within.append(one)
    (line,) = settings_within(plan)
    assert f"{len(within)} of {len(tried)} settings" in line
    listed = re.search(r"knob\.sizes=\[(.*?)\]", line)[1].split(",")  # type: ignore[index]
    assert listed == [one.run.value.value for one in within[-6:]]
    again = make_plan(make_config(f"knob.sizes=[{','.join(listed)}]", "plan=true"))
    assert len(again.runs) == len(listed)


def test_caps_and_targets_too(make_config: MakeConfig, earlier: Path) -> None:
    asked = ("report.max_prefill_ms=60", "plan=true")
    for knob, value in (
        ("vision_tokens", "knob.targets=[432]"),
        ("max_crops", "knob.max_crops=[2]"),
    ):
        plan = make_plan(make_config(f"knob={knob}", value, *asked))
        tried = candidates(plan, clock_of(plan))
        (line,) = settings_within(plan)
        best = max((one for one in tried if one.prefill_ms <= 60), key=lambda o: o.prefill_ms)
        assert f"{best.run.label} has" in line and f"{best.prefill_ms:#.3g} ms" in line
        assert true_ms(plan, 1, tried[0].run) == pytest.approx(tried[0].prefill_ms, rel=0.01)
    assert str(theoretical_tokens(1, plan.geometry)) == "288"
    assert str(tiling_to_resolution(Tiling(2, 1), plan.geometry)) == "560x336"


def test_a_prediction_has_its_chance(make_config: MakeConfig, tmp_path: Path) -> None:
    """By fits to times that are off by a few percent; a limit far above the prediction is sure."""
    sizes = "knob.sizes=[336x336,560x336,560x560,784x560,784x784,784x1008]"
    finish(
        make_plan(make_config(sizes, "sweep.name=noisy")), off=(1.03, 0.97, 1.02, 0.98, 1.03, 0.97)
    )
    assert write_cost_model(tmp_path / "noisy") is not None
    plan = make_plan(make_config(SIZES, "plan=true"))
    clock = clock_of(plan)
    prompts = plan.runs[2].prompts
    assert clock.model is not None
    own = clock.model.mean_prefill(prompts)
    assert own.value == pytest.approx(clock.mean_ms(prompts))
    chances = [
        clock.chance_at_most(prompts, own.value * times) for times in (0.8, 0.99, 1, 1.01, 1.3)
    ]
    assert chances == sorted(chances) and chances[2] == pytest.approx(0.5)
    assert chances[0] < 0.05 and chances[-1] > 0.95
    limit = clock.mean_ms(plan.runs[2].prompts) * 1.001
    (line,) = settings_within(
        make_plan(make_config(SIZES, f"report.max_prefill_ms={limit}", "plan=true"))
    )
    assert re.search(r"chance of 5\d %", line)
    assert re.search(r"largest .*95 %", line)


def test_nothing_is_made_up_without_a_cost_model(make_config: MakeConfig) -> None:
    plan = make_plan(make_config("report.max_prefill_ms=60", "report.max_energy_j=1", "plan=true"))
    energy, prefill = settings_within(plan)
    assert energy == "report.max_energy_j: not predicted"
    assert "unknown" in prefill and "knob.sizes" not in prefill
    bounds = ("hardware.peak_tflops=1e-3", "hardware.bandwidth_gb_per_s=1")
    plan = make_plan(make_config("report.max_prefill_ms=1e6", "plan=true", *bounds))
    (line,) = settings_within(plan)
    assert "not ruled out" in line and "predicted" not in line
    plan = make_plan(make_config("report.max_prefill_ms=1e-3", "plan=true", *bounds))
    (line,) = settings_within(plan)
    assert ": 0 of" in line and "the smallest" in line


@pytest.mark.parametrize("method", [("max_min",), ("early_layer", "reduction.layer=1")])
def test_kept_tokens_are_tried_at_the_plans_own_values(
    make_config: MakeConfig, method: tuple[str, ...]
) -> None:
    method = (f"reduction={method[0]}", *method[1:])
    asked = ("knob=kept_tokens", *method, "knob.kept=[64,576]", "knob.max_crops=[9]")
    (line,) = settings_within(make_plan(make_config(*asked, "report.max_memory_gb=100")))
    assert "2 of 2 settings" in line and "knob.kept=[64,576]" in line


def test_memory_is_predicted_by_arithmetic(make_config: MakeConfig, capsys) -> None:
    plan = make_plan(make_config("report.max_memory_gb=0.001", "plan=true"))
    assert ": 0 of" in settings_within(plan)[0]
    plan = make_plan(make_config("report.max_memory_gb=100", "plan=true"))
    assert "GB" in settings_within(plan)[0]
    show_plan(plan)
    assert "report.max_memory_gb=100" in " ".join(capsys.readouterr().out.split())
    assert settings_within(make_plan(make_config("plan=true"))) == []


def test_each_number_of_blocks_has_its_own_clock_which_is_made_once(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """5 ms a block: the limit lies between 2 and 4 of them."""
    asked: list[int] = []

    def made(_: Any, run: Any) -> Clock:
        ms = 5.0 * run.active_blocks
        asked.append(run.active_blocks)
        mean = SimpleNamespace(chance_at_most=lambda limit: float(ms <= limit))
        model: Any = SimpleNamespace(covers=lambda _: True, mean_prefill=lambda _: mean)
        return Clock(lambda _: ms, "", model)

    monkeypatch.setattr(within, "clock_of", made)
    blocks = ("knob=transformer_blocks", "knob.blocks=[4,2]", "knob.max_crops=[2]")
    plan = make_plan(make_config("model.path=embedded:molmo_tiny", *blocks, "plan=true"))
    tried = candidates(plan, made(plan, plan.runs[0]), limit_ms=12.0)
    assert [(one.prefill_ms, one.chance) for one in tried] == [(10.0, 1.0), (20.0, 0.0)]
    assert asked == [4, 2]


def test_a_forecast_looks_for_a_cost_model_once(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Any] = []
    monkeypatch.setattr(forecast, "find_cost_model", lambda *own: looked.append(own))
    plan = make_plan(make_config(SIZES, "plan=true"))
    assert len(plan.runs) > 1
    forecast.forecast(plan)
    assert len(looked) == 1
