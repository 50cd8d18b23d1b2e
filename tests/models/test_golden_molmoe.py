"""The native MolmoE against the public model code, from the picture to the answer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from tests.helpers.closeness import assert_close_to_spread
from vtexp.budget.geometry import MOLMO
from vtexp.budget.knobs import CropSetting
from vtexp.data.sample import to_rgb
from vtexp.errors import CheckpointError
from vtexp.models.checkpoints import ASSETS, Checkpoint
from vtexp.models.families import FAMILIES
from vtexp.models.loading import load_model
from vtexp.models.molmo.configuration import MolmoConfig
from vtexp.models.molmo.molmoe import MolmoEForCausalLM
from vtexp.models.molmo.preprocess import ImageTokenIds, preprocess_image
from vtexp.prompts.tokenizer import PromptTokenizer

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def folder(golden_dir: Path) -> Path:
    return golden_dir / "molmoe_tiny"


@pytest.fixture(scope="module", params=["grouped_mm", "eager"])
def model(request: pytest.FixtureRequest, folder: Path) -> MolmoEForCausalLM:
    model, loading = MolmoEForCausalLM.from_pretrained(
        folder,
        config=MolmoConfig.from_pretrained(folder),
        experts_implementation=request.param,
        output_loading_info=True,
    )
    assert not any(loading.values())
    return model.eval()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_from_picture_to_answer(folder: Path, model: MolmoEForCausalLM, number: int) -> None:
    expected = {
        key.removeprefix(f"{number}."): array
        for key, array in np.load(folder / "expected.npz").items()
        if key.startswith(f"{number}.")
    }
    first = model.config.embedding_size
    picture = to_rgb(Image.open(folder / f"input{number}.png"))
    setting = CropSetting(int(expected["max_crops"]))
    ids = ImageTokenIds(*range(first, first + 4))
    image = preprocess_image(picture, setting, MOLMO, ids)
    kept = image.image_input_idx >= 0
    index = torch.where(kept, image.image_input_idx + 1, -100)  # BOS comes first
    wanted = expected["image_input_idx"]
    np.testing.assert_array_equal(kept, wanted >= 0)
    np.testing.assert_array_equal(index[kept], wanted[wanted >= 0])

    inputs = {
        "input_ids": torch.from_numpy(expected["input_ids"]).long()[None],
        "images": image.patches[None],
        "image_masks": image.padding_mask[None],
        "image_input_idx": index[None],
    }
    with torch.no_grad():
        features = model.encode_images(image.patches, image.padding_mask).flatten(0, 1)
        logits = model(**inputs).logits[0]
    # Larger features than other models': off by up to 4e-6 of the spread on an AMD processor.
    assert_close_to_spread(features[::17], expected["features_sample"], 1e-5)
    assert_close_to_spread(logits[-1], expected["logits_last"])
    assert_close_to_spread(logits[-13:], expected["logits_text"])
    generated = model.generate(**inputs, max_new_tokens=6, eos_token_id=10**6)
    np.testing.assert_array_equal(generated[0], expected["generated"])


@torch.no_grad()
def test_experts_of_any_width(folder: Path) -> None:
    """Also where a row of theirs has no whole 16 bytes, which grouped matmuls need."""
    config = MolmoConfig.from_pretrained(folder)
    config.hidden_size, config.num_attention_heads, config.num_key_value_heads = 30, 3, 3
    config.intermediate_size = 2 * 33
    model = MolmoEForCausalLM(config).eval()
    mixture = model.model.transformer.blocks[0].mlp
    x = torch.randn(7, 30)
    shares = mixture.gate(x).softmax(dim=-1)
    shares = shares.where(shares >= shares.topk(config.moe_top_k).values[:, -1:], 0)
    gates, ups = mixture.experts.gate_up_proj.chunk(2, dim=1)
    inner = F.silu(torch.einsum("nh,ewh->new", x, gates)) * torch.einsum("nh,ewh->new", x, ups)
    expected = torch.einsum("new,ehw,ne->nh", inner, mixture.experts.down_proj, shares)
    assert_close_to_spread(mixture(x[None])[0], expected)
    assert model(torch.arange(7)[None]).logits.isfinite().all()


@pytest.mark.parametrize("change", ["shape", "gone"])
def test_an_expert_that_does_not_fit_is_named(folder: Path, tmp_path: Path, change: str) -> None:
    from safetensors.torch import load_file, save_file

    copy = tmp_path / "other"
    shutil.copytree(folder, copy)
    weights = load_file(copy / "model.safetensors")
    name = next(name for name in weights if "experts.1.gate_proj" in name)
    expert = weights.pop(name)
    if change == "shape":
        weights[name] = expert[:-1].contiguous()
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    stand_in = PromptTokenizer.from_folder(ASSETS / "molmo_tiny")
    config = json.loads((copy / "config.json").read_text())
    checkpoint = Checkpoint("other", FAMILIES["molmo"], config, stand_in, copy, "")
    with pytest.raises(CheckpointError, match=r"model\.transformer\S*gate_up_proj"):
        load_model(checkpoint, MolmoEForCausalLM, "cpu", "float32")


def test_saved_checkpoint_has_the_published_names(
    folder: Path, model: MolmoEForCausalLM, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    model.save_pretrained(tmp_path)
    published, saved = (load_file(f / "model.safetensors") for f in (folder, tmp_path))
    assert published.keys() == saved.keys()
    assert all(torch.equal(published[name], saved[name]) for name in published)
