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
from vtexp.analysis.findings import Analysis
from vtexp.report import reproduce
from vtexp.report.answers import read_answers
from vtexp.report.browser import browser_data
from vtexp.report.html_table import report_table
from vtexp.report.plots import Plot, all_plots
from vtexp.report.thumbnails import MOST_BYTES
from vtexp.utils.files import write_text

REPORT_NAME = "report.html"
ASSETS = Path(__file__).parents[1] / "assets" / "report"

Row = dict[str, Any]


def write_page(folder: Path, rows: Sequence[Row], found: Analysis) -> list[Plot]:
    """Write `report.html` of a comparison into a folder; returns its plots, for `figures`.

    rows: of `rows.collect`, of one sweep or several, with what analysis found of them. Raises
    DataError where records of a run are damaged.
    """
    asked = read_answers(rows)
    counted = {run: answers for one in asked for run, answers in one.by_run.items()}
    plots = all_plots(found, rows, counted)
    browsers, notes = _browsers(rows, found, asked)
    data = {
        "plots": [asdict(plot) | {"percent": plot.percent} for plot in plots],
        "browsers": browsers,
    }
    write_text(folder / REPORT_NAME, _page(rows, found, plots, data, notes))
    return plots


def _browsers(
    rows: Sequence[Row], found: Analysis, asked: Sequence[Any]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Data of the browsers of samples, those with several runs, and notes on their pictures."""
    by_folder = {row["folder"]: row for row in rows}
    several = len(found.series) > 1
    names = {run.folder: one.name for one in found.series for run in one.runs if several}
    room, browsers, notes = MOST_BYTES, [], []
    for one in asked:
        if len(one.runs) > 1:
            data, pictures = browser_data(one, by_folder, names, room)
            room -= sum(len(picture.uri) for picture in pictures.by_image.values())
            browsers.append(data)
            notes += pictures.notes
    return browsers, notes


def _page(
    rows: Sequence[Row],
    found: Analysis,
    plots: Sequence[Plot],
    data: dict[str, Any],
    notes: Sequence[str],
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
    folders = [Path(row["folder"]) for row in rows]
    return environment.get_template("page.html.jinja").render(
        title=", ".join(dict.fromkeys(str(row.get("sweep") or "sweep") for row in rows)),
        facts=_facts(rows),
        analysis=found,
        table=report_table(rows),
        plots=plots,
        browsers=data["browsers"],
        picture_notes=notes,
        protocol=reproduce.protocols(folders),
        environment=reproduce.environments(folders),
        again=reproduce.configs(folders),
        rows=rows,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=vtexp.__version__,
        style=(ASSETS / "report.css").read_text(),
        plotly=plotly,
        script=script,
        hashes=[_hash(plotly), _hash(script)],
        data=htmlsafe_json_dumps(data, separators=(",", ":")),
    )


def _facts(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """What the runs of a comparison have in common, or all values where they differ."""
    found = []
    for key in ("model", "weights", "dataset", "split", "metric", "hardware", "device"):
        values = list(dict.fromkeys(str(row[key]) for row in rows if row.get(key)))
        if values and values != ["pretrained"]:
            found.append((key, ", ".join(values)))
    counts = sorted({row["num_samples"] for row in rows if row["status"] == "done"})
    states = [row["status"] for row in rows]
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
