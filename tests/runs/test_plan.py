"""Plans: what would run, by arithmetic alone."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.helpers.facts import says
from tests.helpers.sweeps import run_without_report
from vtexp.budget.geometry import token_layout
from vtexp.budget.knobs import same_inputs
from vtexp.config.compose import CONF
from vtexp.config.schema import Config
from vtexp.data.sample import fingerprint
from vtexp.errors import CheckpointError, ConfigError, VtexpError
from vtexp.prompts.form import build_prompt
from vtexp.runs.plan import make_plan

MakeConfig = Callable[..., Config]


def test_counts_of_the_users_command(make_config: MakeConfig) -> None:
    for full, expected in ((False, (384, 928)), (True, (432, 1440))):
        config = make_config("knob.sizes=[560x336,784x784]", f"force_full_tokens={full}")
        runs = make_plan(config).runs
        assert [run.num_crops for run in runs] == [2, 9]
        assert [run.theoretical_vision_tokens for run in runs] == [432, 1440]
        assert tuple(run.predicted_vision_tokens for run in runs) == expected
        assert {str(t) for t in runs[0].tilings} == {"2x1"}


def test_same_samples_for_every_value(make_config: MakeConfig) -> None:
    fewer, more = (make_plan(make_config(f"dataset.limit={n}")) for n in (5, 50))
    assert fewer.samples == more.samples[:5]
    assert fingerprint(fewer.samples) != fingerprint(more.samples)


def test_longest_prompt_counts_bos_image_and_text(make_config: MakeConfig) -> None:
    plan = make_plan(make_config("knob.sizes=[784x784]"))
    tokenizer = plan.checkpoint.tokenizer
    longest = max(len(tokenizer.encode(build_prompt(s.question, "easy_vqa"))) for s in plan.samples)
    run = plan.runs[0]
    assert run.longest_prompt == 1 + token_layout(run.tilings[0]).sequence_length + longest


def test_verdicts_of_the_seeds_hold_with_full_tokens(make_config: MakeConfig) -> None:
    knob = ("knob=max_crops", "knob.max_crops=[2,22,27,30]")
    levels = {
        full: [run.verdict.level for run in make_plan(make_config(*knob, full)).runs]
        for full in ("force_full_tokens=false", "force_full_tokens=true")
    }
    assert levels["force_full_tokens=true"] == ["recommended", "feasible", "tight", "refused"]
    assert levels["force_full_tokens=false"] == ["recommended"] * 4


def test_36_crops_run_and_are_beyond_training(make_config: MakeConfig) -> None:
    for knob in (("knob=max_crops", "knob.max_crops=[36]"), ("knob.sizes=[1456x1456]",)):
        (run,) = make_plan(make_config(*knob)).runs
        assert (run.num_crops, run.verdict.level) == (36, "recommended")
        assert any(says(w, "36 crops", "at most 12") for w in run.warnings)
    assert run.longest_prompt < 3000


def test_a_prompt_that_cannot_fit_is_refused(make_config: MakeConfig) -> None:
    config = make_config("knob.sizes=[336x336,784x784]", "model.max_sequence_length=1400",
                         "force_full_tokens=true")  # fmt: skip
    plan = make_plan(config)
    assert [run.verdict.level for run in plan.runs] == ["recommended", "refused"]
    needed = plan.runs[1].longest_prompt
    message = f"knob.sizes=784x784: .*{needed} \\+ 4 of 1400"
    with pytest.raises(ConfigError, match=message):
        plan.require_feasible()


def test_values_with_the_same_inputs_are_found(make_config: MakeConfig) -> None:
    """All easy-VQA images are 64 px: they need one crop, whatever the cap."""
    runs = make_plan(make_config("knob=max_crops", "knob.max_crops=[1,4,12]")).runs
    same = same_inputs([(run.label, run.inputs_fingerprint) for run in runs])
    assert same == {"max_crops=4": "max_crops=1", "max_crops=12": "max_crops=1"}
    sizes = make_plan(make_config("knob.sizes=[336x336,560x336]")).runs
    assert same_inputs([(run.label, run.inputs_fingerprint) for run in sizes]) == {}


def test_size_between_tilings_is_told(make_config: MakeConfig) -> None:
    run = make_plan(make_config("knob.sizes=[500x350]")).runs[0]
    assert any("resized to 560x336" in warning for warning in run.warnings)


def test_flat_size_is_told(make_config: MakeConfig) -> None:
    run = make_plan(make_config("knob.sizes=[336x1232]")).runs[0]
    assert any("aspect ratio 3.67" in warning for warning in run.warnings)


def test_plan_shows_refused_values_and_loads_nothing(
    make_config: MakeConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vtexp.models.runner", None)  # importing it now fails
    run_without_report(make_config("plan=true", "knob=max_crops", "knob.max_crops=[2,12]"))
    with pytest.raises(ConfigError, match=r"^knob\.sizes=1904x1904: "):
        run_without_report(make_config("plan=true", "knob.sizes=[1904x1904]"))
    shown = " ".join(capsys.readouterr().out.split())
    assert "image_size=1904x1904: refused" in shown
    assert says(shown, "same inputs", "max_crops=2")


def test_missing_checkpoint_says_what_to_do(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        make_plan(make_config(f"model.path={tmp_path / 'nowhere'}"))


#: Models whose sizes ship with the package, and how much of them a plan must know.
PUBLISHED = [
    "molmo_7b_d",
    "molmo_7b_o",
    "molmo_72b",
    "molmoe_1b",
    "molmo2_4b",
    "molmo2_8b",
    "molmo2_o_7b",
    "internvl model.path=OpenGVLab/InternVL3-8B-hf",
    "qwen2_5_vl model.path=Qwen/Qwen2.5-VL-7B-Instruct",
]


@pytest.mark.parametrize("model", PUBLISHED)
def test_plans_of_published_models_need_no_file(
    make_config: MakeConfig, cache: Path, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    name, *path = model.split()
    published = path or [f"model.path={published_path(name)}"]
    config = make_config(f"model={name}", "plan=true", "hardware=h100", "dataset=easy_vqa",
                         "knob.sizes=[560x560]", *published)  # fmt: skip
    (run,) = make_plan(config).runs
    assert run.memory is not None and run.memory.total > 4e9
    too_large = pytest.raises(ConfigError, match=r"hardware\.memory_gb")
    with too_large if name == "molmo_72b" else nullcontext():
        run_without_report(config)
    shown = " ".join(capsys.readouterr().out.split())
    assert "are estimated" in shown and "unknown" not in shown
    with pytest.raises(CheckpointError, match="in the cache"):
        make_plan(replace(config, plan=False))


def published_path(name: str) -> str:
    return yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text())["path"]


def test_a_plan_of_a_folder_needs_no_weights(
    make_config: MakeConfig, small_checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "no_weights"
    shutil.copytree(small_checkpoint, folder)
    (folder / "model.safetensors").unlink()
    config = make_config(f"model.path={folder}", "plan=true")
    assert [run.run_id for run in make_plan(config).runs] == [""] * 4
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        make_plan(config)


def test_styles_that_a_model_does_not_know_are_asked_in_others(
    make_config: MakeConfig, small_checkpoint: Path, tmp_path: Path
) -> None:
    """`trained_styles` of config.json says which of the package's own styles a model knows."""
    folder = tmp_path / "published"
    shutil.copytree(small_checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    del config["trained_styles"]
    (folder / "config.json").write_text(json.dumps(config))
    for own, split, other in (
        ("easy_vqa", "test", "vqa2"),
        ("small_print", "validation", "text_vqa"),
    ):
        dataset = (f"dataset={own}", f"dataset.split={split}")
        for path, asked in ((small_checkpoint, own), (folder, other)):
            plan = make_plan(make_config(f"model.path={path}", *dataset))
            form = plan.checkpoint.tokenizer.form
            sample = plan.samples[0]
            assert sample.style == asked
            assert form.wording.message(sample, own).startswith(f"{asked}: ")
            told = [w for w in plan.runs[0].warnings if own in w and other in w]
            assert bool(told) == (asked != own)
    (run, *_) = make_plan(make_config(f"model.path={folder}", "dataset.style=my_own")).runs
    assert not [w for w in run.warnings if "my_own" in w]  # a user's own style stays


def test_unknown_split_names_the_splits(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match="train, test"):
        make_plan(make_config("dataset.split=validation"))


def test_missing_package_says_what_to_install(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"easy_vqa.*pip install .vtexp\[easy_vqa\]"):
        make_plan(make_config())


def rewrite_config(checkpoint: Path, folder: Path, **changes: object) -> Path:
    """A copy of a checkpoint with other values in its config.json; None takes a key out."""
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    config = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "llama"}, "'llama'; .*: molmo"),
        ({"hidden_size": None}, "hidden_size .*whole number"),
        ({"hidden_size": "abc"}, "hidden_size .*whole number"),
        ({"moe_num_experts": 64, "moe_top_k": None}, "moe_top_k .*whole number"),
        ({"clip_qkv": 8.0}, "clip_qkv is 8.0; only None"),
        ({"image_pooling_2d": "attention"}, "image_pooling_2d is attention; only attention_meanq"),
        ({"vision_backbone": {"image_mlp_activations": "gelu"}}, "image_mlp_activations is gelu"),
        ({"connector": {"normalize_input_embeds": True}}, "normalize_input_embeds is True"),
        ({"vision_backbone": {"image_default_input_size": [448, 448]}}, r"only 336 is supported"),
        ({"vision_backbone": {"image_patch_size": 16}}, "image_patch_size is 16; only 14"),
        ({"vision_backbone": "x"}, "vision_backbone is not"),
        ({"connector": {"image_pooling_h": 3}}, "image_pooling_h is 3; only 2"),
        ({"connector": {"vit_layers": [-40]}}, r"vit_layers is \[-40\], of 3 layers"),
    ],
)
def test_other_models_are_refused_before_loading(
    make_config: MakeConfig,
    small_checkpoint: Path,
    tmp_path: Path,
    changes: dict[str, object],
    says: str,
) -> None:
    folder = rewrite_config(small_checkpoint, tmp_path / "other", **changes)
    with pytest.raises(CheckpointError, match=says):
        make_plan(make_config(f"model.path={folder}"))


def test_weights_are_asked_for_when_all_else_is_right(
    make_config: MakeConfig, small_checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "no_weights"
    shutil.copytree(small_checkpoint, folder)
    (folder / "model.safetensors").unlink()
    here = f"model.path={folder}"
    with pytest.raises(VtexpError, match="0x5"):
        make_plan(make_config(here, "knob.sizes=[0x5]"))
    with pytest.raises(ConfigError, match=r"dataset\.split=validation"):
        make_plan(make_config(here, "dataset.split=validation"))
    with pytest.raises(ConfigError, match="sizes=1904x1904"):
        make_plan(make_config(here, "knob.sizes=[1904x1904]")).require_feasible()
    with pytest.raises(CheckpointError, match=r"no \*\.safetensors"):
        make_plan(make_config(here))


def test_claims_about_the_model_are_checked(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"config\.json says 4096"):
        make_plan(make_config("model.max_sequence_length=100000"))


def test_absurd_values_are_refused_at_once(make_config: MakeConfig) -> None:
    for knob, key in (("vision_tokens", "targets"), ("max_crops", "max_crops")):
        with pytest.raises(ConfigError, match=rf"^knob\.{key}=99999999999: must be 1 to 144000"):
            make_config(f"knob={knob}", f"knob.{key}=[99999999999]")
    with pytest.raises(ConfigError, match="give at most 1000"):
        make_plan(make_config("knob=max_crops", "knob.max_crops=[144000]"))


def test_padding_is_told(make_config: MakeConfig) -> None:
    """Seven crops of a square image can only be a strip: most of it is padding."""
    runs = make_plan(make_config("knob=vision_tokens", "knob.targets=[720,1152]")).runs
    assert runs[0].warnings == ()
    assert [str(t) for t in set(runs[1].tilings)] == ["1x7"]
    # The square image is 336 px high and wide on a canvas of 1680 x 336.
    assert any("as little as 20 % of it" in warning for warning in runs[1].warnings)


def test_new_weights_are_another_run(
    make_config: MakeConfig, small_checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(small_checkpoint, folder)
    config = make_config(f"model.path={folder}")
    before = make_plan(config).runs[0].run_id
    assert make_plan(config).runs[0].run_id == before
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert make_plan(config).runs[0].run_id != before
