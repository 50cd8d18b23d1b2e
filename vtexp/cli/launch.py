"""`python launch.py` and `vtexp launch`: Hydra's entry point."""

from __future__ import annotations

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from vtexp.config import user_errors
from vtexp.config.checks import from_hydra
from vtexp.config.choices import Launcher
from vtexp.config.compose import CONF
from vtexp.config.hydra_parts import name_is_given, register_sweeper, require_honoured
from vtexp.config.schema import register_schemas
from vtexp.errors import ConfigError
from vtexp.utils.by_name import imported
from vtexp.utils.output import output_may_close


@output_may_close(fails=False)
def main() -> int:
    """Run what `sys.argv` asks for; returns the exit code after printing any error of a user."""
    # Hydra copies the store for each group that --help lists, 15 ms each, and no copy is changed.
    ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]
    register_schemas()
    register_sweeper()
    return user_errors.call(_launch)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _launch(raw: DictConfig) -> None:
    """All knob values in this process; with `-m`, Hydra's own sweeper alone comes by here."""
    with user_errors.errors_past_hydra():
        hydra_part = HydraConfig.get()
        multirun = hydra_part.mode == RunMode.MULTIRUN
        require_honoured(hydra_part, multirun=multirun)
        named, config = name_is_given(raw), from_hydra(raw)
        if multirun and config.hardware.launcher != Launcher.here:
            launcher = config.hardware.launcher.value
            raise ConfigError(
                "hydra/sweeper=basic: runs everything in this process, one combination after the "
                f"other; leave it out for jobs of hardware.launcher={launcher}"
            )
        # By name: --help and errors of the config stay quick.
        imported("vtexp.jobs.here:run_job")(config, named=named)
