"""Tensors of the host with real numbers under the label of another device, without a GPU.

As with GPUs, an operation takes tensors of one device alone and fails with `MixedDevices`
otherwise; copies, indices and single numbers of the host may come from elsewhere. `other:0` and
`other:1` are such devices. They are registered in torch for good: use a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("other")
HOST, FIRST, SECOND = (torch.device(name) for name in ("cpu", "other:0", "other:1"))
#: Operations between devices: of the first tensor's device, if not told another.
COPIES = {"aten::_to_copy", "aten::copy_"}
#: Operations whose second argument lists indices, which may be on the host.
INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}


class MixedDevices(RuntimeError):
    """Tensors of several devices in one operation."""


class Labelled(torch.Tensor):
    """`numbers`, a tensor of the host, as one of another device."""

    numbers: torch.Tensor
    # Only operations matter, not the functions of torch's interface that are made of them.
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, numbers: torch.Tensor, device: torch.device) -> Labelled:
        layout = {"strides": numbers.stride(), "storage_offset": numbers.storage_offset()}
        made = torch.Tensor._make_wrapper_subclass(
            cls, numbers.size(), dtype=numbers.dtype, device=device, **layout
        )
        made.numbers = numbers
        return made

    @classmethod
    def __torch_dispatch__(
        cls, operation: Any, _: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        return computed(operation, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        """transformers writes numbers into messages; torch's own looks for them as `tolist`."""
        return f"{self.numbers!r} on {self.device}"

    def tolist(self) -> Any:
        """torch's own would read memory that this tensor has not."""
        return self.cpu().tolist()


class Labels(TorchDispatchMode):
    """Operations without a `Labelled` come by here alone: `zeros(device=...)`, `to(...)`."""

    def __torch_dispatch__(
        self, operation: Any, _: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        return computed(operation, args, kwargs or {})


def computed(operation: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """What an operation gives, on the device where torch would have it."""
    name, asked = operation._schema.name, kwargs.get("device")
    device = _common_device(name, args, kwargs) if asked is None else torch.device(asked)
    if asked is not None:
        kwargs = kwargs | {"device": HOST}
    if name == "aten::histc":  # a GPU counts whole numbers, the host does not
        args = (args[0].float(), *args[1:])
    labelled = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Labelled)]
    known = {id(t.numbers): t for t in labelled}  # operations in place give their argument back
    args, kwargs = tree_map_only(Labelled, lambda t: t.numbers, (args, kwargs))

    def label(result: torch.Tensor) -> torch.Tensor:
        same = known.get(id(result))
        return Labelled(result, device) if same is None else same

    found = operation(*args, **kwargs)
    return found if device == HOST else tree_map_only(torch.Tensor, label, found)


def _common_device(name: str, args: tuple, kwargs: dict[str, Any]) -> torch.device:
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    if name in INDEXED:
        of_host = {id(index) for index in args[1] if index is not None and index.device == HOST}
        tensors = [t for t in tensors if id(t) not in of_host]
    if name in COPIES:
        return tensors[0].device
    devices = {t.device for t in tensors if t.ndim or t.device != HOST}
    if len(devices) > 1:
        found = ", ".join(f"{tuple(t.shape)} on {t.device}" for t in tensors)
        raise MixedDevices(f"{name} of {found}")
    return devices.pop() if devices else HOST


@contextmanager
def labels() -> Iterator[None]:
    """Within, devices may be those of labels."""
    make = torch.tensor

    def tensor(data: Any, *, device: Any = None, **options: Any) -> torch.Tensor:
        made = make(tree_map_only(Labelled, Labelled.tolist, data), **options)
        return made if device is None else made.to(device)

    # torch.tensor reads and sends by code that no mode sees.
    with Labels(), torch.no_grad(), patch.object(torch, "tensor", tensor):
        yield
