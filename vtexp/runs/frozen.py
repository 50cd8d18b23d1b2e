"""A run's config and planned row, frozen in its folder when its sweep is submitted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vtexp.config.checks import from_plain
from vtexp.config.knob_schema import values_key
from vtexp.config.schema import Config
from vtexp.errors import ConfigError, DataError
from vtexp.runs import records
from vtexp.runs.folder import finished
from vtexp.runs.forecast import forecast
from vtexp.runs.plan import Plan
from vtexp.utils import files


def freeze(plan: Plan) -> None:
    """Write config and planned row of all runs that have no result; forget their failures."""
    for run, predicted in zip(plan.runs, forecast(plan).runs, strict=True):
        if not finished(run.folder):
            planned = predicted.planned(run.asked(plan.config))
            records.write(run.folder / files.PLANNED, planned)
            # What makes a folder a run comes last: every run has its planned row.
            files.write_text(run.folder / files.CONFIG, run.resolved_config(plan.config))
            (run.folder / files.FAILURE).unlink(missing_ok=True)


def require_folders(plan: Plan, folders: Sequence[Path]) -> None:
    """Raises DataError where the runs of a plan, made of the configs in these folders, lie
    elsewhere: a folder was renamed, or the runs would be others now."""
    planned = {run.run_id: run.folder for run in plan.runs}
    for folder in folders:
        run_id = files.read_config(folder)["run"].get("run_id")
        if planned.get(run_id, folder) != folder:
            raise DataError(
                f"{folder}: is not called as its run; rename it {planned[run_id].name}, or move it "
                "out of the sweep"
            )
    if set(planned.values()) != set(folders):
        raise DataError(
            f"{plan.config.model.path}: the weights are not those that the sweep was made with; "
            "start a new sweep"
        )


def thaw(folders: Sequence[Path]) -> Config:
    """The config of a job that makes these runs of one sweep.

    Raises DataError for a folder without its config, or with an invalid one.
    """
    plain, values = {}, []
    for folder in folders:
        plain = files.read_config(folder)
        try:
            values.append(plain.pop("run")["value"])
        except (KeyError, TypeError) as error:
            raise _no_config(folder) from error
    try:
        return _thawed(plain, values, folders[0].parent)
    except (KeyError, TypeError, AttributeError) as error:
        raise _no_config(folders[0]) from error
    except (ConfigError, OmegaConfBaseException) as error:
        said = str(error).strip().partition("\n")[0]
        key = getattr(error, "full_key", None)
        about = f"{key}: {said}" if key else said
        raise files.damaged(folders[0] / files.CONFIG, about) from error


def _thawed(plain: dict[str, Any], values: Sequence[Any], sweep: Path) -> Config:
    knob = plain["knob"]
    knob[values_key(OmegaConf.create(knob)).removeprefix("knob.")] = values
    plain["sweep"] |= {"folder": str(sweep.parent), "name": sweep.name}
    return from_plain(plain)


def _no_config(folder: Path) -> DataError:
    return files.damaged(folder / files.CONFIG, files.NO_CONFIG)
