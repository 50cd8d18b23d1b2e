"""Passes of a model whose parts lie on two devices, as with `hardware.sharded`, without a GPU.

    python -m tests.helpers.two_devices FAMILY CHECKPOINT IMAGE

accelerate itself spreads the model over two devices of `labelled` and sends inputs from part to
part. Prints a line of JSON: what each pass said, empty where it went through and gave what the
model on the host gives. In a process of its own, as the devices are registered in torch for good.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import dispatch_model
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.helpers.closeness import assert_close_to_spread
from tests.helpers.labelled import FIRST, SECOND, labels
from vtexp.budget.knobs import KnobValue
from vtexp.budget.llm import LlmSetting
from vtexp.budget.reduction import Reduction
from vtexp.config.schema import HardwareConfig
from vtexp.data.sample import ImageFile, Sample
from vtexp.models.checkpoints import find_checkpoint
from vtexp.models.molmo.runner import MolmoRunner
from vtexp.models.runner import PreparedSample, Runner
from vtexp.models.runners import runner_class

Map = dict[str, torch.device]
QUESTIONS = ("is there a circle?", "is there a red circle, user?")  # one prompt is padded
REDUCTIONS = {
    "plain": None,
    "stride": Reduction("stride", kept=30),
    "pool": Reduction("pool", kept=100),
    "random": Reduction("random", kept=30),
    "max_min": Reduction("max_min", kept=30),
    "conditional": Reduction("conditional", kept=30),
    "cls_attention": Reduction("cls_attention", kept=30),
    "merge": Reduction("cls_attention", kept=30, merge=True),
    "positions=keep": Reduction("stride", kept=30, positions="keep"),
    "structure_tokens=drop": Reduction("stride", kept=30, structure_tokens="drop"),
}
LLM_SETTINGS = {
    "top_k": LlmSetting(top_k=1, first_top_k=3),
    "blocks": LlmSetting(blocks=(0, 2, 3)),
    "top_k and blocks": LlmSetting(top_k=2, blocks=(0, 1, 3)),
}
#: A cap on an image's crops, which are cells of 28 x 28 pixels in Qwen2.5-VL.
CAPS = {"qwen2_5_vl": "200"}


def device_maps(model: Any) -> dict[str, Map]:
    """Device of each part by name, for each layout."""
    language = (
        "model.transformer" if hasattr(model.model, "transformer") else "model.language_model"
    )
    vision = [f"model.{name}" for name, _ in model.model.named_children()]
    vision.remove(language)
    head = [name for name, _ in model.named_children() if name != "model"]
    embedding, *behind = model.get_submodule(language).named_children()
    tied = head and model.lm_head.weight is model.get_input_embeddings().weight
    split = {f"{language}.{embedding[0]}": FIRST} | _on(FIRST if tied else SECOND, head)
    for name, part in behind:
        split |= _halves(f"{language}.{name}", part)
    whole = [language, *head]
    vision_second = _on(SECOND, vision)
    if language == "model.transformer":  # Molmo v1's vision side is the last part
        return {"first blocks, then the rest and vision": split | vision_second}
    vision_first = _on(FIRST, vision)
    return {
        "vision, then language model": vision_first | _on(SECOND, whole),
        "vision and first blocks, then the rest": vision_first | split,
        "language model, then vision": _on(FIRST, whole) | vision_second,
    }


def _on(device: torch.device, parts: Sequence[str]) -> Map:
    return dict.fromkeys(parts, device)


def _halves(name: str, part: nn.Module) -> Map:
    """Blocks in halves; what comes behind them on the second device."""
    if not isinstance(part, nn.ModuleList):
        return {name: SECOND}
    half = len(part) // 2
    return {f"{name}.{i}": FIRST if i < half else SECOND for i in range(len(part))}


def spread(runner: Runner, devices: Map) -> Runner:
    """The same with its model on two devices."""
    model: Any = copy.deepcopy(runner.model)
    skipped = model._skip_keys_device_placement  # as transformers has it when it loads
    dispatch_model(model, devices, FIRST, skip_keys=skipped)
    if isinstance(runner, MolmoRunner):  # layers that are no modules, made after loading
        model.model.vision_backbone.image_vit.fuse()
    return replace(runner, model=model, device=FIRST)


def batches(runner: Runner, family: str, image: Path) -> dict[str, list[PreparedSample]]:
    """What each pass reads: prompts of two lengths."""
    crops = KnobValue("max_crops", CAPS.get(family, "2")).crop_setting(runner.geometry)
    samples = [Sample("0", "0", ImageFile(image), q, ("yes",), "yes/no") for q in QUESTIONS]

    def prepared(reduction: Reduction | None) -> list[PreparedSample]:
        setting = replace(crops, reduction=reduction)
        return [runner.prepare(sample, setting, "easy_vqa") for sample in samples]

    found = {name: prepared(reduction) for name, reduction in REDUCTIONS.items()}
    if family == "molmoe":
        for name, llm in LLM_SETTINGS.items():
            found[name] = [replace(one, llm=llm) for one in found["merge"]]
    return found


def prefill(runner: Runner, batch: list[PreparedSample]) -> torch.Tensor:
    """Logits of the first prompt, on the host."""
    return runner._eager_stages(batch[0], lambda _: None).cpu()


def answers(runner: Runner, batch: list[PreparedSample]) -> Any:
    """Token ids of all answers, and what hooks counted."""
    # Inference mode, which `answer` is wrapped in, does not know of labels.
    answer: Any = type(runner).answer.__wrapped__  # type: ignore[attr-defined]
    with runner.probe() as probe:
        return answer(runner, batch, 3), probe.take()


def said(pass_: Callable[..., Any], runner: Runner, batch: Any, same: Callable, as_: Any) -> str:
    """What a pass failed with; empty where it did not."""
    try:
        same(pass_(runner, batch), as_)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def assert_equal(found: Any, expected: Any) -> None:
    """Of answers and counts."""
    assert found == expected, f"{found} for {expected}"


def main(family: str, checkpoint_path: str, image: str) -> None:
    """Print what all passes said."""
    checkpoint = find_checkpoint(checkpoint_path)
    geometry = checkpoint.family.geometry_of(checkpoint.config)
    runner = runner_class(checkpoint.family).load(checkpoint, geometry, HardwareConfig())
    made, found = batches(runner, family, Path(image)), {}
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # what other devices compute by
        expected = {n: (prefill(runner, own), answers(runner, own)) for n, own in made.items()}
    with labels():
        for layout, devices in device_maps(runner.model).items():
            sharded = spread(runner, devices)
            for name, batch in made.items():
                logits, answered = expected[name]
                found[f"{layout}: {name}: prefill"] = said(
                    prefill, sharded, batch, assert_close_to_spread, logits
                )
                found[f"{layout}: {name}: answers"] = said(
                    answers, sharded, batch, assert_equal, answered
                )
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
