"""What is needed to run a sweep again: the command, the resolved config, versions, fingerprints."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vtexp.config.choices import ReductionMethod
from vtexp.config.compose import COMPOSE_ERRORS, compose_config
from vtexp.config.schema import Config, SweepConfig, to_plain
from vtexp.errors import VtexpError
from vtexp.runs.frozen import thaw
from vtexp.utils import files
from vtexp.utils.text import command_line, public

GROUPS = ("model", "dataset", "knob", "hardware", "measure", "tracking")
#: Keys of the environment that differ from run to run and say nothing of how they were made.
_PASSING = ("started", "load_average_1min", "other_cores_busy", "slurm_job_id", "ranks", "process")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Runs whose configs differ in the knob's value alone: YAML, and the command if one gives it.

    `command` is None where the config needs files of the user's own, or of other code.
    """

    runs: list[str]
    config: str
    command: str | None


def configs(folders: Sequence[Path]) -> list[Recipe]:
    """The configs of runs. Raises DataError for a folder whose config is damaged."""
    alike: dict[str, list[Path]] = defaultdict(list)
    for folder in folders:
        plain = files.read_config(folder)
        plain.pop("run", None)
        alike[json.dumps(plain)].append(folder)
    return [
        Recipe([folder.name for folder in own], _shown(json.loads(config)), _command(own))
        for config, own in alike.items()
    ]


def _shown(config: dict[str, Any]) -> str:
    """The YAML of a config without secrets."""
    return yaml.safe_dump(public(_without_shell_lines(config)), sort_keys=False)


def _command(folders: Sequence[Path]) -> str | None:
    """The command whose config is that of these runs; None where none was found.

    It is composed and compared: what it gives here is what the runs were made with.
    """
    try:
        config = thaw(folders)
        choices, differing = _overrides(config)
        overrides = [*choices, *_assignments(differing)]
        same = _composed(overrides) == dict(flat(_plain(config)))
    except (VtexpError, *COMPOSE_ERRORS, KeyError, TypeError):
        return None
    said = ["python", "launch.py", *choices, *_assignments(public(differing))]
    return command_line(said) if same else None


def command_with(
    folders: Sequence[Path], changes: Mapping[str, Any], sweep: Path | None = None
) -> str | None:
    """The command whose config is that of these runs but for some keys; None where none was found.

    `sweep`: of the sweep in this folder, else of a new one. It is composed and compared, as in
    `configs`.
    """
    try:
        config = thaw(folders)
        choices, differing = _overrides(config)
        wanted = {**dict(flat(_plain(config))), **changes}
        differing |= changes
        found = _composed([*choices, *_assignments(differing)])
    except (VtexpError, *COMPOSE_ERRORS, KeyError, TypeError):
        return None
    said = ["python", "launch.py", *choices, *_assignments(public(differing))]
    if sweep is not None:
        own = {"sweep.name": sweep.name}
        if sweep.parent != Path(SweepConfig.folder).absolute():
            own["sweep.folder"] = str(sweep.parent)
        said += _assignments(own)
    return command_line(said) if found == wanted else None


def _overrides(config: Config) -> tuple[list[str], dict[str, Any]]:
    """The config groups by name, and each key in which the config differs from these files."""
    plain = _plain(config)
    choices = [f"{group}={plain[group]['name']}" for group in GROUPS if "name" in plain[group]]
    if config.reduction.method != ReductionMethod.none:  # a knob may need it beside its own name
        choices.append(f"reduction={config.reduction.method.value}")
    base = _composed(choices)
    return choices, {key: value for key, value in flat(plain) if base.get(key, ...) != value}


def _composed(overrides: Sequence[str]) -> dict[str, Any]:
    """Leaves of the config of these overrides. Raises as `compose_config` does."""
    return dict(flat(_plain(compose_config(overrides))))


def _assignments(differing: Mapping[str, Any]) -> list[str]:
    return [f"{key}={hydra_value(value)}" for key, value in differing.items()]


def _plain(config: Config) -> dict[str, Any]:
    """The config without the sweep's name and folder: the same runs can be made in another."""
    plain = _without_shell_lines(to_plain(config))
    return {key: value for key, value in plain.items() if key != "sweep"}


def _without_shell_lines(plain: dict[str, Any]) -> dict[str, Any]:
    """A config without what is of no number, and nobody's business: a token can stand there."""
    hardware = plain.get("hardware")
    if not isinstance(hardware, dict) or not isinstance(slurm := hardware.get("slurm"), dict):
        return plain
    kept = {key: value for key, value in slurm.items() if key not in ("setup", "extra")}
    return plain | {"hardware": hardware | {"slurm": kept}}


def flat(plain: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested dictionaries with their dotted keys."""
    for key, value in plain.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


#: What Hydra reads as text without quotes: words, paths, sizes and time stamps.
_BARE = re.compile(
    r"(?!(null|true|false|inf|nan)$)([a-z/]|\d+[x-])[\w./-]*", re.ASCII | re.IGNORECASE
)


def hydra_value(value: Any) -> str:
    """A value as Hydra's command line reads it."""
    if isinstance(value, str):
        return value if _BARE.fullmatch(value) else _in_quotes(value)
    if isinstance(value, list):
        return "[" + ",".join(map(hydra_value, value)) + "]"
    return json.dumps(value)


def _in_quotes(text: str) -> str:
    """In double quotes, which a shell's single ones may hold, unless the text has some itself."""
    quote = "'" if '"' in text else '"'
    # Hydra takes a backslash for itself, but those before a quote.
    escaped = re.sub(
        rf"(\\*)({quote}|\Z)", lambda own: 2 * own[1] + (own[2] and f"\\{quote}"), text
    )
    return f"{quote}{escaped}{quote}"


@dataclass(frozen=True, slots=True)
class Settings:
    """Keys with one value in all runs, and those with several: run by run."""

    common: dict[str, str]
    differing: dict[str, dict[str, str]]


def environments(folders: Sequence[Path]) -> Settings:
    """What runs were made on, as far as their `environment.json` says."""
    found = {}
    for folder in folders:
        path = folder / files.ENVIRONMENT
        if path.is_file():
            plain = {k: v for k, v in public(files.read_json(path)).items() if k not in _PASSING}
            found[folder.name] = {key: _said(value) for key, value in flat(plain)}
    return _compared(found)


def protocols(folders: Sequence[Path]) -> Settings:
    """How runs were measured: `measure` and the hardware's settings of their configs."""
    found = {}
    for folder in folders:
        plain = files.read_config(folder)
        wanted = public({group: plain.get(group) for group in ("measure", "hardware")})
        keys = ((k, v) for k, v in flat(wanted) if not k.startswith("hardware.slurm"))
        found[folder.name] = {key: _said(value) for key, value in keys}
    return _compared(found)


def _compared(found: Mapping[str, Mapping[str, str]]) -> Settings:
    keys = dict.fromkeys(key for values in found.values() for key in values)
    common, differing = {}, {}
    for key in keys:
        values = {run: said.get(key, "") for run, said in found.items()}
        if len(set(values.values())) == 1:
            common[key] = next(iter(values.values()))
        else:
            differing[key] = values
    return Settings(common, differing)


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
