"""Jobs of a sweep handed to wherever their hardware says, then watched, and compared at the end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vtexp.config.choices import Launcher
from vtexp.errors import ConfigError, VtexpError
from vtexp.jobs import local
from vtexp.jobs.finish import require_page, show_comparison
from vtexp.jobs.limits import by_hardware, submit_or_hold_back
from vtexp.jobs.status import RunStatus, look
from vtexp.jobs.watch import come_back, watch
from vtexp.jobs.worker import make_job
from vtexp.runs.folder import go_on, labels, quoted, raise_failures
from vtexp.runs.ledger import JOBS, Job, note_submitted, of_process, read_submitted, taking
from vtexp.utils import files
from vtexp.utils.console import console
from vtexp.utils.text import count_of, listed


def launch(
    jobs: Sequence[Job], *, wait: bool, margin: float | None = None, gone: Collection[Path] = ()
) -> None:
    """Run jobs of one sweep, or submit them where `wait` is false.

    Runs that have a result are left alone; those that another job is making are waited for. Jobs
    for elsewhere go first, then those of this process run. `margin` of the comparison in points,
    that of the latest runs if None. `gone`: runs whose jobs cannot be queried and count as ended.
    Raises ConfigError or VtexpError where they cannot be submitted, RunFailedError when runs
    failed, after the comparison.
    """
    sweep = jobs[0].folders[0].parent
    with taking(sweep):
        statuses = {
            status.folder: replace(status, active=status.active and status.folder not in gone)
            for status in look(sweep)
        }
        if removed := [f for job in jobs for f in job.folders if f not in statuses]:
            raise VtexpError(f"{removed[0]}: was removed meanwhile; launch the sweep again")
        wanted = _unmade(jobs, statuses)
        refuse_to_disturb(list(statuses.values()), wanted)
        under_way = any(statuses[folder].active for job in jobs for folder in job.folders)
        here = [job for job in wanted if job.hardware.launcher == Launcher.here]
        away = [job for job in wanted if job.hardware.launcher != Launcher.here]
        _submit(sweep, away)
        if here:
            own = [of_process(job.runs, Launcher.here, os.getpid()) for job in here]
            note_submitted(sweep, own)
    if away and not wait:
        console.print(come_back(sweep))
    try:
        _run_here(sweep, here, others=bool(away))
        if (away or under_way) and wait:
            watch(sweep)
    finally:
        if wait or not away:
            show_comparison(sweep, margin=margin)
    if wait or not (away or under_way):
        raise_failures([folder for job in jobs for folder in job.folders])
    if wait or not away:
        require_page(sweep)


def _unmade(jobs: Sequence[Job], statuses: Mapping[Path, RunStatus]) -> list[Job]:
    """The jobs without the runs that are done or that another job is making."""
    asked = [folder for job in jobs for folder in job.folders]
    done = [folder for folder in asked if statuses[folder].state == "done"]
    busy = [folder for folder in asked if statuses[folder].active]
    for folders, text in ((done, "already done: kept"), (busy, "already under way")):
        if folders:
            console.print(f"{count_of(len(folders), 'run')} {text}")
    left = [
        replace(job, folders=tuple(f for f in job.folders if f not in done and f not in busy))
        for job in jobs
    ]
    return [job for job in left if job.folders]


def refuse_to_disturb(statuses: Sequence[RunStatus], jobs: Sequence[Job]) -> None:
    """Raises ConfigError where jobs for this machine would run beside others of their sweep."""
    for status in statuses:
        on_a_machine = status.job is not None and status.job.launcher != Launcher.slurm
        here = any(job.hardware.launcher != Launcher.slurm for job in jobs)
        if not (status.active and on_a_machine and here):
            continue
        sweep = status.folder.parent
        if status.unknown_because:
            raise ConfigError(
                f"{sweep.name}: its processes may still run, and new ones would disturb their "
                f"timings ({status.unknown_because}); if they are gone, "
                f"python -m vtexp resume {quoted(sweep)} --anyway"
            )
        raise ConfigError(
            f"{sweep.name}: its processes still run, and new ones would disturb their timings; "
            f"first python -m vtexp wait {quoted(sweep)}, or cancel"
        )


def _run_here(sweep: Path, jobs: Sequence[Job], *, others: bool) -> None:
    """Run jobs one after the other in this process; `others` have been submitted elsewhere."""
    try:
        names = labels([folder for job in jobs for folder in job.folders])
        for job in jobs:
            if " " in names[job.folders[0]]:  # its model, data set or hardware is not that of all
                console.print(listed([names[folder] for folder in job.folders]))
            make_job(job.folders)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(come_back(sweep) if others else go_on(sweep)) from None


def _submit(sweep: Path, jobs: Sequence[Job]) -> None:
    """Submit jobs: those of each hardware to SLURM together, all for this machine together.

    What is refused at once leaves nothing behind.
    """
    before = len(read_submitted(sweep))
    try:
        for_slurm = [job for job in jobs if job.hardware.launcher == Launcher.slurm]
        for hardware, own in by_hardware(for_slurm):
            given = submit_or_hold_back(sweep, own, hardware)
            if given:
                console.print(f"{hardware.name}: jobs {_ids([job.job_id for job in given])}")
        own = [job for job in jobs if job.hardware.launcher == Launcher.local]
        if own:
            given = local.submit(sweep, own)
            note_submitted(sweep, given)
            console.print(f"local processes {_ids([job.job_id for job in given])}")
    except KeyboardInterrupt:
        hint = f"what was submitted goes on; for the rest: python -m vtexp resume {quoted(sweep)}"
        raise KeyboardInterrupt(hint) from None
    except Exception:
        if len(read_submitted(sweep)) > before:
            console.print(come_back(sweep))
        elif not before:
            _forget(sweep, jobs)
        raise


def _forget(sweep: Path, jobs: Sequence[Job]) -> None:
    """Remove a sweep that holds nothing but the frozen configs of these refused jobs."""
    frozen = {files.CONFIG, files.PLANNED}
    folders = [folder for job in jobs for folder in job.folders]
    inside = {path.name for folder in folders for path in folder.iterdir()}
    beside = {path for path in sweep.iterdir()} - {*folders, sweep / JOBS}
    if inside <= frozen and not beside:
        shutil.rmtree(sweep, ignore_errors=True)


def _ids(ids: Sequence[str]) -> str:
    """Such as `4711_0, 4711_1`, or the first and last of many."""
    distinct = list(dict.fromkeys(ids))
    return ", ".join(distinct) if len(distinct) <= 8 else f"{distinct[0]} to {distinct[-1]}"
