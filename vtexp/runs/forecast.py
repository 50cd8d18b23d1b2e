"""What a plan's runs will take, before anything is spent: FLOPs, time and memory.

Time comes from an earlier sweep's cost model; without one it is the roofline of the hardware's
figures, a lower bound; else unknown, with the reason. No torch here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vtexp.budget.llm import LlmSetting
from vtexp.config.choices import ReductionMethod
from vtexp.cost.latency_fit import FoundModel, find_cost_model
from vtexp.cost.prompts import PromptCounts
from vtexp.runs.records import Asked, Planned, extended
from vtexp.utils.typed import known

if TYPE_CHECKING:
    from vtexp.runs.plan import Plan
    from vtexp.runs.planned_run import PlannedRun


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a run will take; None where unknown. `at_least`: the time is a lower bound only.

    flops and prefill_ms are means over the questions; run_s is of the whole run.
    """

    flops: float | None
    prefill_ms: float | None
    at_least: bool
    run_s: float | None

    def planned(self, asked: Asked) -> Planned:
        """As `planned.json` has it: a lower bound is not a prediction."""
        return extended(
            Planned,
            asked,
            predicted_flops_per_prefill=self.flops,
            predicted_prefill_ms=None if self.at_least else self.prefill_ms,
            predicted_run_s=self.run_s,
        )


@dataclass(frozen=True, slots=True)
class Forecast:
    """Predictions of a plan's runs, in order, and where the times come from, in words."""

    runs: tuple[Prediction, ...]
    basis: str


def forecast(plan: Plan) -> Forecast:
    """Predict all runs of a plan."""
    clocks: dict[LlmSetting | None, Clock] = {}
    predictions, beyond = [], []
    for run in plan.runs:
        if (clock := clocks.get(run.setting.llm)) is None:  # each looks through all sweeps
            clock = clocks[run.setting.llm] = clock_of(plan, run)
        predictions.append(_prediction(plan, run, clock))
        if clock.model and not clock.model.covers(run.prompts):
            beyond.append(run.label)
    known = [clock for clock in clocks.values() if clock.time_ms is not None]
    basis = "; ".join(dict.fromkeys(clock.basis for clock in known or [*clocks.values()][:1]))
    if beyond:
        basis += f"; beyond what it was fitted to: {', '.join(beyond)}"
    return Forecast(tuple(predictions), basis)


def _prediction(plan: Plan, run: PlannedRun, clock: Clock) -> Prediction:
    arithmetic, model = run.arithmetic(plan.checkpoint), clock.model
    flops = run_s = None
    if arithmetic is not None:
        flops = _mean(run.prompts, lambda p: sum(arithmetic.flops(p).values()))
    prefill_ms = clock.mean_ms(run.prompts)
    if prefill_ms is not None and model and model.run_time and plan.answers:
        run_s = model.run_time.seconds(len(plan.samples), prefill_ms)
    return Prediction(flops, prefill_ms, model is None, run_s)


@dataclass(frozen=True, slots=True)
class Clock:
    """`time_ms`: milliseconds of a prefill by its counts, None if unknown; `basis` says why.

    `model`: the cost model that it is of; without one the times are lower bounds.
    """

    time_ms: Callable[[PromptCounts], float] | None
    basis: str
    model: FoundModel | None

    def mean_ms(self, prompts: Counter[PromptCounts]) -> float | None:
        """Mean over prompts."""
        return None if self.time_ms is None else _mean(prompts, self.time_ms)

    def chance_at_most(self, prompts: Counter[PromptCounts], limit_ms: float) -> float | None:
        """Chance that their mean prefill is within a limit; None where nothing tells."""
        if self.model is None:
            return None
        return known(self.model.mean_prefill(prompts).chance_at_most(limit_ms))


def clock_of(plan: Plan, run: PlannedRun | None = None) -> Clock:
    """The source of a run's predicted times; without one, of the plan's first."""
    run = run or plan.runs[0]
    model = find_cost_model(plan.config, run.setting.llm)
    return Clock(*_time_and_basis(plan, run, model), model)


def _time_and_basis(
    plan: Plan, run: PlannedRun, model: FoundModel | None
) -> tuple[Callable[[PromptCounts], float] | None, str]:
    hardware, arithmetic = plan.config.hardware, run.arithmetic(plan.checkpoint)
    without = _no_cost_model(plan, run)
    if model is not None:
        coefficients = model.coefficients
        return (
            lambda p: coefficients.prefill_ms(p.num_crops, p.sequence_length),
            f"prefill times: cost model {model.origin}",
        )
    unknown = f"prefill times unknown: {without}, and "
    if arithmetic is None:
        return None, f"{unknown}the arithmetic of {plan.checkpoint.family.name} is not known"
    bandwidth, dtype = hardware.bandwidth_gb_per_s, hardware.dtype.of_weights
    peak = None if hardware.dtype.is_float8 else hardware.peak_tflops
    if peak is None or bandwidth is None:
        lacking = "peak_tflops" if peak is None else "bandwidth_gb_per_s"
        return None, f"{unknown}hardware.{lacking} is not set"
    return (
        lambda p: sum(arithmetic.roofline_ms(p, dtype, peak, bandwidth).values()),
        f"prefill times: at least, by {peak:g} TFLOP/s and {bandwidth:g} GB/s (roofline); "
        + without,
    )


def _no_cost_model(plan: Plan, run: PlannedRun) -> str:
    """That no earlier sweep has a cost model for a run, with the settings that it would need."""
    config, method = plan.config, plan.config.reduction.method
    settings = f"this model on hardware={config.hardware.name}"
    if run.setting.llm:
        settings += " with these experts and blocks"
    if method not in (ReductionMethod.none, ReductionMethod.resize):
        settings += f" with reduction={method.value}"
    return f"no earlier sweep in {config.sweep.folder} has a cost model of {settings}"


def _mean(prompts: Counter[PromptCounts], value: Callable[[PromptCounts], float]) -> float:
    return sum(count * value(prompt) for prompt, count in prompts.items()) / prompts.total()
