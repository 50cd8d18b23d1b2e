"""Configs composed from the files of `conf/` outside of `launch.py`, and the data sets' names."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, ValueType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vtexp.config.booleans import strict_booleans
from vtexp.config.checks import from_hydra
from vtexp.config.dataset_schema import DatasetConfig
from vtexp.config.hydra_parts import register_sweeper
from vtexp.config.knob_schema import VALUE_KEYS
from vtexp.config.schema import Config, register_schemas
from vtexp.errors import ConfigError, message_of

#: What Hydra and OmegaConf raise for an invalid config.
COMPOSE_ERRORS = (HydraException, OmegaConfBaseException)

#: What is wrong with an argument that Hydra's grammar does not take.
UNPARSABLE = "cannot be parsed as key=value; quote values with special characters"
#: The seeds' name of a key, which scripts may still use on the command line.
SEEDS_KEYS = {"knob.vision_tokens_list": "knob.targets"}

_PACKAGE = Path(__file__).parents[1]
#: The configs: inside the package where that is installed, beside it in a checkout.
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"


def compose_config(overrides: Sequence[str], config_dir: Path | None = None) -> Config:
    """The config that `launch.py` would make of these overrides, `config_dir` as `--config-dir`.

    Raises ConfigError, or the errors of Hydra and OmegaConf.
    """
    with _files(config_dir) as searched:
        return from_hydra(_composed([*searched, *map(with_brackets, overrides)]))


def _composed(overrides: list[str]) -> DictConfig:
    """What Hydra composes of the overrides; the files of the same options are merged once.

    Hydra takes 0.2 s to read and merge its own and ours, and 10 ms to set keys in the outcome.
    """
    choices, keys = [], []
    for override in OverridesParser.create().parse_overrides(overrides):
        # As Hydra takes them apart: what names no group, or gives a group's keys, sets keys.
        if _names_files(override):
            return compose("config", overrides)
        if isinstance(override.value(), dict) or not _is_group(override.key_or_group):
            keys.append(override)
        elif override.type is OverrideType.CHANGE:
            choices.append(str(override.input_line))
        else:
            return compose("config", overrides)
    versions = tuple((str(path), path.stat().st_mtime_ns) for path in sorted(CONF.rglob("*.yaml")))
    config = copy.deepcopy(_merged(tuple(choices), versions))
    ConfigLoaderImpl._apply_overrides_to_config(keys, config)
    return config


@lru_cache(maxsize=64)
def _merged(choices: tuple[str, ...], versions: tuple[tuple[str, int], ...]) -> DictConfig:
    """The config of these options. `versions`: of the files, which may change meanwhile."""
    return compose("config", list(choices))


def _names_files(override: Override) -> bool:
    """Whether files beside the groups' options may follow from it, as from Hydra's own keys."""
    of_hydra = override.key_or_group.startswith("hydra")
    return of_hydra or override.package is not None or override.is_sweep_override()


@lru_cache(maxsize=1024)
def _is_group(key: str) -> bool:
    return bool(GlobalHydra.instance().config_loader().get_group_options(key))


def combinations(arguments: Sequence[str]) -> list[list[str]]:
    """Overrides of each combination of swept keys and groups, as `-m` makes jobs of them.

    Raises ConfigError where an argument cannot be read, or the sweep's name is swept.
    """
    try:
        overrides = OverridesParser.create().parse_overrides(list(map(with_brackets, arguments)))
    except HydraException as error:
        raise ConfigError(message_of(error)) from error
    require_one_name(overrides)
    (batch,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    return [list(own) for own in batch]


def require_one_name(overrides: Sequence[Override]) -> None:
    """Raises ConfigError where the sweep's name is swept."""
    if any(o.get_key_element() == "sweep.name" and o.is_sweep_override() for o in overrides):
        raise ConfigError("sweep.name: one sweep has one name; start two for two names")


def dataset_names(config_dir: Path | None = None) -> list[str]:
    """What `dataset=NAME` can be, in order: the files of `conf/dataset` and the user's own."""
    with _files(config_dir) as searched:
        return _names(searched)


def dataset_configs(config_dir: Path | None = None) -> dict[str, DatasetConfig]:
    """The config of each set by the name to choose it by. Raises as `compose_config` does."""
    with _files(config_dir) as searched:
        names = _names(searched)
        # Together, as each composition reads Hydra's own files again: 24 of them take 2 s.
        composed = compose(None, [*searched, *(f"+dataset@{name}={name}" for name in names)])
        return {name: OmegaConf.to_object(composed[name]) for name in names}  # type: ignore[misc]


def _names(searched: list[str]) -> list[str]:
    loader = GlobalHydra.instance().config_loader()
    return loader.get_group_options("dataset", ObjectType.CONFIG, overrides=searched)


@contextmanager
def _files(config_dir: Path | None) -> Iterator[list[str]]:
    """Hydra over `conf/`; gives the overrides that add the user's own folder."""
    if not CONF.is_dir():
        raise ConfigError(f"{CONF}: no such folder; install vtexp again")
    searched = []
    if config_dir is not None:
        folder = config_dir.expanduser().absolute()
        if not folder.is_dir():
            raise ConfigError(f"--config-dir {config_dir}: no such folder")
        searched = [f"hydra.searchpath=[{quoted(f'file://{folder}')}]"]
    register_schemas()
    register_sweeper()
    running = GlobalHydra.instance().hydra  # within `launch.py` there is one, and only one can be
    GlobalHydra.instance().clear()
    try:
        with (
            strict_booleans(),
            initialize_config_dir(version_base="1.3", config_dir=str(CONF)),
        ):
            yield searched
    finally:
        GlobalHydra.instance().hydra = running


def quoted(text: str) -> str:
    """A text as a value of an override: quoted, so that Hydra's grammar sees nothing in it."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def flags_first(arguments: Sequence[str]) -> list[str]:
    """Flags moved before overrides: Hydra refuses overrides on both sides of one.

    Call it within `hydra_arguments`.
    """
    overrides = get_args_parser().parse_intermixed_args(arguments).overrides
    flags = list(arguments)
    for override in reversed(overrides):
        del flags[len(flags) - 1 - flags[::-1].index(override)]
    return flags + overrides


def with_brackets(argument: str) -> str:
    """`knob.sizes=560x336,784x784` as `knob.sizes=[560x336,784x784]`; `range(1,13,4)` too.

    zsh does not pass brackets without quotes, and Hydra alone would read the commas as a sweep.
    """
    key, equals, value = argument.partition("=")
    if equals and not key:
        raise ConfigError(f"{argument}: no key before the =; write key=value")
    key = SEEDS_KEYS.get(key, key)
    if key not in VALUE_KEYS:
        return argument
    value = value.replace("×", "x")
    argument = f"{key}={value}"
    if not value or value.lstrip().startswith("[") or value == "null":
        return argument
    try:
        override = OverridesParser.create().parse_override(argument)
        if override.value_type in (ValueType.GLOB_CHOICE_SWEEP, ValueType.INTERVAL_SWEEP):
            raise ValueError(f"names no values; list them, as in {key}=A,B")
        values = override.sweep_string_iterator() if override.is_sweep_override() else [value]
        return f"{key}=[{','.join(values)}]"
    except HydraException as error:  # the parser's own text names no key
        raise ConfigError(f"{argument}: {UNPARSABLE}") from error
    except ValueError as error:
        raise ConfigError(f"{argument}: {error}") from error
