"""The runner of each family, which brings torch and transformers: imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vtexp.errors import ConfigError
from vtexp.models.families import Family
from vtexp.utils.by_name import imported

if TYPE_CHECKING:
    from vtexp.models.runner import Runner


def runner_class(family: Family) -> type[Runner]:
    """The runner of a family, imported now."""
    return imported(family.runner)


def require_device(device: str) -> None:
    """Raises ConfigError for a device, `cpu` or `cuda`, that this machine does not have."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "hardware.device=cuda: this machine has no usable CUDA GPU; take hardware=cpu"
        )
