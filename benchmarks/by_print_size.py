"""Accuracy by budget and by print size, of a finished sweep on small_print.

    python benchmarks/by_print_size.py outputs/NAME --out benchmarks/results/FOLDER

Prints and writes table.md (accuracy of each knob value, its difference from the value before on
the same questions, accuracy by print size and by kind of page), and print_size.png. Nothing is
measured here.
"""

from __future__ import annotations

import argparse
import io
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vtexp.analysis.answer import points_interval
from vtexp.analysis.fairness import require_same_samples
from vtexp.analysis.rows import ComparedRun, collect
from vtexp.errors import DataError
from vtexp.report.figures import MARKERS, ordered_colors
from vtexp.runs.records import SampleRow, read_samples
from vtexp.stats.comparison import accuracy
from vtexp.utils import files
from vtexp.utils.text import listed

#: Borders of the groups of print, in px of the page.
BORDERS_PX = (10, 12, 15, 18, 22, 27, 33)


class Run(NamedTuple):
    """A finished run, and its questions by id."""

    run: ComparedRun
    samples: dict[str, SampleRow]


def read_runs(sweep: Path) -> list[Run]:
    """Finished runs of a sweep, in the order of its comparison."""
    return [
        Run(run, {row.sample_id: row for row in read_samples(run.folder / files.SAMPLES)})
        for run in collect(sweep)
        if run.result is not None
    ]


def in_percent(scores: list[float], images: list[str], *, signed: bool = False) -> str:
    """Mean with its 95 % interval clustered by page; `signed`: of differences, from -1 to 1."""
    found = accuracy(scores, images, (-1.0 if signed else 0.0, 1.0))
    sign = "+" if signed else ""
    if found.low is None or found.high is None:
        return f"{100 * found.mean:{sign}.1f} (too few pages for an interval)"
    interval = points_interval(found.low, found.high, signed=signed)
    return f"{100 * found.mean:{sign}.1f} ({interval})"


def step(before: Run | None, run: Run) -> str:
    """Difference of a run from the one before, question by question."""
    if before is None:
        return ""
    pairs = [(before.samples[i].score, row) for i, row in run.samples.items()]
    differences = [row.score - score for score, row in pairs]
    return in_percent(differences, [row.image_id for _, row in pairs], signed=True)


def by_size(run: Run) -> list[tuple[list[float], list[str]]]:
    """Scores and pages of the questions of each group of print."""
    groups: list[tuple[list[float], list[str]]] = [([], []) for _ in BORDERS_PX[1:]]
    for row in run.samples.values():
        scores, images = groups[int(np.digitize(row.attributes["print_px"], BORDERS_PX)) - 1]
        scores.append(row.score)
        images.append(row.image_id)
    return groups


def require_all_sizes(runs: list[Run]) -> None:
    """Raise DataError if questions have no score or no print size, or leave a group empty."""
    dataset = runs[0].run.found.dataset
    if any(row.score is None for run in runs for row in run.samples.values()):
        raise DataError("random weights give no accuracy")
    if not all("print_px" in row.attributes for row in runs[0].samples.values()):
        raise DataError(f"dataset={dataset} does not say how large its print is: small_print does")
    groups = zip(names_of_sizes(), by_size(runs[0]), strict=True)
    if empty := [name for name, (scores, _) in groups if not scores]:
        raise DataError(
            f"none of the {len(runs[0].samples)} questions is about print of {listed(empty)} px: "
            "ask more of them (dataset.limit)"
        )


def by_kind(run: Run) -> dict[str, list[float]]:
    """Scores of the questions of each kind of page."""
    kinds: dict[str, list[float]] = defaultdict(list)
    for row in run.samples.values():
        kinds[row.question_type].append(row.score)
    return kinds


def near_misses(run: Run) -> tuple[int, int]:
    """How many wrong answers differ from the right one in a single character, and all wrong."""
    wrong = [row for row in run.samples.values() if row.score == 0]
    pairs = [(row.prediction, row.references[0]) for row in wrong]
    near = [
        len(told) == len(right) and sum(a != b for a, b in zip(told, right, strict=True)) == 1
        for told, right in pairs
    ]
    return sum(near), len(wrong)


def names_of_sizes() -> list[str]:
    """The groups of print in words."""
    return [f"{low}-{high - 1}" for low, high in pairwise(BORDERS_PX)]


def table(runs: list[Run]) -> str:
    """All tables as Markdown."""
    first, result = runs[0], runs[0].run.found
    pages = len({row.image_id for row in first.samples.values()})
    lines = [
        f"{result.model} on {result.dataset}, {len(first.samples)} questions on "
        f"{pages} pages, exact match in % with 95 % intervals by page.",
        "",
        f"| {result.knob} | measured tokens | accuracy | change from the row above, paired |",
        "|---|---|---|---|",
    ]
    for before, run in zip([None, *runs], runs, strict=False):
        scores = [row.score for row in run.samples.values()]
        scored = in_percent(scores, [row.image_id for row in run.samples.values()])
        tokens = f"{run.run.found.measured_vision_tokens:.5g}"
        lines.append(f"| {run.run.found.knob_value} | {tokens} | {scored} | {step(before, run)} |")
    values = " | ".join(run.run.found.knob_value for run in runs)
    lines += [
        "",
        f"| print, px of the page | questions | {values} |",
        "|---" * (len(runs) + 2) + "|",
    ]
    groups = [by_size(run) for run in runs]
    for i, name in enumerate(names_of_sizes()):
        cells = " | ".join(f"{100 * np.mean(group[i][0]):.1f}" for group in groups)
        lines.append(f"| {name} | {len(groups[0][i][0])} | {cells} |")
    lines += ["", f"| kind of page | questions | {values} |", "|---" * (len(runs) + 2) + "|"]
    kinds = [by_kind(run) for run in runs]
    for kind in sorted(kinds[0]):
        cells = " | ".join(f"{100 * np.mean(found[kind]):.1f}" for found in kinds)
        lines.append(f"| {kind} | {len(kinds[0][kind])} | {cells} |")
    cells = " | ".join("{} of {}".format(*near_misses(run)) for run in runs)
    lines.append(f"| wrong by one character, of all wrong answers | | {cells} |")
    return "\n".join(lines) + "\n"


def picture(runs: list[Run]) -> bytes:
    """PNG: accuracy over print size, a line per knob value: the more tokens, the lighter."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    centres = np.sqrt(np.array(BORDERS_PX[:-1]) * (np.array(BORDERS_PX[1:]) - 1))
    styles = zip(ordered_colors(len(runs)), MARKERS, strict=False)
    for number, (run, (color, marker)) in enumerate(zip(runs, styles, strict=False)):
        means = [accuracy(*group) for group in by_size(run)]
        ends = [(m.mean, m.mean) if m.low is None else (m.low, m.high) for m in means]
        low, high = np.array(ends).T
        middle = np.array([m.mean for m in means])
        axis.errorbar(
            centres * (1 + 0.012 * (number - (len(runs) - 1) / 2)),  # or the bars would coincide
            100 * middle,
            yerr=100 * np.clip([middle - low, high - middle], 0, None),
            color=color,
            marker=marker,
            capsize=3,
            label=f"{run.run.found.knob}={run.run.found.knob_value} "
            f"({run.run.found.measured_vision_tokens:.0f} tokens)",
        )
    axis.set_xscale("log")
    axis.set_xticks(centres, names_of_sizes(), minor=False)
    axis.set_xticks([], minor=True)
    axis.set_xlabel("print size on the page, px")
    axis.set_ylabel("accuracy, % (exact match)\n95 % interval by page")
    axis.set_ylim(-2, 102)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def main() -> None:
    """Read a sweep folder, write the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", type=Path, help="folder of the sweep, such as outputs/NAME")
    parser.add_argument("--out", type=Path, required=True, help="folder of table.md and picture")
    args = parser.parse_args()
    runs = read_runs(args.sweep) if args.sweep.is_dir() else []
    if not runs:
        raise SystemExit(f"{args.sweep}: no finished run")
    try:
        require_same_samples([run.run for run in runs])
        require_all_sizes(runs)
    except DataError as error:
        raise SystemExit(f"{args.sweep}: {error}") from None
    text = table(runs)
    print(text)
    files.write_text(args.out / "table.md", text)
    files.write_bytes(args.out / "print_size.png", picture(runs))


if __name__ == "__main__":
    main()
