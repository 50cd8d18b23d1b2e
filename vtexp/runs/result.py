"""The result of a run, from the rows of its samples and of its timed prefills."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean, median
from typing import Any

from vtexp.budget.knobs import tiling_summary
from vtexp.cost.flops import COMPUTED_STAGES, mfu
from vtexp.cost.prompts import PromptCounts
from vtexp.measure import quality, summary
from vtexp.measure.timings import LatencyRow
from vtexp.metrics import metric
from vtexp.runs.allocation import differences
from vtexp.runs.plan import Plan
from vtexp.runs.planned_run import PlannedRun
from vtexp.runs.records import Environment, GroupAccuracy, Result, SampleRow, extended
from vtexp.stats.comparison import accuracy

#: Columns of the sample rows that a result is made of.
COUNTS = ("num_crops", "vision_tokens")
EARLY_AND_LATE = ("measured_early_vision_tokens", "measured_late_vision_tokens")
SUMMARISED = (
    *(f"{kind}_{count}" for kind in ("theoretical", "measured", "actual") for count in COUNTS),
    *("measured_tiling", "actual_tiling", "actual_overridden", "sequence_length"),
    *EARLY_AND_LATE,
    *("score", "sample_id", "image_id", "question_type"),
)


def by_column(rows: Iterable[SampleRow]) -> dict[str, list[Any]]:
    """What is summarised of rows: little beside their texts, of which there may be 200 000."""
    columns: dict[str, list[Any]] = {name: [] for name in SUMMARISED}
    for row in rows:
        for name, values in columns.items():
            value = getattr(row, name)
            values.append(sys.intern(value) if isinstance(value, str) else value)
    return columns


def summarise_run(
    plan: Plan,
    run: PlannedRun,
    columns: Mapping[str, Sequence[Any]],
    latency_rows: Sequence[LatencyRow],
    environment: Environment,
    **made: Any,
) -> Result:
    """The result of a run: what was asked, then counts, accuracy and latency.

    `columns` are the SUMMARISED ones of the sample rows; `environment.processes` say how each rank,
    and each further process of it, timed; `made` are further fields, of how the run was made.
    """
    means = {
        name: fmean(columns[name])
        for name in SUMMARISED
        if name.endswith(COUNTS) and None not in columns[name]
    }
    tilings = {name: _tilings(columns[name]) for name in ("measured_tiling", "actual_tiling")}
    timings = [process.timing for process in environment.processes]
    max_half_width = plan.config.measure.max_half_width
    return extended(
        Result,
        run.asked(plan.config),
        **means,
        **tilings,
        actual_overridden=any(columns["actual_overridden"]),
        **_accuracy(columns, metric(plan.config.dataset.metric).highest),
        sequence_length=fmean(columns["sequence_length"]),
        **_latency(latency_rows, timings),
        **_arithmetic(plan, run, latency_rows),
        device=environment.device.name,
        inputs_fingerprint=run.inputs_fingerprint,
        limit=run.verdict.level,
        timing_warnings=(
            *differences(plan.config.hardware, environment),
            *quality.timing_warnings(latency_rows, timings, max_half_width),
        ),
        warnings=tuple(_warnings(plan, run, columns, latency_rows, timings)),
        **made,
    )


def _warnings(
    plan: Plan,
    run: PlannedRun,
    columns: Mapping[str, Sequence[Any]],
    rows: Sequence[LatencyRow],
    timings: Sequence[dict[str, Any]],
) -> list[str]:
    """Warnings of a run, besides doubtful times."""
    found = list(run.warnings)
    if not plan.answers:
        found.append("random weights: counts and latency only, no accuracy")
    if any(columns["actual_overridden"]):
        found.append(
            "force_full_tokens: the model read other counts than the theoretical ones; actual_* "
            "are the theoretical counts, measured_* what was read"
        )
    asked = plan.config.measure.repeats
    processes = len({row.process for row in rows if row.rank == 0})
    if processes < asked:
        found.append(f"timed in {processes} of {asked} processes only: the others failed")
    found += quality.unlike_all(rows, fmean(columns["measured_vision_tokens"]))
    return found + quality.of_the_host(rows, timings)


def _latency(rows: Sequence[LatencyRow], timings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What timed prefills say; memory, energy and the cold call are the first process's."""
    first = timings[0]
    return {
        "prefill_vision_tokens": fmean(row.vision_tokens for row in rows),
        "execution": summary.execution(rows, timings),
        "gpu_busy_ratio": first.get("gpu_busy_ratio"),
        "graph_memory_mib": first.get("graph_memory_mib"),
        "latency": summary.summarise_times(rows),
        "prefill_ms_by_rank": tuple(summary.median_by_rank(rows)),
        "prefill_ms_between_processes": summary.between_processes(rows),
        "cold_ttft_ms": first["cold_ttft_ms"],
        "memory_peak_mib": first["memory_peak_mib"],
        "memory_by_stage": first["memory_by_stage"],
        "energy_j_per_prefill": first.get("energy_j_per_prefill"),
        "idle_power_w": first.get("idle_power_w"),
    }


def _arithmetic(plan: Plan, run: PlannedRun, rows: Sequence[LatencyRow]) -> dict[str, Any]:
    """FLOPs of the timed prefills and what part of the hardware's figures they reached.

    `flops_per_prefill` and `roofline_ms` are means over the timings, `flops` by stage; `mfu` is the
    median over the timings of FLOPs over time and peak, `mfu_by_stage` likewise. None where the
    arithmetic of the model, or a figure of the hardware, is not known.
    """
    hardware = plan.config.hardware
    model = run.arithmetic(plan.checkpoint)
    nothing = ("flops_per_prefill", "flops", "mfu", "mfu_by_stage", "roofline_ms")
    if model is None:
        return dict.fromkeys(nothing)
    prompts = [run.with_connected(PromptCounts.of_row(asdict(row))) for row in rows]
    flops = {prompt: model.flops(prompt) for prompt in set(prompts)}
    by_stage = {stage: fmean(flops[p][stage] for p in prompts) for stage in flops[prompts[0]]}
    found = dict.fromkeys(nothing) | {
        "flops_per_prefill": sum(by_stage.values()),
        "flops": by_stage,
    }
    bandwidth, dtype = hardware.bandwidth_gb_per_s, hardware.dtype
    # In float8 only some products run at twice the rate: one peak is not the measure of all.
    peak = None if dtype.is_float8 else hardware.peak_tflops
    if peak is not None:
        timed = list(zip(prompts, rows, strict=True))
        found["mfu"] = median(mfu(sum(flops[p].values()), row.prefill_ms, peak) for p, row in timed)
        found["mfu_by_stage"] = {
            stage: median(
                mfu(flops[p][stage], getattr(row, f"{stage}_ms"), peak) for p, row in timed
            )
            for stage in COMPUTED_STAGES
        }
    if peak is not None and bandwidth is not None:
        least = {
            p: sum(model.roofline_ms(p, dtype.of_weights, peak, bandwidth).values()) for p in flops
        }
        found["roofline_ms"] = fmean(least[p] for p in prompts)
    return found


def _tilings(found: Sequence[str | None]) -> str | None:
    """Summary of the tilings that the model showed, None where it shows none."""
    shown = [tiling for tiling in found if tiling is not None]
    return tiling_summary(shown) if shown else None


def _accuracy(columns: Mapping[str, Sequence[Any]], highest: float) -> dict[str, Any]:
    """Mean score with error and interval clustered by image, and the mean per question type.

    Scores are from 0 to `highest`. All None where nothing was answered; error
    and interval are None where the images carry no interval.
    """
    scores, image_ids = columns["score"], columns["image_id"]
    answered = [score for score in scores if score is not None]
    if not answered:
        names = ("accuracy", "accuracy_standard_error", "accuracy_low", "accuracy_high")
        nothing = dict.fromkeys(names) | {"accuracy_by_question_type": {}}
        return nothing | {"num_samples": len(scores), "num_images": len(set(image_ids))}
    overall = accuracy(answered, image_ids, (0.0, highest))
    by_type: dict[str, list[float]] = defaultdict(list)
    for kind, score in zip(columns["question_type"], answered, strict=True):
        by_type[kind].append(score)
    return {
        "accuracy": overall.mean,
        "accuracy_standard_error": overall.standard_error,
        "accuracy_low": overall.low,
        "accuracy_high": overall.high,
        "num_samples": overall.questions,
        "num_images": overall.images,
        "accuracy_by_question_type": {
            kind: GroupAccuracy(accuracy=fmean(scores), n=len(scores))
            for kind, scores in sorted(by_type.items())
        },
    }
