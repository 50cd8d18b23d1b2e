"""The golden checkpoints with a reduction that keeps all: the plain model bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vtexp.budget.geometry import MOLMO
from vtexp.budget.knobs import CropSetting
from vtexp.budget.reduction import Reduction
from vtexp.data.sample import to_rgb
from vtexp.models.molmo.configuration import MolmoConfig
from vtexp.models.molmo.early import read_early, read_late, reduce_early
from vtexp.models.molmo.modeling import ImagePlaces, MolmoForCausalLM, image_places
from vtexp.models.molmo.molmoe import MolmoEForCausalLM
from vtexp.models.molmo.preprocess import ImageTokenIds, preprocess_image
from vtexp.models.molmo.reduced import Connected, reduce_prompts, view_grids
from vtexp.models.prefill_graphs import PromptCache
from vtexp.models.reduced_prompt import reducible_prompt

pytestmark = pytest.mark.golden


@pytest.mark.parametrize(
    "method", ["stride", "pool", "cls_attention", "max_min", "conditional", "early_layer"]
)
@pytest.mark.parametrize("variant", ["molmo_d", "molmo_o", "molmoe_tiny"])
@torch.inference_mode()
def test_all_kept_is_the_plain_model(golden_dir: Path, variant: str, method: str) -> None:
    kind = MolmoEForCausalLM if variant == "molmoe_tiny" else MolmoForCausalLM
    folder = golden_dir / variant
    model = kind.from_pretrained(folder, config=MolmoConfig.from_pretrained(folder)).eval()
    first = model.config.embedding_size
    picture = to_rgb(Image.open(golden_dir / "molmoe_tiny" / "input0.png"))
    ids = ImageTokenIds(*range(first, first + 4))
    image = preprocess_image(picture, CropSetting(1), MOLMO, ids)
    input_ids = torch.cat([torch.tensor([1]), image.image_tokens, torch.arange(2, 9)])[None]
    index = torch.where(image.image_input_idx >= 0, image.image_input_idx + 1, -100)
    plain = model(
        input_ids=input_ids,
        images=image.patches[None],
        image_masks=image.padding_mask[None],
        image_input_idx=index[None],
        logits_to_keep=1,
    ).logits

    backbone = model.model.vision_backbone
    places = image_places(index[None], input_ids.shape[1])
    features, last_input = backbone.image_vit(image.patches, with_last_input=True)
    connected = Connected(backbone.connect(features, image.padding_mask, places.kept), last_input)
    for tokens, same in ((10**5, True), (64, False)):
        prompt = reducible_prompt(
            Reduction(method, kept=tokens, layer=1 if method == "early_layer" else None),
            index,
            input_ids.shape[1],
            slice(1, 1 + len(image.image_tokens)),
            view_grids(image.tiling, MOLMO, full=False),
        )
        if method == "early_layer":
            blocks = model.blocks_of(None)
            read = read_early(model, blocks, 1, input_ids, connected.tokens, places, PromptCache())
            logits = read_late(model, reduce_early(model, [prompt], read))
            assert logits.isfinite().all()
            assert torch.equal(logits, plain) == same
            continue
        reduced = reduce_prompts(model.model, [prompt], connected, input_ids)
        logits = model(
            input_ids=input_ids,
            image_input_idx=ImagePlaces(torch.ones(1), reduced.source, reduced.places),
            image_features=reduced.features,
            rows=reduced.rows,
            logits_to_keep=1,
        ).logits
        assert logits.isfinite().all()
        assert torch.equal(logits, plain) == same
        assert len(np.unique(reduced.rows)) == input_ids.shape[1] - (0 if same else 288 - 64)
