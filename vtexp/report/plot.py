"""The description of a plot, which the page and the figures both draw."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotSeries:
    """Points of one line, or one part of each bar.

    `low`, `high`: ends of the interval around `y`. `names`: what a point is called. `beside`: what
    is written beside it, empty where there is no room. `marked`: points that are drawn hollow
    (doubtful timings). `panel`: the panel it is drawn in, of `panels`.
    `behind`: a line to compare with, drawn in grey behind the others.
    """

    label: str
    x: list[float]
    y: list[float | None]
    low: list[float | None] | None = None
    high: list[float | None] | None = None
    names: list[str] | None = None
    beside: list[str] | None = None
    marked: list[bool] | None = None
    panel: str = ""
    behind: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """The name of a bar, or a heading above the bars that follow, at its place from the top."""

    place: float
    text: str
    heading: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """One plot. `name` is also that of its figure's file.

    `kind`: lines through points; points alone; panels, each with its lines (`panels` names them);
    or stacked bars that lie, so that their names stay level: a bar's `x` is its place from the top,
    which `ticks` name, and `y` runs to the right. A forest has points with their intervals in the
    places of bars. `ordered`: the panels have an order. `steps`: lines (x, y) that join the points
    of a Pareto front each, or the line of a forest. `diagonal`: a line of x = y behind.
    """

    name: str
    title: str
    caption: str
    x_label: str
    y_label: str
    kind: Literal["lines", "bars", "points", "panels", "forest"]
    series: list[PlotSeries]
    ticks: list[Tick] = field(default_factory=list)
    panels: list[str] = field(default_factory=list)
    ordered: bool = False
    steps: list[tuple[list[float], list[float]]] = field(default_factory=list)
    diagonal: bool = False

    @property
    def percent(self) -> bool:
        """Whether values are best shown from 0 to 100: shares of which none is above."""
        values = [y for series in self.series for y in series.y if y is not None]
        return "%" in self.y_label and max(values, default=0) <= 100 + 1e-6

    @property
    def legend(self) -> list[str]:
        """Labels of the series in a legend, each once; empty where there is one line alone."""
        labels = list(dict.fromkeys(own.label for own in self.series if not own.behind))
        return labels if len(labels) > 1 else []
