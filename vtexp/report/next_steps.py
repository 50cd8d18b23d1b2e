"""What to measure next: the budget between, or more questions, with the command as it is typed.

A command stands here only if Hydra composes it to the config of the runs but for what it changes;
else the keys alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vtexp.analysis.answer import rounded_up
from vtexp.analysis.findings import AnalysedRun, Analysis, Series
from vtexp.analysis.rows import ComparedRun
from vtexp.budget.geometry import Geometry
from vtexp.budget.knobs import WITH_CAP, KnobValue
from vtexp.config.knob_schema import KNOB_SCHEMAS
from vtexp.config.schema import Config
from vtexp.errors import VtexpError
from vtexp.models.checkpoints import find_checkpoint
from vtexp.report.reproduce import command_with, hydra_value
from vtexp.runs.frozen import thaw
from vtexp.runs.plan import geometry_of
from vtexp.runs.within import values_up_to


@dataclass(frozen=True)
class NextStep:
    """What to measure, and how; `series` is named where there are several.

    `command`: the whole command; None where none was found, then `how` has the keys to change.
    """

    said: str
    command: str | None
    how: str = ""
    series: str = ""

    @property
    def line(self) -> str:
        """All of it in a line of text."""
        of = f" ({self.series})" if self.series else ""
        return f"next{of}: {self.said}: {self.command or self.how}"


def next_lines(runs: Sequence[ComparedRun], analysis: Analysis) -> list[str]:
    """What to measure next, a line for each step of each series; none where nothing is open."""
    return [step.line for step in next_steps(runs, analysis)]


def next_steps(runs: Sequence[ComparedRun], analysis: Analysis) -> list[NextStep]:
    """What to measure next, series by series; nothing where nothing is open."""
    by_name = {run.name: run for run in runs}
    found = []
    for series in analysis.series:
        name = series.name if len(analysis.series) > 1 else ""
        own = [by_name[run.run] for run in series.runs]
        asked = {run.asked.value_label for run in runs if run.asked.knob == own[0].asked.knob}
        steps = (
            *_more_questions(series, own, analysis.margin),
            _budget_between(series, own, asked, analysis.margin),
        )
        found += [replace(step, series=name) for step in steps if step is not None]
    return found


def _more_questions(series: Series, runs: Sequence[ComparedRun], margin: float) -> list[NextStep]:
    """Where the data cannot tell of some budget, and the data set has more questions.

    A step for each knob. `margin` in points, of the report, which the runs' config may not have.
    """
    config, power = _config(runs[0].folder), series.power
    if config is None or power is None or not _open(series):
        return []
    needed, asked = power.questions_for_margin, config.dataset.limit
    if needed is None or asked is None or needed <= series.num_samples:
        return []
    there = config.dataset.num_questions.get(config.dataset.split)
    if there is not None and there <= series.num_samples:
        return []
    limit = rounded_up(needed)
    every = there is not None and there <= limit
    said = (
        f"ask all {there} questions (it takes about {limit})" if every else f"ask {limit} questions"
    )
    changes = {"dataset.limit": None if every else limit, **_margin(config, margin)}
    by_knob: dict[str, list[Path]] = defaultdict(list)
    for run in runs:
        by_knob[run.asked.knob].append(run.folder)
    return [
        _with_command(f"{said} with {knob}" if len(by_knob) > 1 else said, folders, changes)
        for knob, folders in by_knob.items()
    ]


def _margin(config: Config, margin: float) -> dict[str, Any]:
    """The report's margin as a change of the config, where that has another."""
    return {} if config.report.margin == margin else {"report.margin": margin}


def _open(series: Series) -> bool:
    """Whether a budget that could be the answer is neither known to be enough nor known not to.

    Not where every answer is wrong: more questions would not help, another metric or model may.
    """
    best = next((run for run in series.runs if run.run == series.answer.best), None)
    if best is not None and best.accuracy == 0:
        return False
    chosen = next((run for run in series.runs if run.run == series.answer.run), best)
    return chosen is not None and (
        series.answer.verdict == "cannot_tell"
        or (
            (series.answer.run is not None and not series.answer.needed)
            and chosen is not _candidates(series)[0]
        )
    )


def _candidates(series: Series) -> list[AnalysedRun]:
    return [run for run in series.runs if run.same_inputs_as is None]


def _budget_between(
    series: Series, runs: Sequence[ComparedRun], asked: Collection[str], margin: float
) -> NextStep | None:
    """A budget between the answer and the next smaller one that was measured, if there is one.

    `asked`: values of the knob that were tried, those that failed too.
    """
    by_name = {run.name: run for run in runs}
    order = [by_name[run.run] for run in _candidates(series)]
    place = next((i for i, run in enumerate(order) if run.name == series.answer.run), None)
    if place is None or place == 0:
        return None
    below, chosen = order[place - 1], order[place]
    config = _config(chosen.folder)
    if config is None or below.asked.knob != chosen.asked.knob:
        return None
    value = _value_between(config, below, chosen, asked)
    if value is None:
        return None
    said = f"measure {chosen.asked.knob}={value}, between {below.label} and {chosen.label}"
    number: Any = value if chosen.asked.knob == "image_size" else int(value)
    key = f"knob.{KNOB_SCHEMAS[chosen.asked.knob][1]}"
    changes = {key: [number], **_margin(config, margin)}
    return _with_command(said, [chosen.folder], changes, chosen.folder.parent)


def _value_between(
    config: Config, below: ComparedRun, chosen: ComparedRun, asked: Collection[str]
) -> str | None:
    """The middle value among those with more crops than one run and fewer than another.

    Those `asked` are left out.
    """
    if chosen.asked.knob in WITH_CAP:
        return _number_between(below.asked.value_label, chosen.asked.value_label, asked)
    geometry = _geometry(config)
    if geometry is None:
        return None
    knob, ends = chosen.asked.knob, (below.asked.num_crops, chosen.asked.num_crops)
    values = values_up_to(knob, ends[1], geometry)
    crops = {v: KnobValue(knob, v).crop_setting(geometry).max_crops for v in values}
    between = [v for v in values if ends[0] < crops[v] < ends[1] and str(v) not in asked]
    return between[(len(between) - 1) // 2] if between else None


def _number_between(below: str, chosen: str, asked: Collection[str]) -> str | None:
    """The number in the middle of two, of tokens, experts or blocks; None between shares."""
    if not (below.isdecimal() and chosen.isdecimal()):
        return None
    middle = (int(below) + int(chosen)) // 2
    found = int(below) < middle < int(chosen) and str(middle) not in asked
    return str(middle) if found else None


def _geometry(config: Config) -> Geometry | None:
    """Of the runs' model; None where it is not on this machine."""
    model = config.model
    try:
        checkpoint = find_checkpoint(model.path, model.revision, weights=False, sizes_suffice=True)
        return geometry_of(model, checkpoint)
    except (VtexpError, OSError):
        return None


def _config(folder: Path) -> Config | None:
    """The config of a run; None where this vtexp does not read it."""
    try:
        return thaw([folder])
    except VtexpError:
        return None


def _with_command(
    said: str, folders: Sequence[Path], changes: dict[str, Any], sweep: Path | None = None
) -> NextStep:
    command = command_with(folders, changes, sweep)
    keys = " ".join(f"{key}={hydra_value(value)}" for key, value in changes.items())
    return NextStep(said, command, f"the same command with {keys}")
