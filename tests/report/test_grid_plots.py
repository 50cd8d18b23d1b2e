"""What a report shows of a grid of knobs."""

from __future__ import annotations

import html
import re
from itertools import pairwise
from pathlib import Path

import pytest

from tests.analysis.test_grids import BLOCKS, additive, make_grid
from tests.helpers.facts import says
from vtexp.analysis.analyse import analyse
from vtexp.analysis.grids import grid_sentences
from vtexp.analysis.rows import collect
from vtexp.report.columns import report_rows
from vtexp.report.figures import drawings
from vtexp.report.grid_plots import front_heads, front_rows, grid_plots
from vtexp.report.html import write_page
from vtexp.report.write import report


@pytest.mark.parametrize("blocks", [BLOCKS, (16,)])
def test_settings_are_lines_in_a_panel_for_each_value_of_the_third_knob(
    tmp_path: Path, blocks: tuple[int, ...]
) -> None:
    grid = make_grid(tmp_path, additive, blocks)
    found = analyse(collect(tmp_path)).analysed()
    (plot,) = grid_plots([grid], found)
    lines = [own for own in plot.series if not own.behind]
    assert len(lines) == 2 * len(blocks)
    assert all(own.x == sorted(own.x) and len(own.x) == 3 for own in lines)
    assert plot.legend == ["4 experts per token", "8 experts per token"]
    if len(blocks) > 1:
        assert plot.panels == ["12 blocks", "16 blocks"]
        fronts = [own for own in plot.series if own.behind]
        assert [own.panel for own in fronts] == plot.panels
        # A staircase: no setting is between two of the front.
        for (x0, y0), (x1, y1) in pairwise(zip(fronts[0].x, fronts[0].y, strict=True)):
            assert x0 == x1 or y0 == y1
    else:
        assert plot.kind == "lines" and len(plot.steps) == 1
    ends = {(run.accuracy_low, run.accuracy_high) for run in found.values()}
    for own in lines:
        assert own.low is not None and own.high is not None
        assert {(a / 100, b / 100) for a, b in zip(own.low, own.high, strict=True)} <= ends
    assert {kind for kind, content in drawings(plot) if content} == {"png", "svg", "pdf"}


def test_the_front_is_a_table_from_fast_to_slow(tmp_path: Path) -> None:
    grid = make_grid(tmp_path, additive)
    rows = front_rows(grid)
    assert len(rows) == sum(bool(point.on_front) for point in grid.points)
    assert {len(row) for row in rows} == {len(front_heads(grid))}
    times = [float(row[5]) for row in rows]
    assert times == sorted(times)


@pytest.mark.slow
@pytest.mark.usefixtures("figures")
def test_every_file_of_the_report_has_the_grid(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    make_grid(sweep, additive, (16,))
    assert report([sweep], sweep)
    assert (sweep / "figures" / "grid.png").is_file()
    text = (sweep / "comparison.md").read_text()
    assert "## Pareto front" in text and says(text, "interaction", "crops", "experts")
    page = (sweep / "report.html").read_text()
    assert re.search("Pareto front: m .*d", page)


def test_the_page_has_what_was_found_of_all_series_above_their_answers(tmp_path: Path) -> None:
    grid = make_grid(tmp_path, additive)
    runs = collect(tmp_path)
    analysis = analyse(runs)
    write_page(tmp_path, report_rows(runs, analysis), analysis)
    page = html.unescape((tmp_path / "report.html").read_text(encoding="utf-8"))
    places = [page.index(line) for line in grid_sentences(grid)]
    assert places == sorted(places)
    assert places[-1] < page.index(analysis.series[0].answer.sentence)
