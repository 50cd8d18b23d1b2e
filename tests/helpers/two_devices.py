"""Stages of a Molmo v1 whose parts lie on two devices, as with `hardware.sharded`, without a GPU.

    python -m tests.helpers.two_devices CHECKPOINT IMAGE

The second device is one of torch's fake tensors: they have a device, a shape and a type but no
numbers, and refuse what mixes devices. accelerate's own hooks send inputs from part to part. Prints
a line of JSON: what each pass said, empty where it went through. In a process of its own, as the
device's name is registered in torch for good.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from vtexp.budget.geometry import MOLMO
from vtexp.budget.knobs import CropSetting
from vtexp.budget.reduction import Reduction
from vtexp.config.schema import HardwareConfig
from vtexp.data.sample import ImageFile, Sample
from vtexp.models.checkpoints import find_checkpoint
from vtexp.models.molmo import runner as molmo
from vtexp.models.molmo.answering import AnswerSteps, BufferSizes
from vtexp.models.molmo.runner import MolmoRunner
from vtexp.models.reduced_prompt import ReduciblePrompt
from vtexp.models.runner import PreparedSample

_setup_privateuseone_for_python_backend("other")
FIRST, SECOND = torch.device("cpu"), torch.device("other:1")
#: As accelerate fills them: the encoder comes behind the language model.
ON_SECOND = (
    "model.transformer.blocks.1",
    "model.transformer.ln_f",
    "model.transformer.ff_out",
    "model.vision_backbone",
)
REDUCTIONS = {
    "none": None,
    "stride": Reduction("stride", kept=30),
    "pool": Reduction("pool", kept=100),
    "random": Reduction("random", kept=30),
    "max_min": Reduction("max_min", kept=30),
    "conditional": Reduction("conditional", kept=30),
    "cls_attention": Reduction("cls_attention", kept=30),
    "merge": Reduction("cls_attention", kept=30, merge=True),
}
fake = FakeTensorMode(allow_non_fake_inputs=True)


def faked(tree: Any) -> Any:
    """The same with fake tensors where there are real ones."""
    return tree_map_only(torch.Tensor, fake.from_tensor, tree)


class Placed(AlignDevicesHook):
    """accelerate's hook around a module whose weights are at their place already."""

    def init_hook(self, module: nn.Module) -> nn.Module:
        return module


class Runner(MolmoRunner):
    """What follows from the layout of a prompt is fake too; its numbers are not needed."""

    def _reducible(self, prepared: PreparedSample) -> ReduciblePrompt:
        return ReduciblePrompt(*map(faked, super()._reducible(prepared)))


def on_two_devices(model: nn.Module) -> nn.Module:
    """The model with fake weights, half of it on the second device."""
    model = copy.deepcopy(model)
    add_hook_to_module(model, Placed(execution_device=FIRST, io_same_device=True))
    for name, module in model.named_modules():
        second = any(name == part or name.startswith(f"{part}.") for part in ON_SECOND)
        device = SECOND if second else FIRST
        _place(module, device)
        if (fused := getattr(module, "fused", None)) is not None:  # no child of the module
            for own in fused.modules():
                _place(own, device)
        if second and module.state_dict():
            add_hook_to_module(module, Placed(execution_device=device))
    return model


def _place(module: nn.Module, device: torch.device) -> None:
    for held in (module._parameters, module._buffers):
        for name, tensor in held.items():
            if tensor is not None:
                moved = fake.from_tensor(tensor.data).to(device)
                held[name] = nn.Parameter(moved, False) if held is module._parameters else moved


def said(pass_: Callable[[], Any]) -> str:
    """What a pass failed with; empty where it did not."""
    try:
        with fake, torch.no_grad():
            pass_()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main(checkpoint: str, image: str) -> None:
    """Print what all passes said."""
    sample = Sample("0", "0", ImageFile(Path(image)), "is there a circle?", ("yes",), "yes/no")
    runner = Runner.load(find_checkpoint(checkpoint), MOLMO, HardwareConfig())
    with fake:
        model = on_two_devices(runner.model)
    runner = replace(runner, model=model)

    def step() -> None:
        steps = AnswerSteps(model, BufferSizes(2, 128))  # type: ignore[arg-type]
        steps._cache.is_prompt = False
        steps.next()

    found, places = {"step": said(step)}, molmo.image_places
    with patch.object(molmo, "image_places", lambda *args: faked(places(*args))):
        for name, reduction in REDUCTIONS.items():
            prepared = runner.prepare(sample, CropSetting(2, reduction=reduction), "easy_vqa")
            stages = runner.graph_stages(prepared)
            found[name] = said(stages._replace(inputs=faked(stages.inputs)).run)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
