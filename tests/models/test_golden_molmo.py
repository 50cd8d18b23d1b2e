"""The native Molmo v1 against the reference model: both dense variants, batches, generation."""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.closeness import assert_close_to_spread
from vtexp.budget.geometry import MOLMO
from vtexp.budget.knobs import CropSetting
from vtexp.data.sample import ImageFile, Sample, to_rgb
from vtexp.models.molmo.configuration import MolmoConfig
from vtexp.models.molmo.modeling import MolmoForCausalLM
from vtexp.models.molmo.preprocess import ImageTokenIds, preprocess_image
from vtexp.models.molmo.runner import MolmoRunner
from vtexp.prompts.tokenizer import Prompt

pytestmark = pytest.mark.golden

#: An id that no row of logits has: generation then never stops early.
NEVER = 1_000_000


class Reference:
    """One golden checkpoint with its cases."""

    def __init__(self, golden_dir: Path, variant: str) -> None:
        folder = golden_dir / variant
        self.images = np.load(golden_dir / "molmo_images.npz")
        self.arrays = np.load(folder / "cases.npz")
        self.index = json.loads((folder / "cases.json").read_text())
        self.config = MolmoConfig.from_pretrained(folder)
        self.model, loading = MolmoForCausalLM.from_pretrained(
            folder, config=self.config, output_loading_info=True
        )
        assert not loading["missing_keys"] and not loading["unexpected_keys"]
        self.model.eval()

    def tensor(self, key: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[key])

    def inputs(self, case: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Model inputs of a case; the batch's missing crops are -1 as in the reference."""
        name, members = case["name"], case["members"]
        inputs = {
            "input_ids": self.tensor(f"{name}/input_ids").long(),
            "attention_mask": self.tensor(f"{name}/attention_mask").long(),
        }
        if members:
            stored = [self.images[f"{member}/images_q"] for member in members]
            images = torch.full((len(stored), max(map(len, stored)), 576, 588), -1.0)
            for row, crops in enumerate(stored):
                images[row, : len(crops)] = torch.from_numpy(crops).float() / 32
            inputs["images"] = images
            for key in ("image_masks", "image_input_idx"):
                inputs[key] = self.tensor(f"{name}/{key}")
        return inputs

    def case(self, name: str) -> dict[str, Any]:
        return next(case for case in self.index["cases"] if case["name"] == name)

    def with_image(self) -> dict[str, Any]:
        """The first case of one image."""
        return next(case for case in self.index["cases"] if len(case["members"]) == 1)


@pytest.fixture(scope="module", params=["molmo_d", "molmo_o"])
def reference(request: pytest.FixtureRequest, golden_dir: Path) -> Reference:
    return Reference(golden_dir, request.param)


@torch.no_grad()
def test_logits(reference: Reference) -> None:
    for case in reference.index["cases"]:
        logits = reference.model(**reference.inputs(case)).logits.numpy()
        for row in range(case["batch"]):
            key = f"{case['name']}/row{row}"
            positions = reference.arrays[f"{key}/positions"]
            expected = reference.arrays[f"{key}/logits"]
            assert_close_to_spread(logits[row, positions], expected)


@torch.no_grad()
@pytest.mark.parametrize("crops", [0, 2])
def test_where_all_crops_are_padding_the_text_is_read_alone(
    reference: Reference, crops: int
) -> None:
    """As the reference reads a batch of texts that its collator filled with crops."""
    ids = torch.arange(20)[None]
    padding = {
        "images": torch.full((1, crops, 576, 588), -1.0),
        "image_masks": torch.full((1, crops, 576), -1.0),
        "image_input_idx": torch.full((1, crops, 144), -1),
    }
    assert torch.equal(reference.model(ids, **padding).logits, reference.model(ids).logits)


@torch.no_grad()
def test_image_features(reference: Reference) -> None:
    checked = 0
    for case in reference.index["cases"]:
        key = f"{case['name']}/image_features"
        if key in reference.arrays:
            inputs = reference.inputs(case)
            features = reference.model.encode_images(inputs["images"][0], inputs["image_masks"][0])
            chosen = features[reference.arrays[f"{key}_crop_index"]]
            assert_close_to_spread(chosen, reference.arrays[key])
            checked += 1
    assert checked


@torch.no_grad()
def test_fused_projections_change_nothing(reference: Reference) -> None:
    inputs = reference.inputs(reference.with_image())
    fused = copy.deepcopy(reference.model)
    fused.model.vision_backbone.image_vit.fuse()
    features = fused.encode_images(inputs["images"][0], inputs["image_masks"][0])
    expected = reference.model.encode_images(inputs["images"][0], inputs["image_masks"][0])
    assert_close_to_spread(features, expected)
    names = dict(reference.model.named_parameters())
    assert names.keys() == dict(fused.named_parameters()).keys()
    assert all(torch.equal(p, names[name]) for name, p in fused.named_parameters())
    block = fused.model.vision_backbone.image_vit.transformer.resblocks[0].attention
    assert block.wq.weight.untyped_storage().data_ptr() == (
        block.wv.weight.untyped_storage().data_ptr()
    )


@torch.no_grad()
def test_bfloat16_is_near(reference: Reference) -> None:
    """As on a GPU: rounding alone, which is far from what a wrong layout does (logits: std 1.5)."""
    model = copy.deepcopy(reference.model).to(torch.bfloat16)
    case = reference.with_image()
    inputs = reference.inputs(case)
    for key in ("images", "image_masks"):
        inputs[key] = inputs[key].to(torch.bfloat16)
    logits = model(**inputs).logits
    assert logits.dtype == torch.bfloat16
    key = f"{case['name']}/row0"
    expected = reference.arrays[f"{key}/logits"]
    found = logits[0, reference.arrays[f"{key}/positions"]].float().numpy()
    assert np.abs(found - expected).mean() < 0.04
    assert np.abs(found - expected).max() < 0.25


def test_generated_ids(reference: Reference) -> None:
    for case in reference.index["cases"]:
        generated = reference.model.generate(
            **reference.inputs(case), max_new_tokens=8, eos_token_id=NEVER
        )
        expected = reference.arrays[f"{case['name']}/generated_ids"]
        np.testing.assert_array_equal(generated, expected, case["name"])


@pytest.mark.parametrize("name", ["eos_stop", "eos_stop_batch"])
def test_generation_stops_at_eos(reference: Reference, name: str) -> None:
    stop = reference.index[name]
    inputs = reference.inputs(reference.case(stop["case"]))
    generated = reference.model.generate(
        **inputs, max_new_tokens=8, eos_token_id=stop["eos_token_id"]
    )
    np.testing.assert_array_equal(generated, reference.arrays[f"{name}/generated_ids"])


@torch.no_grad()
def test_from_png_to_logits(reference: Reference) -> None:
    case, special = reference.index["e2e"], reference.config.special_token_ids
    ids = ImageTokenIds(*(special[k] for k in ("im_start", "im_end", "im_patch", "im_col")))
    png = reference.images[case["png_key"]].tobytes()
    image = preprocess_image(
        to_rgb(Image.open(io.BytesIO(png))), CropSetting(case["max_crops"]), MOLMO, ids
    )
    text = torch.tensor(case["text_ids_after_image"])
    bos = torch.tensor([reference.config.bos_token_id])
    inputs = {
        "input_ids": torch.cat([bos, image.image_tokens, text])[None],
        "images": image.patches[None],
        "image_masks": image.padding_mask[None],
        # BOS comes first: places move by one.
        "image_input_idx": torch.where(image.image_input_idx < 0, -100, image.image_input_idx + 1)[
            None
        ],
    }
    logits = reference.model(**inputs, logits_to_keep=1).logits[0, -1]
    assert_close_to_spread(logits, reference.arrays["e2e/logits_last"])
    generated = reference.model.generate(**inputs, max_new_tokens=8, eos_token_id=NEVER)
    np.testing.assert_array_equal(generated, reference.arrays["e2e/generated_ids"])


class StubTokenizer:
    """The golden checkpoints have no tokenizer: ids as their reference call had them."""

    def __init__(self, config: MolmoConfig, text_ids: list[int]) -> None:
        special = config.special_token_ids
        self.image_ids = tuple(special[key] for key in ("im_start", "im_end", "im_patch", "im_col"))
        self.bos_id, self.end_ids, self.text_ids = config.bos_token_id, (NEVER,), text_ids

    def prompt(self, sample: Sample, style: str) -> Prompt:
        return Prompt([self.bos_id], self.text_ids)


def test_runner_from_file_to_answer(reference: Reference, tmp_path: Path) -> None:
    """What a run does with a sample is what the reference does with its image."""
    case = reference.index["e2e"]
    path = tmp_path / "image.png"
    path.write_bytes(reference.images[case["png_key"]].tobytes())
    sample = Sample("s", "i", ImageFile(path), "unused", ("unused",), "unused")
    runner = MolmoRunner(
        reference.model,
        StubTokenizer(reference.config, case["text_ids_after_image"]),
        MOLMO,
        torch.device("cpu"),
        torch.float32,
    )
    setting = CropSetting(case["max_crops"])
    prepared = runner.prepare(sample, setting, "unused")
    expected = reference.arrays["e2e/generated_ids"].tolist()
    assert runner.answer([prepared], 8) == expected
    # In a batch with a shorter prompt and fewer crops beside it, too.
    other = runner.prepare(sample, CropSetting(1), "unused")
    assert runner.answer([other, prepared], 8)[1] == expected[0]

    seen: list[torch.Tensor] = []
    handle = reference.model.register_forward_hook(lambda *args: seen.append(args[2].logits))
    times = runner.timed_prefill(sample, setting, "unused")
    handle.remove()
    assert_close_to_spread(seen[0][0, -1], reference.arrays["e2e/logits_last"])
    stages = (
        times.image_decode_ms, times.preprocess_ms, times.transfer_ms, times.vision_ms,
        times.llm_prefill_ms, times.first_token_ms,
    )  # fmt: skip
    # The wall clock around all is read last, by itself.
    assert -1e-6 < times.ttft_ms - sum(stages) < 0.5
