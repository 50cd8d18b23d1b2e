"""Tokens that leave within the language model, against the definition written out.

The reference never drops a row: every block reads the whole prompt, and from block K on a mask
hides what was dropped. Scores are those of the full matrix of attention, in numpy.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vtexp.budget.geometry import MOLMO
from vtexp.budget.knobs import CropSetting
from vtexp.budget.reduction import Reduction
from vtexp.config.schema import HardwareConfig
from vtexp.data.sample import Sample
from vtexp.models.checkpoints import find_checkpoint
from vtexp.models.molmo.answering import AnswerSteps
from vtexp.models.molmo.blocks import rotary_of
from vtexp.models.molmo.configuration import MolmoConfig
from vtexp.models.molmo.modeling import MolmoForCausalLM
from vtexp.models.molmo.molmoe import MolmoEForCausalLM
from vtexp.models.molmo.runner import MolmoRunner
from vtexp.models.reduction.early_layer import early_layer, last_attention

Draw = Callable[[list[tuple[int, int]]], list[Sample]]
BLOCKS, STEPS = 5, 3
#: With groups of heads and biases; with norms of queries and keys, and norms behind; with experts.
VARIANTS: dict[str, dict[str, Any]] = {
    "molmo_d": {"num_key_value_heads": 2},
    "molmo_o": {"qkv_bias": False, "attention_layer_norm": True, "norm_after": True},
    "molmoe": {"moe_num_experts": 8, "moe_top_k": 3, "qkv_bias": False,
               "attention_layer_norm": True, "intermediate_size": 48},
}  # fmt: skip
SHAPES = [(300, 300), (500, 300)]


@pytest.fixture(scope="module", params=VARIANTS)
def runner(
    request: pytest.FixtureRequest, small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> MolmoRunner:
    """Weights are large, so that attention and answers depend on what is read."""
    folder = tmp_path_factory.mktemp("early") / request.param
    folder.mkdir()
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(small_checkpoint / file, folder)
    config = MolmoConfig.from_pretrained(small_checkpoint)
    for key, value in (VARIANTS[request.param] | {"num_hidden_layers": BLOCKS}).items():
        setattr(config, key, value)
    torch.manual_seed(0)
    model = (MolmoEForCausalLM if config.moe_num_experts else MolmoForCausalLM)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    model.save_pretrained(folder)
    return MolmoRunner.load(find_checkpoint(str(folder)), MOLMO, HardwareConfig())


@pytest.fixture(scope="module")
def samples(draw_noise: Draw) -> list[Sample]:
    return draw_noise(SHAPES)


def setting(kept: int, layer: int = 2, full: bool = False, **more: Any) -> CropSetting:
    asked = Reduction("early_layer", kept=kept, layer=layer, **more)
    return CropSetting(4, force_full_tokens=full, reduction=asked)


# --- the reference --------------------------------------------------------------------------------


def rms(x: np.ndarray, norm: torch.nn.Module) -> np.ndarray:
    if isinstance(norm, torch.nn.Identity):
        return x
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + norm.eps) * norm.weight.double().numpy()


def rotated(x: np.ndarray, theta: float) -> np.ndarray:
    """Row p of x (L, d) at position p: pairs of numbers half a width apart are turned."""
    half = x.shape[1] // 2
    out = np.empty_like(x)
    for i in range(half):
        angle = np.arange(len(x)) * theta ** (-i / half)
        a, b = x[:, i], x[:, i + half]
        out[:, i] = a * np.cos(angle) - b * np.sin(angle)
        out[:, i + half] = b * np.cos(angle) + a * np.sin(angle)
    return out


def attention_matrix(runner: MolmoRunner, layer: int, x: np.ndarray) -> np.ndarray:
    """Of a block's input (L, hidden) in float64: what each position pays to each, mean of heads."""
    block, config = runner.model.model.transformer.blocks[layer], runner.model.config
    read = x if config.norm_after else rms(x, block.attn_norm)
    out = read @ block.att_proj.weight.double().numpy().T
    out += 0 if block.att_proj.bias is None else block.att_proj.bias.double().numpy()
    hidden, width, heads = config.hidden_size, config.head_dim, config.num_attention_heads
    kv_width = config.num_key_value_heads * width
    query = rms(out[:, :hidden], block.q_norm)
    key = rms(out[:, hidden : hidden + kv_width], block.k_norm)
    total = np.zeros((len(x), len(x)))
    for head in range(heads):
        shared = head * config.num_key_value_heads // heads
        q = rotated(query[:, head * width : (head + 1) * width], config.rope_theta)
        k = rotated(key[:, shared * width : (shared + 1) * width], config.rope_theta)
        for i in range(len(x)):
            products = k[: i + 1] @ q[i] / np.sqrt(width)
            shares = np.exp(products - products.max())
            total[i, : i + 1] += shares / shares.sum() / heads
    return total


class Reference(NamedTuple):
    """Of one prompt: which rows stay; logits of each answer token, (STEPS, ids); the answer."""

    stays: np.ndarray
    logits: torch.Tensor
    answer: list[int]


@torch.inference_mode()
def reference(runner: MolmoRunner, sample: Sample, asked: CropSetting) -> Reference:
    model, own = runner.model, asked.reduction
    assert own is not None and own.layer is not None
    whole = CropSetting(4, force_full_tokens=asked.force_full_tokens)
    prepared = runner.prepare(sample, whole, "easy_vqa")
    inputs = runner.inputs([prepared])
    seen: list[torch.Tensor] = []
    scoring = model.model.transformer.blocks[own.layer - 1]
    handle = scoring.register_forward_pre_hook(lambda _, read: seen.append(read[0]))
    features = runner.encode(inputs)
    runner.prefill(inputs, features)
    handle.remove()
    index = inputs["image_input_idx"]
    prompt = model.embed(inputs["input_ids"], None, None, index, features)
    scores = attention_matrix(runner, own.layer - 1, seen[0][0].double().numpy())[-1]
    ids, (start, end, patch, _) = prepared.input_ids.numpy(), runner.tokenizer.image_ids
    tokens = np.flatnonzero(ids == patch)
    kept = sorted(sorted(range(len(tokens)), key=lambda i: -scores[tokens[i]])[: own.kept])
    stays = np.ones(len(ids), dtype=bool)
    stays[tokens] = False
    if own.structure_tokens == "drop":
        first, last = np.flatnonzero(ids == start)[0], np.flatnonzero(ids == end)[-1]
        stays[first : last + 1] = False
    stays[tokens[kept]] = True
    answer: list[int] = []
    logits = []
    for _ in range(STEPS):
        logits.append(hidden_not_dropped(runner, prompt, answer, stays, own))
        answer.append(int(logits[-1].argmax()))
    return Reference(stays, torch.stack(logits), answer)


def hidden_not_dropped(
    runner: MolmoRunner, prompt: torch.Tensor, answer: list[int], stays: np.ndarray, own: Reduction
) -> torch.Tensor:
    """Logits behind a prompt (1, L, hidden) and its answer so far: all rows in all blocks."""
    model = runner.model
    assert own.layer is not None
    ids = torch.tensor([answer], dtype=torch.long)
    x = torch.cat([prompt, model.model.transformer.wte(ids)], dim=1)
    length = x.shape[1]
    visible = torch.ones(length, dtype=torch.bool)
    visible[: len(stays)] = torch.from_numpy(stays)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    itself = torch.eye(length, dtype=torch.bool)
    early, late = torch.arange(length), torch.arange(length)
    if own.positions == "renumber":
        late = (visible.cumsum(0) - 1).clamp(min=0)
    for index, block in enumerate(model.model.transformer.blocks):
        is_late = index >= own.layer
        mask = (causal & visible) | itself if is_late else causal
        rotary = rotary_of((late if is_late else early)[None], model.config)
        x, _, _ = block.read_prompt(x, rotary, mask[None, None])
    return model.logits_of(x[:, -1:])[0, -1]


# --- tests ----------------------------------------------------------------------------------------


@given(scores=st.lists(st.integers(0, 9), min_size=1, max_size=30), data=st.data())
def test_the_highest_stay_and_of_equals_the_first(scores: list[int], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(scores)))
    expected = sorted(sorted(range(len(scores)), key=lambda i: -scores[i])[:k])
    assert early_layer(torch.tensor(scores).float(), k).tolist() == expected


@given(seed=st.integers(0, 99), kv_heads=st.sampled_from([1, 2, 4]))
def test_attention_of_the_last_position(seed: int, kv_heads: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    query = torch.randn(2, 4, 1, 6, generator=rng)
    key = torch.randn(2, kv_heads, 9, 6, generator=rng)
    last = torch.tensor([8, 5])
    found = last_attention(query, key, last)
    for row in range(2):
        n, expected = int(last[row]) + 1, np.zeros(9)
        for head in range(4):
            keys = key[row, head * kv_heads // 4, :n].double().numpy()
            products = np.exp(keys @ query[row, head, 0].double().numpy() / np.sqrt(6))
            expected[:n] += products / products.sum() / 4
        np.testing.assert_allclose(found[row], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("positions", "structure"),
    [
        ("keep", "keep"),
        ("renumber", "drop"),
        pytest.param("keep", "drop", marks=pytest.mark.slow),
        pytest.param("renumber", "keep", marks=pytest.mark.slow),
    ],
)
def test_tokens_logits_and_answers_are_those_of_the_definition(
    runner: MolmoRunner,
    samples: list[Sample],
    positions: str,
    structure: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Alone and in one batch of prompts of unlike lengths, padded on the right."""
    heard: list[torch.Tensor] = []
    choose = AnswerSteps._choose

    def hear(steps: AnswerSteps, logits: torch.Tensor) -> None:
        heard.append(logits.clone())
        choose(steps, logits)

    monkeypatch.setattr(AnswerSteps, "_choose", hear)
    layer = 3 if positions == structure else 2
    asked = setting(40, layer, positions=positions, structure_tokens=structure)
    expected = [reference(runner, sample, asked) for sample in samples]
    prepared = [runner.prepare(sample, asked, "easy_vqa") for sample in samples]
    for own, one, sample in zip(expected, prepared, samples, strict=True):
        rows, logits = stages(runner, sample, asked)
        assert rows == np.flatnonzero(own.stays).tolist()
        close(logits, own.logits[0])
        heard.clear()
        assert runner.answer([one], STEPS)[0] == own.answer
        close(torch.cat(heard), own.logits)
        plain = runner.prepare(sample, CropSetting(4), "easy_vqa")
        heard.clear()
        runner.answer([plain], 1)
        assert not torch.allclose(heard[0], own.logits[0], rtol=1e-2, atol=1e-2)
    heard.clear()
    assert runner.answer(prepared, STEPS) == [own.answer for own in expected]
    for row, own in enumerate(expected):
        close(torch.stack(heard)[:, row], own.logits)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


@torch.inference_mode()
def stages(
    runner: MolmoRunner, sample: Sample, asked: CropSetting
) -> tuple[list[int], torch.Tensor]:
    """Rows that stay and logits of a prefill."""
    seen: list[list[int]] = []
    selection = runner.model.model.row_selection
    handle = selection.register_forward_hook(lambda _, read, __: seen.append(read[1][0].tolist()))
    logits, _ = runner._pass(sample, asked, "easy_vqa", lambda _: None, None)
    handle.remove()
    return seen[0], logits[0, -1]


@pytest.mark.parametrize("positions", [pytest.param("keep", marks=pytest.mark.slow), "renumber"])
def test_all_kept_is_the_plain_model_bit_for_bit(
    runner: MolmoRunner, samples: list[Sample], positions: str
) -> None:
    for full in (False, True):
        whole = setting(10**5, full=full, positions=positions)
        plain = CropSetting(4, force_full_tokens=full)
        with torch.inference_mode():
            expected, _ = runner._pass(samples[1], plain, "easy_vqa", lambda _: None, None)
        assert torch.equal(stages(runner, samples[1], whole)[1], expected[0, -1])
    found, plain_found = (
        runner.answer([runner.prepare(s, own, "easy_vqa") for s in samples], STEPS)
        for own in (whole, plain)
    )
    assert found == plain_found


@pytest.mark.parametrize("structure", ["keep", "drop"])
def test_measured_is_asked_in_each_block(
    runner: MolmoRunner, samples: list[Sample], structure: str
) -> None:
    for layer in (1, BLOCKS - 1):
        asked = setting(50, layer, structure_tokens=structure)
        prepared = [runner.prepare(sample, asked, "easy_vqa") for sample in samples]
        tokens = [(one.input_ids == runner.tokenizer.image_ids[2]).sum().item() for one in prepared]
        with runner.probe() as probe:
            runner.answer(prepared, STEPS)
            counts = probe.take()
            runner.eager_prefill(samples[1], asked, "easy_vqa")
            assert probe.take() == counts[1:]
        for own, count, sample in zip(counts, tokens, samples, strict=True):
            assert own.by_block == (count,) * layer + (50,) * (BLOCKS - layer)
            mean = (layer * count + (BLOCKS - layer) * 50) / BLOCKS
            assert own.vision_tokens == pytest.approx(mean)
            assert own.tiling == asked.tiling(sample.image_size(), MOLMO)


def test_late_blocks_hold_what_stays_and_no_more(
    runner: MolmoRunner, samples: list[Sample]
) -> None:
    asked = setting(40, 2, structure_tokens="drop")
    prepared = runner.prepare(samples[1], asked, "easy_vqa")
    runner.forget_answers()
    (answer,) = runner.answer([prepared], STEPS)
    (steps,) = runner._answering._steps.values()
    cache, length = steps._cache, len(prepared.input_ids)
    late = length - prepared.dropped
    used = [int((keys != 0).any(dim=-1).any(dim=1).sum()) for keys in cache.keys]
    assert used == [length + len(answer) - 1] * 2 + [late + len(answer) - 1] * (BLOCKS - 2)
    assert {keys.shape[2] for keys in cache.keys[2:]} == {128}  # the least that buffers hold
    assert cache.keys[0].shape[2] >= length


def test_scoring_is_timed_within_the_language_model(
    runner: MolmoRunner, samples: list[Sample]
) -> None:
    ended: list[str] = []
    runner_pass = runner._pass
    with torch.inference_mode():
        runner_pass(samples[1], setting(40), "easy_vqa", ended.append, None)
    llm, cut = "llm_prefill_ms", "reduction_ms"
    assert ended[-5:] == ["connector_ms", llm, cut, llm, "first_token_ms"]
    times = runner.timed_prefill(samples[1], setting(40), "easy_vqa")
    assert times.reduction_ms is not None and 0 < times.reduction_ms < times.llm_prefill_ms
    parts = times.vision_ms + times.reduction_ms + times.llm_prefill_ms
    assert parts == pytest.approx(times.prefill_ms, abs=1e-6)
    memory = runner.prefill_memory(samples[1], setting(40), "easy_vqa")
    assert not memory or {"llm_prefill", "reduction"} <= memory.keys()
