"""The published models at full size: parameters and their names, built without memory for them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import Molmo2Config, Molmo2ForConditionalGeneration

from vtexp.models.checkpoints import find_checkpoint
from vtexp.models.molmo.configuration import MolmoConfig
from vtexp.models.molmo.modeling import MolmoForCausalLM
from vtexp.models.molmo.molmoe import MolmoEForCausalLM

ARCHITECTURES = Path(__file__).parents[2] / "vtexp" / "assets" / "architectures" / "allenai"

#: Tensors and parameters. 7B-D: the published model.safetensors.index.json (its total_size is four
#: bytes a parameter). 7B-O and 72B: the public training code's model, built on the meta device with
#: its own configs (launch_scripts/utils.py at commit 793fa387).
COUNTS = {
    "Molmo-7B-D-0924": (585, 32_084_101_120 // 4),
    "Molmo-7B-O-0924": (645, 7_665_032_192),
    "Molmo-72B-0924": (949, 73_308_285_952),
}


def build(name: str) -> MolmoForCausalLM:
    config = MolmoConfig(**json.loads((ARCHITECTURES / f"{name}.json").read_text()))
    with torch.device("meta"):
        return (MolmoEForCausalLM if config.moe_num_experts else MolmoForCausalLM)(config)


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_are_those_of_the_published_model(name: str) -> None:
    parameters = list(build(name).parameters())
    assert (len(parameters), sum(p.numel() for p in parameters)) == COUNTS[name]


#: A small checkpoint of the reference code with the same flags.
REFERENCES = {
    "Molmo-7B-D-0924": "molmo_d",
    "Molmo-7B-O-0924": "molmo_o",
    "Molmo-72B-0924": "molmo_d",
}


@pytest.mark.golden
@pytest.mark.parametrize("name", REFERENCES)
def test_names_are_those_of_the_reference_in_every_layer(name: str, golden_dir: Path) -> None:
    """The reference's names, of as many layers as the published config has."""
    model = build(name)
    layers = {
        "resblocks": model.config.vision_backbone["image_num_layers"],
        "blocks": model.config.num_hidden_layers,
    }
    expected = set()
    with safe_open(golden_dir / REFERENCES[name] / "model.safetensors", "pt") as reference:
        for parameter in list(reference.keys()):
            layer = re.search(r"(\w*blocks)\.\d+", parameter)
            for number in range(layers[layer[1]] if layer else 1):
                expected.add(re.sub(r"blocks\.\d+", f"blocks.{number}", parameter))
    assert dict(model.named_parameters()).keys() == expected


def test_molmoe_has_the_parameters_of_its_card() -> None:
    """7.2 B in all, 1.5 B at work on a token (model card of MolmoE-1B-0924)."""
    model = build("MolmoE-1B-0924")
    total = sum(p.numel() for p in model.parameters())
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    config = model.config
    active = total - experts * (1 - config.moe_top_k / config.moe_num_experts)
    assert (round(total / 1e9, 1), round(active / 1e9, 1)) == (7.2, 1.6)


#: Size of the published safetensors files in GiB, four bytes a parameter (hub listings).
MOLMO2_GIB = {"Molmo2-4B": 18.1, "Molmo2-8B": 32.3, "Molmo2-O-7B": 28.9}


@pytest.mark.parametrize("name", MOLMO2_GIB)
def test_molmo2_has_the_size_of_its_published_files(name: str) -> None:
    config = find_checkpoint(f"allenai/{name}", random=True).config
    with torch.device("meta"):
        model = Molmo2ForConditionalGeneration(Molmo2Config.from_dict(config))
    size = 4 * sum(p.numel() for p in model.parameters())
    assert round(size / 2**30, 1) == MOLMO2_GIB[name]
