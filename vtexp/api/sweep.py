"""`vtexp.launch` and `vtexp.load_sweep`: a sweep run, and its records as tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtexp.analysis.analyse import of_sweep
from vtexp.analysis.findings import Analysis
from vtexp.analysis.rows import ComparedRun, collect
from vtexp.api.asked import configured
from vtexp.config.compose import combinations
from vtexp.errors import ArgumentError, ConfigError
from vtexp.jobs.here import run_job
from vtexp.jobs.launch import launch as launch_jobs
from vtexp.jobs.prepare import prepare_jobs
from vtexp.jobs.status import find_sweep
from vtexp.report.columns import OF_RUNS, in_files
from vtexp.utils import files
from vtexp.utils.arguments import path as path_of
from vtexp.utils.arguments import texts
from vtexp.utils.extras import require_extra
from vtexp.utils.text import shown

if TYPE_CHECKING:
    from pandas import DataFrame

MULTIRUN = ("-m", "--multirun")
#: Columns of a run that stand before those of its samples and timings.
OF_RUN = ("run", "knob", "knob_value", "model", "dataset", "hardware", "settings")


@dataclass(frozen=True)
class Sweep:
    """A sweep by its folder. Each property is read from its files when it is first asked for.

    Raises DataError for damaged records. The tables are pandas DataFrames.
    """

    path: Path

    @cached_property
    def runs(self) -> DataFrame:
        """One row per run, in the order of vision tokens; columns as in docs/reports.md.

        `status` is done, failed or missing; `folder` is where the run's files are.
        """
        rows = [{"folder": str(run.folder)} | run.values() for run in self._runs]
        known = {name for row in rows for name in row}
        measured = [column.key for column in in_files(OF_RUNS) if column.key in known]
        return _table(rows, [*measured, *sorted(known - {*measured})])

    @cached_property
    def samples(self) -> DataFrame:
        """One row per question and finished run: the answer, its score and its counts.

        Raises DataError where a run has lost its samples.jsonl.
        """
        return _table(self._records(files.SAMPLES))

    @cached_property
    def latency(self) -> DataFrame:
        """One row per timed prefill of a finished run, with the times of its stages in ms.

        Raises DataError where a run has lost its latency.jsonl.
        """
        return _table(self._records(files.LATENCY))

    @cached_property
    def analysis(self) -> Analysis:
        """Differences, intervals and the answer as typed findings: `vtexp.analysis.findings`."""
        return of_sweep(self.path)

    @property
    def answer(self) -> str:
        """The answer in words; a line for each series where models or data sets differ."""
        series = self.analysis.series
        if not series:
            return "No run has a result yet."
        if len(series) == 1:
            return series[0].answer.sentence
        return "\n".join(f"{own.name}: {own.answer.sentence}" for own in series)

    @cached_property
    def _runs(self) -> list[ComparedRun]:
        return collect(self.path)

    def _records(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for run in self._runs:
            if run.result is not None:
                values = run.values()
                own = {key: values[key] for key in OF_RUN}
                found += [own | record for record in files.rows_of(run.folder / name)]
        return found


def load_sweep(path: str | Path) -> Sweep:
    """A sweep by its folder, or by its name in outputs/. Raises DataError if there is none."""
    return Sweep(find_sweep(str(path_of("path", path))))


def launch(overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> Sweep | None:
    """Run a sweep as `vtexp launch` does with these arguments, then give its results.

    `-m` among them makes jobs, as on the command line; `config_dir` is `--config-dir`. With
    `plan=true` the plan is printed and there is no sweep: None. Raises VtexpError for what a user
    can mend, RunFailedError at the end if runs failed; what is done is in the sweep's folder.
    """
    if isinstance(overrides, str):
        raise ArgumentError(f"overrides: needs a list of arguments, such as [{shown(overrides)}]")
    arguments = texts("overrides", overrides)
    keys = [argument for argument in arguments if argument not in MULTIRUN]
    if flags := [argument for argument in keys if argument.startswith("-")]:
        raise ConfigError(f"{flags[0]}: launch takes keys and -m; give config_dir= by its name")
    named = any(key.startswith("sweep.name=") for key in keys)
    if len(keys) < len(arguments):
        folder = _launch_jobs(keys, config_dir, named=named)
    else:
        folder = run_job(configured(keys, config_dir), named=named)
    return None if folder is None else Sweep(folder)


def _launch_jobs(keys: Sequence[str], config_dir: str | Path | None, *, named: bool) -> Path | None:
    """As `-m`: one job per combination and knob value; the sweep's folder, None for a plan."""
    combined = combinations(keys)
    first = configured(combined[0], config_dir)
    name = f"sweep.name='{first.sweep.name}'"  # one time stamp for all
    jobs = prepare_jobs(
        [[*own, name] for own in combined], lambda own: configured(own, config_dir), named=named
    )
    if not jobs:
        return None
    launch_jobs(jobs, wait=first.sweep.wait, margin=first.report.margin)
    return jobs[0].folders[0].parent


def _table(rows: Iterable[dict[str, Any]], columns: Sequence[str] | None = None) -> DataFrame:
    require_extra("report", "a table of a sweep")
    import pandas as pd

    return pd.DataFrame(list(rows), columns=columns)
