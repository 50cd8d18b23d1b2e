"""Weights & Biases as a mirror of finished runs, built from their files. It never fails a run."""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlparse

import yaml

from vtexp import records
from vtexp.config import Config, WandbMode
from vtexp.progress import console

if TYPE_CHECKING:
    import wandb

#: Set once W&B cannot be reached in this process: later runs go offline at once.
_offline_because: str | None = None
#: File of a run folder that says where the run was mirrored to.
MIRRORED = "wandb.json"


def mirror(config: Config, run: Path) -> None:
    """Log a finished run folder to W&B, online or offline as configured; `tracking=none`: nothing.

    Config, metrics, counts and the table of samples; group = sweep. Any failure is one printed
    line: the run's own files are the truth, and the mirror can be made again from them.
    """
    if config.tracking.name == "none" or os.environ.get("WANDB_MODE") == "disabled":
        return
    if (run / MIRRORED).is_file():
        return
    result = records.read_json(run / records.RESULT)
    try:
        if config.tracking.mode == WandbMode.online and not _has_key():
            # Asked to go online without a key, W&B would ask on the terminal, and wait.
            _go_offline("no API key: set WANDB_API_KEY or run wandb login")
        elif wants_online(config.tracking.mode) and _offline_because is None:
            try:
                _log(config, run, result, "online")
                return
            except Exception as error:
                _forget_the_attempt()
                _go_offline(_line(error))
        _log(config, run, result, "offline")
    except Exception as error:  # a broken mirror must not cost the measurement
        console.print(f"W&B: {run.name} was not logged ({_line(error)}); its files are whole")


def _go_offline(reason: str) -> None:
    """Stay offline for the rest of this process, and say so once."""
    global _offline_because
    if _offline_because is None:
        _offline_because = reason
        console.print(
            f"W&B cannot be reached ({reason}); runs are logged offline: upload them later "
            "with wandb sync"
        )


def wants_online(mode: WandbMode) -> bool:
    """Whether to try the network: `online` always, `auto` where there is an API key."""
    if mode == WandbMode.auto:
        return os.environ.get("WANDB_MODE", "online") == "online" and _has_key()
    return mode == WandbMode.online


def _has_key() -> bool:
    """Whether W&B would find an API key: in the environment or in the user's netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _log(
    config: Config, folder: Path, result: dict[str, Any], mode: Literal["online", "offline"]
) -> None:
    import wandb

    tracking = config.tracking
    sweep = folder.parent
    # Tables go through a staging folder that W&B would put into the home directory.
    os.environ["WANDB_DATA_DIR"] = os.environ["WANDB_CACHE_DIR"] = str(sweep / "wandb")
    (sweep / "wandb").mkdir(exist_ok=True)
    run = wandb.init(
        project=tracking.project,
        entity=tracking.entity,
        group=result["sweep"],
        job_type=result["knob"],
        name=result["run"],
        id=f"{result['run_id']}-{_short(result['sweep'])}",
        tags=[*tracking.tags, result["model"], result["dataset"], result["hardware"]],
        config=yaml.safe_load((folder / records.CONFIG).read_text())
        | {"environment": records.read_json(folder / records.ENVIRONMENT)},
        dir=sweep,
        mode=mode,
        resume="allow" if mode == "online" else None,
        settings=wandb.Settings(
            init_timeout=tracking.timeout_s,
            finish_timeout=tracking.timeout_s,
            silent=True,
            console="off",
            disable_git=True,
            save_code=False,
        ),
    )
    try:
        run.summary.update(_summary(result))
        run.log({"samples": _table(wandb, folder)})
    finally:
        run.finish()
    records.write_json(folder / MIRRORED, {"mode": mode, "id": run.id, "project": run.project})


def _forget_the_attempt() -> None:
    """End W&B's background service, which would hold the run's id for the failed attempt."""
    import wandb

    wandb.teardown()


def _short(text: str) -> str:
    """Letters, digits and dashes of a sweep's name, at most 40: part of a W&B run id."""
    return "".join(c if c.isalnum() else "-" for c in text)[:40]


def _summary(result: dict[str, Any]) -> dict[str, Any]:
    """The result with nested values as `latency/prefill_ms/median`; nothing is left out."""
    flat: dict[str, Any] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                add(f"{prefix}/{key}" if prefix else key, inner)
        elif value is not None:
            flat[prefix] = value

    add("", result)
    return flat


def _table(wandb_module: Any, folder: Path) -> wandb.Table:
    rows = records.read_jsonl(folder / records.SAMPLES)
    columns = list(dict.fromkeys(column for row in rows for column in row))  # attributes can differ
    data = [[_cell(row.get(column)) for column in columns] for row in rows]
    return wandb_module.Table(columns=columns, data=data)


def _cell(value: Any) -> Any:
    return "; ".join(value) if isinstance(value, list) else value


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
