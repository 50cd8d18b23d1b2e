"""A whole sweep to Weights & Biases: its runs, its curves and its report, as often as one likes.

Nothing is ever there twice: runs and report keep their ids, and what is uploaded is left alone.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from vtexp.analysis.analyse import of_sweep
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

#: So many times `tracking.timeout_s` waits who asks for an upload alone.
PATIENCE = 3


def publish(sweep: Path) -> None:
    """Upload what W&B lacks of a sweep and save its report, whatever `tracking` it was run with.

    Raises VtexpError where that did not work; what is uploaded until then stays.
    """
    configs = {folder: thaw([folder]) for folder in run_folders(sweep) if finished(folder)}
    if not configs:
        raise DataError(f"{sweep.name}: no run has a result yet; there is nothing to publish")
    with suppress(OSError):  # of another machine
        os.chdir(working_folder(sweep))
    own = next(iter(configs.values())).tracking
    try:
        _log_missing(configs)
        # Of the results as they are now: the sweep's files can be older, of part of it, or nowhere.
        curves, report = prepare(sweep, own, of_sweep(sweep))
    except Exception as error:  # W&B's own are of many kinds
        raise VtexpError(f"{sweep.name}: cannot be logged for W&B ({error_line(error)})") from error
    if not mirror.has_key():
        raise VtexpError(
            f"no W&B API key: set WANDB_API_KEY or run wandb login; {report} is what is to be saved"
        )
    runs = [folder / wandb_runs.MIRRORED for folder in configs]
    if reason := push(sweep, [*runs, *curves], report, PATIENCE * own.timeout_s):
        raise VtexpError(f"W&B: {reason}; what was uploaded stays, publish again for the rest")
    console.print(f"{len(runs)} runs and their report: {files.read_json(report)['url']}")


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
            mirror.give_up(push(sweep, [*runs, *curves], report, own.timeout_s), sweep)
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
    return curves, wandb_report.write_report(own, sweep, runs, analysis)


def push(sweep: Path, logged: Sequence[Path], report: Path, timeout_s: float) -> str | None:
    """Upload runs, then save the report; why not all is there, None if it is.

    Waits as `wandb_runs.upload` does, and `timeout_s` at most for the report.
    """
    if reason := wandb_runs.upload(sweep, logged, timeout_s):
        return reason
    if files.read_json(report)["saved"]:
        return None
    command = [sys.executable, "-m", "vtexp.tracking.wandb_report", str(report)]
    said = wandb_runs.attend(command, sweep, timeout_s)
    return None if files.read_json(report)["saved"] else said or "the report was not saved"


def _log_missing(configs: dict[Path, Config]) -> None:
    """Log those runs that are not logged as they are now; with images where the data is here."""
    loaded: dict[str, list[Sample]] = {}
    for folder, config in configs.items():
        wandb_runs.log_run(config.tracking, folder, _samples(config, loaded))


def _samples(config: Config, loaded: dict[str, list[Sample]]) -> Iterator[Sample]:
    """The samples of a run, loaded when the first is asked for, once for all runs on the same."""
    key = json.dumps(to_plain(config.dataset))
    if key not in loaded:
        loaded[key] = []
        with suppress(VtexpError):  # the data can be on another machine
            loaded[key] = load_samples(config.dataset).samples
    yield from loaded[key]
