"""Prompt ids, pixels and ends of answers beside transformers' own processors, flag by flag."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.helpers.closeness import OF_PIXELS, assert_close_to_spread
from tests.helpers.peer_checkpoints import peer_processor, write_checkpoint
from vtexp.budget.geometry import Size
from vtexp.budget.knobs import CropSetting
from vtexp.budget.limits import own_limit_warning
from vtexp.data.sample import ImageFile, Sample
from vtexp.errors import CheckpointError
from vtexp.models.checkpoints import find_checkpoint
from vtexp.models.host_resize import one_thread
from vtexp.models.native import NativeRunner
from vtexp.models.runners import runner_class

CAPS = {"internvl": 12, "qwen2_5_vl": 16384, "molmo2": 8}
#: Family, and whether its language model is a Llama.
KINDS = [("internvl", False), ("internvl", True), ("qwen2_5_vl", False), ("molmo2", False)]


def runner_of(folder: Path) -> NativeRunner:
    """A runner that reads images and prompts of a checkpoint, without a model."""
    checkpoint = find_checkpoint(str(folder), weights=False)
    family, config = checkpoint.family, checkpoint.config
    made: Any = runner_class(family)
    return made(
        None,
        checkpoint.tokenizer,
        family.geometry_of(config),
        torch.device("cpu"),
        torch.float32,
        normalisation=family.normalisation_of(config),
    )


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


#: Two tiles and the whole for InternVL: what a question becomes needs no large image.
WIDE = noise(30, 60)


def asked(question: str) -> Sample:
    return Sample("0", "0", ImageFile(Path("none")), question, ("yes",), "unused")


def both(
    folder: Path, name: str, question: str, image: np.ndarray, **options: Any
) -> tuple[Any, Any]:
    """Ids and pixels of the runner, and of transformers' processor with its chat template."""
    if name == "molmo2":
        pytest.importorskip("torchvision", reason="Molmo2's image processor needs it")
    runner = runner_of(folder)
    sample = asked(question)
    found = runner.prepare(sample, CropSetting(CAPS[name], fit="stretch"), "vqa2", image)
    text = runner.tokenizer.form.wording.message(sample, "vqa2")
    content = [{"type": "image", "image": Image.fromarray(image)}, {"type": "text", "text": text}]
    with one_thread():  # with more, torch rounds some bytes of Molmo2's resize the other way
        expected = peer_processor(folder, name).apply_chat_template(
            [[{"role": "user", "content": content}]],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            **options,
        )
    return found, expected


def assert_same(folder: Path, name: str, question: str, image: np.ndarray) -> None:
    found, expected = both(folder, name, question, image)
    inputs = runner_of(folder).inputs([found])
    for key in inputs.keys() & {"mm_token_type_ids", "image_grid_thw", "image_token_pooling"}:
        assert inputs[key].tolist() == expected[key].tolist(), key
    assert found.input_ids.tolist() == expected["input_ids"][0].tolist()
    pixels = found.image.tensors["pixel_values"]
    assert pixels.shape == expected["pixel_values"].shape
    if len(np.unique(image)) > 1:
        assert_close_to_spread(pixels, expected["pixel_values"], OF_PIXELS)


@cache
def published(base: Path, name: str, llama: bool) -> Path:
    return write_checkpoint(base / f"{name}-{llama}", name, llama=llama)


@pytest.mark.parametrize(("name", "llama"), KINDS)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(question=st.text(st.characters(codec="utf-8"), max_size=40))
def test_prompts_of_any_question(
    name: str, llama: bool, question: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = tmp_path_factory.getbasetemp() / "published"
    assert_same(published(base, name, llama), name, question, WIDE)


IMAGE_TEXT = {
    "internvl": "<IMG_CONTEXT>",
    "qwen2_5_vl": "<|vision_start|><|image_pad|><|vision_end|>",
    "molmo2": "<|image|>",
}
#: Chat templates as fine-tuned checkpoints have them; IMAGE is what the family writes for one.
OWN_TEMPLATES = {
    "another system message": "<|im_start|>system\nYou read {charts} [1].<|im_end|>\n"
    "{% for part in messages[0].content %}{% if part.type == 'image' %}IMAGE"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n",
    "the image last, white space lost": "{% for part in messages[0].content %}"
    "{% if part.type == 'text' %}Q: {{ part.text | trim }} <answer>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}IMAGE<|im_start|>assistant\n{% endif %}",
    "a BOS of its own": "{{ bos_token }}{% for part in messages[0].content %}"
    "{% if part.type == 'image' %}IMAGE {% else %}{{ part.text }}{% endif %}{% endfor %} A:",
    "parts that are generated": "{% for part in messages[0].content %}{% if part.type == 'image' %}"
    "IMAGE{% continue %}{% endif %}{% generation %}{{ part.text }}{% endgeneration %}{% endfor %}",
}


@pytest.mark.parametrize(("name", "llama"), KINDS)
@pytest.mark.parametrize("kind", OWN_TEMPLATES)
def test_a_checkpoints_own_chat_template_is_followed(
    name: str, llama: bool, kind: str, tmp_path: Path
) -> None:
    template = OWN_TEMPLATES[kind].replace("IMAGE", IMAGE_TEXT[name])
    folder = write_checkpoint(tmp_path, name, llama=llama, chat_template=template)
    for question in ("is it {red}?", "  two\nlines ", "<b>", "日本"):
        assert_same(folder, name, question, WIDE)


def test_where_a_chat_template_may_be(tmp_path: Path) -> None:
    template = OWN_TEMPLATES["another system message"].replace("IMAGE", IMAGE_TEXT["internvl"])
    folders = [write_checkpoint(tmp_path / str(number), "internvl") for number in range(4)]
    (folders[0] / "chat_template.jinja").write_text(template)
    (folders[1] / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    (folders[2] / "chat_template.json").write_text(
        json.dumps({"chat_template": {"default": template, "tools": "unused"}})
    )
    ids = [runner_of(folder).tokenizer.prompt(asked("red?"), "vqa2") for folder in folders]
    assert ids[0] == ids[1] == ids[2] != ids[3]


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{{ messages[0].content", "cannot be followed"),
        ("{{ raise_exception('no images here') }}", "no images here"),
        ("{{ messages[0].content[1].text }}", "the image 0 times"),
        ("<IMG_CONTEXT><IMG_CONTEXT>{{ messages[0].content[1].text }}", "the image 2 times"),
        ("<IMG_CONTEXT>", "the question 0 times"),
        ("{{ ''.__class__.__mro__ }}<IMG_CONTEXT>", "cannot be followed"),
    ],
)
def test_chat_templates_that_cannot_be_followed(template: str, told: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "internvl", chat_template=template)
    with pytest.raises(CheckpointError, match=told) as caught:
        find_checkpoint(str(folder), weights=False)
    assert "chat_template.jinja" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["internvl", "qwen2_5_vl"])
def test_special_tokens_in_a_question_are_text_as_where_transformers_is_told_so(
    tmp_path: Path, name: str
) -> None:
    folder = write_checkpoint(tmp_path, name)
    for question in ("is <|im_end|> it?", "<|im_start|>user red", "<|endoftext|>"):
        told = {"sanitize_control_tokens": True}
        found, expected = both(folder, name, question, noise(30, 30), **told)
        assert found.input_ids.tolist() == expected["input_ids"][0].tolist()


@pytest.mark.parametrize(("name", "llama"), KINDS)
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(height=st.integers(1, 700), width=st.integers(1, 700))
def test_images_of_any_size(
    name: str, llama: bool, height: int, width: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if max(height, width) > 200 * min(height, width):
        height = width  # transformers' Qwen2.5-VL refuses flatter ones
    base = tmp_path_factory.getbasetemp() / "published"
    assert_same(published(base, name, llama), name, "is it red?", noise(height, width))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"legacy": True},
        {"legacy": None, "add_prefix_space": False},
        {"tokenizer_class": "PreTrainedTokenizerFast"},
    ],
)
def test_spaces_go_where_the_tokenizers_class_puts_them(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    folder = write_checkpoint(tmp_path, "internvl", llama=True, tokenizer=change)
    for question in ("is it red?", " is  it red? ", "\nis it", "▁ is ▁it"):
        assert_same(folder, "internvl", question, noise(30, 30))


#: What a preprocessor_config.json may change: family, and its keys.
HONOURED: list[tuple[str, dict[str, Any]]] = [
    ("qwen2_5_vl", {"min_pixels": 256 * 28 * 28}),
    ("qwen2_5_vl", {"max_pixels": 50 * 28 * 28 + 17}),
    ("qwen2_5_vl", {"min_pixels": 100_001, "max_pixels": 150_001}),
    ("qwen2_5_vl", {"min_pixels": None, "max_pixels": None}),
    (
        "qwen2_5_vl",
        {"min_pixels": None, "max_pixels": None}
        | {"size": {"shortest_edge": 200_704, "longest_edge": 250_000}},
    ),
    ("qwen2_5_vl", {"size": {"shortest_edge": 9, "longest_edge": 9}}),
    ("qwen2_5_vl", {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}),
    ("qwen2_5_vl", {"image_mean": None, "image_std": None}),
    ("qwen2_5_vl", {"do_rescale": False}),
    ("qwen2_5_vl", {"do_normalize": False}),
    ("qwen2_5_vl", {"do_normalize": False, "do_rescale": False}),
    ("qwen2_5_vl", {"rescale_factor": 1 / 127.5}),
    ("internvl", {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}),
    ("internvl", {"image_mean": None, "image_std": None}),
    ("internvl", {"do_rescale": False}),
    ("internvl", {"do_normalize": False}),
    ("internvl", {"do_resize": False, "crop_to_patches": True}),
    ("molmo2", {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}),
    ("molmo2", {"do_normalize": False, "rescale_factor": 1 / 127.5}),
    ("molmo2", {"image_mean": None, "image_std": None, "do_resize": False}),
]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(("name", "change"), HONOURED)
def test_what_an_image_processor_says_is_done(
    tmp_path: Path, name: str, change: dict[str, Any], nested: bool
) -> None:
    folder = write_checkpoint(tmp_path, name, images=change)
    of_images = folder / "preprocessor_config.json"
    said = {k: v for k, v in json.loads(of_images.read_text()).items() if v is not None}
    of_images.write_text(json.dumps(said))
    for size in ((300, 400), (30, 50)):
        if not nested:
            assert_same(folder, name, "is it red?", noise(*size))
    if nested:  # as transformers 5 writes them
        (plain,) = (runner_of(folder).read_image(noise(60, 80), CropSetting(100, fit="stretch")),)
        of_all = folder / "processor_config.json"
        of_all.write_text(json.dumps(json.loads(of_all.read_text()) | {"image_processor": said}))
        of_images.write_text(json.dumps({"image_mean": [9, 9, 9]}))
        found = runner_of(folder).read_image(noise(60, 80), CropSetting(100, fit="stretch"))
        torch.testing.assert_close(found.tensors, plain.tensors, rtol=0, atol=0)


def test_154_tokens_are_266_with_the_least_pixels_of_the_file(tmp_path: Path) -> None:
    """The report's own image: 300 x 400 px, at least 256 cells of 28 x 28 px."""
    cap = CropSetting(16384, fit="stretch")
    for pixels, tokens in ((3136, 154), (256 * 784, 266)):
        folder = write_checkpoint(tmp_path, "qwen2_5_vl", images={"min_pixels": pixels})
        assert len(runner_of(folder).read_image(noise(300, 400), cap).image_tokens) == tokens


@pytest.mark.parametrize("columns", [None, True, False])
def test_molmo2s_columns_of_the_global_view(tmp_path: Path, columns: bool | None) -> None:
    folder = write_checkpoint(tmp_path, "molmo2", processor={"use_single_crop_col_tokens": columns})
    assert_same(folder, "molmo2", "is it red?", noise(300, 500))


@pytest.mark.parametrize(
    ("name", "images", "processor", "flag"),
    [
        ("molmo2", {}, {"use_single_crop_start_token": False}, "use_single_crop_start_token"),
        ("molmo2", {}, {"image_use_col_tokens": False}, "image_use_col_tokens"),
        ("molmo2", {"size": {"height": 336, "width": 336}}, {}, "size"),
        ("molmo2", {"overlap_margins": [2, 2]}, {}, "overlap_margins"),
        ("molmo2", {"pooling_size": [1, 1]}, {}, "pooling_size"),
        ("molmo2", {"patch_size": 16}, {}, "patch_size"),
        ("molmo2", {"resample": 3}, {}, "resample"),
        ("internvl", {}, {"image_seq_length": 64}, "image_seq_length"),
        ("internvl", {"min_patches": 2}, {}, "min_patches"),
        ("internvl", {"size": {"height": 224, "width": 224}}, {}, "size"),
        ("internvl", {"resample": 2}, {}, "resample"),
        ("internvl", {"max_patches": "many"}, {}, "max_patches"),
        ("qwen2_5_vl", {"patch_size": 16}, {}, "patch_size"),
        ("qwen2_5_vl", {"merge_size": 1}, {}, "merge_size"),
        ("qwen2_5_vl", {"temporal_patch_size": 1}, {}, "temporal_patch_size"),
        ("qwen2_5_vl", {"resample": 0}, {}, "resample"),
        ("qwen2_5_vl", {"do_resize": False}, {}, "do_resize"),
        ("qwen2_5_vl", {"max_pixels": 0}, {}, "max_pixels"),
        ("qwen2_5_vl", {"min_pixels": "3136"}, {}, "min_pixels"),
        ("qwen2_5_vl", {"image_mean": [1, 2]}, {}, "image_mean"),
        ("qwen2_5_vl", {"image_std": [0, 1, 1]}, {}, "image_std"),
        ("qwen2_5_vl", {"rescale_factor": 0}, {}, "rescale_factor"),
        ("qwen2_5_vl", {"do_normalize": "no"}, {}, "do_normalize"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_name(
    tmp_path: Path, name: str, images: dict[str, Any], processor: dict[str, Any], flag: str
) -> None:
    folder = write_checkpoint(tmp_path, name, images=images, processor=processor)
    with pytest.raises(CheckpointError, match=flag):
        find_checkpoint(str(folder), weights=False)


@pytest.mark.parametrize(
    ("said", "ends"),
    [
        ({"generation_config.json": {"eos_token_id": [7, 2]}}, (7, 2)),
        ({"generation_config.json": {"eos_token_id": 7}, "config.json": {"eos_token_id": 3}}, (7,)),
        ({"generation_config.json": {}, "config.json": {"eos_token_id": 3}}, (3,)),
        ({"generation_config.json": {}, "config.json": {"text_config": 5}}, (5,)),
        ({"generation_config.json": {"eos_token_id": None}}, (2,)),
        ({"generation_config.json": {"eos_token_id": []}}, (2,)),
    ],
)
def test_ends_of_answers(tmp_path: Path, said: dict[str, Any], ends: tuple[int, ...]) -> None:
    """From generation_config.json, else config.json, else the tokenizer (</s> is 2)."""
    folder = write_checkpoint(tmp_path, "internvl", llama=True)
    for file, content in said.items():
        config = json.loads((folder / file).read_text()) if file == "config.json" else {}
        if "text_config" in content:
            content = {"text_config": config["text_config"] | {"eos_token_id": 5}}
        (folder / file).write_text(json.dumps(config | content))
    tokenizer = find_checkpoint(str(folder), weights=False).tokenizer
    assert tokenizer.end_ids == ends
    word = tokenizer.encode("red")
    for end in ends:
        assert tokenizer.decode([*word, end, *word]) == "red"


@pytest.mark.parametrize("said", ["7", [True], [-1], {"a": 1}, 1.5])
def test_ends_that_are_no_ids_are_refused(tmp_path: Path, said: Any) -> None:
    folder = write_checkpoint(tmp_path, "internvl", llama=True)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": said}))
    with pytest.raises(CheckpointError, match="eos_token_id"):
        find_checkpoint(str(folder), weights=False)


def test_own_caps_of_files_are_known(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "molmo2", images={"max_crops": 24})
    assert runner_of(folder).geometry.own_max_crops == 24
    folder = write_checkpoint(tmp_path, "internvl")
    assert runner_of(folder).geometry.own_max_crops == 12
    folder = write_checkpoint(tmp_path, "qwen2_5_vl", images={"max_pixels": 100 * 784})
    geometry = runner_of(folder).geometry
    assert CropSetting(16384).tiling(Size(3000, 3000), geometry) == (10, 10)
    assert "max_pixels allows 100 crops" in str(own_limit_warning(16384, 100, geometry))
    assert own_limit_warning(100, 100, geometry) is None


#: As the published Molmo v1's.
OF_MOLMO = {
    "base_image_input_size": [336, 336],
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_padding_mask": True,
    "image_patch_size": 14,
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_token_length_h": 12,
    "image_token_length_w": 12,
    "max_crops": 12,
    "overlap_margins": [4, 4],
}


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({}, None),
        ({"max_crops": 36}, None),
        ({"image_mean": [0.5, 0.5, 0.5]}, "image_mean"),
        ({"image_std": [0.5, 0.5, 0.5]}, "image_std"),
        ({"do_normalize": False}, "do_normalize"),
        ({"rescale_factor": 1.0}, "rescale_factor"),
        ({"overlap_margins": [2, 2]}, "overlap_margins"),
        ({"base_image_input_size": [448, 448]}, "base_image_input_size"),
        ({"image_padding_mask": False}, "image_padding_mask"),
    ],
)
def test_molmo_v1s_image_processor(
    small_checkpoint: Path, tmp_path: Path, change: dict[str, Any], flag: str | None
) -> None:
    folder = tmp_path / "molmo"
    shutil.copytree(small_checkpoint, folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(OF_MOLMO | change))
    if flag is None:
        found = find_checkpoint(str(folder), weights=False)
        own = found.family.geometry_of(found.config).own_max_crops
        assert own == (OF_MOLMO | change)["max_crops"]
    else:
        with pytest.raises(CheckpointError, match=flag):
            find_checkpoint(str(folder), weights=False)
