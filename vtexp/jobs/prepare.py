"""A sweep: its jobs, checked before any starts; the plan and the comparison on the screen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from vtexp.config.choices import Launcher
from vtexp.config.schema import Config
from vtexp.errors import ConfigError
from vtexp.jobs.slurm import require_plain_folder
from vtexp.report.plan import show_plan
from vtexp.runs.frozen import freeze
from vtexp.runs.identical import originals
from vtexp.runs.ledger import Job
from vtexp.runs.plan import Plan, make_plan, sweep_folder
from vtexp.tracking.mirror import wanted
from vtexp.utils.console import console
from vtexp.utils.extras import require_extra
from vtexp.utils.text import count_of


def prepare_jobs(
    combinations: Sequence[list[str]], compose: Callable[[list[str]], Config], *, named: bool
) -> list[Job]:
    """Jobs of a multirun, all checked before the first starts; none if only a plan was asked for.

    `combinations` are Hydra overrides, one list per combination of swept groups; the knob's values
    are dealt out `sweep.values_per_job` at a time. The runs' configs are frozen in their folders.
    `named`: the sweep's name was given, so that what is there already belongs to it. Raises
    ConfigError for anything refused.
    """
    plans = [make_plan(compose(overrides)) for overrides in combinations]
    only_plan = any(plan.config.plan for plan in plans)
    if only_plan:
        for heading, plan in zip(_headings(combinations), plans, strict=True):
            if heading:
                console.print(heading)
            show_plan(plan)
    for plan in plans:
        plan.require_feasible()
        if plan.config.hardware.launcher == Launcher.slurm:
            require_plain_folder(sweep_folder(plan.config))
        if not only_plan:
            require_extras(plan.config, submits=True)
    if len({sweep_folder(plan.config) for plan in plans}) > 1:
        raise ConfigError("sweep.folder: one sweep has one folder; start two for two folders")
    if not named and not only_plan:
        plans = in_new_folder(plans)
    jobs = [job for plan in plans for job in _jobs(plan)]
    _require_different(plans)
    if only_plan:
        runs = sum(len(plan.runs) for plan in plans)
        console.print(f"plan: {count_of(len(jobs), 'job')} of {count_of(runs, 'run')}")
        return []
    for plan in plans:
        freeze(plan)
    console.print(f"{count_of(len(jobs), 'job')}, results in {sweep_folder(plans[0].config)}")
    return jobs


def _require_different(plans: Sequence[Plan]) -> None:
    """Raise ConfigError if two jobs would make the same run; also of a plan."""
    seen: set[str] = set()
    for plan in plans:
        for run in plan.runs:
            settings = plan.config.run_id(run.value, "", run.setting.llm)
            if settings in seen:
                raise ConfigError(
                    f"two jobs would make the same run ({run.label}): sweep other settings"
                )
            seen.add(settings)


def require_extras(config: Config, *, submits: bool) -> None:
    """Raise MissingExtraError where a config asks for what needs a package that is not installed.

    `submits`: whether jobs are handed to where its hardware says.
    """
    if wanted(config.tracking):
        require_extra("wandb", f"tracking={config.tracking.name}", ", or take tracking=none")
    if submits and config.hardware.launcher == Launcher.slurm:
        remark = ", or take hardware.launcher=local or here"
        require_extra("slurm", f"hardware={config.hardware.name}", remark)


def _headings(combinations: Sequence[list[str]]) -> list[str]:
    """What each combination of a plan has that not all of them have; empty of a single one."""
    common = set.intersection(*map(set, combinations))
    own = [" ".join(o for o in combination if o not in common) for combination in combinations]
    return [f"{n} of {len(own)}: {o}" if o else "" for n, o in enumerate(own, 1)]


def _jobs(plan: Plan) -> list[Job]:
    """A plan's runs, `sweep.values_per_job` to a job; those that are not made go with another."""
    step, twins = plan.config.sweep.values_per_job, originals(plan.runs, plan.config)
    made = [run.folder for run in plan.runs if run.folder not in twins]
    jobs = []
    for start in range(0, len(made), step):
        own = made[start : start + step]
        others = [folder for folder, original in twins.items() if original.folder in own]
        jobs.append(Job((*own, *others), plan.config.hardware))
    return jobs


def in_new_folder(plans: Sequence[Plan]) -> list[Plan]:
    """The plans in a folder that no other sweep has taken: named `-2`, `-3` ... if need be.

    Two sweeps that start in the same second, on one file system, each get their own.
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
