"""The description of a plot, which the page and the figures both draw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

#: An axis whose values span so many times the smallest one is one of logarithms.
WIDE = 30
#: How far an axis from 0 reaches above its highest value, for the name of a point there.
HEADROOM = 1.1


@dataclass(frozen=True, slots=True, kw_only=True)
class PlotSeries:
    """Points of one line, or one part of each bar.

    `low`, `high`: ends of the interval around `y`. `names`: what a point is called. `beside`: what
    is written beside it, empty where there is no room, and `corners` where, such as `top left`.
    `marked`: points that are drawn hollow (doubtful timings). `panel`: the panel it is drawn in, of
    `panels`.
    `behind`: a line to compare with, drawn in grey behind the others.
    """

    label: str
    x: list[float]
    y: list[float | None]
    low: list[float | None] | None = None
    high: list[float | None] | None = None
    names: list[str] | None = None
    beside: list[str] | None = None
    corners: list[str] | None = None
    marked: list[bool] | None = None
    panel: str = ""
    behind: bool = False

    @property
    def ends(self) -> list[float]:
        """All values that are drawn, with the ends of their intervals."""
        return [end for end in (*self.y, *(self.low or ()), *(self.high or ())) if end is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """The name of a bar, or a heading above the bars that follow, at its place from the top."""

    place: float
    text: str
    heading: bool = False


@dataclass(frozen=True, slots=True)
class StepLine:
    """A dashed line: a Pareto front, or the margin of a forest.

    `series`: the place of the series in whose colour it is drawn; None: in grey.
    """

    x: list[float]
    y: list[float]
    series: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """One plot. `name` is also that of its figure's file. `of`: what it is of, where there are
    several of its kind.

    `kind`: lines through points; points alone; panels, each with its lines (`panels` names them);
    or stacked bars that lie, so that their names stay level: a bar's `x` is its place from the top,
    which `ticks` name, and `y` runs to the right. A forest has points with their intervals in the
    places of bars. `ordered`: the panels have an order. `steps`: Pareto fronts, or the margin of a
    forest. `diagonal`: a line of x = y behind.
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
    steps: list[StepLine] = field(default_factory=list)
    diagonal: bool = False
    of: str = ""

    @property
    def heading(self) -> str:
        """The title with what it is of."""
        return f"{self.title} ({self.of})" if self.of else self.title

    @property
    def percent(self) -> bool:
        """Whether values are best shown from 0 to 100: shares of which none is above."""
        values = [y for series in self.series for y in series.y if y is not None]
        return "%" in self.y_label and max(values, default=0) <= 100 + 1e-6

    @property
    def log_x(self) -> list[float]:
        """Ticks of an axis of logarithms to the right; empty where the axis is linear."""
        return self._log_ticks([x for own in self.series for x in own.x])

    @property
    def log_y(self) -> list[float]:
        """The same of the axis upward; shares have a linear one."""
        return [] if self.percent else self._log_ticks([y for own in self.series for y in own.ends])

    def _log_ticks(self, values: Sequence[float]) -> list[float]:
        if self.diagonal:  # both axes alike, so that it is one
            values = [end for own in self.series for end in (*own.x, *own.ends)]
        values = [value for value in values if math.isfinite(value)]
        if self.kind in ("bars", "forest") or not values or min(values) <= 0:
            return []
        return log_ticks(min(values), max(values))

    @property
    def legend(self) -> list[str]:
        """Labels of the series in a legend, each once; empty where there is one line alone.

        Bars of one part have one too: nothing else says what they are.
        """
        labels = list(dict.fromkeys(own.label for own in self.series if not own.behind))
        return labels if len(labels) > 1 or self.kind == "bars" else []


def log_ticks(least: float, most: float) -> list[float]:
    """Round numbers from `least` to `most`, both above 0; empty where they are not far apart."""
    if most < WIDE * least:
        return []
    steps = (1, 2, 5) if most < 10 * WIDE * least else (1,)
    powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps]
    return [tick for tick in ticks if least <= tick <= most]
