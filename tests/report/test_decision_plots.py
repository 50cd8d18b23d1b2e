"""The plots that decide hold what the analysis found, and are drawn."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.made_records import change_result, latency_row
from tests.helpers.made_sweeps import make_run, steady_scores
from vtexp.analysis.analyse import analyse
from vtexp.analysis.findings import Analysis
from vtexp.analysis.rows import ComparedRun, collect
from vtexp.report.decision_plots import decision_plots
from vtexp.report.figures import drawings
from vtexp.report.plot import Plot, PlotSeries
from vtexp.runs.records import write_latency
from vtexp.utils import files

VALUES = (("336x336", 288, 1), ("560x336", 384, 2), ("560x560", 544, 4), ("784x784", 928, 9))
ACCURACIES = (0.4, 0.66, 0.68, 0.7)


@pytest.fixture
def found(tmp_path: Path) -> tuple[Analysis, list[ComparedRun]]:
    """Prefills of exactly 5 ms, 2 more per crop, half of the images 1 ms longer."""
    scores, images = steady_scores(ACCURACIES, 150, 1)
    for i, (value, tokens, crops) in enumerate(VALUES):
        folder = make_run(tmp_path, value, tokens, scores[:, i].tolist(), images=images)
        rows = [
            latency_row(
                5.0 + 2 * crops + question % 2, sample_id=f"question-{question}", repeat=repeat,
                num_crops=crops, vision_tokens=tokens, sequence_length=tokens + question % 2,
            )
            for repeat in range(4)
            for question in range(8)
        ]  # fmt: skip
        write_latency(folder / files.LATENCY, rows)
        change_result(
            folder, inputs_fingerprint=value, energy_j_per_prefill=0.1 * crops,
            memory_peak_mib={"allocated": 1.0, "reserved": 1000.0 * crops},
        )  # fmt: skip
    runs = collect(tmp_path)
    return analyse(runs, 5.0), runs


def plots_of(found: tuple[Analysis, list[ComparedRun]]) -> dict[str, Plot]:
    return {plot.name: plot for plot in decision_plots(*found)}


def test_the_forest_is_the_test(found: tuple[Analysis, list[ComparedRun]]) -> None:
    plot, series = plots_of(found)["loss"], found[0].series[0]
    assert [tick.text for tick in plot.ticks] == [value for value, _, _ in VALUES]
    assert plot.steps[0].x == [5.0, 5.0]
    drawn = {}
    for part in plot.series:
        assert part.low is not None and part.high is not None
        for row in zip(part.x, part.y, part.low, part.high, strict=True):
            drawn[int(row[0])] = (part.label, *row[1:])
    assert sorted(drawn) == [0, 1, 2, 3]
    for place, run in enumerate(series.runs):
        label, loss, low, high = drawn[place]
        assert loss == pytest.approx(100 * (0.7 - ACCURACIES[place]))
        assert (low, high) == (100 * run.at_least_worse, 100 * run.at_most_worse)  # type: ignore[operator]
        assert (label == "enough") == (high <= 5) == run.sufficient
        assert (label == "not enough") == (low > 5)
    assert {row[0] for row in drawn.values()} > {"not enough"}


def test_single_images_and_the_cost_model(found: tuple[Analysis, list[ComparedRun]]) -> None:
    plots = plots_of(found)
    images = plots["images"].series
    assert [part.label for part in images] == [value for value, _, _ in VALUES]
    assert images[2].x == pytest.approx([13.0] * 4 + [14.0] * 4)
    assert images[2].y == pytest.approx(np.arange(1, 9) * 12.5)
    model, measured, left_out = plots["cost_model"].series
    assert measured.y == pytest.approx([7.5, 9.5, 13.5, 23.5])
    assert model.y == pytest.approx(measured.y, rel=0.05)
    assert left_out.label == "left out" and None not in left_out.y
    assert plots["memory"].series[0].y == pytest.approx(np.array([1, 2, 4, 9]) * 1.048576)
    assert plots["energy"].series[0].y == pytest.approx([0.1, 0.2, 0.4, 0.9])


@pytest.mark.parametrize("settings_of_b", [len(VALUES), 2])
def test_cost_models_of_several_series_have_a_panel_each(
    settings_of_b: int, tmp_path: Path
) -> None:
    """One alone, where the other has too few settings for a fit, is named as well."""
    scores, images = steady_scores(ACCURACIES, 60, 1)
    for model, count in (("a", len(VALUES)), ("b", settings_of_b)):
        for i, (value, tokens, crops) in enumerate(VALUES[:count]):
            folder = make_run(
                tmp_path, value, tokens, scores[:, i].tolist(), images=images,
                result={"model": model}, settings={"model.path": model},
            )  # fmt: skip
            rows = [
                latency_row(5.0 + 2 * crops, sample_id="question-0", repeat=repeat,
                            num_crops=crops, vision_tokens=tokens, sequence_length=tokens)
                for repeat in range(4)
            ]  # fmt: skip
            write_latency(folder / files.LATENCY, rows)
    runs = collect(tmp_path)
    plot = plots_of((analyse(runs), runs))["cost_model"]
    assert plot.legend == ["cost model", "measured", "left out"]
    if settings_of_b == 2:
        assert (plot.kind, plot.panels) == ("lines", []) and plot.of.startswith("a")
        return
    assert plot.kind == "panels" and len(plot.panels) == 2
    assert {own.panel for own in plot.series} == set(plot.panels)


def test_the_legend_names_the_series_of_all_panels() -> None:
    series = [
        PlotSeries(label=f"series {panel}", x=[1.0, 2.0], y=[1.0, 2.0], panel=panel)
        for panel in ("first", "second")
    ]
    plot = Plot(name="types", title="", caption="", x_label="", y_label="ms", kind="panels",
                series=series, panels=["first", "second"])  # fmt: skip
    svg = dict(drawings(plot))["svg"].decode()
    assert all(own.label in svg for own in series)


def test_they_are_drawn(found: tuple[Analysis, list[ComparedRun]]) -> None:
    for plot in plots_of(found).values():
        kinds = dict(drawings(plot))
        assert len(kinds["png"]) > 5000, plot.name
        assert plot.y_label.encode() in kinds["svg"]


def test_what_was_not_measured_is_not_drawn(tmp_path: Path) -> None:
    make_run(tmp_path, "336x336", 288, [1.0, 0.0])
    runs = collect(tmp_path)
    assert set(plots_of((analyse(runs), runs))) == {"images"}


def test_points_of_nearly_equal_height_are_drawn_whole() -> None:
    """Against the pixels: a marker at the top of its axes would be cut in half."""

    def height(*values: float) -> int:
        """Rows of the picture that have the series' colour, around its points."""
        line = PlotSeries(label="", x=[1.0, 2.0], y=list(values))
        plot = Plot(name="memory", title="", caption="", x_label="", y_label="GB", kind="points",
                    series=[line])  # fmt: skip
        png = next(content for kind, content in drawings(plot) if kind == "png")
        pixels = np.array(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
        blue = (pixels[..., 2] - pixels[..., 0] > 100).any(axis=1)
        return int(np.diff(np.flatnonzero(np.diff([0, *blue, 0])))[::2].max())  # between: gaps

    whole = height(0.3, 0.645)
    assert height(0.645, 0.6451) >= whole <= height(0.645, 0.645)
