"""`python -m vtexp status|publish|wait|cancel|resume|report SWEEP`: a sweep found again."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

from vtexp.config.checks import with_keys
from vtexp.config.choices import Launcher
from vtexp.config.fields import rule_of
from vtexp.config.schema import LIMITS, TrackingConfig, all_ranges
from vtexp.cost import latency_fit
from vtexp.errors import ConfigError, DataError, VtexpError
from vtexp.jobs import local, slurm
from vtexp.jobs.finish import require_page, show_comparison
from vtexp.jobs.launch import launch, refuse_to_disturb
from vtexp.jobs.prepare import require_extras
from vtexp.jobs.status import RunStatus, find_sweep, look, look_again, look_now
from vtexp.jobs.watch import in_order, summary, table, watch
from vtexp.report import write
from vtexp.runs.folder import (
    asked_of,
    is_sweep,
    labels,
    quoted,
    raise_failures,
    record_failure,
    run_folders,
    settled,
)
from vtexp.runs.frozen import freeze, require_folders, thaw
from vtexp.runs.ledger import Job, read_submitted, taking, working_folder
from vtexp.runs.plan import Plan, make_plan
from vtexp.tracking import publish as upload
from vtexp.utils import files
from vtexp.utils.console import console, print_whole
from vtexp.utils.extras import require_extra
from vtexp.utils.grouping import grouped
from vtexp.utils.text import count_of, listed


def status(name: str, *, as_json: bool = False, every: bool = False) -> None:
    """Print a sweep's runs and how far they are: the first 20, `every` one, or all as JSON."""
    sweep = find_sweep(name)
    statuses = look_now(sweep)
    if as_json:
        # Not by the console, which could break lines.
        print(json.dumps([status.plain() for status in in_order(statuses)], indent=2))
        return
    print_whole(console, table(sweep, statuses, every=every))


def publish(names: Sequence[str], entity: str | None = None, project: str | None = None) -> None:
    """Upload to W&B what it lacks of some sweeps, and save one report of them all there.

    Raises ConfigError where a sweep is named twice or W&B would refuse the project's name,
    VtexpError where the upload did not work.
    """
    require_extra("wandb", "vtexp publish")
    rule = rule_of(TrackingConfig, "project")
    if project is not None and rule is not None and not rule.allows(project):
        raise ConfigError(f"--project {project}: must be {rule}")
    sweeps = _sweeps(names, "publish")
    upload.publish(sweeps, _folder_of(sweeps), entity=entity, project=project)


def _sweeps(names: Sequence[str], command: str) -> list[Path]:
    """The folders of sweeps. Raises ConfigError where one is named twice."""
    sweeps = [find_sweep(name) for name in names]
    if len({sweep.resolve() for sweep in sweeps}) < len(sweeps):
        raise ConfigError(f"{command} {' '.join(names)}: a sweep is named twice")
    return sweeps


def wait(name: str, timeout_s: float = math.inf) -> None:
    """Watch a sweep to its end and print the comparison. Raises RunFailedError if runs failed.

    Raises TimeoutExpiredError after `timeout_s`, without a comparison.
    """
    sweep = find_sweep(name)
    watch(sweep, timeout_s)
    show_comparison(sweep)
    raise_failures(run_folders(sweep))
    require_page(sweep)


def report(
    names: Sequence[str],
    out: Path | None = None,
    margin: float | None = None,
    questions: str = "all",
    limits: Sequence[str] | None = None,
) -> None:
    """Print and write the comparison of the finished runs of sweeps, and name the missing ones.

    That of one sweep is written into its folder unless `out` is given. `limits`: such as
    `max_prefill_ms=20`. Raises ConfigError for a margin or a limit out of its range, or the same
    sweep twice.
    """
    allowed = all_ranges()["report.margin"]
    if margin is not None and not allowed.allows(margin):
        raise ConfigError(f"--margin {margin:g}: must be {allowed}")
    asked = None if limits is None else dict(map(_limit, limits))
    sweeps = _sweeps(names, "report")
    statuses = [status for sweep in sweeps for status in look_again(sweep)]
    shared = questions == "shared"
    own = out is None or out.resolve() in [sweep.resolve() for sweep in sweeps]
    if out is not None and not own and is_sweep(out):
        raise ConfigError(f"--out {out}: has the report of another sweep; name another folder")
    folder = out or _folder_of(sweeps)
    written = write.report(sweeps, folder, margin=margin, shared=shared, limits=asked)
    # Of what is asked for here alone: W&B has what the sweep was configured with.
    if written and out is None and len(sweeps) == 1:
        latency_fit.write_cost_model(folder)
    if any(status.state != "done" for status in statuses):
        console.print(summary(statuses))
    if written:
        require_page(folder)


def _limit(text: str) -> tuple[str, float]:
    """A limit such as `max_prefill_ms=20`. Raises ConfigError for others."""
    key, _, value = text.removeprefix("report.").partition("=")
    if key not in LIMITS:
        raise ConfigError(f"--limit {text}: no such limit; there are {', '.join(LIMITS)}")
    allowed = all_ranges()[f"report.{key}"]
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not allowed.allows(number):
        raise ConfigError(f"--limit {text}: must be {allowed}")
    return key, number


def _folder_of(sweeps: Sequence[Path]) -> Path:
    """The folder of a report: the sweep's own, or beside the first of several, named after all."""
    if len(sweeps) == 1:
        return sweeps[0]
    names = "-".join(sweep.name for sweep in sweeps)
    return sweeps[0].parent / f"report-{names[:100]}"


def cancel(name: str, runs: Sequence[str] = ()) -> None:
    """Cancel what is queued or running of a sweep, or of some runs; results that are there stay.

    `runs` are names of run folders, values of the knob, or what messages call a run. Raises
    VtexpError where SLURM does not answer, a process is another machine's, a run is not found, or
    its job makes other runs too.
    """
    sweep = find_sweep(name)
    with taking(sweep):  # nobody submits what is held back meanwhile
        statuses = look(sweep)
        chosen = named_runs(statuses, runs) if runs else statuses
        left = [s for s in chosen if s.job and (s.active or s.state == "waiting")]
        jobs = {status.job for status in left if status.job is not None}
        if not jobs:
            console.print(f"{summary(chosen)}; nothing to cancel")
            return
        if any(job.launcher == Launcher.here for job in jobs):
            raise ConfigError(f"{name}: runs in the process that launched it; interrupt it there")
        _refuse_shared(statuses, left)
        # SLURM last: where it does not answer, nothing else goes on.
        local.cancel([job for job in jobs if job.launcher == Launcher.local])
        slurm.cancel([job for job in jobs if job.launcher == Launcher.slurm and job.job_id])
        for status in left:
            if not settled(status.folder):
                end = "CANCELLED: python -m vtexp cancel ended its job"
                record_failure(status.folder, VtexpError(end))
    console.print(
        f"{count_of(len(jobs), 'job')} cancelled; python -m vtexp resume {quoted(name)} goes on"
    )


def _refuse_shared(statuses: Sequence[RunStatus], chosen: Sequence[RunStatus]) -> None:
    """Raises ConfigError where a job of chosen runs makes others too."""
    folders = {status.folder for status in chosen}
    jobs = {status.job for status in chosen}
    others = [
        s.folder
        for s in statuses
        if s.job in jobs and s.folder not in folders and not settled(s.folder)
    ]
    if others:
        names = labels([status.folder for status in statuses])
        raise ConfigError(
            f"the same job makes {listed([names[folder] for folder in others])} too: name these "
            "as well"
        )


def named_runs(statuses: Sequence[RunStatus], names: Sequence[str]) -> list[RunStatus]:
    """The runs of these names, each once. Raises DataError for a name that no run has."""
    called = labels([status.folder for status in statuses])
    found: dict[Path, RunStatus] = {}
    for name in names:
        own = []
        for status in statuses:
            known = {status.folder.name, called[status.folder]}
            if (asked := asked_of(status.folder)) is not None:
                known |= {asked.knob_value, asked.value_label, asked.label}
                known.add(f"{asked.knob}={asked.knob_value}")
            if name in known or Path(name).absolute() == status.folder:
                own.append(status)
        if not own:
            raise DataError(f"{name}: no such run; there are {listed(list(called.values()))}")
        found |= {status.folder: status for status in own}
    return list(found.values())


def resume(name: str, keys: Sequence[str] = (), *, wait: bool = True, anyway: bool = False) -> None:
    """Make the runs that are missing or failed, as they were asked for when the sweep began.

    `keys` change the request, such as `hardware.slurm.partition=gpu`; `wait` false: submit and
    return. `anyway`: also those whose jobs cannot be queried: another user's, or of a SLURM that is
    gone. Raises RunFailedError when runs failed again, ConfigError while processes of the sweep run
    on this machine: more would disturb what they time; VtexpError where nothing is known of the
    runs that are left.
    """
    sweep = find_sweep(name)
    statuses = look_again(sweep)
    gone = [s for s in statuses if s.unknown_because and anyway]
    states = ("failed", "missing", "waiting", "lost")
    wanted = [s for s in statuses if s.state in states and not s.active] + gone
    _tell_others([s for s in statuses if s.active and s not in gone], nothing_else=not wanted)
    if not wanted:
        if keys:  # wrong ones are wrong also where they change nothing
            with_keys(thaw([statuses[0].folder]), keys)
        console.print(f"{summary(statuses)}; nothing to resume")
        return
    os.chdir(working_folder(sweep))
    plans = _plans([status.folder for status in wanted], keys)
    hardware = {run.folder: plan.config.hardware for plan in plans for run in plan.runs}
    groups = _as_before(sweep, wanted)
    jobs = [Job(tuple(folders), hardware[folders[0]]) for folders in groups]
    refuse_to_disturb([s for s in statuses if s not in gone], jobs)
    for plan in plans:
        require_extras(plan.config, submits=True)
        freeze(plan)
    launch(jobs, wait=wait, gone=[status.folder for status in gone])


def _tell_others(busy: Sequence[RunStatus], *, nothing_else: bool) -> None:
    """Say which runs are left alone. Raises VtexpError if none of their jobs can be queried."""
    unknown = [status for status in busy if status.unknown_because]
    if known := len(busy) - len(unknown):
        console.print(f"{count_of(known, 'run')} under way, left alone")
    if not unknown:
        return
    line = (
        f"{count_of(len(unknown), 'run')} of jobs that cannot be queried "
        f"({unknown[0].unknown_because}); if these jobs are gone, resume --anyway reruns them"
    )
    if nothing_else:
        raise VtexpError(line)
    console.print(line)


def _plans(folders: Sequence[Path], keys: Sequence[str]) -> list[Plan]:
    """The plans of runs, one for all whose configs differ in the knob's value alone.

    `keys`: changes of their hardware. Raises DataError if they cannot be the same runs now.
    """

    def settings(folder: Path) -> str:
        plain = files.read_config(folder)
        plain.pop("run", None)
        return json.dumps(plain, sort_keys=True)

    plans = []
    for own in grouped(folders, settings).values():
        plan = make_plan(with_keys(thaw(own), keys))
        require_folders(plan, own)
        plans.append(plan)
    return plans


def _as_before(sweep: Path, wanted: Sequence[RunStatus]) -> list[list[Path]]:
    """Runs in the groups that shared a job before; those of no job one by one."""
    job_of = {run: number for number, job in enumerate(read_submitted(sweep)) for run in job.runs}
    folders = [status.folder for status in wanted]
    return list(grouped(folders, lambda folder: job_of.get(folder.name, folder)).values())
