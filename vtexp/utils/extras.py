"""Extras: which packages each one installs, and the one-line error if they are missing."""

from __future__ import annotations

import importlib.util

from vtexp.errors import MissingExtraError
from vtexp.utils.text import listed

#: Modules that an extra brings, as `[project.optional-dependencies]` names them in pyproject.toml.
EXTRAS = {
    "wandb": ("wandb", "wandb_workspaces"),
    "slurm": ("submitit",),
    "report": ("plotly", "jinja2", "matplotlib", "pandas"),
    "easy_vqa": ("easy_vqa",),
}


def require_extra(extra: str, needed_by: str, remark: str = "") -> None:
    """Raise MissingExtraError where a module of an extra is not installed; nothing is imported.

    `needed_by` is what a user asked for, such as `tracking=wandb`; `remark` ends the line.
    """
    if missing := missing_modules(extra):
        raise MissingExtraError(
            f'{needed_by} needs {listed(missing)}: pip install "vtexp[{extra}]"{remark}'
        )


def missing_modules(extra: str) -> list[str]:
    """Modules of an extra that are not installed."""
    return [module for module in EXTRAS[extra] if not _installed(module)]


def _installed(module: str) -> bool:
    """Whether a module is there; a plain folder of its name, as W&B leaves, does not count."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None
