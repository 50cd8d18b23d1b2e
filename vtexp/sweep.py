"""A sweep: its jobs, checked before any starts; the plan and the comparison on the screen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.table import Table

from vtexp.checking import from_hydra
from vtexp.errors import ConfigError
from vtexp.jobs import Job
from vtexp.outcomes import freeze
from vtexp.planning import Plan, make_plan, same_inputs, sweep_folder, tiling_summary
from vtexp.predicting import Forecast, Prediction, forecast
from vtexp.progress import console


def prepare_jobs(
    combinations: Sequence[list[str]], compose: Callable[[list[str]], DictConfig], *, named: bool
) -> list[Job]:
    """Jobs of a multirun, all checked before the first starts; none if only a plan was asked for.

    `combinations` are Hydra overrides, one list per combination of swept groups; the knob's values
    are dealt out `sweep.values_per_job` at a time. The runs' configs are frozen in their folders.
    `named`: the sweep's name was given, so that what is there already belongs to it. Raises
    ConfigError for anything refused.
    """
    plans = [make_plan(from_hydra(compose(overrides))) for overrides in combinations]
    if any(plan.config.plan for plan in plans):
        for plan in plans:
            show_plan(plan)
        return []
    for plan in plans:
        plan.require_feasible()
    if len({sweep_folder(plan.config) for plan in plans}) > 1:
        raise ConfigError("sweep.folder: one sweep has one folder; start two for two folders")
    if not named:
        plans = in_new_folder(plans)
    jobs: list[Job] = []
    for plan in plans:
        hardware, step = plan.config.hardware, plan.config.sweep.values_per_job
        folders = [run.folder for run in plan.runs]
        for start in range(0, len(folders), step):
            jobs.append(Job(tuple(folders[start : start + step]), hardware))
    folders = [folder for job in jobs for folder in job.folders]
    if len(set(folders)) < len(folders):
        twice = next(folder for folder in folders if folders.count(folder) > 1)
        raise ConfigError(f"two jobs would make the same run ({twice.name}): sweep other settings")
    for plan in plans:
        freeze(plan)
    console.print(f"{len(jobs)} jobs, results in {sweep_folder(plans[0].config)}")
    return jobs


def in_new_folder(plans: Sequence[Plan]) -> list[Plan]:
    """The plans in a folder that no other sweep has taken: named `-2`, `-3` ... if need be.

    Of two sweeps that start in the same second, on one file system, each gets its own.
    """
    config = plans[0].config
    sweep_folder(config).parent.mkdir(parents=True, exist_ok=True)
    name, number = config.sweep.name, 1
    while True:
        own = replace(config.sweep, name=name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            sweep_folder(replace(config, sweep=own)).mkdir()
            return [plan.renamed(own.name) for plan in plans]
        number += 1


def show_plan(plan: Plan) -> None:
    """Print what would run: counts by arithmetic, predicted time and memory, limits, warnings."""
    expected = forecast(plan)
    console.print(_plan_table(plan, expected))
    console.print(expected.basis)
    if total := _total_time(expected):
        console.print(total)
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


def show_comparison(sweep: Path, *, margin: float | None = None) -> None:
    """Write and print all that a sweep's runs say together, if it has runs; see `reporting.report`.

    Its cost model is written, and its W&B Report is made and uploaded as configured.
    """
    from vtexp import cost_model, publishing, reporting

    if sweep.is_dir() and reporting.report([sweep], sweep, margin=margin):
        cost_model.write_cost_model(sweep)
        publishing.after_sweep(sweep)
