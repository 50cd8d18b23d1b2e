"""Weights & Biases as a mirror of finished runs, built from their files. It never fails a run."""

from __future__ import annotations

import netrc
import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlparse

from vtexp.config.choices import WandbMode
from vtexp.config.schema import Config, TrackingConfig
from vtexp.data.sample import Sample
from vtexp.errors import error_line
from vtexp.tracking import wandb_runs
from vtexp.utils.console import console
from vtexp.utils.text import shell_word

#: Where W&B is unless WANDB_BASE_URL says so: either of two names.
HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")
#: Set once W&B cannot be reached in this process: later runs are left for `publish` at once.
_offline_because: str | None = None


def mirror(config: Config, run: Path, samples: Iterable[Sample] = ()) -> None:
    """Log a finished run folder for W&B, and upload it as configured; `tracking=none`: nothing.

    `samples`: of the run, for their images. Any failure is one printed line: the run's own files
    are the truth, and `python -m vtexp publish` uploads them later. Costs no more than
    `tracking.timeout_s` seconds of waiting, once per process.
    """
    if not wanted(config.tracking):
        return
    try:
        logged = wandb_runs.log_run(config.tracking, run, samples)
    except Exception as error:  # a broken mirror must not cost the measurement
        console.print(f"W&B: {run.name} was not logged ({error_line(error)}); its files are whole")
        return
    if not logged.uploaded and goes_online(config.tracking):
        path, seconds = run / wandb_runs.MIRRORED, config.tracking.timeout_s
        try:
            give_up(wandb_runs.upload(run.parent, [path], seconds), run.parent)
        except Exception as error:
            give_up(error_line(error), run.parent)


def wanted(tracking: TrackingConfig) -> bool:
    """Whether anything is to be logged."""
    return tracking.name != "none" and os.environ.get("WANDB_MODE") != "disabled"


def goes_online(tracking: TrackingConfig) -> bool:
    """Whether to try an upload now."""
    if _offline_because is not None or not wants_online(tracking.mode):
        return False
    if not has_key():
        # Asked to go online without a key, W&B would ask on the terminal, and wait.
        give_up("no API key: set WANDB_API_KEY or run wandb login", None)
        return False
    return True


def give_up(reason: str | None, sweep: Path | None) -> None:
    """Try no further upload in this process, and say so once; None: all is well."""
    global _offline_because
    if reason is not None and _offline_because is None:
        _offline_because = reason
        which = "SWEEP" if sweep is None else shell_word(str(sweep))
        console.print(
            f"W&B cannot be reached ({reason}); runs are kept to be uploaded later: "
            f"python -m vtexp publish {which}"
        )


def wants_online(mode: WandbMode) -> bool:
    """Whether to try the network: `online` always, `auto` where there is an API key."""
    if mode == WandbMode.auto:
        return os.environ.get("WANDB_MODE", "online") == "online" and has_key()
    return mode == WandbMode.online


def has_key() -> bool:
    """Whether W&B would find an API key: in the environment or in the user's netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        own = urlparse(os.environ.get("WANDB_BASE_URL", "")).netloc
        file = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, ValueError, netrc.NetrcParseError):  # ValueError: no URL, or not UTF-8
        return False
    return any(file.authenticators(host) for host in ([own] if own else HOSTS))
