"""Runs that give every image the same inputs as another of their sweep: they are made once.

Caps that no image reaches, or token targets that mean the same crops, ask the same again. The
smallest of them is made; the others get its records and a result that names it (`same_run_as`).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from vtexp.config.schema import Config
from vtexp.errors import VtexpError
from vtexp.runs.folder import failure, finished, record_failure, settled
from vtexp.runs.planned_run import PlannedRun
from vtexp.runs.records import Asked, read_result, write
from vtexp.utils import files

#: What a run leaves beside its result.
_RECORDS = (files.SAMPLES, files.LATENCY, files.ENVIRONMENT)


def originals(runs: Sequence[PlannedRun], config: Config) -> dict[Path, PlannedRun]:
    """The run that is made in place of each folder's run that is not.

    In the order of the comparison, the first of equal ones is made. Empty with
    `sweep.identical_runs`.
    """
    if config.sweep.identical_runs:
        return {}
    order = sorted(runs, key=lambda run: (run.predicted_vision_tokens, run.target_vision_tokens))
    first: dict[str, PlannedRun] = {}
    found = {}
    for run in order:
        own = first.setdefault(run.inputs_fingerprint, run)
        if own is not run:
            found[run.folder] = own
    return found


def copy_results(runs: Sequence[PlannedRun], config: Config) -> list[PlannedRun]:
    """Copy the originals' records to the runs that are not made; returns those with a result.

    Where the original failed they fail too. One that has a result of its own keeps it.
    """
    copied = []
    for folder, original in originals(runs, config).items():
        run = next(run for run in runs if run.folder == folder)
        if settled(folder):
            continue
        if finished(original.folder):
            _copy(original, run, config)
            copied.append(run)
        elif (found := failure(original.folder)) is not None:
            error = VtexpError(f"{original.label} gives the same inputs and failed: {found.error}")
            record_failure(folder, error, run.asked(config))
    return copied


def _copy(original: PlannedRun, run: PlannedRun, config: Config) -> None:
    """The records and the result of another run; the result comes last, as always."""
    result = read_result(original.folder)
    for name in _RECORDS:
        partial = run.folder / f"{name}.partial"
        shutil.copyfile(original.folder / name, partial)
        partial.replace(run.folder / name)
    asked = run.asked(config)
    own = {field.name: getattr(asked, field.name) for field in fields(Asked)}
    own |= {"num_failed": result.num_failed, "failed_samples": result.failed_samples}
    write(run.folder / files.RESULT, replace(result, **own, same_run_as=original.folder.name))
