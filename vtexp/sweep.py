"""A sweep: its jobs, checked before any starts; what became of its runs; the comparison."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.table import Table

from vtexp import records
from vtexp.config import Config, from_hydra, values_key
from vtexp.errors import ConfigError, RunFailedError, VtexpError
from vtexp.planning import Plan, PlannedRun, make_plan, same_inputs, sweep_folder, tiling_summary
from vtexp.progress import console


@dataclass(frozen=True)
class Job:
    """One job of a multirun: Hydra overrides, and the runs that it will make."""

    overrides: list[str]
    sweep: Path
    runs: tuple[PlannedRun, ...]
    config: Config


# --- in the launching process ------------------------------------------------------------------


def prepare_jobs(
    combinations: Sequence[list[str]], compose: Callable[[list[str]], DictConfig]
) -> list[Job]:
    """Jobs of a multirun, all checked before the first starts; none if only a plan was asked for.

    `combinations` are Hydra overrides, one list per combination of swept groups; the knob's values
    are dealt out `sweep.values_per_job` at a time. Raises ConfigError for anything refused.
    """
    jobs: list[Job] = []
    plans = []
    for overrides in combinations:
        config = from_hydra(compose(overrides))
        plan = make_plan(config)
        plans.append(plan)
        if config.plan:
            continue
        plan.require_feasible()
        step = config.sweep.values_per_job
        for start in range(0, len(plan.runs), step):
            runs = plan.runs[start : start + step]
            values = ",".join(run.value.value for run in runs)
            override = f"{values_key(config.knob)}=[{values}]"
            jobs.append(Job([*overrides, override], sweep_folder(config), runs, config))
    if any(plan.config.plan for plan in plans):
        for plan in plans:
            show_plan(plan)
        return []
    folders = [run.folder for job in jobs for run in job.runs]
    if len(set(folders)) < len(folders):
        twice = next(folder for folder in folders if folders.count(folder) > 1)
        raise ConfigError(f"two jobs would make the same run ({twice.name}): sweep other settings")
    for folder in folders:
        (folder / records.FAILURE).unlink(missing_ok=True)  # of an earlier try
    console.print(f"{len(jobs)} jobs, results in {jobs[0].sweep}")
    return jobs


def finish_sweep(jobs: Sequence[Job], returns: Sequence[JobReturn]) -> None:
    """Compare whatever runs there are. Raises RunFailedError naming the runs without a result."""
    for job, returned in zip(jobs, returns, strict=True):
        if returned.status == JobStatus.COMPLETED:
            continue
        error = getattr(returned, "_return_value", None)
        for run in job.runs:
            # A job that died before its runs began (no weights, no device) recorded nothing.
            if not finished(run) and not (run.folder / records.FAILURE).is_file():
                record_failure(
                    job.config, run, error or VtexpError("the job ended without a result")
                )
    show_sweeps(jobs)
    raise_failures([run for job in jobs for run in job.runs])


def show_sweeps(jobs: Sequence[Job]) -> None:
    """The comparison of each sweep folder that jobs wrote to."""
    for sweep in dict.fromkeys(job.sweep for job in jobs):
        show_comparison(sweep)


def show_plan(plan: Plan) -> None:
    """Print what would run: counts by arithmetic, limits, warnings."""
    config = plan.config
    table = Table(
        title=f"{config.model.name} on {config.dataset.name}, {len(plan.samples)} questions",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column(config.knob.name, no_wrap=True)
    table.add_column("tiling")
    for name in ("crops", "tokens\ntheory", "tokens\nexpected", "longest\nprompt"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for run in plan.runs:
        table.add_row(
            run.value.value,
            tiling_summary(run.tilings),
            f"{run.theoretical_num_crops:.4g}",
            f"{run.theoretical_vision_tokens:.5g}",
            f"{run.predicted_vision_tokens:.5g}",
            str(run.longest_prompt),
            run.verdict.level,
        )
    console.print(table)
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


def show_comparison(sweep: Path) -> None:
    """Write and print the comparison of a sweep folder, if it has runs."""
    from vtexp import compare, question_types

    rows = compare.write_comparison(sweep) if sweep.is_dir() else []
    if not rows:
        return
    console.print()
    console.print(compare.table(rows))
    question_types.write_question_types(sweep, rows)
    if (by_type := question_types.question_types_table(rows)) is not None:
        console.print(by_type)
    for note in compare.notes(rows):
        console.print(f"- {note}")
    files = (compare.CSV_NAME, question_types.CSV_NAME, compare.PICTURE_NAME)
    names = [name for name in files if (sweep / name).is_file()]
    console.print(f"{sweep}: {', '.join(names)}, one folder per run")


# --- outcomes ---------------------------------------------------------------------------------


def finished(run: PlannedRun) -> bool:
    """Whether a run has its result."""
    return (run.folder / records.RESULT).is_file()


def record_failure(config: Config, run: PlannedRun, error: BaseException) -> None:
    """Write `failure.json`: the row of a failed run, its one-line error and its traceback."""
    row = {
        "status": "failed",
        **run.columns(config),
        "error": error_line(error),
        "traceback": traceback.format_exception(error),
    }
    records.write_text(run.folder / records.CONFIG, run.resolved_config(config))
    records.write_json(run.folder / records.FAILURE, row)


def raise_failures(runs: Sequence[PlannedRun]) -> None:
    """Raises RunFailedError naming the runs that have no result and where their story is."""
    failed = [run for run in runs if not finished(run)]
    if failed:
        names = ", ".join(run.label for run in failed)
        first = failed[0].folder
        path = first / records.FAILURE
        error = records.read_json(path)["error"] if path.is_file() else "no result"
        raise RunFailedError(
            f"{len(failed)} of {len(runs)} runs failed: {names} ({error}); see {path}; "
            f"the same command with sweep.name={first.parent.name} runs only these again"
        )


def error_line(error: BaseException) -> str:
    """An error as one line, with its kind where it is not a user's."""
    text = " ".join(str(error).split())
    return text if isinstance(error, VtexpError) else f"{type(error).__name__}: {text}"
