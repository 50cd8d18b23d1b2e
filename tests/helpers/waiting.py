"""What a CUDA graph cannot capture, refused without a GPU.

The device is torch's `meta`: tensors there have a shape and a type, but no numbers. So nothing can
be read off it, and no shape can follow from its data. What is on the host stays real.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vtexp.models.prefill_graphs import GraphStages
from vtexp.models.runner import Runner

AnyRunner = TypeVar("AnyRunner", bound=Runner)
DEVICE = torch.device("meta")


class _NoCopies(TorchDispatchMode):
    """Refuses what goes from host to device or back, and what draws its numbers on the host."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        made = function(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, made)) if isinstance(t, torch.Tensor)]
        # A kernel takes a single number of the host with it.
        kinds = {t.device.type for t in tensors if t.dim() > 0 or name in ("_to_copy", "copy_")}
        if len(kinds) > 1 or name == "randperm":
            raise AssertionError(f"{name} needs the host and the device")
        return made


class _NoTensorsOfLists(TorchFunctionMode):
    """Refuses tensors on the device that are made of numbers of the host."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name, made = getattr(function, "__name__", ""), function(*args, **(kwargs or {}))
        indices = args[1] if name in ("__getitem__", "__setitem__") else ()
        by_list = any(isinstance(own, list) for own in (indices, *_parts(indices)))
        if by_list or name in ("tensor", "as_tensor", "new_tensor"):
            assert made.device != DEVICE, "a tensor on the device is made of numbers of the host"
        return made


def _parts(indices: Any) -> tuple[Any, ...]:
    return indices if isinstance(indices, tuple) else ()


def on_the_device(runner: AnyRunner) -> AnyRunner:
    """The runner with its model there, as bfloat16."""
    model = copy.deepcopy(runner.model).to(DEVICE, torch.bfloat16)
    for module in model.modules():
        if (fused := getattr(module, "fused", None)) is not None:  # no child of the module
            fused.to(DEVICE, torch.bfloat16)
    return replace(runner, model=model, device=DEVICE, dtype=torch.bfloat16)


def by_the_device_alone(pass_: Callable[[], Any]) -> Any:
    """What a pass gives that is run as for a capture: once freely, then without the host.

    Raises AssertionError or what torch raises where it waits for the device, or copies to it.
    """
    pass_()
    with _NoCopies(), _NoTensorsOfLists():
        return pass_()


@torch.no_grad()
def captured(stages: GraphStages) -> torch.Tensor:
    """Logits of stages on the device, as if they were captured."""
    found: torch.Tensor = by_the_device_alone(stages.run)
    assert found.device == DEVICE
    return found
