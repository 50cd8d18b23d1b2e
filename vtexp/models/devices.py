"""Whether this machine has the device that a config asks for; torch is imported when asked."""

from __future__ import annotations

from vtexp.errors import ConfigError

#: Compute capability of Hopper.
LEAST_FOR_FLOAT8 = (9, 0)


def require_device(device: str) -> None:
    """Raises ConfigError for a device, `cpu` or `cuda`, that this machine does not have."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "hardware.device=cuda: this machine has no usable CUDA GPU; take hardware=cpu"
        )


def require_float8(device: str) -> None:
    """Raise ConfigError where the device has no float8 products of the kind used here."""
    import torch

    nvidia = device == "cuda" and torch.version.cuda is not None and torch.cuda.is_available()
    if not nvidia or torch.cuda.get_device_capability() < LEAST_FOR_FLOAT8:
        raise ConfigError(
            "hardware.dtype=float8 needs an NVIDIA GPU of the Hopper generation or newer (H100, "
            "H200); take bfloat16"
        )
