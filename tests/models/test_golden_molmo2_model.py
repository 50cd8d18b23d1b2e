"""Molmo2 from an image file to logits and answers, against transformers' model and processor."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.closeness import assert_close_to_spread
from vtexp.budget.geometry import MOLMO2
from vtexp.budget.knobs import CropSetting
from vtexp.config.schema import HardwareConfig
from vtexp.data.sample import ImageFile, Sample
from vtexp.models.checkpoints import Checkpoint, read_model_config
from vtexp.models.families import FAMILIES
from vtexp.models.molmo2.runner import Molmo2Runner
from vtexp.models.runner import PreparedSample
from vtexp.prompts.form import PromptForm
from vtexp.prompts.tokenizer import PromptTokenizer
from vtexp.prompts.wording import Wording

pytestmark = pytest.mark.golden


class Reference:
    """The golden cases, and a runner on their checkpoint whose prompts are the cases' texts."""

    def __init__(self, golden_dir: Path, images: Path) -> None:
        folder = golden_dir / "molmo2_tiny"
        self.cases = json.loads((folder / "cases.json").read_text())["cases"]
        self.arrays = np.load(folder / "cases.npz")
        self.images = images
        pngs = np.load(golden_dir / "preprocess.npz")
        for case in self.cases:
            path = images / f"{case['image']}.png"
            path.write_bytes(pngs[f"png/{case['image']}"].tobytes())
        family = FAMILIES["molmo2"]
        unnamed = Wording(names_styles=False)
        form = PromptForm("{bos}{image} {message}", family.form.image_tokens, unnamed)
        config = read_model_config(folder / "config.json")
        tokenizer = PromptTokenizer.from_folder(folder, form)
        checkpoint = Checkpoint("tiny", family, config, tokenizer, folder, "unused")
        geometry = family.geometry_of(config)
        self.runner = Molmo2Runner.load(checkpoint, geometry, HardwareConfig())

    def sample(self, case: dict[str, Any]) -> Sample:
        text = case["text"].removeprefix("<|image|> ")
        image = ImageFile(self.images / f"{case['image']}.png")
        return Sample(str(case["index"]), case["image"], image, text, ("unused",), "unused")

    def prepared(self, case: dict[str, Any]) -> PreparedSample:
        return self.runner.prepare(self.sample(case), self.setting(case), "unused")

    def setting(self, case: dict[str, Any]) -> CropSetting:
        return CropSetting(case["max_crops"], fit="stretch")

    def array(self, case: dict[str, Any], name: str) -> np.ndarray:
        return self.arrays[f"case{case['index']}/{name}"]


@pytest.fixture(scope="module")
def reference(golden_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference(golden_dir, tmp_path_factory.mktemp("images"))


def test_prompt(reference: Reference) -> None:
    for case in reference.cases:
        inputs = reference.runner.inputs([reference.prepared(case)])
        for name in ("input_ids", "mm_token_type_ids"):
            expected = reference.array(case, name).reshape(inputs[name].shape)
            np.testing.assert_array_equal(inputs[name], expected)


@torch.inference_mode()
def test_features_and_logits(reference: Reference) -> None:
    for case in reference.cases:
        inputs = reference.runner.inputs([reference.prepared(case)])
        features = reference.runner.encode(inputs)
        found = torch.cat(features.pooler_output)
        expected = reference.array(case, "image_features").reshape(found.shape)
        assert_close_to_spread(found, expected)
        last = reference.runner.prefill(inputs, features)[0, -1]
        expected = reference.array(case, "logits_last").ravel()
        assert_close_to_spread(last, expected)
        logits = reference.runner.model(**inputs).logits[0]
        positions = reference.array(case, "positions").ravel()
        expected = reference.array(case, "logits").reshape(len(positions), -1)
        assert_close_to_spread(logits[positions], expected)


def test_answers_alone_and_in_a_batch_of_unlike_prompts(reference: Reference) -> None:
    runner = replace(reference.runner, tokenizer=replace(reference.runner.tokenizer, eos_id=0))
    expected = [reference.array(case, "generated_ids").ravel().tolist() for case in reference.cases]
    prepared = [reference.prepared(case) for case in reference.cases]
    assert len({len(sample.input_ids) for sample in prepared}) > 1
    assert [runner.answer([sample], 8)[0] for sample in prepared] == expected
    assert runner.answer(prepared, 8) == expected


def test_timed_prefill_computes_the_last_logits(reference: Reference) -> None:
    for case in reference.cases:
        seen: list[torch.Tensor] = []
        handle = reference.runner.model.register_forward_hook(
            lambda *args, seen=seen: seen.append(args[2].logits)
        )
        reference.runner.timed_prefill(reference.sample(case), reference.setting(case), "unused")
        handle.remove()
        expected = reference.array(case, "logits_last").ravel()
        assert_close_to_spread(seen[0][0, -1], expected)


def test_geometry_of_the_golden_checkpoint(reference: Reference) -> None:
    assert reference.runner.geometry == replace(MOLMO2, own_max_crops=8)  # as its files say
