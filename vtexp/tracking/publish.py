"""Publishes whole sweeps to Weights & Biases: runs, curves and a report; safe to repeat.

Nothing is uploaded twice: runs and report keep their ids, and what is there is left alone.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from vtexp.analysis.analyse import analyse, of_sweep
from vtexp.analysis.configured import configured_limits, configured_margin
from vtexp.analysis.findings import Analysis, read_analysis
from vtexp.analysis.rows import collect
from vtexp.config.schema import Config, TrackingConfig, to_plain
from vtexp.data.load import load_samples
from vtexp.data.sample import Sample
from vtexp.errors import DataError, VtexpError, error_line
from vtexp.runs.folder import finished, run_folders
from vtexp.runs.frozen import thaw
from vtexp.runs.ledger import working_folder
from vtexp.tracking import mirror, wandb_report, wandb_runs
from vtexp.utils import files
from vtexp.utils.console import console
from vtexp.utils.text import count_of

#: `publish`, which only uploads, waits this many times `tracking.timeout_s`.
PATIENCE = 3


def publish(
    sweeps: Sequence[Path], folder: Path, *, entity: str | None = None, project: str | None = None
) -> None:
    """Upload what W&B lacks of sweeps and save their report, whatever `tracking` they had.

    folder: where the report's specification is kept; of one sweep its own. `entity`, `project`:
    where to, instead of what the sweeps were configured with. Raises VtexpError where that did not
    work; what is uploaded until then stays.
    """
    finished_runs = {sweep: _configs(sweep, entity, project) for sweep in sweeps}
    # Of the first sweep: a report lies in one project, and so must the runs that it shows.
    own = next(iter(finished_runs[sweeps[0]].values())).tracking
    logged: dict[Path, list[Path]] = {}
    try:
        runs = collect(*sweeps)
        limits = configured_limits(sweeps)
        analysis = analyse(runs, configured_margin(sweeps), limits=limits)
        for sweep, configs in finished_runs.items():
            _log_missing(sweep, configs, own)
            # Of the results as they are now: a sweep's files can be older, or nowhere.
            answers = analysis if len(sweeps) == 1 else of_sweep(sweep)
            curves = wandb_report.log_curves(own, sweep, collect(sweep), answers)
            logged[sweep] = [*(run / wandb_runs.MIRRORED for run in configs), *curves]
        report = wandb_report.write_report(own, sweeps, runs, analysis, folder)
    except Exception as error:  # W&B's own are of many kinds
        names = ", ".join(sweep.name for sweep in sweeps)
        raise VtexpError(f"{names}: cannot be logged for W&B ({error_line(error)})") from error
    if not mirror.has_key():
        raise VtexpError(
            f"no W&B API key: set WANDB_API_KEY or run wandb login; {report} is ready to be saved"
        )
    if reason := push(logged, report, PATIENCE * own.timeout_s):
        raise VtexpError(f"W&B: {reason}; what was uploaded stays, publish again for the rest")
    count = sum(map(len, finished_runs.values()))
    console.print(f"{count_of(count, 'run')} and their report: {files.read_json(report)['url']}")


def _configs(sweep: Path, entity: str | None, project: str | None) -> dict[Path, Config]:
    """The configs of the finished runs of a sweep, with another entity and project if given.

    Raises DataError where no run has a result.
    """
    configs = {folder: thaw([folder]) for folder in run_folders(sweep) if finished(folder)}
    if not configs:
        raise DataError(f"{sweep.name}: no run has a result yet; there is nothing to publish")
    for config in configs.values():
        config.tracking.entity = entity or config.tracking.entity
        config.tracking.project = project or config.tracking.project
    return configs


def after_sweep(sweep: Path) -> None:
    """Log curves and report of a sweep as it was configured, and upload them where that is wanted.

    Never an error: any failure is one printed line.
    """
    try:
        own = _tracking(sweep)
        if own is None:
            return
        curves, report = prepare(sweep, own, read_analysis(sweep))
        if mirror.goes_online(own):
            runs = [folder / wandb_runs.MIRRORED for folder in run_folders(sweep)]
            mirror.give_up(push({sweep: [*runs, *curves]}, report, own.timeout_s), sweep)
        stored = files.read_json(report)
        where = stored["url"] if stored["saved"] else f"{stored['publish']} uploads all there is"
        console.print(f"W&B: {where}")
    except Exception as error:
        console.print(f"W&B: no report was made ({error_line(error)}); the sweep's files are whole")


def _tracking(sweep: Path) -> TrackingConfig | None:
    """The tracking of the first finished run of a sweep that wants any, None if none does."""
    for folder in run_folders(sweep):
        if not finished(folder) or files.read_config(folder)["tracking"]["name"] == "none":
            continue  # without building the whole config: there can be hundreds
        if mirror.wanted(own := thaw([folder]).tracking):
            return own
    return None


def prepare(sweep: Path, own: TrackingConfig, analysis: Analysis) -> tuple[list[Path], Path]:
    """Log a sweep's curves and write its report's specification; what `push` takes of them."""
    runs = collect(sweep)
    curves = wandb_report.log_curves(own, sweep, runs, analysis)
    return curves, wandb_report.write_report(own, [sweep], runs, analysis, sweep)


def push(logged: Mapping[Path, Sequence[Path]], report: Path, timeout_s: float) -> str | None:
    """Upload runs, sweep by sweep, then save the report; the reason if part failed, else None.

    Waits as `wandb_runs.upload` does, and `timeout_s` at most for the report.
    """
    for sweep, paths in logged.items():
        if reason := wandb_runs.upload(sweep, paths, timeout_s):
            return reason
    if files.read_json(report)["saved"]:
        return None
    command = [sys.executable, "-m", "vtexp.tracking.wandb_report", str(report)]
    said = wandb_runs.attend(command, report.parent, timeout_s)
    return None if files.read_json(report)["saved"] else said or "the report was not saved"


def _log_missing(sweep: Path, configs: dict[Path, Config], own: TrackingConfig) -> None:
    """Log those runs that are not logged as they are now; with images where the data is here.

    `own`: where to.
    """
    with suppress(OSError, DataError):  # of another machine
        os.chdir(working_folder(sweep))
    loaded: dict[str, list[Sample]] = {}
    for folder, config in configs.items():
        tracking = replace(config.tracking, entity=own.entity, project=own.project)
        wandb_runs.log_run(tracking, folder, _samples(config, loaded))


def _samples(config: Config, loaded: dict[str, list[Sample]]) -> Iterator[Sample]:
    """The samples of a run, loaded when the first is asked for, once for all runs on the same."""
    key = json.dumps(to_plain(config.dataset))
    if key not in loaded:
        loaded[key] = []
        with suppress(VtexpError):  # the data can be on another machine
            loaded[key] = load_samples(config.dataset).samples
    yield from loaded[key]
