"""The picture of a comparison: accuracy and prefill over the vision tokens that were measured."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def picture(lines: Mapping[str, Sequence[dict[str, Any]]]) -> bytes:
    """PNG of finished rows, one line per label: accuracy above, prefill below.

    Accuracy with its 95 % interval over the mean tokens of all images; prefill with its quartiles
    over the mean tokens of the timed ones.
    """
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it tells of its font cache
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, sharex=True)
    for label, points in lines.items():
        style: dict[str, Any] = {"marker": "o", "capsize": 3, "label": label}
        accuracy = 100 * _column(points, "accuracy")
        top.errorbar(
            _column(points, "measured_vision_tokens"),
            accuracy,
            # Rounding may leave a distance a hair below zero, which matplotlib refuses.
            yerr=np.clip(
                [
                    accuracy - 100 * _column(points, "accuracy_low", "accuracy"),
                    100 * _column(points, "accuracy_high", "accuracy") - accuracy,
                ],
                0,
                None,
            ),
            **style,
        )
        tokens, median = (
            _column(points, "prefill_vision_tokens"),
            _column(points, "prefill_ms_median"),
        )
        below = median - _column(points, "prefill_ms_p25")
        above = _column(points, "prefill_ms_p75") - median
        bottom.errorbar(tokens, median, yerr=[below, above], **style)
        for x, y, point in zip(tokens, median + above, points, strict=True):
            bottom.annotate(
                point["knob_value"],
                (x, y),
                textcoords="offset points",
                xytext=(0, 4),
                ha="center",
                fontsize=8,
            )
    rows = [row for points in lines.values() for row in points]
    top.set_title(_title(rows), fontsize=9)
    top.set_ylabel(f"accuracy, % ({rows[0]['metric']})\n95 % interval by image")
    top.set_ylim(-2, 102)
    if all(row["accuracy"] is None for row in rows):
        top.text(0.5, 0.5, "random weights: no accuracy", transform=top.transAxes, ha="center")
    bottom.set_ylabel("prefill at batch 1, ms\nmedian and quartiles")
    bottom.margins(y=0.15)
    bottom.set_ylim(bottom=0)
    bottom.set_xlabel("vision tokens per image, measured in the model (mean)")
    for axis in (top, bottom):
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    if len(lines) > 1:
        top.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _column(points: Sequence[dict[str, Any]], key: str, instead: str = "") -> np.ndarray:
    """One value per point; that of another key where there is none, not a number without one."""
    values = [p[key] if p[key] is not None or not instead else p[instead] for p in points]
    return np.array(values, dtype=float)


def _title(rows: Sequence[dict[str, Any]]) -> str:
    """What all rows have in common."""
    parts = []
    for key in ("model", "dataset", "device"):
        values = {row[key] for row in rows}
        if len(values) == 1:
            parts.append(values.pop())
    if any(row["weights"] == "random" for row in rows):
        parts.insert(1, "random weights")
    counts = sorted({row["num_samples"] for row in rows})
    return " · ".join([*parts, f"{' or '.join(map(str, counts))} questions"])
