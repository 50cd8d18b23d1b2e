"""The plots of a report as figures for a paper: PNG and SVG, drawn by matplotlib.

Lines differ in colour (Okabe and Ito's, which the colour-blind tell apart), marker and dashes;
parts of bars in brightness, so that they differ in grey too.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vtexp.report.plots import Plot, PlotSeries
from vtexp.utils import files

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOLDER = "figures"
PICTURE_NAME, PICTURE_IN = "comparison.png", 5.0
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#576274", "#1c2430")
MARKERS = ("o", "s", "D", "^", "P", "X", "*", "h")
DASHES = ("-", "--", ":", "-.", (0, (7, 3)), (0, (7, 3, 1, 3)))
#: Words as large as those of a paper, where the figure is a column (3.5 in) wide. Figures get wider
#: by the names of their bars, and higher by the lines of their legend.
FONT_PT, WIDTH_IN, HEIGHT_IN = 8, 3.5, 2.7
CHARACTER_IN, LINE_IN = 0.052, 0.15
#: Longer names are cut.
LONGEST_NAME = 40
DOTS_PER_INCH = 300


def write_figures(folder: Path, plots: Sequence[Plot], title: str) -> None:
    """Write `figures/NAME.png` and `.svg` of each plot below a folder, and `comparison.png`.

    The latter is accuracy above prefill, under a title. Figures that were there and are none of
    these are removed. Raises VtexpError where the disk does not take them.
    """
    over_tokens = [plot for plot in plots if plot.name in ("accuracy", "prefill")]
    if over_tokens:
        files.write_bytes(folder / PICTURE_NAME, picture(over_tokens, title))
    else:
        (folder / PICTURE_NAME).unlink(missing_ok=True)
    names = set()
    for plot in plots:
        for kind, content in drawings(plot):
            name = f"{plot.name}.{kind}"
            files.write_bytes(folder / FOLDER / name, content)
            names.add(name)
    for path in (folder / FOLDER).glob("*.*"):
        if path.suffix in (".png", ".svg") and path.name not in names:
            path.unlink()


def drawings(plot: Plot) -> list[tuple[str, bytes]]:
    """The plot as ("png", bytes) and ("svg", bytes); texts of the SVG stay text."""
    width = WIDTH_IN
    if plot.kind == "bars":
        names = [_literal(str(name)) for name in plot.series[0].x]
        longest = max(len(line) for name in names for line in name.split("\n"))
        width = max(WIDTH_IN, 0.6 + len(names) * max(8, longest + 1) * CHARACTER_IN)
    size = (width, HEIGHT_IN + LINE_IN * len(plot.series) / _legend_columns(plot, width))
    return _drawn([plot], size, ("png", "svg"))


def picture(plots: Sequence[Plot], title: str) -> bytes:
    """PNG of plots below each other."""
    ((_, content),) = _drawn(plots, (PICTURE_IN, 0.2 + 2.9 * len(plots)), ("png",), title)
    return content


def _drawn(
    plots: Sequence[Plot], size_in: tuple[float, float], kinds: Sequence[str], title: str = ""
) -> list[tuple[str, bytes]]:
    """One figure with all plots, drawn once, as a file of each kind."""
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it tells of its font cache
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A fixed salt and no date: the same plot gives the same file.
    words = rc_context({"font.size": FONT_PT, "svg.fonttype": "none", "svg.hashsalt": "vtexp"})
    with words, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of names in other scripts
        figure = Figure(figsize=size_in, layout="constrained")
        FigureCanvasAgg(figure)
        if title:
            figure.suptitle(title.replace("$", r"\$"), fontsize=FONT_PT + 1)
        for axes, plot in zip(figure.subplots(len(plots), squeeze=False).flat, plots, strict=True):
            _draw(axes, plot, size_in[0])
        return [(kind, _saved(figure, kind)) for kind in kinds]


def _saved(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    dateless = {"Date": None} if kind == "svg" else {}
    figure.savefig(buffer, format=kind, dpi=DOTS_PER_INCH, metadata=dateless)
    figure.set_layout_engine("none")  # what is laid out stays so in the next file
    return buffer.getvalue()


def _draw(axes: Axes, plot: Plot, width_in: float) -> None:
    axes.grid(alpha=0.3, axis="y" if plot.kind == "bars" else "both")
    axes.set_axisbelow(True)
    if plot.kind == "bars":
        _draw_bars(axes, plot.series)
    else:
        _draw_points(axes, plot)
    axes.set_xlabel(plot.x_label)
    axes.set_ylabel(plot.y_label)
    axes.spines[["top", "right"]].set_visible(False)
    if plot.percent:
        axes.set_ylim(-2, 102)
    else:
        axes.set_ylim(bottom=0)
    if plot.diagonal:
        axes.set_xlim(left=0)
    if len(plot.series) > 1:
        _legend(axes, _legend_columns(plot, width_in))


def _legend_columns(plot: Plot, width_in: float) -> int:
    """How many names of series fit beside each other, each with its line and some room."""
    longest = max(len(_literal(series.label)) for series in plot.series)
    return max(1, min(4, int(width_in / ((longest + 8) * CHARACTER_IN * 1.15))))


def _legend(axes: Axes, columns: int) -> None:
    axes.legend(
        fontsize=FONT_PT - 1,
        frameon=False,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=columns,
        columnspacing=1.2,
        handlelength=2.4,
    )


def _draw_points(axes: Axes, plot: Plot) -> None:
    for line in plot.steps:
        axes.step(*line, where="post", color="0.4", linestyle="--", linewidth=0.9, zorder=1)
    if plot.diagonal:
        most = max(float(x) for series in plot.series for x in series.x)
        axes.plot([0, most], [0, most], color="0.4", linestyle="--", linewidth=0.9, zorder=1)
    for series, color, marker, dashes in zip(
        plot.series, cycle(COLORS), cycle(MARKERS), cycle(DASHES), strict=False
    ):
        own = dashes if plot.kind == "lines" else "none"
        _draw_series(axes, series, color, marker, own)
        if plot.named:
            _name_points(axes, series)


def _draw_series(axes: Axes, series: PlotSeries, color: str, marker: str, dashes: Any) -> None:
    x, y = np.array(series.x, dtype=float), np.array(series.y, dtype=float)
    label = _literal(series.label)
    # Lines in the order of the points; the markers by themselves, as some are hollow.
    axes.plot(x, y, color=color, linestyle=dashes, linewidth=1.2)
    if series.low is not None and series.high is not None:
        ends = np.array([series.low, series.high], dtype=float)
        # Rounding may leave a distance a hair below zero, which matplotlib refuses.
        lengths = np.nan_to_num(np.abs(np.array([[-1], [1]]) * (ends - y)).clip(0))
        axes.errorbar(x, y, yerr=lengths, fmt="none", ecolor=color, elinewidth=0.9, capsize=2)
    hollow = np.array(series.marked or [False] * len(x))
    style: dict[str, Any] = {
        "color": color,
        "marker": marker,
        "linestyle": "none",
        "markersize": 4.5,
    }
    axes.plot(x[~hollow], y[~hollow], **style)
    axes.plot(x[hollow], y[hollow], markerfacecolor="white", **style)
    # What the legend shows: the line with its marker.
    axes.plot([], [], color=color, marker=marker, linestyle=dashes, markersize=4.5, label=label)


def _name_points(axes: Axes, series: PlotSeries) -> None:
    points = np.array([series.x, series.y], dtype=float).T
    for point, name in zip(points, series.names or [], strict=False):
        axes.annotate(
            _literal(name),
            tuple(point),
            textcoords="offset points",
            xytext=(4, -9),
            fontsize=FONT_PT - 2,
        )


def _draw_bars(axes: Axes, parts: Sequence[PlotSeries]) -> None:
    from matplotlib import colormaps

    places = np.arange(len(parts[0].x))
    below = np.zeros(len(places))
    shades = colormaps["cividis"](np.linspace(0, 1, max(len(parts), 2)))
    for part, shade in zip(parts, shades, strict=False):
        heights = np.nan_to_num(np.array(part.y, dtype=float))
        label = _literal(part.label)
        axes.bar(
            places,
            heights,
            bottom=below,
            color=shade,
            edgecolor="white",
            linewidth=0.5,
            label=label,
        )
        below += heights
    axes.set_xticks(places, [_literal(str(name)) for name in parts[0].x], fontsize=FONT_PT - 2)


def _literal(text: str) -> str:
    """Text that matplotlib does not read as a formula, each line no longer than is drawn well."""
    lines = []
    for line in text.split("\n"):
        plain = "".join(c if c.isprintable() else " " for c in line)
        lines.append(plain if len(plain) <= LONGEST_NAME else plain[: LONGEST_NAME - 3] + "...")
    return "\n".join(lines).replace("$", r"\$")
