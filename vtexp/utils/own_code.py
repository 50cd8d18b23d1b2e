"""Functions of a user's own that a config names as `module:function`.

Only what a user's config asks for is imported, and only where runs are made: never for a report, a
checkpoint or a data file. The module must be in the current folder or on PYTHONPATH.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from vtexp.errors import ConfigError, error_line

_FORM = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")

#: Those that have been imported for a run of this process.
_imported: dict[str, Callable[..., Any]] = {}


def own_function(key: str, name: str) -> Callable[..., Any]:
    """The function that a key of the config names, imported now.

    Raises ConfigError in one line where there is none, or its module cannot be imported.
    """
    if name not in _imported:
        _imported[name] = _find(f"{key}={name}", name)
    return _imported[name]


def was_imported(name: str) -> bool:
    """Whether a run of this process has asked for this function."""
    return name in _imported


def require_form(key: str, name: str) -> None:
    """Raise ConfigError unless a name has the form module:function."""
    if not _FORM.fullmatch(name):
        raise ConfigError(f"{key}={name}: write module:function, such as my_module:my_function")


def _find(asked: str, name: str) -> Callable[..., Any]:
    module_name, _, function_name = name.partition(":")
    module = _module(asked, module_name)
    function = getattr(module, function_name, None)
    if function is None:
        near = get_close_matches(function_name, dir(module), n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{asked}: {module_name} has no function {function_name}{meant}")
    if not callable(function):
        kind = type(function).__name__
        raise ConfigError(f"{asked}: {function_name} is not a function but a {kind}")
    return function


def _module(asked: str, name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # last: it hides nothing that is installed
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # it is anyone's code
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{name}.".startswith(f"{missing}."):
            raise ConfigError(
                f"{asked}: no module {missing} in {here}, on PYTHONPATH or installed"
            ) from error
        raise ConfigError(f"{asked}: importing {name} failed ({error_line(error)})") from error
