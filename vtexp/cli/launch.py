"""`python launch.py` and `vtexp launch`: Hydra's entry point."""

from __future__ import annotations

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from vtexp.config import user_errors
from vtexp.config.checks import from_hydra
from vtexp.config.compose import CONF
from vtexp.config.hydra_parts import name_is_given, register_sweeper, require_honoured
from vtexp.config.schema import register_schemas
from vtexp.utils.by_name import imported


def main() -> int:
    """Run what `sys.argv` asks for; returns the exit code after printing any error of a user."""
    register_schemas()
    register_sweeper()
    return user_errors.call(_launch)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _launch(raw: DictConfig) -> None:
    """All knob values in this process; with `-m`, vtexp's sweeper does not come by here."""
    with user_errors.errors_past_hydra():
        hydra_part = HydraConfig.get()
        require_honoured(hydra_part, multirun=hydra_part.mode == RunMode.MULTIRUN)
        named, config = name_is_given(raw), from_hydra(raw)
        # By name: --help and errors of the config stay quick.
        imported("vtexp.jobs.here:run_job")(config, named=named)
