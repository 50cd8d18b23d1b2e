"""`report.html`: one file with all that it needs, and nothing fetched from anywhere.

Texts of data sets and models reach the page in two ways only: through the template, which escapes
them, and as JSON that no script tag can end, put into the page as text. A Content-Security-Policy
lets only the page's own scripts run, named by their hashes, and forbids every connection.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import vtexp
from vtexp.analysis.answer import at_most, count_text, interval, points
from vtexp.analysis.findings import Analysis
from vtexp.analysis.grids import grid_sentences
from vtexp.analysis.rows import ComparedRun
from vtexp.report import reproduce
from vtexp.report.answers import SharedQuestions, read_answers
from vtexp.report.browser import browser_data
from vtexp.report.columns import ReportRow
from vtexp.report.decision_plots import decision_plots
from vtexp.report.format import beside, headline
from vtexp.report.grid_plots import front_heads, front_rows
from vtexp.report.html_table import report_table
from vtexp.report.next_steps import next_steps
from vtexp.report.plot import Plot
from vtexp.report.plots import all_plots
from vtexp.report.thumbnails import MOST_BYTES
from vtexp.utils.files import write_text
from vtexp.utils.text import p_value

REPORT_NAME = "report.html"
#: What the page's script takes of a plot beside its fields.
DERIVED = ("percent", "legend", "log_x", "log_y")
ASSETS = Path(__file__).parents[1] / "assets" / "report"


def write_page(folder: Path, rows: Sequence[ReportRow], found: Analysis) -> list[Plot]:
    """Write `report.html` of a comparison into a folder; returns its plots, for `figures`.

    rows: of `columns.report_rows`, of one sweep or several, with what analysis found of them.
    Raises DataError where records of a run are damaged.
    """
    runs = [row.run for row in rows]
    asked = read_answers(runs)
    counted = {run: answers for one in asked for run, answers in one.by_run.items()}
    plots = [*all_plots(found, runs, counted), *decision_plots(found, runs)]
    plots.sort(key=lambda plot: plot.kind != "forest")  # the test, drawn, is the answer's picture
    browsers, warnings = _browsers(runs, found, asked)
    data = {
        "plots": [asdict(plot) | {key: getattr(plot, key) for key in DERIVED} for plot in plots],
        "browsers": browsers,
    }
    write_text(folder / REPORT_NAME, _page(rows, found, plots, data, warnings))
    return plots


def _browsers(
    runs: Sequence[ComparedRun], found: Analysis, asked: Sequence[SharedQuestions]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Data of the browsers of samples, those with several runs, and warnings on their pictures."""
    by_folder = {str(run.folder): run for run in runs}
    several = len(found.series) > 1
    names = {run.folder: one.name for one in found.series for run in one.runs if several}
    room, browsers, warnings = MOST_BYTES, [], []
    for one in asked:
        if len(one.runs) > 1:
            data, pictures = browser_data(one, by_folder, names, room)
            room -= sum(len(picture.uri) for picture in pictures.by_image.values())
            browsers.append(data)
            warnings += pictures.warnings
    return browsers, warnings


def _page(
    rows: Sequence[ReportRow],
    found: Analysis,
    plots: Sequence[Plot],
    data: dict[str, Any],
    warnings: Sequence[str],
) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from jinja2.utils import htmlsafe_json_dumps

    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    plotly, script = _plotly(), (ASSETS / "report.js").read_text()
    runs = [row.run for row in rows]
    folders = [run.folder for run in runs]
    return environment.get_template("page.html.jinja").render(
        title=", ".join(dict.fromkeys(run.sweep for run in runs)),
        facts=_facts(runs),
        analysis=found,
        beside=beside,
        compared=_compared(found),
        next_steps=next_steps(runs, found),
        places={run.run: (one.name, run.label) for one in found.series for run in one.runs},
        p_value=p_value,
        points=points,
        at_most=at_most,
        interval=interval,
        count_text=count_text,
        headline=headline,
        front_rows=front_rows,
        front_heads=front_heads,
        table=report_table(rows),
        plots=plots,
        browsers=data["browsers"],
        picture_warnings=warnings,
        protocol=reproduce.protocols(folders),
        environment=reproduce.environments(folders),
        again=reproduce.configs(folders),
        runs=runs,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=vtexp.__version__,
        style=(ASSETS / "report.css").read_text(),
        plotly=plotly,
        script=script,
        hashes=[_hash(plotly), _hash(script)],
        data=htmlsafe_json_dumps(data, separators=(",", ":")),
    )


def _compared(found: Analysis) -> list[tuple[str, list[str]]]:
    """What was found of several series together, under headings; nothing where there is none."""
    grids = [line for grid in found.grids for line in grid_sentences(grid)]
    parts = [("Knobs set together", grids), ("Token reductions", list(found.reductions))]
    return [(heading, lines) for heading, lines in parts if lines]


def _facts(runs: Sequence[ComparedRun]) -> list[tuple[str, str]]:
    """What the runs of a comparison have in common, or all values where they differ."""
    done = [run.result for run in runs if run.result is not None]
    found = []
    for key in ("model", "weights", "dataset", "split", "metric", "hardware"):
        values = list(dict.fromkeys(str(getattr(run.asked, key)) for run in runs))
        if values != ["pretrained"]:
            found.append((key, ", ".join(values)))
    if devices := list(dict.fromkeys(result.device for result in done)):
        found.append(("device", ", ".join(devices)))
    counts = sorted({result.num_samples for result in done})
    states = [run.status for run in runs]
    found.append(("questions", " or ".join(map(str, counts)) or "none"))
    named = (f"{states.count(state)} {state}" for state in ("done", "failed", "missing"))
    found.append(("runs", ", ".join(said for said in named if not said.startswith("0 "))))
    return found


def _plotly() -> str:
    """plotly.js as its Python package ships it, with nothing in it that would end its tag."""
    script = (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    return script.replace("</script", r"<\/script").replace("<!--", r"<\!--")


def _hash(script: str) -> str:
    """A script's hash as a Content-Security-Policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
