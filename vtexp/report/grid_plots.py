"""Knobs set together: accuracy over prefill of a grid's settings, and the table of the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import compress

import numpy as np

from vtexp.analysis.findings import AnalysedRun, Grid, GridPoint
from vtexp.report.format import score_label, score_title, score_unit
from vtexp.report.group_plots import percent
from vtexp.report.plot import Plot, PlotSeries, StepLine
from vtexp.stats.paired import on_front


def grid_plots(grids: Sequence[Grid], runs: Mapping[str, AnalysedRun]) -> list[Plot]:
    """A plot of each grid whose settings were answered and timed; `runs` by their names."""
    found = []
    for place, grid in enumerate(grids, start=1):
        if all(p.accuracy is not None and p.prefill_ms is not None for p in grid.points):
            plot = _plot(grid, runs, f"grid_{place}" if len(grids) > 1 else "grid")
            found.append(replace(plot, of=grid.name if len(grids) > 1 else ""))
    return found


def _plot(grid: Grid, runs: Mapping[str, AnalysedRun], name: str) -> Plot:
    """A panel for each value of the third knob, a line for each of the second, through the first.

    Two knobs need no panels.
    """
    panels = _values(grid, 2) if len(grid.axes) > 2 else []
    front = _front(grid)
    steps = _steps(front)
    lines = [_behind(steps, panel) for panel in panels]
    for panel in panels or [""]:
        for label in _values(grid, 1):
            own = [p for p in grid.points if _at(grid, p, 1) == label and _in(grid, p, panel)]
            lines.append(_line(label, own, runs, panel))
    knobs = " x ".join(axis.name for axis in grid.axes)
    doubtful = " Hollow: the timings are doubtful." if any(p.doubtful for p in grid.points) else ""
    return Plot(
        name=name,
        title=f"{score_title({grid.metric})} over prefill: {knobs}",
        caption=f"{grid.name}. A line runs through the {grid.axes[0].name}. "
        f"{'Grey' if panels else 'Dashed'}: settings that no other of the grid beats in both, by "
        f"these estimates. Bars: 95 % intervals.{doubtful}",
        x_label="prefill at batch 1, ms (mean)",
        y_label=score_label({grid.metric}),
        kind="panels" if panels else "lines",
        series=lines,
        panels=panels,
        ordered=True,
        steps=[] if panels else [steps],
    )


def _line(
    label: str, points: Sequence[GridPoint], runs: Mapping[str, AnalysedRun], panel: str
) -> PlotSeries:
    return PlotSeries(
        label=label,
        x=[point.prefill_ms or 0.0 for point in points],
        y=[percent(point.accuracy) for point in points],
        low=[percent(runs[point.run].accuracy_low) for point in points],
        high=[percent(runs[point.run].accuracy_high) for point in points],
        names=[", ".join(point.values) for point in points],
        marked=[point.doubtful for point in points],
        panel=panel,
    )


def _behind(steps: StepLine, panel: str) -> PlotSeries:
    """The front in a panel: between two settings it is as accurate as the faster one."""
    x, y = np.repeat(steps.x, 2)[1:].tolist(), np.repeat(steps.y, 2)[:-1].tolist()
    return PlotSeries(label="", x=x, y=y, panel=panel, behind=True)


def _front(grid: Grid) -> list[GridPoint]:
    """The settings that no other beats in accuracy and prefill, the fastest first."""
    accuracy = np.array([point.accuracy for point in grid.points], dtype=float)
    prefill_ms = np.array([point.prefill_ms for point in grid.points], dtype=float)
    on = on_front(accuracy, prefill_ms)
    return sorted(compress(grid.points, on), key=lambda point: point.prefill_ms or 0.0)


def _steps(front: Sequence[GridPoint]) -> StepLine:
    return StepLine(
        [p.prefill_ms or 0.0 for p in front], [100 * (p.accuracy or 0.0) for p in front]
    )


def _values(grid: Grid, axis: int) -> list[str]:
    return [f"{value} {grid.axes[axis].name}" for value in grid.axes[axis].values]


def _at(grid: Grid, point: GridPoint, axis: int) -> str:
    return f"{point.values[axis]} {grid.axes[axis].name}"


def _in(grid: Grid, point: GridPoint, panel: str) -> bool:
    return not panel or _at(grid, point, 2) == panel


def front_heads(grid: Grid) -> list[str]:
    """Heads of `front_rows`."""
    score = ", ".join(score_unit({grid.metric}))
    return [*(axis.name for axis in grid.axes), "tokens", score, "prefill, ms", "memory, GB"]


def front_rows(grid: Grid) -> list[list[str]]:
    """Cells of the settings on the front of accuracy, prefill and memory, the fastest first."""
    front = [point for point in grid.points if point.on_front]
    front.sort(key=lambda point: point.prefill_ms or 0.0)
    return [
        [
            *point.values,
            f"{point.vision_tokens:.5g}",
            f"{100 * (point.accuracy or 0.0):.1f}",
            f"{point.prefill_ms:.4g}",
            f"{point.memory_gb:.3g}",
        ]
        for point in front
    ]
