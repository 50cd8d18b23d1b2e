"""The plots that decide: the test, drawn; images one by one; memory, energy, the cost model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vtexp.analysis import findings
from vtexp.analysis.answer import in_points
from vtexp.analysis.limits import memory_gb
from vtexp.analysis.rows import ComparedRun, curves_of
from vtexp.analysis.times import read_times
from vtexp.cost.latency_fit import LEAST_SETTINGS, TimedRun, fit_runs, mean_prefill_ms, timed_run
from vtexp.measure.summary import time_blocks
from vtexp.measure.timings import LatencyRow
from vtexp.report.bar_plots import Curves, run_name, those
from vtexp.report.format import short_label
from vtexp.report.plot import Plot, PlotSeries, StepLine, Tick

#: A plot of the images one by one has so many budgets at most, evenly spread.
MOST_BUDGETS = 8
#: Parts of a forest in the order of the colours: blue, orange, green.
FOREST_PARTS = (findings.NOT_ENOUGH, findings.CANNOT_TELL, findings.ENOUGH)


def decision_plots(found: findings.Analysis, runs: Sequence[ComparedRun]) -> list[Plot]:
    """These plots of a comparison; those without data are left out."""
    curves = curves_of(runs)
    by_name = {run.name: run for run in runs}
    plots: list[Plot | None] = []
    for number, series in enumerate(found.series, 1):
        suffix = f"_{number}" if len(found.series) > 1 else ""
        of = series.name if len(found.series) > 1 else ""
        own = [by_name[run.run] for run in series.runs]
        plots.append(forest_plot(series, found.margin, suffix, of))
        plots.append(images_plot(own, suffix, of))
    plots += [cost_model_plot(curves), memory_plot(curves), energy_plot(curves)]
    return [plot for plot in plots if plot is not None]


def forest_plot(
    series: findings.Series, margin: float, suffix: str = "", of: str = ""
) -> Plot | None:
    """What each budget loses, with the bounds that hold for all at once, beside the margin.

    `margin` in points. None where nothing was compared, or all scored 0.
    """
    runs = [run for run in series.runs if run.at_most_worse is not None]
    scored = [run.accuracy for run in runs if run.accuracy is not None]
    if len(runs) < 2 or len(scored) < len(runs) or not any(scored):
        return None
    rows = [(float(place), run) for place, run in enumerate(runs)]
    parts = [_forest_part(rows, what, max(scored), margin) for what in FOREST_PARTS]
    return Plot(
        name=f"loss{suffix}",
        title="Loss against the best budget",
        of=of,
        caption=f"Dashed: the margin of {in_points(margin)}. Lines: bounds of the loss against the "
        "truly best budget, whichever it is; each end holds for all budgets at once with 95 % "
        "confidence. A budget is enough if its line ends before the margin. Points: loss against "
        "the budget that scored highest.",
        x_label="budget",
        y_label="loss, points",
        kind="forest",
        series=parts,
        ticks=[Tick(place=place, text=short_label(run.label)) for place, run in rows],
        steps=[StepLine([margin, margin], [-0.6, len(rows) - 0.4])],
    )


def _forest_part(
    rows: Sequence[tuple[float, findings.AnalysedRun]], what: str, highest: float, margin: float
) -> PlotSeries:
    own = [(place, run) for place, run in rows if run.verdict(margin) == what]
    return PlotSeries(
        label=what,
        x=[place for place, _ in own],
        y=[100 * (highest - (run.accuracy or 0.0)) for _, run in own],
        low=[100 * (run.at_least_worse or 0.0) for _, run in own],
        high=[100 * (run.at_most_worse or 0.0) for _, run in own],
        names=[run.label for _, run in own],
    )


def images_plot(runs: Sequence[ComparedRun], suffix: str = "", of: str = "") -> Plot | None:
    """In how much time what share of the images is prefilled, budget by budget."""
    timed = [(run, rows) for run in runs if (rows := read_times(run.folder))]
    places = np.linspace(0, len(timed) - 1, min(len(timed), MOST_BUDGETS)).round().astype(int)
    chosen = [timed[i] for i in dict.fromkeys(places.tolist())]
    if not chosen:
        return None
    left = len(timed) - len(chosen)
    more = f" {left} other budgets are not drawn." if left else ""
    return Plot(
        name=f"images{suffix}",
        title="Prefill of single images",
        of=of,
        caption="Share of the timed images whose mean prefill at batch 1 takes at most so long: "
        f"steep where all images cost the same.{more}",
        x_label="prefill at batch 1, ms",
        y_label="timed images, %",
        kind="lines",
        series=[_share_by_time(run, rows) for run, rows in chosen],
    )


def _share_by_time(run: ComparedRun, rows: Sequence[LatencyRow]) -> PlotSeries:
    questions = list(dict.fromkeys(row.sample_id for row in rows))
    (block,) = time_blocks([rows], questions)
    times = np.sort(np.nanmean(block, axis=1))
    shares = 100 * np.arange(1, len(times) + 1) / len(times)
    return PlotSeries(
        label=run_name(run),
        x=times.tolist(),
        y=shares.tolist(),
        names=[f"{run_name(run)}: {share:.0f} %" for share in shares],
    )


def memory_plot(curves: Curves) -> Plot | None:
    """Peak memory over the vision tokens; None where it was not measured."""
    known = those(curves, lambda run: memory_gb(run) is not None)
    if not known:
        return None
    kinds = {kind for own in known.values() for run in own for kind in run.found.memory_peak_mib}
    what = "what torch held" if "reserved" in kinds else "the whole process"
    return Plot(
        name="memory",
        title="Peak memory over vision tokens",
        caption=f"Peak of one eager prefill of the longest timed prompt: {what}.",
        x_label="vision tokens per timed image (mean)",
        y_label="peak memory, GB",
        kind="lines",
        series=[_line(label, own, [memory_gb(run) for run in own]) for label, own in known.items()],
    )


def energy_plot(curves: Curves) -> Plot | None:
    """Energy of a prefill over the vision tokens; None where no device counted it."""
    known = those(curves, lambda run: run.found.energy_j_per_prefill is not None)
    if not known:
        return None
    return Plot(
        name="energy",
        title="Energy over vision tokens",
        caption="Energy of a prefill at batch 1 by the device's own counter, a mean over the timed "
        "images.",
        x_label="vision tokens per timed image (mean)",
        y_label="energy of a prefill, J",
        kind="lines",
        series=[
            _line(label, own, [run.found.energy_j_per_prefill for run in own])
            for label, own in known.items()
        ],
    )


def _line(label: str, runs: Sequence[ComparedRun], values: list[float | None]) -> PlotSeries:
    return PlotSeries(
        label=label,
        x=[run.found.prefill_vision_tokens for run in runs],
        y=values,
        names=[run_name(run) for run in runs],
    )


def cost_model_plot(curves: Curves) -> Plot | None:
    """Measured prefills beside those of the cost model fitted to all other settings.

    Of each line that has settings enough for a fit; None without any.
    """
    series = []
    for label, runs in curves.items():
        own = [(run, timed) for run in runs if (timed := timed_run(run.folder)) is not None]
        settings = {timed.setting for _, timed in own}
        alike = len({repr(timed.conditions) for _, timed in own}) == 1
        if len(settings) >= LEAST_SETTINGS and alike:
            series += _model_and_measured(label, [run for run, _ in own], [t for _, t in own])
    if not series:
        return None
    panels = list(dict.fromkeys(own.panel for own in series))
    return Plot(
        name="cost_model",
        title="The cost model and what was measured",
        caption="Cost model: prefill by crops and prompt tokens, fitted to these settings. Left "
        "out: each setting as predicted by a fit to all others, which shows how well it predicts.",
        x_label="vision tokens per timed image (mean)",
        y_label="prefill at batch 1, ms",
        kind="panels" if len(panels) > 1 else "lines",
        series=series,
        panels=panels if len(panels) > 1 else [],
        of=panels[0] if len(panels) == 1 else "",
    )


def _model_and_measured(
    label: str, runs: Sequence[ComparedRun], timed: Sequence[TimedRun]
) -> list[PlotSeries]:
    """The three lines of a series, in a panel that is named by its label."""
    fitted = fit_runs(timed)
    held_out: list[float | None] = [
        mean_prefill_ms(fit_runs([o for o in timed if o.setting != own.setting]), own)
        for own in timed
    ]
    measured: list[float | None] = [own.prefill_ms for own in timed]
    model: list[float | None] = [mean_prefill_ms(fitted, own) for own in timed]
    lines = {"cost model": model, "measured": measured, "left out": held_out}
    return [replace(_line(name, runs, values), panel=label) for name, values in lines.items()]
