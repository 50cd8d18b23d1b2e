"""The runner of each family, which brings torch and transformers: imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtexp.models.families import Family
from vtexp.utils.by_name import imported

if TYPE_CHECKING:
    from vtexp.models.runner import Runner


def runner_class(family: Family) -> type[Runner]:
    """The runner of a family, imported now."""
    return imported(family.runner)
