"""From a checkpoint to a model on its device: published weights, or random ones of its size."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from vtexp.errors import CheckpointError, message_of, no_memory_left
from vtexp.models.checkpoints import Checkpoint
from vtexp.models.devices import require_device
from vtexp.utils.cores import cores_of_quota

#: What torch and transformers raise where a model is built of a config.json that does not fit it.
UNFIT = (
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    ImportError,
    SafetensorError,
)


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
    require_device(device)
    compute_within_quota()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # what does not fit is reported here
    config_class: Any = model_class.config_class
    try:
        config = config_class.from_dict(checkpoint.config)
    except Exception as error:  # transformers' checks raise classes of their own
        raise CheckpointError(
            f"{checkpoint.name}: its config.json says {message_of(error)}"
        ) from error
    torch_dtype: torch.dtype = getattr(torch, dtype)
    try:
        if checkpoint.folder is None:
            model = _random(checkpoint.name, model_class, config, device, torch_dtype)
        else:
            device_map = "auto" if sharded else {"": device}
            model = _pretrained(checkpoint, model_class, config, device_map, torch_dtype)
            if sharded:
                _require_on_gpus(checkpoint, model, dtype)
    except torch.OutOfMemoryError as error:
        raise CheckpointError(
            f"{checkpoint.name}: the weights do not fit into the memory of {device} as {dtype}"
        ) from error
    return model.eval().requires_grad_(False)


def compute_within_quota() -> None:
    """Have torch compute on no more threads than this process's CPU quota has cores.

    On its own it starts one for each core of the machine, and then the quota stops all of them for
    a part of the time. A number of threads that the user chose stays.
    """
    cores = cores_of_quota()
    chosen = {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & os.environ.keys()
    if cores is not None and cores < torch.get_num_threads() and not chosen:
        torch.set_num_threads(cores)


def _require_on_gpus(checkpoint: Checkpoint, model: Any, dtype: str) -> None:
    """Raises CheckpointError where accelerate left a part on the host, to be sent at each pass.

    Such a part is on `meta` between passes. Where one device has all, there is no `hf_device_map`.
    """
    if any(own.device.type in ("cpu", "meta") for own in model.parameters()):
        raise CheckpointError(
            f"{checkpoint.name}: the visible GPUs cannot hold the weights as {dtype}; ask for "
            "more of them"
        )


def _random(
    name: str,
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    device: str,
    dtype: torch.dtype,
) -> PreTrainedModel:
    torch.manual_seed(0)
    try:
        with torch.device(device):
            return model_class._from_config(config, dtype=dtype)
    except torch.OutOfMemoryError:
        raise
    except UNFIT as error:
        if no_memory_left(error):
            raise
        raise CheckpointError(
            f"{name}: its config.json does not describe a model: {message_of(error)}"
        ) from error


def _pretrained(
    checkpoint: Checkpoint,
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    device_map: str | dict[str, str],
    dtype: torch.dtype,
) -> PreTrainedModel:
    folder = checkpoint.folder
    try:
        with _report() as report, _in_order(getattr(model_class, "load_in_order", False)):
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
    except UNFIT as error:
        name, wrong = checkpoint.family.name, sorted(set(_CONVERTED.findall("".join(report))))
        reason = (
            f"what makes up {', '.join(wrong[:3])} does not fit" if wrong else message_of(error)
        )
        raise CheckpointError(f"{folder}: cannot be loaded as {name}: {reason}") from error
    model, loading = loaded
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loading[kind]:
            keys = sorted(key if isinstance(key, str) else key[0] for key in loading[kind])
            names = ", ".join(keys[:5])
            problem = f"{len(loading[kind])} {kind.replace('_', ' ')}: {names}"
            raise CheckpointError(f"{folder}: the weights have {problem}")
    return model


#: How transformers' report of a load names a tensor that could not be made of those in the file.
_CONVERTED = re.compile(r"tensors destined for (\S+?)\.? ")


@contextmanager
def _report() -> Iterator[list[str]]:
    """What transformers tells of a load, which is not shown: it fills a screen."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers.modeling_utils")
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


@contextmanager
def _in_order(wanted: bool) -> Iterator[None]:
    """Have transformers read tensors one by one, not ahead: that took as much memory again."""
    name = "HF_DEACTIVATE_ASYNC_LOAD"
    before = os.environ.get(name)
    if wanted:
        os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before
