"""`-m`: one job per knob value (or group of values), times every other swept group.

Found by Hydra through the namespace package `hydra_plugins`; never import it before
`hydra.main` runs. It stays light: the work is in `vtexp.jobs`, imported when jobs are launched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins import basic_sweeper  # the class itself would register twice
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from vtexp.config.compose import require_one_name, with_brackets
from vtexp.config.hydra_parts import (
    VTEXP_SWEEPER,
    each_its_own,
    name_is_given,
    parameters,
    require_countable,
    require_honoured,
)
from vtexp.utils.by_name import imported

if TYPE_CHECKING:
    from vtexp.config.schema import Config

# Jobs are shaped by the config's `sweep` and `knob` groups; `params` as Hydra's own sweeper has it.
ConfigStore.instance().store(
    group="hydra/sweeper",
    name="vtexp",
    node={"_target_": VTEXP_SWEEPER, "params": None},
)


class VtexpSweeper(Sweeper):
    """Expands the knob's values, checks every job before the first starts, compares at the end."""

    def __init__(self, params: DictConfig | None = None) -> None:
        """`params`: `hydra.sweeper.params`, overrides that can stand in a file."""
        self.params = params

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra with the config of the sweep."""
        self.sweep_config = config
        self.config_loader = hydra_context.config_loader

    def sweep(self, arguments: list[str]) -> Any:
        """Launch all jobs. Raises VtexpError when runs failed, after the comparison is written."""
        require_honoured(self.sweep_config.hydra, multirun=True)
        named = name_is_given(self.sweep_config)
        prepare_jobs = imported("vtexp.jobs.prepare:prepare_jobs")
        jobs = prepare_jobs(self._combinations(arguments), self._compose, named=named)
        if jobs:  # else the plan has been shown
            config = self.sweep_config
            launch = imported("vtexp.jobs.launch:launch")
            launch(jobs, wait=config.sweep.wait, margin=config.report.margin)

    def _combinations(self, arguments: list[str]) -> list[list[str]]:
        """Overrides of each combination of swept groups; at least one, maybe empty."""
        params = [with_brackets(own) for own in parameters(self.params, arguments)]
        parser = OverridesParser.create(config_loader=self.config_loader)
        overrides = parser.parse_overrides([*params, *arguments])
        require_one_name(overrides)
        require_countable(overrides)
        batches = basic_sweeper.BasicSweeper.split_arguments(overrides, max_batch_size=None)
        default = self.sweep_config.hydra.runtime.choices.get("knob", "")
        # One time stamp for all jobs, even when a launcher composes them again elsewhere.
        name = f"sweep.name='{self.sweep_config.sweep.name}'"
        combinations = [own for batch in batches for own in batch]
        return [[*own, name] for own in each_its_own(combinations, default)]

    def _compose(self, overrides: list[str]) -> Config:
        from_hydra = imported("vtexp.config.checks:from_hydra")
        return from_hydra(self.config_loader.load_sweep_config(self.sweep_config, overrides))
