"""What sweeps ask of their report: `report.margin` and limits, from the configs of their runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vtexp.config.schema import LIMITS, ReportConfig, all_ranges
from vtexp.errors import ConfigError
from vtexp.runs.folder import frozen_at, run_folders
from vtexp.utils import files
from vtexp.utils.typed import is_number

#: `report.margin` where no sweep says one.
MARGIN = ReportConfig().margin


def configured_margin(sweeps: Sequence[Path]) -> float:
    """`report.margin` of sweeps: what the latest runs of each were configured with.

    Raises ConfigError where several sweeps have several.
    """
    found = sorted({_number(folder, "margin") for folder in _latest(sweeps)})
    if len(found) > 1:
        margins = ", ".join(f"{margin:g}" for margin in found)
        raise ConfigError(f"report.margin: the sweeps have {margins}; give one with --margin")
    return found[0] if found else MARGIN


def configured_limits(sweeps: Sequence[Path]) -> dict[str, float]:
    """The limits on cost in `report`, by their keys, as the latest runs of each sweep have them.

    Raises ConfigError where several sweeps have several.
    """
    latest = _latest(sweeps)
    found = {}
    for key in LIMITS:
        values = {_number(folder, key) for folder in latest if _said(folder, key) is not None}
        if len(values) > 1:
            said = ", ".join(f"{value:g}" for value in sorted(values))
            raise ConfigError(f"report.{key}: the sweeps have {said}; give one with --limit {key}=")
        if values:
            found[key] = values.pop()
    return found


def _latest(sweeps: Sequence[Path]) -> list[Path]:
    """The run of each sweep that was configured last."""
    return [max(folders, key=frozen_at) for sweep in sweeps if (folders := run_folders(sweep))]


def _said(folder: Path, key: str) -> Any:
    """A key of `report` in a run's config; None where it is not there."""
    report = files.read_config(folder).get("report")
    return report.get(key) if isinstance(report, dict) else None


def _number(folder: Path, key: str) -> float:
    """A key of `report` in a run's config. Raises DataError where it is not what it may be."""
    value, allowed = _said(folder, key), all_ranges()[f"report.{key}"]
    if not is_number(value) or not allowed.allows(value):
        said = f"report.{key} is not a number; must be {allowed}"
        raise files.damaged(folder / files.CONFIG, said)
    return float(value)
