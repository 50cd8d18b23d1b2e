"""Every family from a checkpoint's folder to counted, timed and answered questions.

Checkpoints are transformers' own classes at tiny sizes with random weights and a tokenizer trained
here; counts are compared with closed forms written here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    Molmo2Config,
    Molmo2ForConditionalGeneration,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from tests.helpers.closeness import assert_close_to_spread
from tests.helpers.sweeps import run_without_report
from vtexp.budget.knobs import CropSetting, KnobValue
from vtexp.config.choices import Dtype
from vtexp.config.schema import Config, HardwareConfig
from vtexp.data.sample import ImageFile, Sample
from vtexp.errors import (
    CheckpointError,
    ConfigError,
    CountMismatchError,
    RunFailedError,
    VtexpError,
)
from vtexp.models.checkpoints import ASSETS, find_checkpoint, read_model_config
from vtexp.models.families import FAMILIES
from vtexp.models.runner import Runner
from vtexp.models.runners import runner_class
from vtexp.prompts.tokenizer import PromptTokenizer
from vtexp.runs.plan import make_plan
from vtexp.stages import STAGES
from vtexp.utils import files

MakeConfig = Callable[..., Config]
NATIVE = [name for name in FAMILIES if name != "molmo"]
#: Starting weights as large as those of real widths make outputs: at this width, vision tokens
#: would else be lost in the rounding of the embeddings that they are added to.
WIDE = 0.2
SHAPES = [(300, 300), (300, 900), (900, 400), (1000, 1000)]


def save_tokenizer(name: str, folder: Path) -> dict[str, int]:
    """A byte-level tokenizer with all special tokens of a family; their ids."""
    form = FAMILIES[name].form
    special = list(dict.fromkeys((*form.special_tokens, *form.image_tokens)))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["user assistant is there a red circle?"], trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    ids = {token: tokenizer.token_to_id(token) for token in special}
    return ids | {"size": tokenizer.get_vocab_size()}


def small_molmo2(ids: dict[str, int]) -> PreTrainedModel:
    attention = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
    narrow = {"hidden_size": 32, "intermediate_size": 64, "initializer_range": WIDE, **attention}
    config = Molmo2Config(
        vision_config={**narrow, "num_hidden_layers": 3},
        adapter_config={**narrow, "text_hidden_size": 32, "vision_feature_layer": [2, 0]},
        text_config={
            **narrow,
            "num_hidden_layers": 2,
            "vocab_size": ids["size"],
            "additional_vocab_size": 8,
            "max_position_embeddings": 8192,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        },
        image_start_token_id=ids["<im_start>"],
        image_end_token_id=ids["<im_end>"],
        image_patch_id=ids["<im_patch>"],
        low_res_image_start_token_id=ids["<low_res_im_start>"],
        initializer_range=WIDE,
    )
    return Molmo2ForConditionalGeneration(config)


def small_internvl(ids: dict[str, int]) -> PreTrainedModel:
    config = InternVLConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
        text_config={
            "model_type": "qwen2",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "vocab_size": ids["size"],
            "max_position_embeddings": 8192,
        },
        image_token_id=ids["<IMG_CONTEXT>"],
    )
    return InternVLForConditionalGeneration(config)


def small_qwen2_5_vl(ids: dict[str, int]) -> PreTrainedModel:
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
        },
        text_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "vocab_size": ids["size"],
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_theta": 10_000.0, "mrope_section": [2, 3, 3]},
        },
        image_token_id=ids["<|image_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    return Qwen2_5_VLForConditionalGeneration(config)


SMALL: dict[str, Callable[[dict[str, int]], PreTrainedModel]] = {
    "molmo2": small_molmo2,
    "internvl": small_internvl,
    "qwen2_5_vl": small_qwen2_5_vl,
}


@pytest.fixture(scope="module", params=NATIVE)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint of each family, in a folder of the family's name."""
    folder = tmp_path_factory.mktemp("checkpoints") / request.param
    folder.mkdir()
    ids = save_tokenizer(request.param, folder)
    torch.manual_seed(0)
    SMALL[request.param](ids).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def runner(folder: Path) -> Runner:
    checkpoint = find_checkpoint(str(folder))
    geometry = checkpoint.family.geometry_of(checkpoint.config)
    return runner_class(checkpoint.family).load(checkpoint, geometry, HardwareConfig())


@pytest.fixture(scope="module")
def samples(draw_noise: Callable[[list[tuple[int, int]]], list[Sample]]) -> list[Sample]:
    return draw_noise(SHAPES)


def expected_tokens(name: str, rows: int, cols: int, full: bool) -> int:
    """Vision tokens of a tiling, by each family's own closed form."""
    if name == "qwen2_5_vl":
        return rows * cols
    if name == "internvl":
        return 256 * (rows * cols + (1 if rows * cols > 1 else 0))
    if full:
        return (rows * cols + 1) * 196
    return 196 + -(-(19 * rows + 8) // 2) * -(-(19 * cols + 8) // 2)


#: Per family a knob with its value, and the one tiling that it gives to easy-VQA's square images.
CASES: dict[str, list[tuple[str, str, tuple[int, int]]]] = {
    "molmo2": [
        ("image_size", "sizes=[644x378]", (2, 1)),
        ("vision_tokens", "targets=[1000]", (2, 2)),
        ("max_crops", "max_crops=[4]", (1, 1)),
    ],
    "internvl": [
        ("image_size", "sizes=[896x448]", (2, 1)),
        ("vision_tokens", "targets=[1300]", (2, 2)),
        ("max_crops", "max_crops=[4]", (1, 1)),
    ],
    "qwen2_5_vl": [
        ("image_size", "sizes=[560x336]", (20, 12)),
        ("vision_tokens", "targets=[300]", (17, 17)),
        ("max_crops", "max_crops=[100]", (2, 2)),
    ],
}
#: Families whose inputs do not show how crops lie.
HIDDEN_TILINGS = ("internvl",)


def test_stretched_images_are_told(make_config: MakeConfig, folder: Path) -> None:
    """Seven crops of a square image can only be a strip; seven cells can be a square."""
    seven = {"molmo2": 8 * 196, "internvl": 8 * 256, "qwen2_5_vl": 7}[folder.name]
    knob = ("knob=vision_tokens", f"knob.targets=[{seven}]")
    (run,) = make_plan(make_config(f"model.path={folder}", *knob)).runs
    told = [warning for warning in run.warnings if "one side is stretched" in warning]
    if folder.name == "qwen2_5_vl":
        assert told == [] and {str(t) for t in run.tilings} == {"2x2"}
    else:
        times = {"molmo2": 1974 / 378, "internvl": 7.0}[folder.name]
        assert told and f"up to {times:.3g} times" in told[0]


@pytest.mark.slow
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("case", range(3))
def test_knobs_run_and_are_counted(
    make_config: MakeConfig, folder: Path, tmp_path: Path, case: int, full: bool
) -> None:
    knob, values, (rows, cols) = CASES[folder.name][case]
    config = make_config(
        f"model.path={folder}",
        f"knob={knob}",
        f"knob.{values}",
        f"force_full_tokens={full}",
        "dataset.limit=3",
    )
    run_without_report(config)
    result = files.read_json(next((tmp_path / "sweep").glob("*/result.json")))
    assert result["measured_num_crops"] == rows * cols
    assert result["measured_vision_tokens"] == expected_tokens(folder.name, rows, cols, full)
    shown = None if folder.name in HIDDEN_TILINGS else f"{rows}x{cols}"
    assert result["measured_tiling"] == shown
    assert not result["actual_overridden"]
    if full:
        assert result["measured_vision_tokens"] == result["theoretical_vision_tokens"]
    assert 0 <= result["accuracy"] <= 1
    assert result["latency"]["vision_ms"]["median"] > 0


def test_early_layer_is_refused(make_config: MakeConfig, folder: Path) -> None:
    asked = (f"model.path={folder}", "knob=kept_tokens", "knob.kept=[600]", "dataset.limit=2")
    with pytest.raises(ConfigError, match="reduction=early_layer: not for") as caught:
        make_plan(make_config(*asked, "reduction=early_layer"))
    assert "\n" not in str(caught.value) and "resize" in str(caught.value)


def settings(runner: Runner) -> CropSetting:
    """A cap under which the samples' tilings differ."""
    cap = "200" if runner.model.config.model_type == "qwen2_5_vl" else "8"
    return KnobValue("max_crops", cap).crop_setting(runner.geometry)


def test_mixed_tilings_in_one_batch(runner: Runner, samples: list[Sample]) -> None:
    setting = settings(runner)
    tilings = [setting.tiling(sample.image_size(), runner.geometry) for sample in samples]
    assert len(set(tilings)) == len(SHAPES)  # else the test shows less than it says
    prepared = [runner.prepare(sample, setting, "easy_vqa") for sample in samples]
    with runner.probe() as probe:
        together, counts = runner.answer(prepared, 3), probe.take()
        alone = [(runner.answer([one], 3)[0], probe.take()[0]) for one in prepared]
    assert [(together[i], counts[i]) for i in range(len(samples))] == alone
    assert [count.num_crops for count in counts] == [tiling.num_crops for tiling in tilings]
    if runner.model.config.model_type in HIDDEN_TILINGS:
        assert [count.tiling for count in counts] == [None] * len(samples)
    else:
        assert [count.tiling for count in counts] == tilings


#: Around the image, as the published chat templates write a question of style vqa2 (their special
#: tokens included), and the end of text that Molmo2's processor puts first.
PROMPTS = {
    "molmo2": (
        "<|endoftext|>",
        "<|im_start|>user\nvqa2: is it {red}?<|im_end|>\n<|im_start|>assistant\n",
    ),
    "internvl": (
        "<|im_start|>user\n<img>",
        "</img>\nis it {red}?\nAnswer the question using a single word or phrase.<|im_end|>\n"
        "<|im_start|>assistant\n",
    ),
    "qwen2_5_vl": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|>",
        "<|vision_end|>is it {red}?\nAnswer the question using a single word or phrase."
        "<|im_end|>\n<|im_start|>assistant\n",
    ),
}


def asking(question: str) -> Sample:
    return Sample("0", "0", ImageFile(Path("none")), question, ("yes",), "yes/no")


def test_prompt_is_that_of_the_published_template(folder: Path) -> None:
    tokenizer = find_checkpoint(str(folder)).tokenizer
    prompt = tokenizer.prompt(asking("is it {red}?"), "vqa2")
    found = tuple(tokenizer.tokenizer.decode(ids, skip_special_tokens=False) for ids in prompt)
    assert found == PROMPTS[folder.name]


def test_molmo2_names_only_some_styles(tmp_path: Path) -> None:
    save_tokenizer("molmo2", tmp_path)
    tokenizer = PromptTokenizer.from_folder(tmp_path, FAMILIES["molmo2"].form)
    for style, text in (("science_qa", "user\nwhich?"), ("chart_qa", "user\nchart_qa: which?")):
        assert text in tokenizer.tokenizer.decode(tokenizer.prompt(asking("which?"), style).after)


def test_special_tokens_written_in_a_question_stay_text(folder: Path) -> None:
    tokenizer = find_checkpoint(str(folder)).tokenizer
    special = {*tokenizer.special_ids, *tokenizer.image_ids, tokenizer.eos_id}
    form = tokenizer.form
    spoilt = "".join((*form.special_tokens, *form.image_tokens, "<|endoftext|>"))
    plain, written = (tokenizer.prompt(asking(text), "vqa2").after for text in ("red?", spoilt))
    assert [i for i in written if i in special] == [i for i in plain if i in special]


@torch.inference_mode()
def test_stages_compute_what_one_pass_computes(runner: Runner, samples: list[Sample]) -> None:
    for sample in samples:
        inputs = runner.inputs([runner.prepare(sample, settings(runner), "easy_vqa")])
        staged = runner.prefill(inputs, runner.encode(inputs))
        whole = runner.model(**inputs).logits[:, -1:]
        assert_close_to_spread(staged, whole)


@pytest.mark.parametrize(("key", "value"), [("compile", True), ("dtype", Dtype.float8)])
def test_options_are_refused_where_they_were_not_tried(folder: Path, key: str, value: Any) -> None:
    checkpoint = find_checkpoint(str(folder))
    family = checkpoint.family
    with pytest.raises(ConfigError, match=f"hardware.{key}=.*: not for {family.name}"):
        runner_class(family).load(checkpoint, family.geometry, HardwareConfig(**{key: value}))


@torch.inference_mode()
def test_stages_for_graphs_compute_what_transformers_does(
    runner: Runner, samples: list[Sample]
) -> None:
    for sample in samples:
        prepared = runner.prepare(sample, settings(runner), "easy_vqa")
        inputs = runner.inputs([prepared])
        expected = runner.prefill(inputs, runner.encode(inputs))
        assert torch.equal(runner.graph_stages(prepared).run(), expected)
    shapes = {runner.shape(runner.prepare(s, settings(runner), "easy_vqa")) for s in samples}
    assert len(shapes) == len(samples)


def test_answers_by_logits_that_are_no_numbers_fail(
    runner: Runner, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = [runner.prepare(samples[0], settings(runner), "easy_vqa")]
    monkeypatch.setattr(runner.model.lm_head, "forward", lambda x: x[..., :1] * torch.nan)
    with pytest.raises(VtexpError, match="not finite"):
        runner.answer(prepared, 2)


def test_answers_end_at_any_of_their_ids(runner: Runner, samples: list[Sample]) -> None:
    """As generation_config.json lists them; what comes after the first is left out."""
    prepared = [runner.prepare(sample, settings(runner), "easy_vqa") for sample in samples[:2]]
    whole = runner.answer(prepared, 6)
    assert min(map(len, whole)) > 3  # nothing ended these
    ends = (whole[0][2], whole[1][3])
    stopped = replace(runner, tokenizer=replace(runner.tokenizer, stop_ids=ends))
    for found, full in zip(stopped.answer(prepared, 6), whole, strict=True):
        first = min(full.index(end) for end in ends if end in full)
        assert found == full[: first + 1]


def test_missing_weights_are_named(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    weights = load_file(copy / "model.safetensors")
    gone = next(name for name in weights if "vision" in name or "visual" in name)
    save_file({k: v for k, v in weights.items() if k != gone}, copy / "model.safetensors")
    checkpoint = find_checkpoint(str(copy))
    family = checkpoint.family
    with pytest.raises(CheckpointError, match="the weights have 1 missing keys: model"):
        runner_class(family).load(checkpoint, family.geometry, HardwareConfig())


@pytest.mark.parametrize(
    ("part", "change", "says"),
    [
        ("vision_config", {"patch_size": 16}, r"patch_size is 16; only 14 is supported"),
        ("text_config", {"hidden_size": None}, "hidden_size .*whole number"),
        ("text_config", {"num_hidden_layers": 10**6}, "num_hidden_layers .*between 1"),
        ("text_config", {"max_position_embeddings": "x"}, "max_position_embeddings .*whole"),
        (
            "vision_config",
            {"hidden_size": [8]},
            r"vision_config\.hidden_size .*whole number",
        ),
    ],
)
def test_other_shapes_are_refused_before_loading(
    folder: Path, tmp_path: Path, part: str, change: dict[str, Any], says: str
) -> None:
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    config[part] |= change
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=says):
        find_checkpoint(str(copy))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"downsample_ratio": 0.25}, "downsample_ratio is 0.25; only 0.5"),
        ({"vision_feature_select_strategy": "full"}, "is full; only default"),
        ({"text_config": "x"}, "text_config is not"),
    ],
)
def test_other_internvls_are_refused(change: dict[str, Any], says: str) -> None:
    family = FAMILIES["internvl"]
    sizes = dict.fromkeys(("hidden_size", "num_hidden_layers", "num_attention_heads"), 8)
    config = {"text_config": sizes | {"vocab_size": 99}, "image_token_id": 7}
    assert family.problem(config) == ""
    assert says in family.problem(config | change)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"vit_config": 5}, "vit_config is not"),
        ({"use_single_crop_col_tokens": []}, "tokens .*true"),
        ({"image_col_id": "x"}, "image_col_id .*whole number"),
    ],
)
def test_other_molmo2s_are_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    known = ASSETS / "architectures" / "allenai" / "Molmo2-4B.json"
    (tmp_path / "config.json").write_text(json.dumps(json.loads(known.read_text()) | change))
    with pytest.raises(CheckpointError, match=says):
        read_model_config(tmp_path / "config.json")


def test_a_tokenizer_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    config[FAMILIES[folder.name].id_keys[0]] += 1
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"config\.json .*tokenizer\.json .*image tokens"):
        find_checkpoint(str(copy))


@pytest.mark.parametrize("name", ["Molmo2-4B", "Molmo2-8B", "Molmo2-O-7B"])
def test_published_molmo2_needs_no_download_for_random_weights(
    make_config: MakeConfig, name: str
) -> None:
    """Ids are those in transformers' tests of the published checkpoints (column and end token)."""
    model = (f"model.path=allenai/{name}", "model.weights=random")
    plan = make_plan(make_config(*model, "knob.sizes=[644x910]"))
    (run,) = plan.runs
    assert (str(run.tilings[0]), run.predicted_vision_tokens) == ("2x3", 955)
    assert not plan.geometry.global_columns
    first = 100278 if "O-7B" in name else 151936
    assert plan.checkpoint.tokenizer.image_ids == tuple(first + i for i in range(5))


@pytest.mark.slow
def test_random_weights_have_counts_and_latency(
    make_config: MakeConfig, folder: Path, tmp_path: Path
) -> None:
    knob, values, (rows, cols) = CASES[folder.name][0]
    model = (f"model.path={folder}", "model.weights=random")
    run_without_report(make_config(*model, f"knob={knob}", f"knob.{values}", "sweep.name=r"))
    result = files.read_json(next((tmp_path / "r").glob("*/result.json")))
    assert result["accuracy"] is None
    assert result["measured_vision_tokens"] == expected_tokens(folder.name, rows, cols, False)
    assert result["latency"]["prefill_ms"]["median"] > 0


def test_timed_prefill_gives_the_first_token_of_the_answer(
    runner: Runner, samples: list[Sample]
) -> None:
    logits: list[torch.Tensor] = []
    handle = runner.model.register_forward_hook(lambda *args: logits.append(args[2].logits))
    times = runner.timed_prefill(samples[1], settings(runner), "easy_vqa")
    handle.remove()
    assert all(getattr(times, stage) > 0 for stage in STAGES)
    assert sum(getattr(times, stage) for stage in STAGES) == pytest.approx(times.ttft_ms, abs=1)
    answer = runner.answer([runner.prepare(samples[1], settings(runner), "easy_vqa")], 1)
    assert [tuple(found.shape[:2]) for found in logits] == [(1, 1)]
    assert int(logits[0].argmax()) == answer[0][0]


def test_decoding_and_memory_of_every_family(runner: Runner, samples: list[Sample]) -> None:
    """The end of text, which random weights may say at once, does not stop what is timed."""
    asked = (samples[1], settings(runner), "easy_vqa")
    assert runner.timed_decode(*asked, num_tokens=4) > 0
    memory = runner.prefill_memory(*asked)
    if memory:  # Linux lets the peak be reset
        assert [f"{stage}_ms" for stage in memory] == list(STAGES)
        assert all(peaks["resident"] > 0 for peaks in memory.values())


def test_encoding_more_crops_than_used_is_noticed(runner: Runner, samples: list[Sample]) -> None:
    def hooks() -> int:
        modules = runner.model.modules()
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)

    prepared = runner.prepare(samples[0], settings(runner), "easy_vqa")
    runner.answer([prepared], 1)  # transformers adds hooks of its own at the first call
    before = hooks()
    with torch.inference_mode(), runner.probe() as probe:
        runner.encode(runner.inputs([prepared]))
        runner.answer([prepared], 1)
        with pytest.raises(CountMismatchError, match=r"read \d+ crops, but \d+ gave vision tokens"):
            probe.take()
        with pytest.raises(CountMismatchError, match="no image"):
            probe.take()
    assert hooks() == before


def test_a_vision_token_that_is_lost_fails_the_run(
    make_config: MakeConfig, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hooks count what enters the language model, not what preprocessing intended."""
    runner = runner_class(FAMILIES[folder.name])
    real: Any = runner.model_class({}).forward

    def lossy(self: Any, **kwargs: Any) -> Any:
        def drop(module: Any, args: tuple, inputs: dict[str, Any]) -> tuple[tuple, dict]:
            if "looked_up" in kept:
                embeddings = inputs["inputs_embeds"].clone()
                changed = (embeddings != kept["looked_up"]).any(-1).nonzero()
                if len(changed):
                    row, place = changed[3].tolist()
                    embeddings[row, place] = kept["looked_up"][row, place]
                inputs = inputs | {"inputs_embeds": embeddings}
            return args, inputs

        kept: dict[str, torch.Tensor] = {}
        handles = [
            self.get_input_embeddings().register_forward_hook(
                lambda module, args, output: kept.update(looked_up=output)
            ),
            self.model.language_model.register_forward_pre_hook(
                drop, with_kwargs=True, prepend=True
            ),
        ]
        try:
            return real(self, **kwargs)
        finally:
            for handle in handles:
                handle.remove()

    monkeypatch.setattr(runner.model_class({}), "forward", lossy)
    knob, values, _ = CASES[folder.name][0]
    config = make_config(f"model.path={folder}", f"knob={knob}", f"knob.{values}")
    with pytest.raises(RunFailedError, match=r"made \d+ vision tokens, but \d+ entered"):
        run_without_report(config)
