"""What follows a sweep's runs: report, cost model, W&B."""

from __future__ import annotations

from pathlib import Path

from vtexp.utils.by_name import imported
from vtexp.utils.extras import require_extra


def show_comparison(sweep: Path, *, margin: float | None = None) -> None:
    """Write and print all that a sweep's runs say together, if it has runs; see `write.report`.

    Writes its cost model, and its W&B Report, which is uploaded as configured.
    """
    # By name: plans, errors of a config and `status` are quicker by a third without the report.
    if sweep.is_dir() and imported("vtexp.report.write:report")([sweep], sweep, margin=margin):
        imported("vtexp.cost.latency_fit:write_cost_model")(sweep)
        imported("vtexp.tracking.publish:after_sweep")(sweep)


def require_page(folder: Path) -> None:
    """Raise MissingExtraError where a report had to leave out its page and figures.

    Call it last, when all else is written.
    """
    require_extra("report", f"{folder / 'report.html'}", "; then make the report again")
