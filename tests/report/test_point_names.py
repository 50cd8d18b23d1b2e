"""Names beside points and axes of logarithms, against what matplotlib draws."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vtexp.report.figures import HEIGHT_IN, WIDTH_IN, _draw
from vtexp.report.plot import Plot, PlotSeries, log_ticks
from vtexp.report.point_names import with_names


def made(lines: int, points: int, *, most: float = 1200, seed: int = 0) -> Plot:
    """Lines that rise and level off, of points at about the same places."""
    rng = np.random.default_rng(seed)
    x = np.geomspace(100, most, points)
    series = []
    for line in range(lines):
        y = 20 + 10 * line + 50 * (1 - np.exp(-3 * np.arange(points) / points))
        y += rng.normal(0, 2, points)
        series.append(
            PlotSeries(
                label=f"line {line}", x=(x * (1 + 0.1 * line)).tolist(), y=y.tolist(),
                low=(y - 4).tolist(), high=(y + 4).tolist(),
                names=[f"max_crops={i + 1}" for i in range(points)],
            )
        )  # fmt: skip
    return Plot(
        name="p", title="", caption="", x_label="tokens", y_label="accuracy, %", kind="lines",
        series=series,
    )  # fmt: skip


def drawn(plot: Plot) -> tuple[list[np.ndarray], np.ndarray, Figure]:
    """Pixels of the names, each (left, low, right, high), and of the points (n, 2)."""
    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    _draw(axes, plot, WIDTH_IN)
    figure.canvas.draw()
    texts = [text for text in axes.texts if text.get_text()]
    names = [np.array(text.get_window_extent().extents) for text in texts]
    points = np.array([pair for own in plot.series for pair in zip(own.x, own.y, strict=True)])
    return names, axes.transData.transform(points), figure


@pytest.mark.parametrize(("lines", "points", "most"), [(1, 4, 1000), (1, 12, 1250), (3, 12, 1250),
                                                       (2, 5, 16000)])  # fmt: skip
def test_names_cover_neither_points_nor_each_other(lines: int, points: int, most: float) -> None:
    plot = with_names(made(lines, points, most=most))
    names, places, figure = drawn(plot)
    assert len(names) >= min(points, 4)
    for one, other in combinations(names, 2):
        across = max(one[0], other[0]) < min(one[2], other[2])
        assert not (across and max(one[1], other[1]) < min(one[3], other[3]))
    for name in names:
        x, y = places.T
        assert not ((name[0] < x) & (x < name[2]) & (name[1] < y) & (y < name[3])).any()
        width, height = figure.bbox.width, figure.bbox.height
        assert name[0] >= 0 and name[1] >= 0 and name[2] <= width and name[3] <= height


def test_few_points_are_all_named() -> None:
    plot = with_names(made(1, 4))
    assert plot.series[0].beside == plot.series[0].names


def test_points_of_one_name_above_each_other_are_named_once() -> None:
    one, other = made(1, 4), made(1, 4, seed=1)
    shifted = [y + 15 for y in other.series[0].y if y is not None]
    high = PlotSeries(label="b", x=one.series[0].x, y=list(shifted), names=one.series[0].names)
    plot = Plot(
        name="p", title="", caption="", x_label="tokens", y_label="accuracy, %", kind="lines",
        series=[*one.series, high],
    )  # fmt: skip
    named = [name for own in with_names(plot).series for name in own.beside or [] if name]
    assert sorted(named) == sorted(one.series[0].names or [])


def test_values_far_apart_have_an_axis_of_logarithms() -> None:
    assert made(1, 5).log_x == [] and made(1, 5, most=16000).log_x != []
    assert log_ticks(1, 29) == []
    assert log_ticks(3, 100) == [5, 10, 20, 50, 100]
    assert log_ticks(2.5, 5000) == [10, 100, 1000]
    for least, most in ((0.02, 0.7), (288, 9000), (1, 16384), (7, 215)):
        ticks = log_ticks(least, most)
        assert 2 <= len(ticks) <= 8 and least <= ticks[0] and ticks[-1] <= most


def test_shares_and_values_of_zero_have_a_linear_axis() -> None:
    share = PlotSeries(label="", x=[0.0, 100.0], y=[1.0, 100.0])
    plot = Plot(
        name="p", title="", caption="", x_label="ms", y_label="images, %", kind="lines",
        series=[share],
    )  # fmt: skip
    assert plot.log_x == [] and plot.log_y == []
