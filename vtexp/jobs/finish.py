"""What follows a sweep's runs: report, cost model, W&B."""

from __future__ import annotations

from pathlib import Path

from vtexp.cost.latency_fit import write_cost_model
from vtexp.report.write import report
from vtexp.tracking.publish import after_sweep
from vtexp.utils.extras import require_extra


def show_comparison(sweep: Path, *, margin: float | None = None) -> None:
    """Write and print all that a sweep's runs say together, if it has runs; see `write.report`.

    Writes its cost model, and its W&B Report, which is uploaded as configured.
    """
    if sweep.is_dir() and report([sweep], sweep, margin=margin):
        write_cost_model(sweep)
        after_sweep(sweep)


def require_page(folder: Path) -> None:
    """Raise MissingExtraError where a report had to leave out its page and figures.

    Call it last, when all else is written.
    """
    require_extra("report", f"{folder / 'report.html'}", "; then make the report again")
