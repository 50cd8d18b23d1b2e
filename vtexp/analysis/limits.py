"""The most accurate budget within limits on its cost: `report.max_prefill_ms` and the others.

A limit on a time is one on its mean over the images as they come. Whether a budget is within it is
known with a chance, since the mean is: see `stats.times.Estimate.chance_at_most`. The choice of the
most accurate budget within favours one that was timed too fast, so no chance is higher than that of
a smaller budget. Single images may still take longer, so their number is given too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from vtexp.analysis.answer import most_accurate, points_interval
from vtexp.analysis.findings import AgainstLimit, AnalysedRun, UnderLimits
from vtexp.analysis.rows import ComparedRun
from vtexp.analysis.times import read_times, scope
from vtexp.measure.summary import cost_of, shared_processes, time_blocks
from vtexp.measure.timings import LatencyRow
from vtexp.stats.times import SURE, chances_in_turn
from vtexp.utils.text import chance_text, listed, percent, three_digits
from vtexp.utils.typed import known

#: What a limit is on, and its unit.
_TIMES = {"max_prefill_ms": "prefill_ms", "max_ttft_ms": "ttft_ms"}
_NAMES = {
    "max_prefill_ms": ("mean prefill", "ms"),
    "max_ttft_ms": ("mean time to first token", "ms"),
    "max_memory_gb": ("peak memory", "GB"),
    "max_energy_j": ("energy of a prefill", "J"),
}
MIB = 2**20


def under_limits(
    limits: Mapping[str, float], runs: Sequence[AnalysedRun], compared: Sequence[ComparedRun]
) -> UnderLimits | None:
    """The answer under the limits of `report`, by their keys; None without any.

    `runs` of one series in the order of their tokens, `compared` the same runs with their records.
    Budgets that give the same inputs as a smaller one are left out.
    """
    if not limits:
        return None
    by_name = {run.name: run for run in compared}
    own = [run for run in runs if run.same_inputs_as is None]
    costs = _in_turn(own, {run.run: _against(limits, by_name[run.run]) for run in own})
    for i, key in enumerate(limits):
        if all(found[i].value is None for found in costs.values()):
            return UnderLimits(
                f"{_asked(limits)}: {_NAMES[key][0]} was not measured in these runs."
            )
    within = [run for run in own if all(one.within for one in costs[run.run])]
    if not within:
        return UnderLimits(_none_within(limits, own, costs))
    best = most_accurate(within)
    sure = [run for run in within if _surely(costs[run.run])]
    surer = most_accurate(sure) if sure and best not in sure else None
    return UnderLimits(
        sentence=_sentence(limits, best, most_accurate(own), surer, costs),
        run=best.run,
        costs=costs[best.run],
        surer=None if surer is None else surer.run,
    )


def _against(limits: Mapping[str, float], run: ComparedRun) -> tuple[AgainstLimit, ...]:
    rows = read_times(run.folder) if limits.keys() & _TIMES.keys() else []
    return tuple(_one(key, limit, run, rows) for key, limit in limits.items())


def _one(key: str, limit: float, run: ComparedRun, rows: Sequence[LatencyRow]) -> AgainstLimit:
    if key in _TIMES:
        return _of_time(key, limit, rows) if rows else AgainstLimit(key, limit, None)
    value = memory_gb(run) if key == "max_memory_gb" else run.found.energy_j_per_prefill
    return AgainstLimit(key, limit, value)


def _of_time(key: str, limit: float, rows: Sequence[LatencyRow]) -> AgainstLimit:
    stage = _TIMES[key]
    cost = cost_of(rows, stage)
    questions = list(dict.fromkeys(row.sample_id for row in rows))
    (block,) = time_blocks([rows], questions, stage)
    return AgainstLimit(
        key=key,
        limit=limit,
        value=cost.value,
        low=known(cost.low),
        high=known(cost.high),
        chance_alone=known(cost.chance_at_most(limit)),
        beyond=int((np.nanmean(block, axis=1) > limit).sum()),
        timed=len(questions),
        processes=len(shared_processes([rows])),
    )


def memory_gb(run: ComparedRun) -> float | None:
    """Peak in GB of the longest timed prompt: what torch held on a GPU, without CUDA graphs.

    Without a GPU the memory of the process. None where it was not measured.
    """
    peaks = run.found.memory_peak_mib
    peak = peaks.get("reserved", peaks.get("resident"))
    return None if peak is None else peak * MIB / 1e9


def _in_turn(
    runs: Sequence[AnalysedRun], costs: Mapping[str, tuple[AgainstLimit, ...]]
) -> dict[str, tuple[AgainstLimit, ...]]:
    """The costs, with no chance higher than that of a smaller budget: see `chances_in_turn`."""
    found = {run.run: list(costs[run.run]) for run in runs}
    for i in range(len(costs[runs[0].run])):
        alone = [costs[run.run][i].chance_alone for run in runs]
        lowered = chances_in_turn([math.nan if chance is None else chance for chance in alone])
        for run, chance in zip(runs, lowered, strict=True):
            found[run.run][i] = replace(found[run.run][i], chance=known(chance))
    return {name: tuple(own) for name, own in found.items()}


def _surely(costs: Sequence[AgainstLimit]) -> bool:
    """Whether all limits are kept together: chances of breaking each add up, at worst.

    A time without a chance may be on either side; memory and energy are taken as measured.
    """
    times = [cost.chance for cost in costs if cost.key in _TIMES]
    return sum(1.0 if chance is None else 1.0 - chance for chance in times) <= 1.0 - SURE


def _asked(limits: Mapping[str, float]) -> str:
    return "Within " + listed([f"{key}={limit:g}" for key, limit in limits.items()])


def _none_within(
    limits: Mapping[str, float],
    runs: Sequence[AnalysedRun],
    costs: Mapping[str, tuple[AgainstLimit, ...]],
) -> str:
    """That no budget is within all limits, and which comes nearest to each."""
    said = [f"{_asked(limits)}: no measured budget."]
    labels = {run.run: run.label for run in runs}
    for i, (key, limit) in enumerate(limits.items()):
        known_ones = {
            run: cost[i].value for run, cost in costs.items() if cost[i].value is not None
        }
        least = min(known_ones, key=lambda run: known_ones[run] or 0.0)
        name, unit = _NAMES[key]
        value = known_ones[least] or 0.0
        if value > limit:
            said.append(
                f"{labels[least]} is nearest: its {name} is {three_digits(value, up=True)} {unit}."
            )
    if len(said) == 1:
        said.append("Some budgets keep each limit, but no budget keeps all of them.")
    return " ".join(said)


def _sentence(
    limits: Mapping[str, float],
    run: AnalysedRun,
    best: AnalysedRun,
    surer: AnalysedRun | None,
    costs: Mapping[str, tuple[AgainstLimit, ...]],
) -> str:
    tokens = f"{run.label} ({run.vision_tokens:.5g} vision tokens)"
    if run.accuracy is None:
        said = [f"{_asked(limits)}: {tokens} is the largest measured budget."]
    else:
        said = [f"{_asked(limits)}: {tokens} is the most accurate measured budget{_scored(run)}."]
    for cost in costs[run.run]:
        said += [_said(cost), *_lowered(cost)]
    lost = 100 * ((best.accuracy or 0.0) - (run.accuracy or 0.0))
    if run.accuracy is not None and round(lost, 1) > 0:
        said.append(f"{best.label}, which scored highest, scored {lost:.1f} points more.")
    said += _unmeasured(limits, costs)
    if surer is not None:
        chances = [cost.chance for cost in costs[surer.run] if cost.chance is not None]
        own = ", ".join(map(chance_text, chances))
        said.append(
            f"{surer.label}{_scored(surer)} is within with a chance of {own}, and every smaller "
            f"budget with {chance_text(SURE)} or more."
        )
    return " ".join(said)


def _lowered(cost: AgainstLimit) -> list[str]:
    """That a smaller budget has a lower chance, which is then this one's too."""
    if cost.chance is None or cost.chance_alone is None:
        return []
    alone, chance = chance_text(cost.chance_alone), chance_text(cost.chance)
    if alone == chance:
        return []
    return [
        f"Its own times would give {alone}, but a smaller budget has {chance}: the choice among "
        "several favours one that was timed too fast."
    ]


def _unmeasured(
    limits: Mapping[str, float], costs: Mapping[str, tuple[AgainstLimit, ...]]
) -> list[str]:
    """How many budgets may or may not be within a limit, as it was not measured."""
    counts = {
        key: sum(cost[i].value is None for cost in costs.values()) for i, key in enumerate(limits)
    }
    return [
        f"The {_NAMES[key][0]} of {count} of {len(costs)} budgets was not measured."
        for key, count in counts.items()
        if count
    ]


def _scored(run: AnalysedRun) -> str:
    if run.accuracy is None:
        return ""
    text = f", at {percent(run.accuracy, 1)}"
    if run.accuracy_low is None or run.accuracy_high is None:
        return text
    return f"{text} ({points_interval(run.accuracy_low, run.accuracy_high)})"


def _from_to(low: float, high: float) -> str:
    return f"{three_digits(low, up=False)} to {three_digits(high, up=True)}"


def _said(cost: AgainstLimit) -> str:
    """What is known of one limit."""
    name, unit = _NAMES[cost.key]
    text = f"Its {name} is {three_digits(cost.value or 0.0)} {unit}"
    if cost.key not in _TIMES:
        return f"{text}."
    if cost.low is not None and cost.high is not None:
        text += f" ({_from_to(cost.low, cost.high)} {scope(cost.processes)}"
        here = " in this process" if cost.processes == 1 else ""
        chance = chance_text(cost.chance or 0.0)
        text += f"; within {cost.limit:g} {unit} with a chance of {chance}{here})"
    longer = f"{cost.beyond} of {cost.timed} timed images take longer than {cost.limit:g} {unit}"
    return f"{text}; {longer}."
