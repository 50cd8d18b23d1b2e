"""The runs of a comparison, read from run folders alone, and the warnings about them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from vtexp.analysis.settings import run_settings, varying
from vtexp.budget.knobs import same_inputs
from vtexp.errors import DataError
from vtexp.runs.folder import finished
from vtexp.runs.records import (
    Asked,
    Result,
    flat_values,
    read_failure,
    read_planned,
    read_result,
)
from vtexp.utils import files
from vtexp.utils.grouping import differing, grouped
from vtexp.utils.text import listed, listed_of, natural

#: The error of a run whose result is incomplete.
CUT_SHORT = "its result.json is damaged: python -m vtexp resume reruns it"


class Curve(NamedTuple):
    """What the runs of one line of a plot have in common: all but the knob's value."""

    model: str
    dataset: str
    hardware: str
    knob: str
    force_full_tokens: bool
    settings: str


class SeriesKey(NamedTuple):
    """What makes runs one series; within it only the budget differs."""

    model: str
    weights: str
    dataset: str
    split: str
    metric: str
    hardware: str
    settings: str


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """A run of a comparison: what was asked, and its result, its error, or neither yet.

    `name` is the folder's, of several sweeps with the sweep's before it. `settings` names what else
    differs between runs (dtype, path, limit, ...). `same_inputs_as`: the run of the same series
    that gives every image the same inputs. `also_in`: sweeps that have the same result.
    """

    folder: Path
    name: str
    sweep: str
    asked: Asked
    result: Result | None = None
    error: str | None = None
    cut_short: bool = False
    settings: str = ""
    same_inputs_as: str | None = None
    also_in: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """`done`, `failed`, or `missing`: planned, but neither of both."""
        if self.result is not None:
            return "done"
        return "missing" if self.error is None else "failed"

    @property
    def found(self) -> Result:
        """The result of a finished run; only finished runs have one."""
        assert self.result is not None, self.name
        return self.result

    @property
    def label(self) -> str:
        """What the run is called, such as `image_size=560x336`."""
        return self.asked.label

    @property
    def long_label(self) -> str:
        """The same with the settings in which it differs from others."""
        return self.label + (f" ({self.settings})" if self.settings else "")

    @property
    def vision_tokens(self) -> float:
        """Measured vision tokens, or the theoretical ones of a run without a result."""
        if self.result is not None:
            return self.result.measured_vision_tokens
        return self.asked.theoretical_vision_tokens

    @property
    def order(self) -> tuple[float, int, int, list[int | str]]:
        """From the smallest budget to the largest: by tokens, then by the blocks and experts that
        work on each."""
        asked = self.asked
        work = asked.active_blocks or 0, asked.moe_top_k or 0
        return (self.vision_tokens, *work, natural(self.name))

    @property
    def timing_warnings(self) -> tuple[str, ...]:
        """Why the run's times are doubtful; empty where they are not."""
        return () if self.result is None else self.result.timing_warnings

    @property
    def curve(self) -> Curve:
        """The line of a plot that it belongs to."""
        asked = self.asked
        return Curve(
            asked.model,
            asked.dataset,
            asked.hardware,
            asked.knob,
            asked.force_full_tokens,
            self.settings,
        )

    @property
    def series_key(self) -> SeriesKey:
        """The series that it belongs to."""
        own = {key: getattr(self.asked, key) for key in SeriesKey._fields if key != "settings"}
        return SeriesKey(**own, settings=self.settings)

    @property
    def own_warnings(self) -> tuple[str, ...]:
        """What the run's own files say, doubtful times aside."""
        own = () if self.result is None else self.result.warnings
        return (*own, CUT_SHORT) if self.cut_short else own

    def warnings(self) -> list[str]:
        """What a reader must know of the run, doubtful times aside."""
        found = []
        if self.same_inputs_as:
            same = f"every image gives the same inputs as {self.same_inputs_as}"
            copied = self.found.same_run_as is not None
            found.append(f"{same}, whose numbers these are: it was not run" if copied else same)
        found += self.own_warnings
        if self.also_in:
            found.append(f"the same result is in {listed(self.also_in)} too")
        if self.status == "missing":
            found.append("no result yet")
        if self.error is not None:
            found.append(f"FAILED: {self.error}")
        return found

    def values(self) -> dict[str, Any]:
        """All that is known of the run under the names of `comparison.csv`'s columns."""
        return flat_values(self.result or self.asked) | {
            "warnings": self.own_warnings,
            "timing_warnings": self.timing_warnings,
            "settings": self.settings,
            "same_inputs_as": self.same_inputs_as,
            "status": self.status,
            "error": self.error,
            "sweep": self.sweep,
            "run": self.name,
        }


def collect(*sweeps: Path) -> list[ComparedRun]:
    """The runs of some sweeps in the order of vision tokens, one for each run folder.

    Done runs with the same inputs as an earlier one of the same series name it. Of several sweeps,
    a run with the same result in several is there once; where one has several results, `settings`
    name the sweep. Raises DataError for a folder that is damaged.
    """
    names = _sweep_names(sweeps)
    runs = [run for sweep in sweeps for run in _runs(sweep, names[sweep])]
    again = False
    if len(sweeps) > 1:
        runs, again = _once(runs)
    settings = [run_settings(run.folder) for run in runs]
    told = varying([run.asked.dataset for run in runs], settings)
    named = []
    for run, own in zip(runs, settings, strict=True):
        parts = [f"{key}={own[key]}" for key in sorted(told & own.keys())]
        if again:
            parts.append(f"sweep={run.sweep}")
        named.append(replace(run, settings=", ".join(parts)))
    named.sort(key=lambda run: (*run.curve, run.order[:3], run.asked.target_vision_tokens))
    return _with_same_inputs(named)


def _sweep_names(sweeps: Sequence[Path]) -> dict[Path, str]:
    """What sweeps are called: by their folders' names, by their paths where two share one."""
    names = [sweep.name for sweep in sweeps]
    return {sweep: sweep.name if names.count(sweep.name) == 1 else str(sweep) for sweep in sweeps}


def _runs(sweep: Path, name: str) -> list[ComparedRun]:
    found = (path for path in sweep.iterdir() if path.is_dir())
    folders = sorted(found, key=lambda folder: natural(folder.name))
    runs = [run for folder in folders if (run := _run(folder, name)) is not None]
    first: dict[str, ComparedRun] = {}
    for run in runs:
        if (same := first.setdefault(run.asked.run_id, run)) is not run:
            raise DataError(
                f"{run.folder}: the same run as {same.name}, and would count twice; move one of "
                "them out of the sweep"
            )
    return runs


def _run(folder: Path, sweep: str) -> ComparedRun | None:
    """A run by its folder; None of a folder that is none, or was not frozen to the end."""
    if finished(folder):
        result = read_result(folder)
        return ComparedRun(
            folder=folder, name=folder.name, sweep=sweep, asked=result, result=result
        )
    error: str | None = None
    asked: Asked
    if (folder / files.FAILURE).is_file():
        asked = failure = read_failure(folder)
        error = failure.error
    elif (folder / files.CONFIG).is_file():
        asked = read_planned(folder)
    else:
        return None
    return ComparedRun(
        folder=folder,
        name=folder.name,
        sweep=sweep,
        asked=asked,
        error=error,
        cut_short=(folder / files.RESULT).is_file(),
    )


def _once(runs: Sequence[ComparedRun]) -> tuple[list[ComparedRun], bool]:
    """The runs of several sweeps without copies, and whether a run was measured more than once.

    Of the same run a result is taken before a failure, the first of equal results. Where a run has
    several results, all stay: each sweep is then compared as a whole.
    """
    by_id = grouped(runs, lambda run: run.asked.run_id)
    done = {
        run_id: [run for run in same if run.result is not None] or same[:1]
        for run_id, same in by_id.items()
    }
    again = any(_numbers(run) != _numbers(own[0]) for own in done.values() for run in own)
    kept = list(runs) if again else [own[0] for own in done.values()]
    found = []
    for run in kept:
        copies = () if again else tuple(copy.sweep for copy in done[run.asked.run_id][1:])
        found.append(replace(run, name=f"{run.sweep}/{run.name}", also_in=copies))
    return found, again


def _numbers(run: ComparedRun) -> Asked:
    """What a run says but for where it lies."""
    return replace(run.result or run.asked, run="", sweep="")


def _with_same_inputs(runs: Sequence[ComparedRun]) -> list[ComparedRun]:
    """The runs; those with the inputs of an earlier one of their series name it."""
    by_setting: dict[tuple[str, ...], list[tuple[str, str]]] = defaultdict(list)
    for run in runs:
        if run.result is not None:
            setting = (run.asked.model, run.asked.dataset, run.asked.hardware, run.settings)
            prints = run.result.inputs_fingerprint + run.result.samples_fingerprint
            by_setting[setting].append((run.name, prints))
    labels = {run.name: run.label for run in runs}
    same = {
        run: labels[first]
        for pairs in by_setting.values()
        for run, first in same_inputs(pairs).items()
    }
    return [replace(run, same_inputs_as=same.get(run.name)) for run in runs]


def run_names(runs: Sequence[ComparedRun]) -> dict[str, str]:
    """What runs are called beside each other: by the value alone where all have one knob."""
    one_knob = len({run.asked.knob for run in runs}) == 1
    return {run.name: run.asked.value_label if one_knob else run.label for run in runs}


def _full_names(runs: Sequence[ComparedRun]) -> dict[str, str]:
    """What runs are called where it matters which: with model, data set, hardware that differ."""
    keys = differing(("model", "dataset", "hardware"), [run.asked for run in runs])
    return {
        run.name: ", ".join([run.long_label, *(getattr(run.asked, key) for key in keys)])
        for run in runs
    }


def timing_warnings(runs: Sequence[ComparedRun]) -> list[str]:
    """Why times are doubtful: each kind of reason once, with the runs that it is true of.

    Reasons that differ only in their numbers are of one kind: the first one is given.
    """
    by_kind: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    called = _full_names(runs)
    for run in runs:
        for reason in run.timing_warnings:
            by_kind[re.sub(r"\d+(\.\d+)?", "0", reason)][reason].append(called[run.name])
    found = []
    for reasons in by_kind.values():
        names = list(dict.fromkeys(name for own in reasons.values() for name in own))
        first = next(iter(reasons))
        others = " (numbers of the first one)" if len(reasons) > 1 else ""
        those = listed_of(names, len(runs), "runs")
        found.append(f"timings are doubtful ({those}): {first}{others}")
    return found


def warnings(runs: Sequence[ComparedRun]) -> list[str]:
    """What a reader must know of runs: doubtful times first, then all else, run by run."""
    found, called = timing_warnings(runs), _full_names(runs)
    for run in runs:
        found += [f"{called[run.name]}: {warning}" for warning in run.warnings()]
        if run.asked.num_failed:
            found.append(f"{run.asked.dataset}: {run.asked.num_failed} samples could not be asked")
    return list(dict.fromkeys(found))


def curves_of(runs: Sequence[ComparedRun]) -> dict[str, list[ComparedRun]]:
    """Finished runs by the line of a plot that they belong to, under its label."""
    done = (run for run in runs if run.result is not None)
    by_curve = grouped(done, lambda run: run.curve)
    labels = curve_labels(list(by_curve))
    return {labels[curve]: own for curve, own in by_curve.items()}


def curve_labels(curves: Sequence[Curve]) -> dict[Curve, str]:
    """Label of each line: only the parts in which the lines differ."""
    keys = differing(Curve._fields, curves)

    def text(curve: Curve, key: str) -> str:
        if key == "force_full_tokens":
            return "full tokens" if curve.force_full_tokens else "overlap dropped"
        return str(getattr(curve, key))

    return {curve: ", ".join(filter(None, (text(curve, key) for key in keys))) for curve in curves}
