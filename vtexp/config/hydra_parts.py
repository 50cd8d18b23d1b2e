"""What Hydra's own part of a config may say: honoured, or refused in one line, never ignored."""

from __future__ import annotations

import re
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf

from vtexp.config.knob_schema import KNOB_SCHEMAS
from vtexp.errors import ConfigError
from vtexp.utils.by_name import imported

#: Hydra's own launcher and sweeper: any other would run jobs past vtexp's.
BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
VTEXP_SWEEPER = "hydra_plugins.vtexp_sweeper.sweeper.VtexpSweeper"
#: Name of the callback in conf/config.yaml.
VTEXP_CALLBACK = "vtexp"

#: Python's codes of times whose text differs at each launch.
_TO_THE_SECOND = re.compile(r"\$\{now:[^}]*%[SfscTXr]")

#: What vtexp has instead of the launchers and sweepers of others.
INSTEAD = {
    "hydra/launcher": "give hardware.launcher=here, local (several jobs at once with "
    "hardware.max_parallel) or slurm instead",
    "hydra/sweeper": "vtexp runs all values of a knob and finds the smallest that is good enough; "
    "give them as in knob.max_crops=1,4,12 without hydra/sweeper",
}
_FOLDERS = "results go to sweep.folder/sweep.name; give these"
_NO_LOG = "vtexp writes no log of Hydra's; a traceback comes with HYDRA_FULL_ERROR=1"
_SHELL = "set it in the shell, or for SLURM in hardware.slurm.setup"
#: Keys that vtexp does not read: their defaults, and what to use instead.
_UNREAD: dict[str, tuple[Any, str]] = {
    "run.dir": (".", _FOLDERS),
    "sweep.dir": (".", _FOLDERS),
    "sweep.subdir": (".", _FOLDERS),
    "output_subdir": (None, "each run's folder has its config.yaml"),
    "verbose": (False, _NO_LOG),
    "job.chdir": (None, "relative paths start where you launch"),
    "job_logging.handlers.file": (None, _NO_LOG),
}
#: Those that Hydra itself reads for a job in this process, and that no job of `-m` would see.
_UNREAD_BY_JOBS: dict[str, tuple[Any, str]] = {
    "job.env_set": ({}, _SHELL),
    "callbacks": ({}, "jobs of -m call none; start without -m"),
}


@contextmanager
def hydra_arguments() -> Iterator[None]:
    """Hydra can make its parser of arguments, on Python 3.14 too.

    argparse checks each help text there when it is added; that of Hydra 1.3's `--shell-completion`
    is no text before it is printed (facebookresearch/hydra issue 3121).
    """
    parser: Any = ArgumentParser
    parser._check_help = lambda *_: None  # it inherits the real one
    try:
        yield
    finally:
        del parser._check_help


def register_sweeper() -> None:
    """Make vtexp's sweeper known to Hydra, wherever the current folder is.

    Hydra looks for plugins in the folders of `hydra_plugins`. An editable install has none there,
    only a finder of names; so what the look did not find is registered by its name.
    """
    plugins = Plugins.instance()
    found = {f"{sweeper.__module__}.{sweeper.__name__}" for sweeper in plugins.discover(Sweeper)}
    if VTEXP_SWEEPER not in found:
        module, _, name = VTEXP_SWEEPER.rpartition(".")
        plugins.register(imported(f"{module}:{name}"))


def require_honoured(hydra: Any, *, multirun: bool) -> None:
    """Raises ConfigError for a key of Hydra's part that would be ignored, naming what helps."""
    for key, (plain, instead) in (_UNREAD | (_UNREAD_BY_JOBS if multirun else {})).items():
        value = OmegaConf.select(hydra, key)
        if OmegaConf.is_config(value):
            value = OmegaConf.to_container(value, resolve=False)
        if key == "callbacks":
            value = {name: own for name, own in value.items() if name != VTEXP_CALLBACK}
        if value != plain and not (key == "job.chdir" and value is False):
            raise ConfigError(f"hydra.{key}={value!s:.60}: has no effect here; {instead}")
    if multirun:
        _require_own(hydra)


def _require_own(hydra: DictConfig) -> None:
    if hydra.launcher._target_ != BASIC_LAUNCHER:
        raise ConfigError(f"hydra/launcher: {INSTEAD['hydra/launcher']}")
    if hydra.sweeper._target_ not in (BASIC_SWEEPER, VTEXP_SWEEPER):
        raise ConfigError(f"hydra/sweeper: {INSTEAD['hydra/sweeper']}")


def name_is_given(config: DictConfig) -> bool:
    """Whether a sweep has a name of its own, wherever it was given, and not a time stamp.

    A day, such as `${now:%Y-%m-%d}`, is a name: what is typed again on that day is the same sweep.
    """
    plain = OmegaConf.to_container(config.sweep, resolve=False)
    return isinstance(plain, dict) and not _TO_THE_SECOND.search(str(plain.get("name")))


def require_countable(overrides: Iterable[Override]) -> None:
    """Raises ConfigError for a sweep without values: `interval()`, or a glob without a match."""
    for override in overrides:
        if not override.is_sweep_override():
            continue
        listed = override.is_discrete_sweep()
        if not listed or not any(True for _ in override.sweep_string_iterator()):
            raise ConfigError(f"{override.input_line}: names no values; list them, as in KEY=A,B")


def parameters(params: DictConfig | None, given: Iterable[str]) -> Iterator[str]:
    """`hydra.sweeper.params` as overrides, without the keys that are given on the command line."""
    typed = {argument.partition("=")[0].lstrip("+") for argument in given}
    plain: Any = OmegaConf.to_container(params) if params else {}
    for key, value in plain.items():
        if isinstance(value, dict):
            raise ConfigError(f"hydra.sweeper.params.{key}: write its keys with dots, as in a.b: 1")
        if key not in typed:
            yield f"{key}={_written(value)}"


def _written(value: Any) -> str:
    """A YAML value as typed on the command line; the items of a list one after the other."""
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def for_several_knobs(arguments: list[str]) -> list[str]:
    """Keys of knobs as choices, where `-m` sweeps several knobs: each has keys of its own.

    Hydra would look for all of them in the first composition, which has one knob alone.
    """
    chosen = next((a.partition("=")[2] for a in arguments if a.startswith("knob=")), "")
    if "," not in chosen:
        return arguments
    found = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        plain = equals and "," not in value.partition("[")[0] and "(" not in value
        found.append(f"{key}=choice({value})" if plain and key.startswith("knob.") else argument)
    return found


def each_its_own(combinations: list[list[str]], default: str) -> list[list[str]]:
    """The combinations, each without the keys of knobs that only others of them choose.

    `default`: the knob where a combination names none.
    """
    chosen = [_knob(own, default) for own in combinations]
    found: list[list[str]] = []
    for knob, own in zip(chosen, combinations, strict=True):
        left = [o for o in own if not _is_of_another(o, knob, set(chosen))]
        if left not in found:
            found.append(left)
    return found


def _knob(combination: Iterable[str], default: str) -> str:
    named = [o.partition("=")[2] for o in combination if o.startswith("knob=")]
    return "vision_tokens" if (last := [default, *named][-1]) == "vision_tokens_list" else last


def _is_of_another(override: str, knob: str, knobs: set[str]) -> bool:
    """Whether a key belongs to the schema of another knob of the sweep, and not to this one's."""
    group, _, name = override.partition("=")[0].partition(".")
    if group != "knob" or not name:
        return False
    having = {known for known, (schema, _) in KNOB_SCHEMAS.items() if name in _keys(schema)}
    return knob not in having and bool(having & knobs)


def _keys(schema: type) -> list[str]:
    return [own.name for own in fields(schema)]
