"""`python -m vtexp status|wait|cancel|resume|report SWEEP`: a sweep found again."""

from __future__ import annotations

import os
from pathlib import Path

from vtexp import local, slurm
from vtexp.config import Launcher
from vtexp.errors import DataError
from vtexp.jobs import Job, of_launcher, read_submitted, working_folder
from vtexp.launching import launch
from vtexp.outcomes import finished, freeze, raise_failures, run_folders, thaw
from vtexp.planning import make_plan
from vtexp.progress import console
from vtexp.sweep import show_comparison
from vtexp.watching import find_sweep, look, look_again, summary, table, watch


def status(name: str) -> None:
    """Print a sweep's runs and how far they are."""
    sweep = find_sweep(name)
    console.print(table(sweep, look_again(sweep)))


def wait(name: str) -> None:
    """Watch a sweep to its end and print the comparison. Raises RunFailedError if runs failed."""
    sweep = find_sweep(name)
    watch(sweep)
    show_comparison(sweep)
    raise_failures(run_folders(sweep))


def report(name: str) -> None:
    """Print and write the comparison of what there is, and say what is missing."""
    sweep = find_sweep(name)
    statuses = look_again(sweep)
    show_comparison(sweep)
    if any(status.state != "done" for status in statuses):
        console.print(summary(statuses))


def cancel(name: str) -> None:
    """Cancel what is queued or running of a sweep; results that are there stay."""
    sweep = find_sweep(name)
    jobs = {s.job.job_id: s.job for s in look(sweep) if s.job and s.state in ("queued", "running")}
    slurm.cancel(of_launcher(list(jobs.values()), Launcher.slurm))
    local.cancel(of_launcher(list(jobs.values()), Launcher.local))
    console.print(
        f"{sweep.name}: {len(jobs)} jobs cancelled; python -m vtexp resume {name} goes on"
    )


def resume(name: str) -> None:
    """Make the runs that are missing or failed, as they were asked for when the sweep began.

    Raises RunFailedError when runs failed again.
    """
    sweep = find_sweep(name)
    statuses = look_again(sweep)
    busy = [s.folder.name for s in statuses if s.state in ("queued", "running", "unknown")]
    if busy:
        console.print(f"{len(busy)} runs are under way or cannot be seen, and are left alone")
    wanted = [s.folder for s in statuses if s.state in ("failed", "missing")]
    if not wanted:
        console.print(f"{summary(statuses)}; nothing to resume")
        return
    os.chdir(working_folder(sweep))
    jobs = [_job(folders) for folders in _as_before(sweep, wanted)]
    launch(jobs, wait=True)


def _as_before(sweep: Path, folders: list[Path]) -> list[list[Path]]:
    """Runs in the groups that shared a job before; those of no job one by one."""
    job_of = {run: number for number, job in enumerate(read_submitted(sweep)) for run in job.runs}
    groups: dict[int | Path, list[Path]] = {}
    for folder in folders:
        groups.setdefault(job_of.get(folder.name, folder), []).append(folder)
    return list(groups.values())


def _job(folders: list[Path]) -> Job:
    """The job of runs as they were frozen. Raises DataError where they cannot be the same now."""
    config = thaw(folders)
    plan = make_plan(config)
    if {run.folder for run in plan.runs} != set(folders):
        raise DataError(
            f"{config.model.path}: the weights are not those that the sweep was made with; "
            "start a new sweep"
        )
    freeze(plan)
    return Job(tuple(f for f in folders if not finished(f)), config.hardware)
