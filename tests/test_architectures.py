"""The published models at full size: parameters and their names, built without memory for them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import Molmo2Config, Molmo2ForConditionalGeneration

from vtexp.models.checkpoints import find_checkpoint
from vtexp.models.molmo.configuration import MolmoConfig
from vtexp.models.molmo.modeling import MolmoForCausalLM
from vtexp.models.molmo.molmoe import MolmoEForCausalLM

ARCHITECTURES = Path(__file__).parents[1] / "vtexp" / "assets" / "architectures" / "allenai"

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


def test_names_are_those_of_the_published_index() -> None:
    """Names of a block, a vision block and the rest, as Molmo-7B-D's index lists them."""
    names = dict(build("Molmo-7B-D-0924").named_parameters())
    kinds = {re.sub(r"\.\d+\.", ".N.", name) for name in names}
    vision = "model.vision_backbone.image_vit."
    block, resblock = "model.transformer.blocks.N.", vision + "transformer.resblocks.N."
    linear = ("weight", "bias")
    assert kinds == {
        *(block + n for n in ("att_proj.weight", "att_proj.bias", "attn_out.weight")),
        *(block + n for n in ("attn_norm.weight", "ff_norm.weight")),
        *(block + n for n in ("ff_proj.weight", "ff_out.weight")),
        *(f"{resblock}attention.{n}.{k}" for n in ("wq", "wk", "wv", "wo") for k in linear),
        *(f"{resblock}feed_forward.{n}.{k}" for n in ("w1", "w2") for k in linear),
        *(f"{resblock}{n}.{k}" for n in ("attention_norm", "ffn_norm") for k in linear),
        *(vision + n for n in ("class_embedding", "positional_embedding")),
        *(vision + n for n in ("patch_embedding.weight", "pre_ln.weight", "pre_ln.bias")),
        *(
            f"model.vision_backbone.image_pooling_2d.{n}.{k}"
            for n in ("wq", "wk", "wv", "wo")
            for k in linear
        ),
        *(f"model.vision_backbone.image_projector.{n}.weight" for n in ("w1", "w2", "w3")),
        "model.vision_backbone.pad_embed",
        *(f"model.transformer.{n}" for n in ("wte.embedding", "wte.new_embedding")),
        *(f"model.transformer.{n}.weight" for n in ("ln_f", "ff_out")),
    }


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
