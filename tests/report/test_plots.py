"""The plots of a report: names of bars, panels of groups, axes of scores; the files of figures."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.helpers.made_records import change_result
from tests.helpers.made_sweeps import make_run, steady_scores
from vtexp.analysis.analyse import analyse
from vtexp.analysis.rows import collect
from vtexp.report.bar_plots import stages_plot
from vtexp.report.figures import COLORS, MARKERS, WIDTH_IN, drawings, middle_cut
from vtexp.report.html import ASSETS
from vtexp.report.plot import Plot, PlotSeries
from vtexp.report.plots import all_plots

CROPS = (("1", 288), ("4", 544), ("9", 928), ("12", 1152))


def make_crops(sweep: Path, count: int = 4, **more: Any) -> None:
    """A sweep over max_crops; the more crops, the more is right."""
    scores, images = steady_scores([0.2, 0.4, 0.6, 0.8], 60, 2)
    for (value, tokens), own in list(zip(CROPS, scores.T, strict=True))[:count]:
        make_run(
            sweep, value, tokens, own.tolist(), images=images, prefill_ms=tokens / 30,
            knob="max_crops", **more,
        )  # fmt: skip


def plots_of(*sweeps: Path) -> dict[str, Plot]:
    runs = collect(*sweeps)
    return {plot.name: plot for plot in all_plots(analyse(runs), runs, {})}


def test_bars_are_named_by_their_budget_in_the_order_of_numbers(tmp_path: Path) -> None:
    make_crops(tmp_path)
    plot = plots_of(tmp_path)["stages"]
    assert [tick.text.split(",")[0] for tick in plot.ticks] == [
        f"max_crops={value}" for value, _ in CROPS
    ]
    assert not any(tick.heading for tick in plot.ticks)
    for part in plot.series:
        assert part.x == [tick.place for tick in plot.ticks]
        assert any(y is not None for y in part.y)  # no part of what was never timed


def test_bars_of_several_series_stand_below_their_headings(tmp_path: Path) -> None:
    for name in "abc":
        make_crops(tmp_path / name, result={"model": name})
    plot = plots_of(*(tmp_path / name for name in "abc"))["stages"]
    headings = [tick.text for tick in plot.ticks if tick.heading]
    assert headings == ["a", "b", "c"]
    assert [tick.place for tick in plot.ticks] == list(range(3 * (1 + len(CROPS))))
    bars = [tick.place for tick in plot.ticks if not tick.heading]
    assert all(part.x == bars for part in plot.series)


@pytest.mark.slow
def test_figures_of_many_bars_are_a_column_wide(tmp_path: Path) -> None:
    for name in "abc":
        make_crops(tmp_path / name, result={"model": name})
    plot = plots_of(*(tmp_path / name for name in "abc"))["stages"]
    content = dict(drawings(plot))
    with Image.open(io.BytesIO(content["png"])) as image:
        assert image.width == pytest.approx(WIDTH_IN * 300, abs=1)
    for heading in ("a", "c", "max_crops=12"):
        assert heading in content["svg"].decode()


def test_no_stages_plot_where_nothing_was_timed() -> None:
    assert stages_plot({}) is None


def test_each_group_has_a_panel_and_sizes_have_an_order(tmp_path: Path) -> None:
    kinds = {"print_px": [10, 12, 20] * 40, "kind": ["form", "table"] * 60}
    make_crops(tmp_path, attributes=kinds)
    plots = plots_of(tmp_path)
    sizes, words = plots["by_print_px"], plots["by_kind"]
    assert [panel.split()[0] for panel in sizes.panels] == ["10", "12", "20"]
    assert (sizes.ordered, words.ordered) == (True, False)
    for plot in (sizes, words):
        assert plot.kind == "panels" and plot.legend == []
        lines = [series.panel for series in plot.series if not series.behind]
        assert lines == plot.panels  # one line each, and behind it that of all questions
        assert {series.panel for series in plot.series if series.behind} == set(plot.panels)


def test_series_on_one_data_set_share_the_panels_of_a_group(tmp_path: Path) -> None:
    for name in "ab":
        make_crops(tmp_path / name, result={"model": name}, attributes={"kind": ["x", "y"] * 60})
    plots = plots_of(tmp_path / "a", tmp_path / "b")
    by_kind = [plot for name, plot in plots.items() if name.startswith("by_kind")]
    (plot,) = by_kind
    assert plot.legend == ["a", "b"]
    assert len(plot.panels) == 2 and len(plot.series) == 4


@pytest.mark.parametrize(
    ("metric", "label", "percent"),
    [("exact_match", "accuracy, % (exact_match)", True), ("cider", "cider, points", False)],
)
def test_a_score_beyond_one_is_no_percentage(
    tmp_path: Path, metric: str, label: str, percent: bool
) -> None:
    make_crops(tmp_path, result={"metric": metric})
    plot = plots_of(tmp_path)["accuracy"]
    assert (plot.y_label, plot.percent) == (label, percent)


def test_each_front_has_the_colour_of_its_series(tmp_path: Path) -> None:
    for name in "ab":
        make_crops(tmp_path / name, result={"model": name})
    plot = plots_of(tmp_path / "a", tmp_path / "b")["pareto"]
    assert [line.series for line in plot.steps] == [0, 1]
    for line in plot.steps:
        own = plot.series[line.series or 0]
        assert set(zip(line.x, line.y, strict=True)) <= set(zip(own.x, own.y, strict=True))
    assert [line.series for line in plots_of(tmp_path / "a")["pareto"].steps] == [None]  # grey


def test_captions_explain_marks_only_where_there_are_some(tmp_path: Path) -> None:
    make_crops(tmp_path, 2)
    plots = [plots_of(tmp_path)[name] for name in ("prefill", "stages", "pareto")]
    assert not any("doubtful" in plot.caption for plot in plots)
    for folder in tmp_path.iterdir():
        change_result(folder, timing_warnings=("it was hot",))
    plots = [plots_of(tmp_path)[name] for name in ("prefill", "stages", "pareto")]
    assert all("doubtful" in plot.caption for plot in plots)


def test_bars_of_one_part_say_what_they_are() -> None:
    bar = PlotSeries(label="4 crops", x=[0.0], y=[100.0])
    plot = Plot(
        name="p", title="t", caption="c", x_label="budget", y_label="images, %", kind="bars",
        series=[bar],
    )  # fmt: skip
    assert plot.legend == ["4 crops"]
    assert replace(plot, kind="lines").legend == []


def test_lines_look_different_up_to_seventy() -> None:
    looks = list(islice(zip(cycle(COLORS), cycle(MARKERS), strict=False), 72))
    assert len(set(looks)) == 72
    script = (ASSETS / "report.js").read_text(encoding="utf-8")
    for name, count in (("SYMBOLS", len(MARKERS)), ("MARKS", len(MARKERS))):
        (found,) = re.findall(rf"const {name} = \[(.*?)\];", script)
        assert len(found.split(",")) == count


def test_long_names_keep_what_tells_them_apart() -> None:
    one, other = ("a_model_of_a_very_long_name_" * 3 + end for end in ("one", "two"))
    assert middle_cut(one, 40) != middle_cut(other, 40)
    assert len(middle_cut(one, 40)) == 40 and middle_cut("short", 40) == "short"


def test_pdf_figures_hold_their_fonts(tmp_path: Path) -> None:
    line = PlotSeries(label="a", x=[1.0, 2.0], y=[1.0, 2.0])
    plot = Plot(
        name="p", title="t", caption="c", x_label="tokens", y_label="ms", kind="lines",
        series=[line, replace(line, label="b")],
    )  # fmt: skip
    pdf = dict(drawings(plot))["pdf"]
    assert pdf.startswith(b"%PDF") and b"/FontFile2" in pdf and b"/Type3" not in pdf
    assert dict(drawings(plot))["pdf"] == pdf  # the same plot, the same file
    if shutil.which("pdffonts") is None:
        return
    (tmp_path / "p.pdf").write_bytes(pdf)
    command = ["pdffonts", str(tmp_path / "p.pdf")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    place = lines[0].index("emb")
    assert len(lines) > 2 and all(line[place : place + 3] == "yes" for line in lines[2:])
