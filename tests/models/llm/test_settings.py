"""Fewer experts and blocks against models that have no more, token by token, and golden logits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import DynamicCache

from tests.cost.test_arithmetic import counter, save_small
from tests.helpers.waiting import by_the_device_alone, captured, on_the_device
from vtexp.budget.geometry import MOLMO, Tiling
from vtexp.budget.knobs import CropSetting
from vtexp.budget.llm import LlmSetting
from vtexp.budget.reduction import Reduction
from vtexp.config.schema import HardwareConfig
from vtexp.cost.architectures import model_arithmetic
from vtexp.cost.prompts import PromptCounts
from vtexp.data.sample import Sample
from vtexp.models.checkpoints import Checkpoint, find_checkpoint
from vtexp.models.molmo.answering import AnswerCache, AnswerSteps, BufferSizes
from vtexp.models.molmo.configuration import MolmoConfig
from vtexp.models.molmo.modeling import MolmoForCausalLM
from vtexp.models.molmo.molmoe import Experts, MixtureOfExperts, MolmoEBlock, MolmoEForCausalLM
from vtexp.models.molmo.runner import MolmoRunner
from vtexp.models.prefill_graphs import PromptCache

Draw = Callable[[list[tuple[int, int]]], list[Sample]]
#: Each of a model with 4 blocks and 8 experts, of which 3 are published to work.
SETTINGS = [
    LlmSetting(blocks=(0, 3)),
    LlmSetting(blocks=(0, 2, 3)),
    LlmSetting(top_k=1),
    LlmSetting(top_k=8),
    LlmSetting(top_k=2, first_top_k=3),
    LlmSetting(top_k=1, first_top_k=3, blocks=(0, 1, 3)),
]


@pytest.fixture(scope="module", params=["molmo_d", "molmo_o", "molmoe"])
def checkpoint(
    request: pytest.FixtureRequest, small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Checkpoint:
    folder = tmp_path_factory.mktemp("checkpoints") / request.param
    save_small(request.param, small_checkpoint, folder, num_hidden_layers=4)
    return find_checkpoint(str(folder))


@pytest.fixture(scope="module")
def runner(checkpoint: Checkpoint) -> MolmoRunner:
    return MolmoRunner.load(checkpoint, MOLMO, HardwareConfig())


def settings_of(runner: MolmoRunner) -> list[LlmSetting]:
    """Those that the runner's model can have."""
    has_experts = isinstance(runner.model, MolmoEForCausalLM)
    return [own for own in SETTINGS if has_experts or own.top_k is None]


@contextmanager
def without_other_blocks(runner: MolmoRunner, setting: LlmSetting) -> Iterator[MolmoRunner]:
    """The same weights in a model whose list has the running blocks alone, with their experts."""
    parts = runner.model.model.transformer
    blocks, model = parts.blocks, runner.model
    try:
        parts.blocks = torch.nn.ModuleList(blocks[i] for i in setting.ran(len(blocks)))
        for place, block in enumerate(parts.blocks):
            block.layer_idx = place
            if (top_k := setting.top_k_of(int(block is not blocks[0]))) is not None:
                block.mlp.published_top_k = top_k
        yield MolmoRunner(model, runner.tokenizer, MOLMO, runner.device, runner.dtype)
    finally:
        parts.blocks = blocks
        for place, block in enumerate(blocks):
            block.layer_idx = place
            if isinstance(block, MolmoEBlock):
                block.mlp.published_top_k = model.config.moe_top_k


def passes(runner: MolmoRunner, samples: list[Sample], setting: CropSetting) -> list[torch.Tensor]:
    """Logits of a prefill, of its captured stages run eagerly, and the ids of two batches."""
    prepared = [runner.prepare(sample, setting, "easy_vqa") for sample in samples]
    eager = runner._eager_stages(prepared[0], lambda _: None)
    found = [eager, runner.graph_stages(prepared[0]).run()]
    return found + [runner.generate(runner.inputs(batch), 6) for batch in (prepared[:1], prepared)]


@pytest.mark.parametrize(
    "reduction",
    [None, Reduction("stride", kept=30), Reduction("early_layer", kept=30, layer=1)],
    ids=["whole", "stride", "early_layer"],
)
@torch.inference_mode()
def test_a_block_that_is_left_out_is_no_block(
    runner: MolmoRunner, draw_noise: Draw, reduction: Reduction | None
) -> None:
    samples = draw_noise([(300, 500), (200, 200)])
    for setting in settings_of(runner):
        crops = CropSetting(2, reduction=reduction)
        with without_other_blocks(runner, setting) as other:
            expected = passes(other, samples, crops)
        own = CropSetting(2, reduction=reduction, llm=setting)
        found = passes(runner, samples, own)
        assert all(map(torch.equal, found, expected)), setting


@torch.inference_mode()
def test_a_setting_leaves_no_trace(runner: MolmoRunner, draw_noise: Draw) -> None:
    samples = draw_noise([(300, 500), (200, 200)])
    before = passes(runner, samples, CropSetting(2))
    for setting in settings_of(runner):
        changed = passes(runner, samples, CropSetting(2, llm=setting))
        assert not torch.equal(changed[0], before[0]), setting
        assert all(map(torch.equal, passes(runner, samples, CropSetting(2)), before)), setting


@torch.inference_mode()
def test_only_blocks_that_run_have_keys_and_values(runner: MolmoRunner, draw_noise: Draw) -> None:
    setting = LlmSetting(blocks=(0, 2, 3))
    cache = AnswerCache(runner.model, BufferSizes(2, 128, llm=setting))
    assert len(cache.keys) == len(cache.values) == 3
    inputs = runner.inputs(
        [runner.prepare(draw_noise([(99, 99)])[0], CropSetting(1, llm=setting), "easy_vqa")]
    )
    given = {key: inputs[key] for key in ("input_ids", "images", "image_masks", "image_input_idx")}
    prompt, dynamic = PromptCache(), DynamicCache()
    runner.model(**given, past_key_values=prompt, llm=setting)
    runner.model(**given, past_key_values=dynamic, llm=setting)
    assert len(prompt.kept) == 3
    held = [layer for layer in dynamic.layers if layer.is_initialized]
    assert len(held) == 3
    arithmetic = model_arithmetic(runner.model.config.to_dict(), MOLMO, setting)
    assert arithmetic is not None
    numbers = sum(layer.keys.numel() + layer.values.numel() for layer in held)
    assert numbers == inputs["input_ids"].shape[1] * arithmetic.llm.cache_values


@torch.inference_mode()
def test_flops_are_those_that_torch_counts(
    checkpoint: Checkpoint, runner: MolmoRunner, draw_noise: Draw
) -> None:
    for setting in [None, *settings_of(runner)]:
        crops = CropSetting(2, llm=setting)
        prepared = runner.prepare(draw_noise([(300, 500)])[0], crops, "easy_vqa")
        inputs = runner.inputs([prepared])
        features = runner.encode(inputs)
        with counter() as llm:
            runner.prefill(inputs, features)
        arithmetic = model_arithmetic(checkpoint.config, MOLMO, setting)
        assert arithmetic is not None
        counts = PromptCounts(2, 384, prepared.sequence_length, Tiling(1, 2))
        assert arithmetic.flops(counts)["llm_prefill"] == llm.get_total_flops(), setting


@torch.inference_mode()
def test_a_step_of_an_answer_has_the_flops_of_its_blocks(
    checkpoint: Checkpoint, runner: MolmoRunner
) -> None:
    for setting in [None, *settings_of(runner)]:
        cache = DynamicCache()
        ids = torch.arange(1, 21)[None]
        runner.model(ids, past_key_values=cache, llm=setting)
        with counter() as step:
            runner.model(ids[:, :1], past_key_values=cache, llm=setting)
        arithmetic = model_arithmetic(checkpoint.config, MOLMO, setting)
        assert arithmetic is not None
        assert arithmetic.decode_flops(21) == step.get_total_flops(), setting


def one_token(moe: MixtureOfExperts, x: torch.Tensor, top_k: int) -> torch.Tensor:
    """What the definition says of one token (hidden,): its likeliest experts, weighed."""
    experts: Experts = moe.experts
    likely = (moe.gate.weight @ x).float().softmax(dim=0)
    out = torch.zeros_like(x)
    for expert in sorted(range(len(likely)), key=lambda e: -float(likely[e]))[:top_k]:
        gate, up = (experts.gate_up_proj[expert] @ x).chunk(2)
        out += likely[expert] * (experts.down_proj[expert] @ (F.silu(gate) * up))
    return out


@pytest.mark.parametrize("top_k", range(1, 9))
@torch.inference_mode()
def test_top_k_token_by_token(golden_dir: Path, top_k: int) -> None:
    folder = golden_dir / "molmoe_tiny"
    model = MolmoEForCausalLM.from_pretrained(folder, config=MolmoConfig.from_pretrained(folder))
    block = model.model.transformer.blocks[1]
    block.use_top_k(top_k)
    x = torch.randn(2, 5, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([one_token(block.mlp, token, top_k) for token in x.flatten(0, 1)])
    torch.testing.assert_close(block.mlp(x).flatten(0, 1), expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_the_published_numbers_are_the_published_model(golden_dir: Path) -> None:
    folder = golden_dir / "molmoe_tiny"
    expected = np.load(folder / "expected.npz")
    model: MolmoForCausalLM = MolmoEForCausalLM.from_pretrained(
        folder, config=MolmoConfig.from_pretrained(folder)
    ).eval()
    ids = torch.from_numpy(expected["0.input_ids"]).long()[None].clamp(min=0)
    plain = model(ids).logits
    same = [
        LlmSetting(top_k=model.config.moe_top_k),
        LlmSetting(top_k=model.config.moe_top_k, first_top_k=model.config.moe_top_k),
        LlmSetting(blocks=tuple(range(model.config.num_hidden_layers))),
    ]
    assert all(torch.equal(model(ids, llm=own).logits, plain) for own in same)
    assert not torch.equal(model(ids, llm=LlmSetting(top_k=1)).logits, plain)


REDUCTIONS = [
    Reduction(method, kept=20, layer=1 if method == "early_layer" else None, positions=positions)
    for method in ("random", "pool", "max_min", "cls_attention", "conditional", "early_layer")
    for positions in ("keep", "renumber")
]


def assert_waits_for_nothing(
    runner: MolmoRunner, draw_noise: Draw, asked: Iterable[CropSetting]
) -> None:
    (sample,), there = draw_noise([(500, 400)]), on_the_device(runner)
    for setting in asked:
        captured(there.graph_stages(runner.prepare(sample, setting, "easy_vqa")))


def test_stages_for_graphs_wait_for_nothing(runner: MolmoRunner, draw_noise: Draw) -> None:
    """With every setting of the language model, alone and with a reduction within it."""
    asked = [CropSetting(4, llm=llm) for llm in (None, *settings_of(runner))]
    asked.append(CropSetting(4, reduction=REDUCTIONS[-2]))
    asked.append(CropSetting(4, reduction=REDUCTIONS[-1], llm=LlmSetting(blocks=(0, 1, 3))))
    assert_waits_for_nothing(runner, draw_noise, asked)


# What reduces is the same for all three.
@pytest.mark.parametrize(
    "checkpoint",
    ["molmo_d", *(pytest.param(own, marks=pytest.mark.slow) for own in ("molmo_o", "molmoe"))],
    indirect=True,
)
def test_stages_that_reduce_wait_for_nothing(runner: MolmoRunner, draw_noise: Draw) -> None:
    asked = (CropSetting(4, reduction=own) for own in REDUCTIONS)
    assert_waits_for_nothing(runner, draw_noise, asked)


@torch.no_grad()
def test_steps_of_answers_wait_for_nothing(runner: MolmoRunner) -> None:
    model = on_the_device(runner).model
    for llm in (None, *settings_of(runner)):
        for sizes in (BufferSizes(2, 128, llm=llm), BufferSizes(2, 128, 1, 64, llm=llm)):
            steps = AnswerSteps(model, sizes)
            steps._cache.is_prompt = False
            by_the_device_alone(steps._step)
