"""From a checkpoint to a model on its device: published weights, or random ones of its size."""

from __future__ import annotations

from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from vtexp.errors import CheckpointError, ConfigError
from vtexp.models.checkpoints import Checkpoint


def load_model(
    checkpoint: Checkpoint,
    model_class: type[PreTrainedModel],
    device: str,
    dtype: str,
    *,
    sharded: bool = False,
) -> PreTrainedModel:
    """The model in evaluation mode, its weights read straight to the device and dtype.

    `sharded`: blocks are spread over all visible GPUs, by accelerate. Raises CheckpointError for
    files that do not fit together, ConfigError for a device that is not there.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "hardware.device=cuda: this machine has no usable CUDA GPU; take hardware=cpu"
        )
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # what does not fit is reported here
    config_class: Any = model_class.config_class
    config = config_class.from_dict(checkpoint.config)
    torch_dtype: torch.dtype = getattr(torch, dtype)
    try:
        if checkpoint.folder is None:
            model = _random(model_class, config, device, torch_dtype)
        else:
            device_map = "auto" if sharded else {"": device}
            model = _pretrained(checkpoint, model_class, config, device_map, torch_dtype)
    except torch.OutOfMemoryError as error:
        raise CheckpointError(
            f"{checkpoint.name}: the weights do not fit into the memory of {device} as {dtype}"
        ) from error
    return model.eval().requires_grad_(False)


def _random(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, device: str, dtype: torch.dtype
) -> PreTrainedModel:
    torch.manual_seed(0)
    with torch.device(device):
        return model_class._from_config(config, dtype=dtype)


def _pretrained(
    checkpoint: Checkpoint,
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    device_map: str | dict[str, str],
    dtype: torch.dtype,
) -> PreTrainedModel:
    folder = checkpoint.folder
    try:
        # With output_loading_info two values come back, which the library's types leave out.
        loaded: Any = model_class.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            device_map=device_map,
            use_safetensors=True,
            output_loading_info=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # they are reported below, by name
        )
    except torch.OutOfMemoryError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        name = checkpoint.family.name
        raise CheckpointError(f"{folder}: cannot be loaded as {name}: {reason}") from error
    model, loading = loaded
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loading[kind]:
            keys = sorted(key if isinstance(key, str) else key[0] for key in loading[kind])
            names = ", ".join(keys[:5])
            problem = f"{len(loading[kind])} {kind.replace('_', ' ')}: {names}"
            raise CheckpointError(f"{folder}: the weights have {problem}")
    return model
