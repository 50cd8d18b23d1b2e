"""FLOPs, bytes and memory in closed form, beside torch's own counter and what models hold."""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Callable, Iterable
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import Molmo2Config, Molmo2ForConditionalGeneration, PreTrainedModel
from transformers.vision_utils import get_vision_window_index

from tests.helpers.sweeps import run_without_report
from tests.models.test_families import SMALL, save_tokenizer
from vtexp.budget.geometry import Size, Tiling, token_layout
from vtexp.budget.knobs import CropSetting, KnobValue
from vtexp.config.schema import Config, HardwareConfig
from vtexp.cost.architectures import model_arithmetic
from vtexp.cost.flops import COMPUTED_STAGES, ITEM_BYTES, ModelArithmetic, mfu
from vtexp.cost.parts import Windows
from vtexp.cost.prompts import PromptCounts
from vtexp.data.sample import Sample
from vtexp.models.checkpoints import find_checkpoint
from vtexp.models.families import FAMILIES
from vtexp.models.molmo.configuration import MolmoConfig
from vtexp.models.molmo.modeling import MolmoForCausalLM
from vtexp.models.molmo.molmoe import MolmoEForCausalLM
from vtexp.models.prefill_graphs import cache_argument
from vtexp.models.runner import Inputs, Runner
from vtexp.models.runners import runner_class
from vtexp.runs.plan import make_plan
from vtexp.utils.files import read_json, read_jsonl

Draw = Callable[[list[tuple[int, int]]], list[Sample]]
Shape = tuple[int, ...]
ARCHITECTURES = Path(__file__).parents[2] / "vtexp" / "assets" / "architectures" / "allenai"

#: Small models with the flags of the published ones; encoders are deeper than what is read of them.
VARIANTS: dict[str, dict[str, Any]] = {
    "molmo_d": {"num_key_value_heads": 2},
    "molmo_o": {"qkv_bias": False, "attention_layer_norm": True, "norm_after": True},
    "molmoe": {"moe_num_experts": 8, "moe_top_k": 3, "qkv_bias": False,
               "attention_layer_norm": True, "intermediate_size": 48},
    "tied": {"weight_tying": True},
    "molmo2": {},
    "internvl": {},
    "qwen2_5_vl": {},
}  # fmt: skip
ENCODERS = ("VisionBackbone.image_vit", "Molmo2VisionModel", "InternVLVisionModel",
            "Qwen2_5_VisionTransformerPretrainedModel")  # fmt: skip
#: Connectors that are parts of an encoder's module.
INNER = "Qwen2_5_VisionTransformerPretrainedModel.merger"


def save_small(name: str, tokenizer: Path, folder: Path, **more: Any) -> None:
    torch.manual_seed(0)
    folder.mkdir()
    if name in SMALL:
        SMALL[name](save_tokenizer(name, folder)).save_pretrained(folder)
        return
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / file, folder)
    config = MolmoConfig.from_pretrained(tokenizer)
    config.connector |= {"vit_layers": [-2, -4]}
    config.vision_backbone |= {"image_num_layers": 4, "image_mlp_dim": 112}
    for key, value in (VARIANTS.get(name, {}) | more).items():
        setattr(config, key, value)
    (MolmoEForCausalLM if config.moe_num_experts else MolmoForCausalLM)(config).save_pretrained(
        folder
    )


@pytest.fixture(scope="module", params=VARIANTS)
def runner(
    request: pytest.FixtureRequest, small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Runner:
    folder = tmp_path_factory.mktemp("checkpoints") / request.param
    save_small(request.param, small_checkpoint, folder)
    checkpoint = find_checkpoint(str(folder))
    geometry = checkpoint.family.geometry_of(checkpoint.config)
    return runner_class(checkpoint.family).load(checkpoint, geometry, HardwareConfig())


def arithmetic_of(runner: Runner) -> ModelArithmetic:
    """From what the checkpoint's folder says, as a plan reads it."""
    config = json.loads((Path(runner.model.name_or_path) / "config.json").read_text())
    arithmetic = model_arithmetic(config, runner.geometry)
    assert arithmetic is not None
    return arithmetic


def prompt(runner: Runner, draw: Draw, tiling: tuple[int, int], full: bool = False) -> Inputs:
    """Model inputs of a question about an image of so many crops."""
    crops, (sample,) = prod(tiling), draw([(300 * tiling[0], 300 * tiling[1])])
    side = runner.geometry.window_px
    size = Size(*(n * side + runner.geometry.margin_px for n in tiling))
    setting = CropSetting(crops, crops, size, force_full_tokens=full)
    return runner.inputs([runner.prepare(sample, setting, "easy_vqa")])


def counts_of(
    runner: Runner, inputs: Inputs, tiling: tuple[int, int], full: bool = False
) -> PromptCounts:
    """Of the prompt; vision tokens by the number of patch tokens in it."""
    ids = runner.tokenizer.image_ids
    patch = ids[2] if len(ids) > 1 else ids[0]
    tokens = int((inputs["input_ids"] == patch).sum())
    return PromptCounts(prod(tiling), tokens, inputs["input_ids"].shape[1], Tiling(*tiling))


def counter() -> FlopCounterMode:
    """torch's counter, told of the two kernels of CPUs that it does not know."""
    aten = torch.ops.aten

    def attention(q: Shape, k: Shape, v: Shape, *_: Any, out_shape: Any = None, **__: Any) -> int:
        # Some heads share keys and values, of which the counter of torch 2.11 knows nothing.
        heads = q[:2]
        return sdpa_flop_count(q, (*heads, *k[2:]), (*heads, *v[2:]))

    return FlopCounterMode(
        display=False,
        custom_mapping={
            aten._scaled_dot_product_flash_attention_for_cpu: attention,
            aten._grouped_mm: lambda a, b, *_, out_shape=None, **__: 2 * prod(a) * b[-1],
        },
    )


def counted_flops(runner: Runner, inputs: Inputs) -> dict[str, int]:
    with torch.no_grad():
        with counter() as vision:
            features = runner.encode(inputs)
        with counter() as llm:
            runner.prefill(inputs, features)
    by_module = vision.get_flop_counts()
    (encoder,) = (sum(by_module[name].values()) for name in ENCODERS if name in by_module)
    inner = sum(by_module[INNER].values()) if INNER in by_module else 0
    connector, encoder = vision.get_total_flops() - encoder + inner, encoder - inner
    return dict(zip(COMPUTED_STAGES, (encoder, connector, llm.get_total_flops()), strict=True))


@pytest.mark.parametrize(("tiling", "full"), [((1, 1), False), ((2, 3), False), ((3, 1), True)])
def test_flops_are_those_that_torch_counts(
    runner: Runner, draw_noise: Draw, tiling: tuple[int, int], full: bool
) -> None:
    """Exactly: products of matrices are all that either counts."""
    inputs = prompt(runner, draw_noise, tiling, full)
    found = arithmetic_of(runner).flops(counts_of(runner, inputs, tiling))
    assert found == counted_flops(runner, inputs)


def test_decode_flops_are_those_that_torch_counts(runner: Runner, draw_noise: Draw) -> None:
    inputs = prompt(runner, draw_noise, (1, 1))
    del inputs["images" if "images" in inputs else "pixel_values"]
    inputs.pop("image_grid_thw", None)
    ids = inputs["input_ids"]
    with torch.no_grad():
        read = runner.model(input_ids=ids, use_cache=True)
        cache = {cache_argument(runner.model.forward): read[cache_argument(type(read))]}
        with counter() as decode:
            runner.model(input_ids=ids[:, :1], **cache, use_cache=True)
    assert decode.get_total_flops() == arithmetic_of(runner).decode_flops(ids.shape[1] + 1)


def test_weights_are_those_of_the_loaded_model(runner: Runner) -> None:
    parameters = list(runner.model.parameters())
    arithmetic = arithmetic_of(runner)
    assert arithmetic.parameters == sum(p.numel() for p in parameters)
    assert arithmetic.weights_bytes("float32") == sum(p.nbytes for p in parameters)


@pytest.mark.parametrize("name", [path.stem for path in sorted(ARCHITECTURES.glob("*.json"))])
def test_parameters_of_the_published_models(name: str) -> None:
    """Beside the classes built without memory, whose counts are the published ones elsewhere."""
    checkpoint = find_checkpoint(f"allenai/{name}", random=True)
    config = checkpoint.config
    with torch.device("meta"):
        if config["model_type"] == "molmo2":
            model: torch.nn.Module = Molmo2ForConditionalGeneration(Molmo2Config.from_dict(config))
        else:
            v1 = MolmoConfig.from_dict(config)
            model = (MolmoEForCausalLM if v1.moe_num_experts else MolmoForCausalLM)(v1)
    assert published(name).parameters == sum(p.numel() for p in model.parameters())


def published(name: str) -> ModelArithmetic:
    checkpoint = find_checkpoint(f"allenai/{name}", random=True)
    arithmetic = model_arithmetic(
        checkpoint.config, checkpoint.family.geometry_of(checkpoint.config)
    )
    assert arithmetic is not None
    return arithmetic


# --- closed forms by hand ------------------------------------------------------------------------


def test_decode_reads_all_weights_but_those_of_vision_and_embedding() -> None:
    """7B-D: a decoded token multiplies with every weight of the language model once."""
    llm = published("Molmo-7B-D-0924").llm
    blocks = 28 * (3584 * (3584 + 2 * 512) + 3584 * 3584 + 3 * 3584 * 18_944)
    flops = published("Molmo-7B-D-0924").decode_flops(1000)
    assert flops == 2 * (blocks + 3584 * 152_064) + 28 * 4 * 1000 * 3584
    assert llm.cache_values * 2 == 57_344  # bytes a token, bfloat16: 28 layers x 2 x 4 x 128 x 2


def test_an_experts_model_reads_no_more_experts_than_its_tokens_can_touch() -> None:
    arithmetic = published("MolmoE-1B-0924")
    expert = 3 * 2048 * 1024
    few, many = (arithmetic.decode_minimum_bytes(1, "bfloat16"), arithmetic.llm.weights_read(100))
    all_experts = 16 * 64 * expert
    # In the last block only the last position chooses experts.
    assert many - arithmetic.llm.weights_read(1) == 15 * 56 * expert + 99 * 2048
    assert few < 2 * (arithmetic.llm.weights - all_experts * 7 // 8)


def test_bytes_of_a_prefill_are_weights_and_what_goes_in_and_out() -> None:
    arithmetic = published("Molmo-7B-D-0924")
    small, large = (
        arithmetic.minimum_bytes(PromptCounts(crops, tokens, tokens + 50), "bfloat16")
        for crops, tokens in ((1, 288), (12, 1152))
    )
    assert small.keys() == set(COMPUTED_STAGES)
    crop = 576 * (588 + 2048) * 2
    assert large["vision_encoder"] - small["vision_encoder"] == 11 * crop
    pooling = 3 * 2048 * 1024 + 1024 * 1024 + 4 * 1024 + 2 * 2048  # with biases and pad embeddings
    projector = 18_944 * (2 * 1024 + 3584)
    # Of 13 crops only the patches behind the tokens that stay, 4 each, are read.
    read = {"small": 2 * 576 * 2048 + 288 * 3584, "large": 4 * 1152 * 2048 + 1152 * 3584}
    assert small["connector"] == 2 * (pooling + projector + read["small"])
    assert large["connector"] == 2 * (pooling + projector + read["large"])
    each = 3584 + 3584 + 28 * 2 * 512  # a row of the embedding or of the image, keys and values
    assert large["llm_prefill"] - small["llm_prefill"] == 2 * 864 * each
    assert sum(small.values()) < arithmetic.weights_bytes("bfloat16")  # rows of the embedding only
    assert sum(small.values()) > 0.9 * arithmetic.weights_bytes("bfloat16")


def test_visible_pairs_are_those_of_the_mask() -> None:
    """Counted in a mask: causal, and for Molmo2 vision tokens in both directions."""
    length, first, tokens = 40, 5, 20
    causal = torch.ones(length, length).tril().bool()
    mutual = causal.clone()
    mutual[first : first + tokens, first : first + tokens] = True
    for name, mask in (("Molmo-7B-D-0924", causal), ("Molmo2-8B", mutual)):
        llm = published(name).llm
        assert llm.pairs(length, tokens, "visible") == mask.sum().item()
        assert llm.pairs(length, tokens, "all") == length**2


def test_roofline_takes_the_longer_of_both_and_mfu_is_a_share() -> None:
    arithmetic = published("Molmo-7B-D-0924")
    counts = PromptCounts(12, 1152, 1250)
    bound = arithmetic.roofline_ms(counts, "bfloat16", peak_tflops=989, bandwidth_gb_per_s=3350)
    slow = arithmetic.roofline_ms(counts, "bfloat16", peak_tflops=989, bandwidth_gb_per_s=1)
    moved = arithmetic.minimum_bytes(counts, "bfloat16")
    assert slow == pytest.approx({stage: moved[stage] / 1e6 for stage in COMPUTED_STAGES})
    flops = arithmetic.flops(counts)
    at_peak = {stage: mfu(flops[stage], bound[stage], 989) for stage in COMPUTED_STAGES}
    assert at_peak["vision_encoder"] == pytest.approx(1)
    # The masked half of the products is counted by MFU's convention, not by the bound.
    assert 1 < at_peak["llm_prefill"] < 1.05


def test_sizes_that_are_not_known_have_no_arithmetic() -> None:
    for name in ("internvl", "qwen2_5_vl"):
        assert model_arithmetic({"model_type": name}, FAMILIES[name].geometry) is None
    text = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 9,
            "intermediate_size": 8}  # fmt: skip
    other = {"model_type": "internvl", "text_config": text | {"model_type": "mamba"}}
    assert model_arithmetic(other, FAMILIES["internvl"].geometry) is None


#: Of the whole model, as the published model cards and index files have them, in millions.
PUBLISHED = {"OpenGVLab/InternVL3-8B-hf": 7944, "Qwen/Qwen2.5-VL-7B-Instruct": 8292}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_of_other_published_models(name: str) -> None:
    """Beside transformers' class built without memory."""
    checkpoint = find_checkpoint(name, random=True)
    geometry = checkpoint.family.geometry_of(checkpoint.config)
    arithmetic = model_arithmetic(checkpoint.config, geometry)
    model_class = runner_class(checkpoint.family).model_class(checkpoint.config)
    config_class: Any = model_class.config_class
    with torch.device("meta"):
        model = model_class(config_class.from_dict(checkpoint.config))
    assert arithmetic is not None
    assert arithmetic.parameters == sum(p.numel() for p in model.parameters())
    assert round(arithmetic.parameters / 1e6) == PUBLISHED[name]


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (4, 4), (9, 14), (5, 33), (17, 3)])
def test_windows_are_those_of_transformers(rows: int, cols: int) -> None:
    """Pairs of cells that see each other, from the lengths of transformers' windows of patches."""
    grid = torch.tensor([[1, 2 * rows, 2 * cols]])
    _, ends = get_vision_window_index(grid, spatial_merge_size=2, window_size=112, patch_size=14)
    lengths = ends.diff().tolist()
    tiling = Tiling(rows, cols)
    pairs = Windows(4, 1).pairs(rows * cols, tiling)
    assert 16 * pairs == sum(length**2 for length in lengths)
    assert Windows(4, 1).pairs(rows * cols, None) >= pairs


# --- memory --------------------------------------------------------------------------------------


class LiveBytes(TorchDispatchMode):
    """The most bytes that tensors made inside held at once, those `given` left out."""

    def __init__(self, given: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, Any] = {t.untyped_storage()._cdata: None for t in given}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        output = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return output

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self.now += size
        self.peak = max(self.peak, self.now)

        def freed(_: Any) -> None:
            del self._known[key]
            self.now -= size

        self._known[key] = weakref.ref(storage, freed)


#: Shapes in the proportions of the published models: widths are what decides between the stages.
WIDE: dict[str, dict[str, Any]] = {
    "molmo": {"hidden_size": 224, "intermediate_size": 2368, "num_attention_heads": 7,
              "num_key_value_heads": 1},
    "molmoe": {"hidden_size": 128, "intermediate_size": 128, "num_attention_heads": 4,
               "num_key_value_heads": 4, "moe_num_experts": 16, "moe_top_k": 8},
    "internvl": {"hidden_size": 256, "intermediate_size": 1200, "num_attention_heads": 8,
                 "num_key_value_heads": 2, "head_dim": 32},
    "qwen2_5_vl": {"hidden_size": 256, "intermediate_size": 1200, "num_attention_heads": 8,
                   "num_key_value_heads": 2,
                   "rope_parameters": {"rope_theta": 1e4, "mrope_section": [4, 6, 6]}},
    "molmo2": {"hidden_size": 256, "intermediate_size": 768, "num_attention_heads": 8,
               "num_key_value_heads": 2, "head_dim": 32},
}  # fmt: skip
VISION = {"image_emb_dim": 64, "image_num_heads": 4, "image_head_dim": 16, "image_mlp_dim": 256,
          "image_num_layers": 4}  # fmt: skip


VISIONS = {
    "internvl": {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4},
    "qwen2_5_vl": {"hidden_size": 80, "intermediate_size": 214, "num_heads": 4,
                   "out_hidden_size": 256},
}  # fmt: skip


def save_wide(name: str, tokenizer: Path, folder: Path) -> None:
    save_small(name, tokenizer, folder)
    plain = json.loads((folder / "config.json").read_text())
    if name == "molmo2":
        plain["text_config"] |= WIDE[name]
        plain["adapter_config"] |= {"intermediate_size": 768, "text_hidden_size": 256}
        model: PreTrainedModel = Molmo2ForConditionalGeneration(Molmo2Config.from_dict(plain))
    elif name in SMALL:
        plain["text_config"] |= WIDE[name]
        plain["vision_config"] |= VISIONS[name]
        made: Any = runner_class(FAMILIES[name]).model_class(plain)
        model = made(made.config_class.from_dict(plain))
    else:
        plain |= WIDE[name] | {"vision_backbone": plain["vision_backbone"] | VISION}
        model_class = MolmoEForCausalLM if name == "molmoe" else MolmoForCausalLM
        model = model_class(MolmoConfig.from_dict(plain))
    model.save_pretrained(folder)


@pytest.mark.parametrize(
    ("name", "batch_size"),
    [
        ("molmo", 1),
        ("molmo", 3),
        ("molmoe", 1),
        pytest.param("molmoe", 3, marks=pytest.mark.slow),
        ("molmo2", 1),
        ("internvl", 1),
        pytest.param("internvl", 3, marks=pytest.mark.slow),
        ("qwen2_5_vl", 1),
        pytest.param("qwen2_5_vl", 3, marks=pytest.mark.slow),
    ],
)
def test_memory_estimate_covers_what_tensors_hold(
    small_checkpoint: Path, draw_noise: Draw, tmp_path: Path, name: str, batch_size: int
) -> None:
    """Not below by more than a tenth, nor above by more than a third."""
    folder = tmp_path / name
    save_wide(name, small_checkpoint, folder)
    checkpoint = find_checkpoint(str(folder))
    geometry = checkpoint.family.geometry_of(checkpoint.config)
    runner = runner_class(checkpoint.family).load(checkpoint, geometry, HardwareConfig())
    arithmetic = model_arithmetic(checkpoint.config, geometry)
    assert arithmetic is not None
    target = 900 if name == "qwen2_5_vl" else 10 * geometry.tokens_per_crop
    setting = KnobValue("vision_tokens", str(target)).crop_setting(geometry)
    samples = draw_noise([(300, 300)] * batch_size)
    batch = [runner.prepare(sample, setting, "easy_vqa") for sample in samples]
    with torch.no_grad(), LiveBytes(runner.model.parameters()) as live:
        inputs = runner.inputs(batch)
        runner.model(**inputs, use_cache=True, logits_to_keep=1)
    tokens = token_layout(setting.tiling(Size(300, 300), geometry), geometry).vision_tokens
    counts = PromptCounts(setting.max_crops, tokens, max(len(one.input_ids) for one in batch))
    memory = arithmetic.memory(counts, "float32", batch_size)
    estimate = memory.cache + memory.activations
    assert 0.75 * estimate < live.peak < 1.1 * estimate
    assert memory.total == memory.weights + estimate


def test_cache_grows_with_prompt_answer_and_batch() -> None:
    arithmetic = published("Molmo-7B-D-0924")
    counts = PromptCounts(4, 544, 600)
    one = arithmetic.memory(counts, "bfloat16", 1, new_tokens=24)
    many = arithmetic.memory(counts, "float32", 8, new_tokens=24)
    assert one.cache == 624 * 57_344
    assert many.cache == 8 * 2 * one.cache
    assert many.activations > 8 * 2 * one.activations  # a mask, too, where prompts are padded
    assert ITEM_BYTES["float32"] == 2 * ITEM_BYTES["float16"]


@pytest.mark.slow
def test_results_tell_flops_and_the_part_of_the_peak(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    peak = ("hardware.peak_tflops=0.1", "hardware.bandwidth_gb_per_s=10")
    run_without_report(make_config("knob.sizes=[336x336]", *peak))
    (path,) = (tmp_path / "sweep").glob("*/result.json")
    result, rows = read_json(path), read_jsonl(path.with_name("latency.jsonl"))
    plan = make_plan(make_config("knob.sizes=[336x336]", *peak))
    model = model_arithmetic(plan.checkpoint.config, plan.geometry)
    assert model is not None
    each = [sum(model.flops(PromptCounts(1, 288, row["sequence_length"])).values()) for row in rows]
    assert result["flops_per_prefill"] == pytest.approx(np.mean(each))
    shares = [
        flop / (row["prefill_ms"] / 1000) / 0.1e12 for flop, row in zip(each, rows, strict=True)
    ]
    assert result["mfu"] == pytest.approx(np.median(shares))
    assert 0 < result["roofline_ms"] < min(row["prefill_ms"] for row in rows)
