"""What is made of a sweep once its runs are over: report, cost model, W&B."""

from __future__ import annotations

from pathlib import Path


def show_comparison(sweep: Path, *, margin: float | None = None) -> None:
    """Write and print all that a sweep's runs say together, if it has runs; see `reporting.report`.

    Its cost model is written, and its W&B Report is made and uploaded as configured.
    """
    from vtexp.cost import latency_fit
    from vtexp.report import write
    from vtexp.tracking import publish

    if sweep.is_dir() and write.report([sweep], sweep, margin=margin):
        latency_fit.write_cost_model(sweep)
        publish.after_sweep(sweep)
