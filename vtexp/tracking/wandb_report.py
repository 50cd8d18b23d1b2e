"""A sweep's comparison in W&B: a run that holds its curves and table, and a W&B Report over all.

The report is kept as its specification in `wandb_report.json` of the sweep's folder, from which
`python -m vtexp.tracking.wandb_report FILE` saves it online, under the id that it got the first
time.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtexp.analysis.findings import Analysis, Series, analysis_to_json
from vtexp.analysis.grids import grid_sentences
from vtexp.analysis.rows import ComparedRun, Curve, curve_labels, warnings
from vtexp.config.schema import TrackingConfig
from vtexp.errors import DataError, error_line
from vtexp.report.columns import OF_RUNS, in_files
from vtexp.report.format import headline, score_unit
from vtexp.runs.records import Result
from vtexp.stages import STAGE_NAMES
from vtexp.tracking import wandb_runs
from vtexp.utils import files
from vtexp.utils.grouping import grouped
from vtexp.utils.text import command_line, public
from vtexp.utils.typed import is_number

if TYPE_CHECKING:
    import wandb
    import wandb_workspaces.reports.v2 as wr

#: File of a sweep's folder with the report's specification and, once saved, its address.
REPORT = "wandb_report.json"
#: `job_type` of the runs that hold curves; that of all others is their knob.
COMPARISON = "comparison"
#: What the curves run over.
TOKENS = "measured_vision_tokens"
#: Warnings that the report quotes.
MOST_WARNINGS = 20


def log_curves(
    tracking: TrackingConfig, sweep: Path, runs: Sequence[ComparedRun], analysis: Analysis
) -> list[Path]:
    """Log a run for each curve of a sweep: its points over the measured tokens, and its table.

    `runs` as of `rows.collect`. Returns what `wandb_runs.upload` takes.
    """
    by_curve = grouped(runs, lambda run: run.curve)
    labels, paths = curve_labels(list(by_curve)), []
    for number, curve in enumerate(sorted(by_curve)):
        path = sweep / wandb_runs.WANDB / f"{COMPARISON}-{number}.json"
        config = {key: {"name": getattr(curve, key)} for key in _NAMED}
        about = wandb_runs.About(
            id=f"{COMPARISON}-{number}",
            name=", ".join(filter(None, [sweep.name, labels[curve]])),
            job_type=COMPARISON,
            tags=[curve.model, curve.dataset, curve.hardware, *tracking.tags],
            config=config,
        )
        summary = curve._asdict() | {"answer": _answer_to(curve, analysis)}
        _log_curve(tracking, sweep, path, about, by_curve[curve], summary)
        paths.append(path)
    return paths


#: Groups of the config that a curve has in common.
_NAMED = ("model", "dataset", "hardware", "knob")


def _answer_to(curve: Curve, analysis: Analysis) -> str:
    """The answers of the series that a curve's runs are in."""
    keys = ("model", "dataset", "hardware", "settings")
    return " ".join(
        series.answer.sentence
        for series in analysis.series
        if all(getattr(series, key) == getattr(curve, key) for key in keys)
    )


def _log_curve(
    tracking: TrackingConfig,
    sweep: Path,
    path: Path,
    about: wandb_runs.About,
    runs: Sequence[ComparedRun],
    summary: dict[str, Any],
) -> None:
    rows = public([_table_row(run) for run in runs])
    done = [row for run, row in zip(runs, rows, strict=True) if run.result is not None]
    points = [_numbers(row) for row in done]

    def fill(run: wandb.Run) -> None:
        for name in dict.fromkeys(name for point in points for name in point):
            # The last point's numbers do not summarise the curve.
            run.define_metric(name, step_metric=TOKENS, summary="none")
        for point in points:
            run.log(point)
        run.log({COMPARISON: wandb_runs.table(rows)})
        counts = Counter(run.status for run in runs)
        run.summary.update(summary | {f"num_{key}": n for key, n in counts.items()})

    wandb_runs.log(tracking, sweep, path, about, [summary, *rows], fill)


def _table_row(run: ComparedRun) -> dict[str, Any]:
    """A run's cells by the names of comparison.csv's columns."""
    values = run.values()
    return {column.key: values.get(column.key) for column in in_files(OF_RUNS)}


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in row.items() if is_number(value)}


def write_report(
    tracking: TrackingConfig,
    sweeps: Sequence[Path],
    runs: Sequence[ComparedRun],
    analysis: Analysis,
    folder: Path,
) -> Path:
    """Write the specification of the report of sweeps into a folder.

    Skipped if that of the same runs and answers is already there for the same project.
    """
    path = folder / REPORT
    entity, project = wandb_runs.destination(tracking)
    told = public([analysis_to_json(analysis), [run.values() for run in runs]])
    told += [entity, project]
    fingerprint = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
    before = _before(path)
    if before.get("content") == fingerprint:
        return path
    import wandb_workspaces.reports.v2 as wr

    # A report stays where it was saved first: in another project it is another one.
    same = (before.get("entity"), before.get("project")) == (entity, project)
    names = ", ".join(sweep.name for sweep in sweeps)
    title = f"How many vision tokens, sweep{'s' * (len(sweeps) > 1)} {names}"  # part of an address
    blocks = _blocks(sweeps, runs, analysis)
    report = {
        "publish": f"python -m vtexp publish {command_line(list(map(str, sweeps)))}",
        "url": before.get("url") if same else None,
        "id": before.get("id", "") if same else "",
        "saved": False,
        "content": fingerprint,
        "entity": entity,
        "project": project,
        "title": title,
        "spec": specification(wr.Report(project="", entity="", title=title, blocks=blocks)),
    }
    files.write_json(path, public(report))
    return path


#: What is read of a report that was written earlier.
_KEPT = {"publish", "url", "id", "saved", "content", "entity", "project", "title", "spec"}


def _before(path: Path) -> dict[str, Any]:
    """What was written earlier, empty if nothing. Raises DataError where it is damaged."""
    if not path.is_file():
        return {}
    advice = "delete it, and W&B gets the report once more, under a new address"
    try:
        found = files.read_json(path)
    except DataError as error:
        raise DataError(f"{error}; {advice}") from error
    if lacking := _KEPT - found.keys():
        raise DataError(f"{path}: lacks {min(lacking)}; {advice}")
    return found


def specification(report: wr.Report) -> dict[str, Any]:
    """What W&B stores of a report, as JSON."""
    return report._to_model().spec.model_dump(mode="json", by_alias=True, exclude_none=True)


def _blocks(sweeps: Sequence[Path], runs: Sequence[ComparedRun], analysis: Analysis) -> list[Any]:
    """Text is plain paragraphs throughout: what comes from data sets and errors stays inert."""
    import wandb_workspaces.reports.v2 as wr

    done = [run.result for run in runs if run.result is not None]
    names = ", ".join(sweep.name for sweep in sweeps)
    of = f"the sweep{'s' * (len(sweeps) > 1)} {names}"
    of_grids = [line for grid in analysis.grids for line in grid_sentences(grid)]
    found = public([*analysis.reductions, *of_grids, *analysis.caveats, *warnings(runs)])
    more = [f"and {len(found) - MOST_WARNINGS} more"] if len(found) > MOST_WARNINGS else []
    blocks = [
        wr.H1("Answer"),
        *_answer(analysis.series, analysis.margin),
        wr.P(f"{len(done)} of {len(runs)} runs of {of} are done."),
    ]
    ids = [wandb_runs.sweep_id(sweep) for sweep in sweeps]
    by_dataset = grouped(done, lambda result: result.dataset)
    for dataset, results in by_dataset.items():
        blocks += _of_dataset(ids, dataset if len(by_dataset) > 1 else "", results)
    if found:
        blocks += [wr.H1("Warnings"), wr.UnorderedList(items=[*found[:MOST_WARNINGS], *more])]
    return blocks


def _of_dataset(ids: Sequence[str], dataset: str, done: Sequence[Result]) -> list[Any]:
    """Panels of the curves and of the runs; of one data set if it is named, else of all there is.

    `ids`: of the sweeps.
    """
    import wandb_workspaces.reports.v2 as wr

    said = f" ({dataset})" if dataset else ""
    sweeps = ", ".join(f"'{own}'" for own in ids)
    of_runs, curves = (
        wr.Runset(
            name=name,
            filters=f"Config('sweep_id') in [{sweeps}] and JobType {sign} '{COMPARISON}'"
            + (f" and SummaryMetric('dataset') = {dataset!r}" if dataset else ""),
            order=[wr.OrderBy(wr.SummaryMetric(TOKENS), ascending=True)],
        )
        for name, sign in (("runs", "!="), ("curves", "="))
    )
    return [
        wr.H1(f"Over the vision tokens{said}"),
        wr.PanelGrid(runsets=[curves], panels=_curve_panels(done)),
        wr.H1(f"Runs{said}"),
        wr.PanelGrid(runsets=[of_runs], panels=_run_panels(done)),
    ]


def _answer(all_series: Sequence[Series], margin: float) -> list[Any]:
    """The headline and sentence of each series, and what must be known with it."""
    import wandb_workspaces.reports.v2 as wr

    blocks: list[Any] = []
    for series in all_series:
        name = f"{series.name}: " if len(all_series) > 1 else ""
        blocks.append(wr.H2(name + headline(series, margin)))
        blocks.append(wr.P(series.answer.sentence))
        if series.answer.caveats:
            blocks.append(wr.UnorderedList(items=list(series.answer.caveats)))
    return blocks


def _stages(done: Sequence[Result]) -> list[Any]:
    """The stages that were timed."""
    return [f"{stage}_mean" for stage in STAGE_NAMES if any(stage in own.latency for own in done)]


def _curve_panels(done: Sequence[Result]) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    tokens = "measured vision tokens"
    name, unit = score_unit({own.metric for own in done})
    title = "Accuracy, 95 %" if unit == "%" else f"{name.capitalize()}, 95 %"
    accuracy: list[Any] = ["accuracy", "accuracy_low", "accuracy_high"]
    times: list[Any] = ["ttft_ms_mean", "prefill_ms_mean", *_stages(done)]
    left, right, below = _half(0, 0), _half(12, 0), wr.Layout(0, 8, w=24, h=8)
    return [
        wr.LinePlot(title, x=TOKENS, y=accuracy, title_x=tokens, layout=left),
        wr.LinePlot("Means, ms", x=TOKENS, y=times, title_x=tokens, layout=right),
        wr.WeavePanelSummaryTable(table_name=COMPARISON, layout=below),
    ]


def _half(x: int, y: int) -> wr.Layout:
    """Half of the grid's 24 columns."""
    import wandb_workspaces.reports.v2 as wr

    return wr.Layout(x, y, w=12, h=8)


def _run_panels(done: Sequence[Result]) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    tokens, accuracy, prefill = map(wr.SummaryMetric, (TOKENS, "accuracy", "prefill_ms_mean"))
    theory = wr.SummaryMetric("theoretical_vision_tokens")
    columns = (wr.Config("knob_number"), wr.SummaryMetric("measured_num_crops"), tokens, prefill)
    axes = [wr.ParallelCoordinatesPlotColumn(metric) for metric in (*columns, accuracy)]
    lines = [wr.Layout(0, y, w=24, h=10) for y in (24, 34, 44)]
    return [
        wr.ScatterPlot("Accuracy over vision tokens", x=tokens, y=accuracy, layout=_half(0, 0)),
        wr.ScatterPlot("Accuracy over prefill, ms", x=prefill, y=accuracy, layout=_half(12, 0)),
        wr.BarPlot("Accuracy", metrics=["accuracy"], layout=_half(0, 8)),
        wr.BarPlot("Stages, mean ms", metrics=_stages(done), layout=_half(12, 8)),
        wr.ScatterPlot("Measured over theoretical tokens", x=theory, y=tokens, layout=_half(0, 16)),
        wr.ParallelCoordinatesPlot(axes, layout=lines[0]),
        wr.RunComparer("split", layout=lines[1]),
        wr.WeavePanelSummaryTable(table_name="samples", layout=lines[2]),
    ]


def save(path: Path) -> None:
    """Save the report of a file online, and write its id and address there."""
    import wandb
    import wandb_workspaces.reports.v2 as wr

    stored = files.read_json(path)
    entity = stored["entity"] or wandb.Api().default_entity or ""
    report = read_report(stored, entity)
    for block in report.blocks:
        for runset in block.runsets if isinstance(block, wr.PanelGrid) else ():
            runset.entity, runset.project = entity, stored["project"]
    report.save()
    files.write_json(path, stored | {"id": report.id, "url": report.url, "saved": True})


def read_report(stored: dict[str, Any], entity: str) -> wr.Report:
    """A report of what `write_report` wrote, as the library reads its own."""
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces.reports.v2 import internal

    project = {"name": stored["project"], "entityName": entity}
    view = {"id": stored["id"], "displayName": stored["title"], "project": project}
    view |= {"spec": json.dumps(stored["spec"])}
    model = internal.ReportViewspec.model_validate(view)
    report = wr.Report._from_model(model)
    ours = [block for block in report.blocks if isinstance(block, wr.PanelGrid)]
    theirs = [block for block in model.spec.blocks if isinstance(block, internal.PanelGrid)]
    for grid, read in zip(ours, theirs, strict=True):
        # The library forgets where tables stand, and moves others out of their way.
        panels: list[Any] = grid.panels
        stored_panels: list[Any] = read.metadata.panel_bank_section_config.panels
        for panel, stored_panel in zip(panels, stored_panels, strict=True):
            panel.layout = wr.Layout._from_model(stored_panel.layout)
    return report


if __name__ == "__main__":
    try:
        save(Path(sys.argv[1]))
    except Exception as error:  # for whoever waits for this process
        sys.exit(f"ERROR {error_line(error)}")
