"""Entry point: `python launch.py [-m] [group=option] [key=value]`; `--help` shows examples."""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from vtexp import cli
from vtexp.checking import from_hydra
from vtexp.config import register_schemas


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def launch(raw: DictConfig) -> None:
    """All knob values in this process; with `-m`, vtexp's sweeper does not come by here."""
    named = any(o.startswith("sweep.name=") for o in HydraConfig.get().overrides.task)
    with cli.errors_past_hydra():
        config = from_hydra(raw)
        from vtexp.job import run_job  # imported late: --help and config errors stay quick

        run_job(config, named=named)


if __name__ == "__main__":
    register_schemas()
    sys.exit(cli.call(launch))
