"""Names beside the points of a plot, where they cover no point, no line and no other name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from vtexp.report.plot import HEADROOM, Plot, PlotSeries

#: Where a name can stand beside its point, the best place first: lines rise as a rule.
CORNERS = {
    "bottom right": (1, -1), "top left": (-1, 1), "top right": (1, 1), "bottom left": (-1, -1),
}  # fmt: skip
#: A character's width, and how far from its point a name begins and ends, as shares of the axes.
CHARACTER, BESIDE, NEAR, FAR = 0.02, 0.02, 0.025, 0.075
#: What is left free beside the outermost points, how far a name may stand out above the axes, and
#: at how many places a line is looked at.
MARGIN, ABOVE, STEPS = 0.05, 0.035, 20


@dataclass(frozen=True)
class _Box:
    """A name's place: its left, right, lower and upper end as shares of the axes."""

    left: float
    right: float
    low: float
    high: float

    @property
    def inside(self) -> bool:
        """Whether it is within the axes, or stands out above them a little."""
        return self.left >= 0 and self.right <= 1 and self.low >= 0 and self.high <= 1 + ABOVE

    def covers(self, points: np.ndarray) -> bool:
        """Whether it covers one of the points (n, 2)."""
        x, y = points.T
        across, up = (self.left < x) & (x < self.right), (self.low < y) & (y < self.high)
        return bool((across & up).any())

    def meets(self, other: _Box) -> bool:
        """Whether it covers a part of the other."""
        across = self.left < other.right and other.left < self.right
        return across and self.low < other.high and other.low < self.high


class _Axes:
    """Where values lie in a plot, as shares of its axes."""

    def __init__(self, plot: Plot) -> None:
        self.log_x, self.log_y = bool(plot.log_x), bool(plot.log_y)
        ends = [end for own in plot.series for end in own.ends]
        self.x_ends = self._ends([x for own in plot.series for x in own.x], self.log_x)
        self.y_ends = self._ends(ends, self.log_y)
        if plot.percent:
            self.y_ends = (-2.0, 102.0)
        elif not self.log_y:
            self.y_ends = (0.0, HEADROOM * max(ends, default=0.0) or 1.0)

    @staticmethod
    def _ends(values: Sequence[float], log: bool) -> tuple[float, float]:
        scaled = np.log(values) if log else np.array(values, dtype=float)
        least, most = float(scaled.min()), float(scaled.max())
        room = MARGIN * (most - least) or 1.0
        return least - room, most + room

    def places(self, x: Sequence[float], y: Sequence[float | None]) -> np.ndarray:
        """The points (n, 2) as shares of the axes; NaN where there is no value."""
        found = []
        for values, log, (least, most) in (
            (x, self.log_x, self.x_ends),
            (y, self.log_y, self.y_ends),
        ):
            plain = np.array(values, dtype=float)
            found.append(((np.log(plain) if log else plain) - least) / (most - least))
        return np.array(found).T


def with_names(plot: Plot) -> Plot:
    """The plot with the names of its points beside them, but for those that have no room.

    Points of one name above each other, of several series at the same tokens, are named once.
    """
    axes = _Axes(plot)
    drawn = _drawn(plot, axes)
    taken: dict[str, list[_Box]] = {}
    return replace(plot, series=[_named(own, axes, drawn, taken) for own in plot.series])


def _named(
    series: PlotSeries, axes: _Axes, drawn: np.ndarray, taken: dict[str, list[_Box]]
) -> PlotSeries:
    """A series with names beside its points; `taken`: the places of names so far, and of these."""
    beside, corners = [], []
    for (x, y), name in zip(axes.places(series.x, series.y), series.names or [], strict=True):
        corner = _corner(x, y, name, drawn, taken)
        beside.append(name if corner else "")
        corners.append(corner or next(iter(CORNERS)))
        if corner:
            taken.setdefault(name, []).append(_box(x, y, name, corner))
    return replace(series, beside=beside, corners=corners)


def _corner(
    x: float, y: float, name: str, drawn: np.ndarray, taken: dict[str, list[_Box]]
) -> str | None:
    """Where a name has room beside its point; None where it has none, or stands nearby."""
    if any(own.left - BESIDE <= x <= own.right + BESIDE for own in taken.get(name, [])):
        return None
    others = [box for boxes in taken.values() for box in boxes]
    for corner in CORNERS:
        box = _box(x, y, name, corner)
        if box.inside and not box.covers(drawn) and not any(map(box.meets, others)):
            return corner
    return None


def _box(x: float, y: float, name: str, corner: str) -> _Box:
    right, up = CORNERS[corner]
    across = sorted(x + right * (BESIDE + more) for more in (0.0, CHARACTER * len(name)))
    return _Box(*across, *sorted(y + up * more for more in (NEAR, FAR)))


def _drawn(plot: Plot, axes: _Axes) -> np.ndarray:
    """Places (n, 2) along all points, lines and intervals."""
    found = []
    for own in plot.series:
        points = axes.places(own.x, own.y)
        found.append(points)
        if plot.kind == "lines":
            found += _along(points)
        if own.low is not None and own.high is not None:
            ends = zip(axes.places(own.x, own.low), axes.places(own.x, own.high), strict=True)
            found += [place for pair in ends for place in _along(np.array(pair))]
    for line in plot.steps:
        corners = axes.places(np.repeat(line.x, 2)[1:].tolist(), np.repeat(line.y, 2)[:-1].tolist())
        found += _along(corners)
    return np.concatenate(found)


def _along(points: np.ndarray) -> list[np.ndarray]:
    """Places along the lines between points (n, 2)."""
    shares = np.linspace(0, 1, STEPS)[:, None]
    return [one + shares * (other - one) for one, other in pairwise(points)]
