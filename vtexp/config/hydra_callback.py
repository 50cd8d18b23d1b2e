"""What vtexp does before Hydra acts on its own part of a config and writes files of its own."""

from __future__ import annotations

import atexit
from tempfile import TemporaryDirectory
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, read_write

from vtexp.config.hydra_parts import BASIC_SWEEPER, require_honoured
from vtexp.config.user_errors import errors_past_hydra


class BeforeHydra(Callback):
    """Refuses what would have no effect before Hydra makes folders, and keeps its files away.

    Its errors pass Hydra, which makes warnings of the exceptions of a callback.
    """

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Called with the config of one job in this process."""
        with errors_past_hydra():
            require_honoured(config.hydra, multirun=False)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Called with the config of `-m`; Hydra's own sweeper writes it into hydra.sweep.dir."""
        with errors_past_hydra():
            require_honoured(config.hydra, multirun=True)
        if config.hydra.sweeper._target_ == BASIC_SWEEPER:
            folder = TemporaryDirectory(prefix="vtexp-")
            atexit.register(folder.cleanup)
            with read_write(config):
                config.hydra.sweep.dir = folder.name
