"""The plots of a report as data: one description that the page and the figures both draw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from vtexp.analysis import findings
from vtexp.analysis.rows import ComparedRun, curves_of
from vtexp.analysis.times import scope
from vtexp.report.answers import RunAnswers
from vtexp.report.bar_plots import (
    Curves,
    crops_plot,
    doubtful_note,
    run_name,
    stages_plot,
    those,
    timed,
)
from vtexp.report.format import score_label, score_title
from vtexp.report.grid_plots import grid_plots
from vtexp.report.group_plots import group_plots, percent
from vtexp.report.plot import Plot, PlotSeries, StepLine
from vtexp.report.point_names import with_names


def all_plots(
    found: findings.Analysis, runs: Sequence[ComparedRun], counted: Mapping[str, RunAnswers]
) -> list[Plot]:
    """The plots of a comparison in the order in which they are shown; those without data left out.

    `runs` with what analysis found of them, and the answers of their runs, by the runs' folders.
    """
    curves = curves_of(runs)
    fronts = [[run.folder for run in series.runs if run.on_front] for series in found.series]
    plots = (
        accuracy_plot(curves),
        prefill_plot(curves),
        stages_plot(curves),
        pareto_plot(curves, fronts),
        *grid_plots(found.grids, found.analysed()),
        *group_plots(found.series),
        crops_plot(curves, counted),
        tokens_plot(curves, counted),
    )
    return [plot for plot in plots if plot is not None]


def accuracy_plot(curves: Curves) -> Plot | None:
    """Accuracy over measured vision tokens; None where nothing was answered."""
    scored = _scored(curves)
    if not scored:
        return None
    plot = Plot(
        name="accuracy",
        title=f"{score_title(_metrics(scored))} over vision tokens",
        caption="Mean score; bars: 95 % interval, clustered by image.",
        x_label="measured vision tokens per image (mean)",
        y_label=score_label(_metrics(scored)),
        kind="lines",
        series=[
            _accuracy_series(label, runs, [run.found.measured_vision_tokens for run in runs])
            for label, runs in scored.items()
        ],
    )
    return with_names(plot)


def _accuracy_series(label: str, runs: Sequence[ComparedRun], x: list[float]) -> PlotSeries:
    return PlotSeries(
        label=label,
        x=x,
        y=[percent(run.found.accuracy) for run in runs],
        low=[percent(run.found.accuracy_low) for run in runs],
        high=[percent(run.found.accuracy_high) for run in runs],
        names=[run_name(run) for run in runs],
    )


def prefill_plot(curves: Curves) -> Plot | None:
    """Mean prefill in ms over the vision tokens of the timed images, both means of the same."""
    found = timed(curves)
    if not found:
        return None
    plot = Plot(
        name="prefill",
        title="Prefill over vision tokens",
        caption=f"Mean over the images as they come, at batch 1; bars: its 95 % interval "
        f"{_scope(found)}.{doubtful_note(found, 'Hollow')}",
        x_label="vision tokens per timed image (mean)",
        y_label="prefill at batch 1, ms",
        kind="lines",
        series=[_prefill_series(label, runs) for label, runs in found.items()],
    )
    return with_names(plot)


def _prefill_series(label: str, runs: Sequence[ComparedRun]) -> PlotSeries:
    times = [run.found.latency["prefill_ms"] for run in runs]
    return PlotSeries(
        label=label,
        x=[run.found.prefill_vision_tokens for run in runs],
        y=[own.mean for own in times],
        low=[own.mean_low for own in times],
        high=[own.mean_high for own in times],
        names=[run_name(run) for run in runs],
        marked=[bool(run.timing_warnings) for run in runs],
    )


def pareto_plot(curves: Curves, fronts: Sequence[Sequence[str]]) -> Plot | None:
    """Accuracy over prefill time; `fronts`: the folders of the runs on each series' front."""
    both = timed(_scored(curves))
    if not both:
        return None
    plot = Plot(
        name="pareto",
        title=f"{score_title(_metrics(both))} over prefill time",
        caption="Dashed: the Pareto front, the runs that no other of the same series beats in "
        f"both by these estimates. Bars: 95 % intervals.{doubtful_note(both, 'Hollow')}",
        x_label="prefill at batch 1, ms (mean)",
        y_label=score_label(_metrics(both)),
        kind="points",
        series=[
            replace(
                _accuracy_series(label, runs, [_prefill_ms(run) for run in runs]),
                marked=[bool(run.timing_warnings) for run in runs],
            )
            for label, runs in both.items()
        ],
        steps=[_front_line(both, front) for front in fronts],
    )
    return with_names(plot)


def _front_line(curves: Curves, front: Sequence[str]) -> StepLine:
    """The line through a front, in the colour of its runs' series if it is one alone."""
    points = sorted(
        (_prefill_ms(run), 100 * (run.found.accuracy or 0.0), place)
        for place, runs in enumerate(curves.values())
        for run in runs
        if str(run.folder) in front
    )
    places = {place for _, _, place in points}
    own = places.pop() if len(places) == 1 and len(curves) > 1 else None
    return StepLine([x for x, _, _ in points], [y for _, y, _ in points], own)


def tokens_plot(curves: Curves, counted: Mapping[str, RunAnswers]) -> Plot | None:
    """Measured over theoretical vision tokens of every kind of image."""
    series = []
    for label, runs in curves.items():
        pairs: Counter[tuple[int, float]] = Counter()
        for run in runs:
            if str(run.folder) in counted:
                pairs += counted[str(run.folder)].tokens
        if pairs:
            found = sorted(pairs.items())
            series.append(
                PlotSeries(
                    label=label,
                    x=[float(theoretical) for (theoretical, _), _ in found],
                    y=[float(measured) for (_, measured), _ in found],
                    names=[f"{images} image{'s' * (images > 1)}" for _, images in found],
                )
            )
    if not series:
        return None
    return Plot(
        name="tokens",
        title="Measured over theoretical tokens",
        caption="Each point: all images with these counts. Below the line x = y: tokens that were "
        "dropped where crops overlap.",
        x_label="theoretical vision tokens of an image",
        y_label="measured vision tokens of an image",
        kind="points",
        series=series,
        diagonal=True,
    )


def _scored(curves: Curves) -> Curves:
    return those(curves, lambda run: run.found.accuracy is not None)


def _prefill_ms(run: ComparedRun) -> float:
    return run.found.latency["prefill_ms"].mean


def _scope(curves: Curves) -> str:
    """What intervals of times are of: within one process, or between several."""
    counts = {run.found.num_processes for runs in curves.values() for run in runs}
    return scope(counts.pop()) if len(counts) == 1 else "within one or between several processes"


def _metrics(curves: Curves) -> set[str]:
    return {run.asked.metric for runs in curves.values() for run in runs}
