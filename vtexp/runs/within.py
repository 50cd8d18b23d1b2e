"""From limits to settings: which values of a plan's knob are predicted to be within them.

Predicted for the plan's own questions: prefill by an earlier sweep's cost model, where it covers
the setting, with the chance that the limit holds by how well the fit is known; without one the
roofline, which can only rule settings out; memory by arithmetic. Time to first token and energy
are not predicted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vtexp.budget.geometry import (
    Geometry,
    Tiling,
    theoretical_tokens,
    tiling_to_resolution,
    tilings_up_to,
)
from vtexp.budget.knobs import WITH_CAP, same_inputs
from vtexp.budget.llm import LlmSetting
from vtexp.config.knob_schema import values_key
from vtexp.runs.forecast import Clock, clock_of
from vtexp.runs.plan import Plan, with_value
from vtexp.runs.planned_run import PlannedRun
from vtexp.stats.times import SURE
from vtexp.utils.text import chance_text, three_digits

#: Limits that can be predicted.
PREDICTED = ("max_prefill_ms", "max_memory_gb")
#: Crops up to which settings are tried where neither cost model nor checkpoint says.
MOST_CROPS = 12
#: Sides of the image sizes that are tried differ at most by this factor.
MOST_ASPECT = 2.0
#: At most this many settings are listed, those with the most tokens.
MOST_LISTED = 6


@dataclass(frozen=True)
class Candidate:
    """A setting and its predictions; None where there is none.

    `chance`: that its mean prefill is within the limit.
    """

    run: PlannedRun
    prefill_ms: float | None
    memory_gb: float | None
    chance: float | None = None

    def within(self, limits: Mapping[str, float]) -> bool:
        """Whether all predictions are within the limits."""
        values = {"max_prefill_ms": self.prefill_ms, "max_memory_gb": self.memory_gb}
        asked = [(values[key], limits[key]) for key in PREDICTED if key in limits]
        return all(value is not None and value <= limit for value, limit in asked)


def settings_within(plan: Plan) -> list[str]:
    """What a plan says under `report`'s limits, a line each; empty without limits."""
    limits = plan.config.report.limits
    if not limits:
        return []
    lines = [f"report.{key}: not predicted" for key in limits if key not in PREDICTED]
    if not limits.keys() & set(PREDICTED):
        return lines
    clock = clock_of(plan)
    if "max_prefill_ms" in limits and clock.time_ms is None:
        return [*lines, f"report.max_prefill_ms: {clock.basis}"]
    tried = candidates(plan, clock, limits.get("max_prefill_ms"))
    return [*lines, _said(plan, limits, clock, tried)]


def candidates(plan: Plan, clock: Clock, limit_ms: float | None = None) -> list[Candidate]:
    """Values of the plan's knob that its model can read and its cost model covers, by tokens.

    `limit_ms`: on the mean prefill, which each has a chance to keep.

    Those that give the plan's images the same inputs as a smaller one are left out.
    """
    planned = plan.runs[0].value
    if planned.name in WITH_CAP:  # the plan's own: they are no number of crops
        values = [run.value for run in plan.runs]
    else:
        values = [replace(planned, value=value) for value in _values(plan, clock)]
    found = [with_value(plan, value) for value in values]
    same = same_inputs([(run.label, run.inputs_fingerprint) for run in found])
    clocks = {plan.runs[0].setting.llm: clock}  # each looks through all sweeps
    kept = []
    for run in found:
        if run.label in same or run.verdict.level == "refused":
            continue
        if (own := clocks.get(run.setting.llm)) is None:
            own = clocks[run.setting.llm] = clock_of(plan, run)
        if own.model is None or own.model.covers(run.prompts):
            kept.append(_candidate(run, own, limit_ms))
    return sorted(kept, key=_work)


def _candidate(run: PlannedRun, clock: Clock, limit_ms: float | None) -> Candidate:
    return Candidate(
        run,
        clock.mean_ms(run.prompts),
        None if run.memory is None else run.memory.total / 1e9,
        None if limit_ms is None else clock.chance_at_most(run.prompts, limit_ms),
    )


def _work(one: Candidate) -> tuple[float, int, int]:
    """Tokens, blocks and experts: the order from small to large."""
    llm = one.run.setting.llm or LlmSetting()
    top_k = llm.top_k or one.run.llm_sizes.top_k or 0
    return one.run.predicted_vision_tokens, one.run.active_blocks, top_k


def _values(plan: Plan, clock: Clock) -> list[str]:
    geometry = plan.geometry
    most = clock.model.num_crops[1] if clock.model else geometry.own_max_crops or MOST_CROPS
    return values_up_to(plan.runs[0].value.name, most, geometry)


def values_up_to(knob: str, most: int, geometry: Geometry) -> list[str]:
    """Values of a knob that mean at most so many crops, as a user writes them, by their crops."""
    if knob == "max_crops":
        return [str(crops) for crops in range(1, most + 1)]
    if knob == "vision_tokens":
        return [str(theoretical_tokens(crops, geometry)) for crops in range(1, most + 1)]
    if knob == "image_size":
        return [str(tiling_to_resolution(tiling, geometry)) for tiling in _tilings(most, geometry)]
    raise ValueError(f"values of {knob} are not a number of crops")


def _tilings(most: int, geometry: Geometry) -> list[Tiling]:
    """Tilings of at most so many crops, with sides not too unlike, by crops."""
    sizes = {tiling: tiling_to_resolution(tiling, geometry) for tiling in tilings_up_to(most)}
    return [t for t, s in sizes.items() if 1 / MOST_ASPECT <= s.aspect_ratio <= MOST_ASPECT]


def _said(plan: Plan, limits: Mapping[str, float], clock: Clock, tried: list[Candidate]) -> str:
    asked = ", ".join(f"report.{key}={limits[key]:g}" for key in PREDICTED if key in limits)
    lower_bound = "max_prefill_ms" in limits and clock.model is None
    word = "not ruled out" if lower_bound else "predicted to be within"
    within = [one for one in tried if one.within(limits)]
    of = f"{len(within)} of {len(tried)} settings of {plan.config.knob.name}"
    if not within:
        least = f"; the smallest, {tried[0].run.label}, has {_values_of(tried[0])}" if tried else ""
        return f"{asked}: {of} are {word}{least}"
    shown = within[-MOST_LISTED:]
    values = ",".join(one.run.value.value for one in shown)
    largest = f"{shown[-1].run.label} has {_values_of(shown[-1])}"
    most = ", of which these have the most tokens" if len(within) > len(shown) else ""
    said = f"{asked}: {of} are {word}{most}: {values_key(plan.config.knob)}=[{values}]; {largest}"
    return said + _surely(within)


def _surely(within: Sequence[Candidate]) -> str:
    """The largest setting that surely keeps the limit on prefills, if the largest of all does not.

    Empty where no chance is known.
    """
    if within[-1].chance is None or within[-1].chance >= SURE:
        return ""
    sure = [one for one in within if one.chance is not None and one.chance >= SURE]
    if not sure:
        return f"; none with a chance of {chance_text(SURE)} or more"
    found = sure[-1]
    return f"; {found.run.label}, with {_values_of(found)}, is the largest with {chance_text(SURE)}"


def _values_of(one: Candidate) -> str:
    """The predictions for a setting, in words."""
    said = [f"{one.run.predicted_vision_tokens:.5g} tokens"]
    if one.prefill_ms is not None:
        within = f" (within with a chance of {chance_text(one.chance)})" if one.chance else ""
        said.append(f"{three_digits(one.prefill_ms)} ms{within}")
    if one.memory_gb is not None:
        said.append(f"{three_digits(one.memory_gb)} GB")
    return ", ".join(said)
