"""What would run, on the terminal: counts, predicted time and memory, limits."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table

from vtexp.budget.knobs import same_inputs, tiling_summary
from vtexp.runs.forecast import Forecast, Prediction, forecast
from vtexp.runs.plan import Plan
from vtexp.utils.console import console


def show_plan(plan: Plan) -> None:
    """Print what would run: counts by arithmetic, predicted time and memory, limits, warnings."""
    expected = forecast(plan)
    console.print(_plan_table(plan, expected))
    console.print(expected.basis)
    if plan.checkpoint.estimated:
        console.print(
            f"{plan.config.model.path} is not on this machine: prompt lengths are estimated with "
            "another tokenizer, all else follows from the published sizes"
        )
    if total := _total_time(expected):
        console.print(total)
    if plan.transparent:
        done = "pastes on white" if plan.checkpoint.family.transparent_on_white else "drops"
        console.print(
            f"{plan.transparent} of {len({sample.image for sample in plan.samples})} images have "
            f"transparency, which {plan.checkpoint.family.name}'s own loader {done}"
        )
    for failed in plan.failed[:3]:
        console.print(f"cannot be asked: sample {failed.sample_id}: {failed.reason}")
    if len(plan.failed) > 3:
        console.print(f"cannot be asked: {len(plan.failed)} samples in all")
    for run in plan.runs:
        if run.verdict.level != "recommended":
            console.print(f"{run.label}: {run.verdict.level}: {run.verdict.reason}")
        for warning in run.warnings:
            console.print(f"{run.label}: {warning}")
    for label, first in same_inputs([(r.label, r.inputs_fingerprint) for r in plan.runs]).items():
        console.print(f"{label}: every image gives the same inputs as {first}")


def _plan_table(plan: Plan, expected: Forecast) -> Table:
    config = plan.config
    table = Table(
        title=f"{config.model.name} on {config.dataset.name}, {len(plan.samples)} questions",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column(config.knob.name, no_wrap=True)
    table.add_column("tiling")
    for name in ("crops", "tokens\ntheory", "tokens\nexpected", "longest\nprompt"):
        table.add_column(name, justify="right")
    for name in ("prefill\nTFLOP", "prefill\nms", "memory\nGB"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict")
    for run, predicted in zip(plan.runs, expected.runs, strict=True):
        table.add_row(
            run.value.value,
            tiling_summary(run.tilings),
            f"{run.theoretical_num_crops:.4g}",
            f"{run.theoretical_vision_tokens:.5g}",
            f"{run.predicted_vision_tokens:.5g}",
            str(run.longest_prompt),
            "unknown" if predicted.flops is None else f"{predicted.flops / 1e12:.3g}",
            _time(predicted),
            "unknown" if run.memory is None else f"{run.memory.total / 1e9:.3g}",
            run.verdict.level,
        )
    return table


def _time(predicted: Prediction) -> str:
    if predicted.prefill_ms is None:
        return "unknown"
    return (">" if predicted.at_least else "") + f"{predicted.prefill_ms:.3g}"


def _total_time(expected: Forecast) -> str:
    """How long all runs take one after the other; empty where one is unknown."""
    seconds = [run.run_s for run in expected.runs if run.run_s is not None]
    if len(seconds) < len(expected.runs):
        return ""
    return f"runs take about {sum(seconds) / 60:.3g} min in all, one after the other"
