"""A sweep's comparison in W&B: a run that holds its curves and table, and a W&B Report over all.

The report is kept as its specification in `wandb_report.json` of the sweep's folder, from which
`python -m vtexp.tracking.wandb_report FILE` saves it online, under the id that it got the first
time.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtexp.analysis.rows import COLUMNS, notes
from vtexp.config.schema import TrackingConfig
from vtexp.errors import error_line
from vtexp.tracking import wandb_runs
from vtexp.utils import files
from vtexp.utils.text import public

if TYPE_CHECKING:
    import wandb
    import wandb_workspaces.reports.v2 as wr

#: File of a sweep's folder with the report's specification and, once saved, its address.
REPORT = "wandb_report.json"
#: File of a sweep's folder that says what its runs say together.
ANALYSIS = "analysis.json"
#: `job_type` of the runs that hold curves; that of all others is their knob.
COMPARISON = "comparison"
#: What the curves run over.
TOKENS = "measured_vision_tokens"
#: Stages that add up to the time to the first token, in order; not every run timed all.
SHOWN_STAGES = (
    "image_decode_ms_median",
    "preprocess_ms_median",
    "transfer_ms_median",
    "vision_encoder_ms_median",
    "connector_ms_median",
    "llm_prefill_ms_median",
    "first_token_ms_median",
)
#: Notes that the report quotes.
MOST_NOTES = 20
#: What the rows of one curve have in common.
_SERIES = ("model", "dataset", "hardware", "knob", "force_full_tokens", "settings")
#: Of these, what the series of the analysis have in common.
_ANALYSED = ("model", "dataset", "hardware", "settings")


def read_analysis(sweep: Path) -> dict[str, Any]:
    """A sweep's `analysis.json`: series with their answers, what is unfair; both empty without."""
    path = sweep / ANALYSIS
    return {"series": [], "unfair": []} | (files.read_json(path) if path.is_file() else {})


def log_curves(
    tracking: TrackingConfig,
    sweep: Path,
    rows: Sequence[dict[str, Any]],
    analysis: dict[str, Any],
) -> list[Path]:
    """Log a run for each curve of a sweep: its points over the measured tokens, and its table.

    `rows` as of `rows.collect`, `analysis` of `read_analysis`. Returns what `wandb_runs.upload`
    takes.
    """
    by_series: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_series[tuple(row[key] for key in _SERIES)].append(row)
    paths = []
    for number, series in enumerate(sorted(by_series)):
        own = [{key: row.get(key) for key in COLUMNS} for row in by_series[series]]
        path = sweep / wandb_runs.WANDB / f"{COMPARISON}-{number}.json"
        parts = dict(zip(_SERIES, series, strict=True))
        name = ", ".join([sweep.name, *map(str, _differing(series, list(by_series)))])
        tags = [parts["model"], parts["dataset"], parts["hardware"], *tracking.tags]
        config = {key: {"name": parts[key]} for key in ("model", "dataset", "hardware", "knob")}
        about = wandb_runs.About(f"{COMPARISON}-{number}", name, COMPARISON, tags, config)
        answer = " ".join(
            row["answer"]["sentence"]
            for row in analysis["series"]
            if all(row[key] == parts[key] for key in _ANALYSED)
        )
        _log_curve(tracking, sweep, path, about, own, parts | {"answer": answer})
        paths.append(path)
    return paths


def _differing(series: tuple, all_series: Sequence[tuple]) -> list[Any]:
    """The parts of a series in which several differ."""
    return [part for i, part in enumerate(series) if len({other[i] for other in all_series}) > 1]


def _log_curve(
    tracking: TrackingConfig,
    sweep: Path,
    path: Path,
    about: wandb_runs.About,
    rows: Sequence[dict[str, Any]],
    summary: dict[str, Any],
) -> None:
    rows = public(rows)
    points = [_numbers(row) for row in rows if row["status"] == "done"]

    def fill(run: wandb.Run) -> None:
        for name in dict.fromkeys(name for point in points for name in point):
            # The last point's numbers are no summary of the curve.
            run.define_metric(name, step_metric=TOKENS, summary="none")
        for point in points:
            run.log(point)
        run.log({COMPARISON: wandb_runs.table(rows)})
        counts = Counter(row["status"] for row in rows)
        run.summary.update(summary | {f"num_{key}": n for key, n in counts.items()})

    wandb_runs.log(tracking, sweep, path, about, [summary, *rows], fill)


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {
        key: value
        for key, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def write_report(
    tracking: TrackingConfig,
    sweep: Path,
    rows: Sequence[dict[str, Any]],
    analysis: dict[str, Any],
) -> Path:
    """Write the report's specification, unless that of the same rows and answers is there."""
    rows, analysis = public([rows, analysis])
    path = sweep / REPORT
    content = hashlib.sha256(json.dumps([analysis, rows], sort_keys=True).encode())
    fingerprint = content.hexdigest()[:16]
    before = files.read_json(path) if path.is_file() else {}
    if before.get("content") == fingerprint:
        return path
    import wandb_workspaces.reports.v2 as wr

    title = f"How many vision tokens, sweep {sweep.name}"  # part of an address
    blocks = _blocks(sweep, wandb_runs.sweep_id(sweep), rows, analysis)
    report = {
        "publish": f"python -m vtexp publish {shlex.quote(str(sweep))}",
        "url": before.get("url"),
        "id": before.get("id", ""),
        "saved": False,
        "content": fingerprint,
        "entity": tracking.entity,
        "project": tracking.project,
        "title": title,
        "spec": specification(wr.Report(project="", entity="", title=title, blocks=blocks)),
    }
    files.write_json(path, report)
    return path


def specification(report: wr.Report) -> dict[str, Any]:
    """What W&B stores of a report, as JSON."""
    return report._to_model().spec.model_dump(mode="json", by_alias=True, exclude_none=True)


def _blocks(
    sweep: Path,
    own_id: str,
    rows: Sequence[dict[str, Any]],
    analysis: dict[str, Any],
) -> list[Any]:
    """Text is plain paragraphs throughout: what comes from data sets and errors stays inert."""
    import wandb_workspaces.reports.v2 as wr

    done = [row for row in rows if row["status"] == "done"]
    about = f"{len(done)} of {len(rows)} runs of the sweep {sweep.name} are done."
    runs, curves = (
        wr.Runset(
            name=name,
            filters=f"Config('sweep_id') = '{own_id}' and JobType {sign} '{COMPARISON}'",
            order=[wr.OrderBy(wr.SummaryMetric(TOKENS), ascending=True)],
        )
        for name, sign in (("runs", "!="), ("curves", "="))
    )
    found = [*analysis["unfair"], *notes(list(rows))]
    more = [f"and {len(found) - MOST_NOTES} more"] if len(found) > MOST_NOTES else []
    blocks = [
        wr.H1("Answer"),
        *_answer(analysis["series"]),
        wr.P(about),
        wr.H1("Over the vision tokens"),
        wr.PanelGrid(runsets=[curves], panels=_curve_panels(done)),
        wr.H1("Runs"),
        wr.PanelGrid(runsets=[runs], panels=_run_panels(done)),
    ]
    if found:
        blocks += [wr.H1("Notes"), wr.UnorderedList(items=[*found[:MOST_NOTES], *more])]
    return blocks


def _answer(all_series: Sequence[dict[str, Any]]) -> list[Any]:
    """The sentence of each series, and what must be known with it."""
    import wandb_workspaces.reports.v2 as wr

    blocks: list[Any] = []
    for series in all_series:
        name = f"{series['name']}: " if len(all_series) > 1 else ""
        blocks.append(wr.P(name + series["answer"]["sentence"]))
        if caveats := list(series["answer"]["caveats"]):
            blocks.append(wr.UnorderedList(items=caveats))
    return blocks


def _stages(done: Sequence[dict[str, Any]]) -> list[Any]:
    """The stages that were timed."""
    timed = {name for row in done for name in row}
    return [name for name in SHOWN_STAGES if name in timed]


def _curve_panels(done: Sequence[dict[str, Any]]) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    tokens = "measured vision tokens"
    accuracy: list[Any] = ["accuracy", "accuracy_low", "accuracy_high"]
    times: list[Any] = ["ttft_ms_median", "prefill_ms_median", *_stages(done)]
    left, right, below = _half(0, 0), _half(12, 0), wr.Layout(0, 8, w=24, h=8)
    return [
        wr.LinePlot("Accuracy, 95 %", x=TOKENS, y=accuracy, title_x=tokens, layout=left),
        wr.LinePlot("Medians, ms", x=TOKENS, y=times, title_x=tokens, layout=right),
        wr.WeavePanelSummaryTable(table_name=COMPARISON, layout=below),
    ]


def _half(x: int, y: int) -> wr.Layout:
    """Half of the grid's 24 columns."""
    import wandb_workspaces.reports.v2 as wr

    return wr.Layout(x, y, w=12, h=8)


def _run_panels(done: Sequence[dict[str, Any]]) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    tokens, accuracy, prefill = map(wr.SummaryMetric, (TOKENS, "accuracy", "prefill_ms_median"))
    columns = (wr.Config("run.value"), wr.SummaryMetric("measured_num_crops"), tokens, prefill)
    axes = [wr.ParallelCoordinatesPlotColumn(metric) for metric in (*columns, accuracy)]
    lines = [wr.Layout(0, y, w=24, h=10) for y in (16, 26, 36)]
    return [
        wr.ScatterPlot("Accuracy over vision tokens", x=tokens, y=accuracy, layout=_half(0, 0)),
        wr.ScatterPlot("Accuracy over prefill, ms", x=prefill, y=accuracy, layout=_half(12, 0)),
        wr.BarPlot("Accuracy", metrics=["accuracy"], layout=_half(0, 8)),
        wr.BarPlot("Stages, median ms", metrics=_stages(done), layout=_half(12, 8)),
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
