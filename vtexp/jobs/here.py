"""All runs of a config in this process: what `launch.py` does without `-m`."""

from __future__ import annotations

import os
from pathlib import Path

from vtexp.config.choices import Launcher
from vtexp.config.schema import Config
from vtexp.errors import ConfigError
from vtexp.jobs.finish import require_page, show_comparison
from vtexp.jobs.prepare import in_new_folder, require_extras
from vtexp.jobs.status import look
from vtexp.models.devices import require_device
from vtexp.report.plan import show_plan
from vtexp.runs.folder import finished, go_on, quoted, raise_failures
from vtexp.runs.frozen import freeze
from vtexp.runs.job import make_runs
from vtexp.runs.ledger import note_submitted, of_process, taking
from vtexp.runs.plan import Plan, make_plan, sweep_folder
from vtexp.tracking.mirror import mirror
from vtexp.utils.console import console
from vtexp.utils.text import count_of


def run_job(config: Config, *, named: bool = True) -> Path | None:
    """All knob values of a config on one loaded model, in this process alone.

    Runs with a result are kept and skipped. A failing run is recorded and the others go on.
    `named`: the sweep's name was given, so that what is there already belongs to it. Returns the
    sweep's folder, None after a plan. Raises VtexpError for what a user can mend, RunFailedError at
    the end if runs failed.
    """
    plan = make_plan(config)
    if config.plan:
        show_plan(plan)
    plan.require_feasible()
    if config.hardware.gpus_per_run > 1:
        raise ConfigError(
            "hardware.gpus_per_run: only -m starts several processes of a run; add -m"
        )
    if config.plan:
        return None
    require_extras(config, submits=False)
    if not all(finished(run.folder) for run in plan.runs):
        require_device(config.hardware.device.value)
    if not named:
        (plan,) = in_new_folder([plan])
    sweep = sweep_folder(plan.config)
    console.print(f"{count_of(len(plan.runs), 'run')}, results in {sweep}")
    with taking(sweep):
        refuse_runs_under_way(plan)
        freeze(plan)
        runs = tuple(run.folder.name for run in plan.runs)
        note_submitted(sweep, [of_process(runs, Launcher.here, os.getpid())])
    try:
        make_runs(plan, on_result=mirror)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(go_on(sweep)) from None
    finally:
        show_comparison(sweep, margin=plan.config.report.margin)
    raise_failures([run.folder for run in plan.runs])
    require_page(sweep)
    return sweep


def refuse_runs_under_way(plan: Plan) -> None:
    """Raises ConfigError if another process is making a run of the plan."""
    folders = {run.folder: run for run in plan.runs}
    for status in look(sweep_folder(plan.config)):
        own = status.job is not None and status.job.job_id == str(os.getpid())
        if status.active and not own and status.folder in folders:
            raise ConfigError(
                f"{folders[status.folder].label}: is under way already; wait for it with "
                f"python -m vtexp wait {quoted(status.folder.parent)}"
            )
