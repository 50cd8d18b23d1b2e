"""The plots of a report as figures for a paper: PNG, SVG and PDF, drawn by matplotlib.

Lines differ in colour (Okabe and Ito's, which the colour-blind tell apart), marker and dashes;
what has an order goes from dark to light, so that it differs in grey too.
"""

from __future__ import annotations

import io
import logging
import os
import textwrap
import warnings
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vtexp.report.plot import HEADROOM, Plot, PlotSeries
from vtexp.report.point_names import CORNERS
from vtexp.utils import files

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOLDER = "figures"
PICTURE_NAME, PICTURE_IN = "comparison.png", 5.0
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#576274", "#1c2430")
#: More markers than colours: a ninth line has the first colour with another marker.
MARKERS = ("o", "s", "D", "^", "P", "X", "*", "h", "v")
DASHES = ("-", "--", ":", "-.", (0, (7, 3)), (0, (7, 3, 1, 3)))
#: Words as large as those of a paper, where the figure is a column (3.5 in) wide. Figures get
#: higher by their bars, their panels and the lines of their legend.
FONT_PT, WIDTH_IN, HEIGHT_IN = 8, 3.5, 2.7
CHARACTER_IN, LINE_IN, BAR_IN, PANEL_IN = 0.052, 0.15, 0.17, 1.15
#: Panels beside each other.
PANEL_COLUMNS = 2
KINDS = ("png", "svg", "pdf")
#: Longer names lose their middle: what tells names apart often stands at their end.
LONGEST_NAME = 40
#: Where lines of text break: names of panels, labels of axes, headings.
PANEL_CHARACTERS, LABEL_CHARACTERS, HEADING_CHARACTERS = 26, 34, 48
DOTS_PER_INCH = 300


def write_figures(folder: Path, plots: Sequence[Plot], title: str) -> None:
    """Write `figures/NAME.png`, `.svg` and `.pdf` of each plot, and `comparison.png`.

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
        if path.suffix[1:] in KINDS and path.name not in names:
            path.unlink()


def drawings(plot: Plot) -> list[tuple[str, bytes]]:
    """The plot as ("png", bytes), ("svg", bytes) and ("pdf", bytes).

    Texts of the SVG stay text; the PDF has its fonts in it.
    """
    legend_in = LINE_IN * -(-len(plot.legend) // _legend_columns(plot, WIDTH_IN))
    heading = _heading(plot)
    legend_in += LINE_IN * len(heading.splitlines())
    if plot.kind in ("bars", "forest"):
        height_in = 0.6 + BAR_IN * len(plot.ticks)
    elif plot.kind == "panels":
        lines = max(name.count("\n") for name in _panel_names(plot))
        height_in = 0.6 + (PANEL_IN + LINE_IN * lines) * -(-len(plot.panels) // PANEL_COLUMNS)
    else:
        height_in = HEIGHT_IN
    return _drawn([plot], (WIDTH_IN, height_in + legend_in), KINDS, heading)


def _heading(plot: Plot) -> str:
    """What stands above a figure of panels, or of one series among several; else empty."""
    told = plot.heading if plot.kind == "panels" or plot.of else ""
    return "\n".join(textwrap.wrap(told, HEADING_CHARACTERS))


def _panel_names(plot: Plot) -> list[str]:
    """Names of panels, in two lines where one is too short."""
    cut = (middle_cut(name, 2 * PANEL_CHARACTERS - 2) for name in plot.panels)
    return ["\n".join(textwrap.wrap(name, PANEL_CHARACTERS)) for name in cut]


def picture(plots: Sequence[Plot], title: str) -> bytes:
    """PNG of plots below each other."""
    ((_, content),) = _drawn(plots, (PICTURE_IN, 0.2 + 2.9 * len(plots)), ("png",), title)
    return content


def _import_matplotlib() -> None:
    """Import it, also where MPLBACKEND names a backend that it does not have: none is needed.

    A notebook hands the name of its own to all that it starts, in other environments, too.
    """
    try:
        import matplotlib
    except ValueError:
        os.environ.pop("MPLBACKEND", None)
        import matplotlib  # noqa: F401


def _drawn(
    plots: Sequence[Plot], size_in: tuple[float, float], kinds: Sequence[str], title: str = ""
) -> list[tuple[str, bytes]]:
    """One figure with all plots, drawn once, as a file of each kind."""
    # Of its font cache, at INFO, and as a warning where building it takes more than 5 s.
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    _import_matplotlib()
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A fixed salt and no date: the same plot gives the same file. TrueType in PDFs (42), as
    # publishers refuse the bitmaps of Type 3.
    words = rc_context(
        {
            "font.size": FONT_PT,
            "svg.fonttype": "none",
            "svg.hashsalt": "vtexp",
            "pdf.fonttype": 42,
        }
    )
    with words, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of names in other scripts
        figure = Figure(figsize=size_in, layout="constrained")
        FigureCanvasAgg(figure)
        if title and not (plots[0].kind == "panels" and plots[0].legend):  # it has the title
            figure.suptitle(title.replace("$", r"\$"), fontsize=FONT_PT)
        if plots[0].kind == "panels":
            _draw_panels(figure, plots[0])
        else:
            rows = figure.subplots(len(plots), squeeze=False).flat
            for axes, plot in zip(rows, plots, strict=True):
                _draw(axes, plot, size_in[0])
        return [(kind, _saved(figure, kind)) for kind in kinds]


def _saved(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    dateless = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
    figure.savefig(buffer, format=kind, dpi=DOTS_PER_INCH, metadata=dateless)
    figure.set_layout_engine(None)  # what is laid out stays so in the next file
    return buffer.getvalue()


def _draw(axes: Axes, plot: Plot, width_in: float) -> None:
    if plot.kind == "bars":
        _draw_bars(axes, plot)
        _name_rows(axes, plot)
    elif plot.kind == "forest":
        _draw_forest(axes, plot)
        _name_rows(axes, plot)
    else:
        _draw_points(axes, plot)
        axes.set_xlabel(plot.x_label)
        axes.set_ylabel(textwrap.fill(plot.y_label, LABEL_CHARACTERS))
        _scale(axes, plot)
    axes.grid(alpha=0.3, axis="x" if plot.kind in ("bars", "forest") else "both")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if plot.diagonal and not plot.log_x:
        axes.set_xlim(left=0)
    if plot.legend:
        _legend(axes, plot, width_in)


def _scale(axes: Axes, plot: Plot) -> None:
    """Values from 0, or by their logarithms where they span much."""
    for axis, name, ticks in ((axes.xaxis, "x", plot.log_x), (axes.yaxis, "y", plot.log_y)):
        if ticks:
            axes.set(**{f"{name}scale": "log"})
            axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
            axis.set_ticks([], minor=True)
    if not plot.log_y:
        axes.set_ylim(*_y_limits(plot))


def _y_limits(plot: Plot) -> tuple[float, float]:
    """From 0, with room above the highest point: also where all are equal."""
    if plot.percent:
        return -2, 102
    return 0, HEADROOM * max((end for own in plot.series for end in own.ends), default=0) or 1


def _legend_columns(plot: Plot, width_in: float) -> int:
    """How many names of series fit beside each other, each with its line and some room."""
    longest = max((len(_literal(label)) for label in plot.legend), default=0)
    return max(1, min(4, int(width_in / ((longest + 8) * CHARACTER_IN * 1.15))))


def _legend(axes: Axes, plot: Plot, width_in: float) -> None:
    """The legend: above lines, but across the whole figure above bars, whose names push them."""
    style: dict[str, Any] = {
        "fontsize": FONT_PT - 1,
        "frameon": False,
        "ncols": _legend_columns(plot, width_in),
        "columnspacing": 1.2,
        "handlelength": 2.4,
    }
    if plot.kind in ("bars", "panels"):
        figure = axes.get_figure(root=True)
        assert figure is not None
        drawn = [own.get_legend_handles_labels() for own in figure.axes]
        entries = {label: own for found in drawn for own, label in zip(*found, strict=True)}
        style |= {"title": _literal(_heading(plot), HEADING_CHARACTERS), "title_fontsize": FONT_PT}
        figure.legend(list(entries.values()), list(entries), loc="outside upper center", **style)
    else:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), **style)


def _draw_points(axes: Axes, plot: Plot) -> None:
    for line in plot.steps:
        color = "0.4" if line.series is None else COLORS[line.series % len(COLORS)]
        style: dict[str, Any] = {"color": color, "linestyle": "--", "linewidth": 0.9, "zorder": 1}
        axes.step(line.x, line.y, where="post", **style)
    if plot.diagonal:
        along = [float(x) for series in plot.series for x in series.x]
        ends = [min(along) if plot.log_x else 0.0, max(along)]
        axes.plot(ends, ends, color="0.4", linestyle="--", linewidth=0.9, zorder=1)
    styles = zip(cycle(COLORS), cycle(MARKERS), cycle(DASHES), strict=False)
    for series, (color, marker, dashes) in zip(plot.series, styles, strict=False):
        _draw_series(axes, series, color, marker, dashes if plot.kind == "lines" else "none")
        _name_points(axes, series)


def _draw_panels(figure: Figure, plot: Plot) -> None:
    """A small plot for each panel, all on the same axes, with one legend above them."""
    rows = -(-len(plot.panels) // PANEL_COLUMNS)
    grid = figure.subplots(rows, PANEL_COLUMNS, sharex=True, sharey=True, squeeze=False)
    looks = zip(cycle(COLORS), cycle(MARKERS), cycle(DASHES), strict=False)
    styles = dict(zip(plot.legend, looks, strict=False))
    shades = ordered_colors(len(plot.panels)) if plot.ordered else [COLORS[0]] * len(plot.panels)
    panels = zip(grid.flat, plot.panels, _panel_names(plot), shades, strict=False)
    for axes, panel, name, shade in panels:
        for series in plot.series:
            if series.panel == panel and series.behind:
                axes.plot(series.x, series.y, color="0.6", linewidth=0.9, zorder=1)
            elif series.panel == panel:
                _draw_series(axes, series, *styles.get(series.label, (shade, "o", "-")))
        axes.set_title(_literal(name), fontsize=FONT_PT - 1)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        _scale(axes, plot)
    for axes in list(grid.flat)[len(plot.panels) :]:
        axes.set_axis_off()
    for axes in list(grid.flat)[: len(plot.panels)][-PANEL_COLUMNS:]:
        axes.tick_params(labelbottom=True)  # nothing but an empty place can be below it
    figure.supxlabel(plot.x_label, fontsize=FONT_PT)
    figure.supylabel(textwrap.fill(plot.y_label, PANEL_CHARACTERS), fontsize=FONT_PT)
    if plot.legend:
        _legend(grid.flat[0], plot, WIDTH_IN)


def ordered_colors(count: int) -> list[Any]:
    """Colours from dark to light, in the order of sizes, all dark enough on white paper."""
    from matplotlib import colormaps

    return list(colormaps["viridis"](np.linspace(0, 0.85, count)))


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
    hollow = np.array(series.marked or [False] * len(x), dtype=bool)
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
    for point, name, corner in zip(points, series.beside or [], series.corners or [], strict=False):
        right, up = CORNERS[corner]
        axes.annotate(
            _literal(name),
            tuple(point),
            textcoords="offset points",
            xytext=(4 * right, 4 * up),
            ha="left" if right > 0 else "right",
            va="bottom" if up > 0 else "top",
            fontsize=FONT_PT - 2,
        )


def _draw_bars(axes: Axes, plot: Plot) -> None:
    from matplotlib import colormaps

    parts = plot.series
    so_far = np.zeros(len(parts[0].x))
    shades = colormaps["cividis"](np.linspace(0, 1, max(len(parts), 2)))
    for part, shade in zip(parts, shades, strict=False):
        lengths = np.nan_to_num(np.array(part.y, dtype=float))
        style = {"color": shade, "edgecolor": "white", "linewidth": 0.5}
        axes.barh(part.x, lengths, left=so_far, label=_literal(part.label), **style)
        so_far += lengths
    if plot.percent:
        axes.set_xlim(0, 100)


def _draw_forest(axes: Axes, plot: Plot) -> None:
    for line in plot.steps:
        axes.plot(line.x, line.y, color="0.4", linestyle="--", linewidth=0.9, zorder=1)
    for series, color, marker in zip(plot.series, COLORS, MARKERS, strict=False):
        values = np.array(series.y, dtype=float)
        ends = np.array([series.low, series.high], dtype=float)
        lengths = np.abs(np.array([[-1], [1]]) * (ends - values)).clip(0)
        axes.errorbar(
            values,
            series.x,
            xerr=lengths,
            fmt=marker,
            color=color,
            markersize=4.5,
            elinewidth=1.2,
            capsize=2.5,
            label=_literal(series.label),
        )
    axes.set_xlim(left=-0.02 * axes.get_xlim()[1])  # room for a point at 0


def _name_rows(axes: Axes, plot: Plot) -> None:
    """Names of bars, and headings above them, from the top."""
    names = [tick for tick in plot.ticks if not tick.heading]
    axes.set_yticks([t.place for t in names], [_literal(t.text) for t in names])
    axes.tick_params("y", labelsize=FONT_PT - 1, length=0)
    for tick in plot.ticks:
        if tick.heading:
            # From the figure's left edge, where there is room for it.
            axes.annotate(
                _literal(tick.text),
                (0.01, tick.place),
                xycoords=("figure fraction", "data"),
                va="center",
                fontweight="bold",
            ).set_in_layout(False)
    axes.set_ylim(len(plot.ticks) - 0.4, -0.6)  # the first on top
    axes.set_xlabel(plot.y_label)


def _literal(text: str, longest: int = LONGEST_NAME) -> str:
    """Text that matplotlib does not read as a formula, each line no longer than is drawn well."""
    lines = []
    for line in text.split("\n"):
        plain = "".join(c if c.isprintable() else " " for c in line)
        lines.append(middle_cut(plain, longest))
    return "\n".join(lines).replace("$", r"\$")


def middle_cut(text: str, longest: int) -> str:
    """A text of at most so many characters, with its beginning and its end."""
    if len(text) <= longest:
        return text
    end = (longest - 3) // 2
    return f"{text[: longest - 3 - end]}...{text[-end:]}"
