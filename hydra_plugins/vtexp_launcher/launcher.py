"""Jobs run where `hardware.launcher` says: in this process, as local processes, through SLURM.

It stays light: the work is in `vtexp.jobs.launch`, imported when jobs are launched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from vtexp.runs.ledger import Job

ConfigStore.instance().store(
    group="hydra/launcher",
    name="vtexp",
    node={"_target_": "hydra_plugins.vtexp_launcher.launcher.VtexpLauncher"},
)


class VtexpLauncher(Launcher):
    """Takes the jobs of vtexp's sweeper, whose configs are frozen in the runs' folders."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra with the config of the sweep."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Hydra's way in. Raises ConfigError: without the sweeper no job is planned."""
        from vtexp.errors import ConfigError

        raise ConfigError("hydra/launcher=vtexp: only together with hydra/sweeper=vtexp")

    def launch_jobs(self, jobs: Sequence[Job], *, wait: bool, margin: float) -> None:
        """Run or submit jobs; `margin` in points. Raises RunFailedError when runs failed."""
        from vtexp.jobs.launch import launch

        launch(jobs, wait=wait, margin=margin)
