"""Limits of a site: arrays are split, and jobs beyond the limit follow as places become free."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from vtexp.config.schema import HardwareConfig
from vtexp.errors import VtexpError
from vtexp.jobs import slurm
from vtexp.jobs.status import RunStatus, look
from vtexp.runs.frozen import thaw
from vtexp.runs.ledger import (
    Job,
    SubmittedJob,
    not_submitted,
    note_submitted,
    taking,
    working_folder,
)
from vtexp.utils.console import console

#: Seconds after a refusal until SLURM is tried again, even if no job has left the queue.
TRY_AGAIN_S = 60.0


@cache
def _most_in_an_array() -> int | None:
    """The smaller one of the site's MaxArraySize and MaxJobCount; None where SLURM does not say."""
    shown = slurm.lines("scontrol", "show", "config") or []
    found = (re.match(r"Max(?:ArraySize|JobCount)\s*=\s*(\d+)", line) for line, *_ in shown)
    return min((int(limit[1]) for limit in found if limit), default=None)


def by_hardware(jobs: Sequence[Job]) -> list[tuple[HardwareConfig, list[Job]]]:
    """Each hardware with the jobs for it, in the order in which they come."""
    found: list[tuple[HardwareConfig, list[Job]]] = []
    for job in jobs:
        same = next((own for hardware, own in found if hardware == job.hardware), None)
        if same is None:
            found.append((job.hardware, [job]))
        else:
            same.append(job)
    return found


def submit_what_fits(
    sweep: Path, jobs: Sequence[Job], hardware: HardwareConfig, most: int | None = None
) -> tuple[list[SubmittedJob], str]:
    """Hand jobs of one hardware to SLURM, the first `most` or all, until a limit refuses more.

    Each array is noted at once. Returns the submitted jobs, and the name of the limit that left
    some out (empty if none did). Raises what `slurm.submit` raises, but LimitError only where no
    waiting helps: nothing of this user is in the queue, and even one job is refused.
    """
    left = list(jobs[:most])
    size = min(len(left), _most_in_an_array() or len(left))
    given: list[SubmittedJob] = []
    while left:
        try:
            new = slurm.submit(sweep, left[:size], _after(given, hardware))
        except slurm.LimitError as error:
            if size > 1:
                size //= 2
                continue
            if not given and not slurm.queued() and not _of_all_users(error.limit):
                raise
            return given, error.limit
        note_submitted(sweep, new)
        given += new
        left = left[len(new) :]
    return given, ""


def _of_all_users(limit: str) -> bool:
    """Whether jobs of others fill a limit, so that the user's own empty queue proves nothing."""
    return "Grp" in limit or limit == "MaxJobCount"


def _after(given: Sequence[SubmittedJob], hardware: HardwareConfig) -> HardwareConfig:
    """The hardware, whose jobs begin after the last array where `max_parallel` counts all."""
    if not given or hardware.max_parallel is None:
        return hardware
    own = hardware.slurm.extra.get("dependency")
    last = f"afterany:{given[-1].job_id.partition('_')[0]}"
    extra = {**hardware.slurm.extra, "dependency": f"{own},{last}" if own else last}
    return replace(hardware, slurm=replace(hardware.slurm, extra=extra))


def submit_or_hold_back(
    sweep: Path, jobs: Sequence[Job], hardware: HardwareConfig
) -> list[SubmittedJob]:
    """Hand jobs of one hardware to SLURM; those beyond a limit are noted as not submitted yet."""
    given, limit = submit_what_fits(sweep, jobs, hardware)
    if held := jobs[len(given) :]:
        note_submitted(sweep, [not_submitted(job.runs) for job in held])
        runs = sum(len(job.runs) for job in jobs)
        fewer = -(-runs // max(1, len(given)))
        console.print(
            f"{hardware.name}: SLURM's limit {limit} leaves room for {len(given)} of {len(jobs)} "
            "jobs now. vtexp wait and vtexp resume submit the others as places free. "
            f"sweep.values_per_job={fewer} puts more runs into each job"
        )
    return given


class HeldBack:
    """The jobs of a sweep that SLURM had no place for, submitted as places become free."""

    def __init__(self, sweep: Path) -> None:
        self._sweep = sweep
        self._queued: int | None = None
        self._tried = 0.0
        self._hardware: dict[SubmittedJob, HardwareConfig] = {}
        self._trouble = ""

    def submit(self) -> None:
        """Submit what fits now, if there is reason to think that something does.

        Raises VtexpError where SLURM refuses the rest for good, and no job of the sweep is left.
        """
        queued = slurm.queued()
        if queued is None:
            return
        freed = None if self._queued is None else self._queued - queued
        if freed is not None and freed <= 0 and time.monotonic() - self._tried < TRY_AGAIN_S:
            self._queued = queued
            return
        self._tried = time.monotonic()
        # The lock keeps two watchers from submitting the same jobs.
        with taking(self._sweep), contextlib.chdir(working_folder(self._sweep)):
            statuses = look(self._sweep)
            try:
                self._submit(statuses, None if freed is None else max(1, freed))
            except VtexpError as error:
                if not any(status.active for status in statuses):
                    raise
                if str(error) != self._trouble:
                    console.print(f"jobs that are not submitted yet: {error}")
                self._trouble = str(error)
        self._queued = slurm.queued()

    def _submit(self, statuses: Sequence[RunStatus], most: int | None) -> None:
        waiting: dict[SubmittedJob, list[Path]] = {}
        for status in statuses:
            if status.state == "waiting" and status.job is not None:
                waiting.setdefault(status.job, []).append(status.folder)
        jobs = []
        for held, folders in list(waiting.items())[:most]:
            if held not in self._hardware:
                self._hardware[held] = thaw(folders).hardware
            jobs.append(Job(tuple(folders), self._hardware[held]))
        active = len({status.job for status in statuses if status.active})
        for hardware, own in by_hardware(jobs):
            room = None if hardware.max_parallel is None else hardware.max_parallel - active
            if room is None or room > 0:
                given, _ = submit_what_fits(self._sweep, own, hardware, room)
                if given:
                    console.print(f"{hardware.name}: {len(given)} more jobs submitted")
