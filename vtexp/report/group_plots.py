"""Accuracy by groups of questions: small plots beside each other, a panel for each group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vtexp.analysis import findings
from vtexp.report.format import score_label, score_title
from vtexp.report.plot import Plot, PlotSeries

#: A plot has so many panels at most: those of the largest groups.
MOST_GROUPS = 8


def group_plots(series: Sequence[findings.Series]) -> list[Plot]:
    """Accuracy by group over measured vision tokens: a plot of each grouping of each data set."""
    found: dict[tuple[str, str], list[tuple[findings.Series, findings.Grouping]]] = {}
    for one in series:
        for grouping in one.groupings:
            found.setdefault((one.dataset, grouping.name), []).append((one, grouping))
    datasets = list(dict.fromkeys(dataset for dataset, _ in found))
    return [
        _group_plot(
            grouping,
            own,
            suffix=f"_{datasets.index(dataset) + 1}" if len(datasets) > 1 else "",
            of=dataset if len(datasets) > 1 else "",
        )
        for (dataset, grouping), own in found.items()
    ]


def _group_plot(
    name: str, own: Sequence[tuple[findings.Series, findings.Grouping]], suffix: str, of: str
) -> Plot:
    """A panel for each of the largest groups; `own`: the series of a data set."""
    sizes: dict[str, int] = {}
    for _, grouping in own:
        for group in grouping.groups:
            sizes[group.value] = max(group.num_samples, sizes.get(group.value, 0))
    largest = sorted(sizes, key=lambda value: -sizes[value])[:MOST_GROUPS]
    shown = {value: f"{value} (n={n})" for value, n in sizes.items() if value in largest}
    left = len(sizes) - len(shown)
    more = f" {left} smaller groups are not drawn." if left else ""
    behind = " Grey: all questions." if len(own) == 1 else ""
    caption = "Mean score of the questions of each group; bars: 95 % interval."
    metrics = {series.metric for series, _ in own}
    return Plot(
        name=f"by_{name}{suffix}",
        title=f"{score_title(metrics)} by {name.replace('_', ' ')}",
        of=of,
        caption=f"{caption}{behind}{more}",
        x_label="measured vision tokens per image (mean)",
        y_label=score_label(metrics),
        kind="panels",
        series=[line for pair in own for line in _group_lines(*pair, shown, len(own) > 1)],
        panels=list(shown.values()),
        ordered=all(value[:1].isdigit() for value in shown),
    )


def _group_lines(
    series: findings.Series, grouping: findings.Grouping, shown: Mapping[str, str], several: bool
) -> list[PlotSeries]:
    """The line of each group that is shown, behind it that of all questions if it is alone."""
    runs = {run.run: run for run in series.runs}
    lines = []
    for group in grouping.groups:
        if (panel := shown.get(group.value)) is None:
            continue
        if not several:
            lines.append(_all_questions(series, panel))
        cells = [(runs[cell.run], cell) for cell in group.cells]
        lines.append(
            PlotSeries(
                label=series.name if several else "",
                x=[run.vision_tokens for run, _ in cells],
                y=[100 * cell.accuracy for _, cell in cells],
                low=[percent(cell.low) for _, cell in cells],
                high=[percent(cell.high) for _, cell in cells],
                names=[run.label for run, _ in cells],
                panel=panel,
            )
        )
    return lines


def _all_questions(series: findings.Series, panel: str) -> PlotSeries:
    runs = [run for run in series.runs if run.accuracy is not None]
    return PlotSeries(
        label="",
        x=[run.vision_tokens for run in runs],
        y=[percent(run.accuracy) for run in runs],
        names=[f"{run.label}, all questions" for run in runs],
        panel=panel,
        behind=True,
    )


def percent(share: float | None) -> float | None:
    """A score in points; None stays."""
    return None if share is None else 100 * share
