"""Jobs of a sweep handed to wherever their hardware says, then watched, and compared at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vtexp import local, slurm
from vtexp.config import HardwareConfig, Launcher
from vtexp.errors import ConfigError
from vtexp.jobs import Job, add_submitted
from vtexp.outcomes import finished, raise_failures
from vtexp.progress import console
from vtexp.sweep import show_comparison
from vtexp.watching import come_back, watch


def launch(jobs: Sequence[Job], *, wait: bool) -> None:
    """Run jobs of one sweep, or submit them where `wait` is false.

    Jobs for elsewhere go first, then those of this process run. Raises RunFailedError when runs
    failed, after the comparison is written.
    """
    sweep = jobs[0].folders[0].parent
    waiting = [job for job in jobs if not all(map(finished, job.folders))]
    here = [job for job in waiting if job.hardware.launcher == Launcher.here]
    away = [job for job in waiting if job.hardware.launcher != Launcher.here]
    for job in here:
        if job.hardware.gpus_per_run > 1:
            raise ConfigError(
                f"hardware.gpus_per_run={job.hardware.gpus_per_run}: several processes need "
                "hardware.launcher=local or slurm"
            )
    for launcher in (Launcher.slurm, Launcher.local):
        _submit(sweep, [job for job in away if job.hardware.launcher == launcher], launcher)
    kept = len(jobs) - len(waiting)
    if kept:
        console.print(f"{kept} jobs have their results already, kept")
    if away and not wait:
        console.print(come_back(sweep))
    try:
        from vtexp.worker import make_job

        for job in here:
            make_job(job.folders)
        if away and wait:
            watch(sweep)
    finally:
        if wait or not away:
            show_comparison(sweep)
    if wait or not away:
        raise_failures([folder for job in jobs for folder in job.folders])


def _submit(sweep: Path, jobs: Sequence[Job], launcher: Launcher) -> None:
    """Submit jobs of one launcher, those of each hardware together."""
    by_hardware: list[tuple[HardwareConfig, list[Job]]] = []
    for job in jobs:
        same = next((own for hardware, own in by_hardware if hardware == job.hardware), None)
        if same is None:
            by_hardware.append((job.hardware, [job]))
        else:
            same.append(job)
    submit = slurm.submit if launcher == Launcher.slurm else local.submit
    for hardware, own in by_hardware:
        submitted = submit(sweep, own, hardware)
        add_submitted(sweep, submitted)
        ids = dict.fromkeys(job.job_id for job in submitted)
        what = "jobs" if launcher == Launcher.slurm else "processes"
        console.print(f"{hardware.name}: {launcher.value} {what} {', '.join(ids)}")
