"""Molmo v1 with reduced prompts: what stays, what is counted; all kept is the plain model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from vtexp.budget.geometry import MOLMO, Tiling
from vtexp.budget.knobs import CropSetting
from vtexp.budget.reduction import Reduction
from vtexp.config.schema import HardwareConfig
from vtexp.data.sample import Sample
from vtexp.errors import VtexpError
from vtexp.models.checkpoints import find_checkpoint
from vtexp.models.molmo.runner import MolmoRunner
from vtexp.models.reduced_prompt import ReduciblePrompt

#: Global view and 1x1, 1x2, 2x1 and 2x2 crops.
SHAPES = [(300, 300), (300, 500), (500, 300), (560, 560)]
METHODS = ("random", "stride", "pool", "max_min", "cls_attention", "conditional")
ALL = 10**5


@pytest.fixture(scope="module")
def runner(small_checkpoint: Path) -> MolmoRunner:
    return MolmoRunner.load(find_checkpoint(str(small_checkpoint)), MOLMO, HardwareConfig())


@pytest.fixture(scope="module")
def samples(draw_noise: Callable[[list[tuple[int, int]]], list[Sample]]) -> list[Sample]:
    return draw_noise(SHAPES)


def setting(reduction: Reduction | None, crops: int = 4, full: bool = False) -> CropSetting:
    return CropSetting(crops, force_full_tokens=full, reduction=reduction)


def logits(runner: MolmoRunner, sample: Sample, asked: CropSetting) -> torch.Tensor:
    with torch.inference_mode():
        return runner._pass(sample, asked, "easy_vqa", lambda _: None, None)[0]


def answers(runner: MolmoRunner, batch: list[Sample], asked: CropSetting) -> list[list[int]]:
    prepared = [runner.prepare(sample, asked, "easy_vqa") for sample in batch]
    return runner.answer(prepared, 4)


@pytest.mark.parametrize("positions", ["keep", "renumber"])
@pytest.mark.parametrize("method", METHODS)
def test_all_kept_is_the_plain_model_bit_for_bit(
    runner: MolmoRunner, samples: list[Sample], method: str, positions: str
) -> None:
    whole = setting(Reduction(method, kept=ALL, positions=positions, merge=True))
    plain = setting(None)
    assert torch.equal(logits(runner, samples[1], whole), logits(runner, samples[1], plain))
    if method in ("pool", "cls_attention"):
        assert answers(runner, samples[:3], whole) == answers(runner, samples[:3], plain)


def test_full_tokens_are_reduced_too(runner: MolmoRunner, samples: list[Sample]) -> None:
    for method in ("stride", "pool"):
        whole = setting(Reduction(method, kept=ALL), full=True)
        expected = logits(runner, samples[2], setting(None, full=True))
        assert torch.equal(logits(runner, samples[2], whole), expected)


@pytest.mark.parametrize("structure", ["keep", "drop"])
@pytest.mark.parametrize("method", METHODS)
def test_measured_is_asked_alone_and_in_batches(
    runner: MolmoRunner, samples: list[Sample], method: str, structure: str
) -> None:
    for kept in (1, 300) if method in ("stride", "pool") else (64,):
        asked = setting(Reduction(method, kept=kept, structure_tokens=structure))
        prepared = [runner.prepare(sample, asked, "easy_vqa") for sample in samples]
        with runner.probe() as probe:
            together, counts = runner.answer(prepared, 3), probe.take()
            alone = [(runner.answer([one], 3)[0], probe.take()[0]) for one in prepared]
        assert [(together[i], counts[i]) for i in range(len(samples))] == alone
        tilings = [asked.tiling(sample.image_size(), MOLMO) for sample in samples]
        assert [count.tiling for count in counts] == tilings
        tokens = [144 + (8 * r + 4) * (8 * c + 4) for r, c in tilings]
        assert [count.vision_tokens for count in counts] == [min(kept, n) for n in tokens]


def seen_lengths(runner: MolmoRunner, sample: Sample, asked: CropSetting) -> tuple[int, int]:
    """Positions that the first block reads, and what the prepared sample says."""
    seen: list[int] = []
    block = runner.model.model.transformer.blocks[0]
    handle = block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    logits(runner, sample, asked)
    handle.remove()
    return seen[0], runner.prepare(sample, asked, "easy_vqa").sequence_length


@pytest.mark.parametrize("structure", ["keep", "drop"])
def test_dropped_tokens_leave_the_prompt(
    runner: MolmoRunner, samples: list[Sample], structure: str
) -> None:
    plain, _ = seen_lengths(runner, samples[3], setting(None))
    asked = setting(Reduction("stride", kept=64, structure_tokens=structure))
    # 2x2: a global view of 12 rows, 20 rows of crops; a start and an end token around each.
    gone = 544 - 64 + (12 + 20 + 4 if structure == "drop" else 0)
    assert seen_lengths(runner, samples[3], asked) == (plain - gone, plain - gone)


def test_kept_tokens_stand_at_their_own_rows(runner: MolmoRunner, samples: list[Sample]) -> None:
    """Against a prompt of the same tokens, written by hand, in the plain model."""
    for positions in ("keep", "renumber"):
        asked = setting(Reduction("stride", kept=50, positions=positions))
        prepared = runner.prepare(samples[3], asked, "easy_vqa")
        whole = runner.inputs([runner.prepare(samples[3], setting(None), "easy_vqa")])
        index, ids = whole["image_input_idx"].flatten().numpy(), whole["input_ids"][0]
        places = np.sort(index[index >= 0])
        chosen = places[[(2 * i + 1) * len(places) // 100 for i in range(50)]]
        stays = np.ones(len(ids), dtype=bool)
        stays[np.setdiff1d(places, chosen)] = False
        rows = np.flatnonzero(stays)
        by_place = {place: token for token, place in enumerate(index) if place >= 0}
        with torch.inference_mode():
            features = runner.model.encode_images(whole["images"][0], whole["image_masks"][0])
            features = features.flatten(0, 1)[[by_place[place] for place in chosen]]
            new_index = torch.full((1, 1, 144), -100)
            new_index[0, 0, :50] = torch.from_numpy(np.searchsorted(rows, chosen))
            expected = runner.model(
                input_ids=ids[rows][None],
                image_input_idx=new_index,
                image_features=features,
                position_ids=torch.from_numpy(rows)[None] if positions == "keep" else None,
                logits_to_keep=1,
            ).logits
        found = logits(runner, samples[3], asked)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert prepared.sequence_length == len(rows)


def test_answers_go_on_at_the_position_that_is_kept(
    runner: MolmoRunner, samples: list[Sample]
) -> None:
    """Token by token without a cache: each next one from a prompt with the answer so far."""
    asked = setting(Reduction("stride", kept=50, positions="keep"))
    (found,) = answers(runner, [samples[3]], asked)
    prepared = runner.prepare(samples[3], asked, "easy_vqa")
    ids: list[int] = []
    for _ in range(len(found)):
        more = torch.cat([prepared.input_ids, torch.tensor(ids, dtype=torch.long)])
        longer = type(prepared)(more, prepared.image, prepared.image_at, prepared.reduction)
        inputs = runner.inputs([longer])
        with torch.inference_mode():
            reduced = runner.reduce(inputs, runner.encode(inputs))
            ids.append(int(runner.prefill(inputs, reduced)[0, -1].argmax()))
    assert ids == found


@torch.inference_mode()
def test_attention_of_cls_is_that_of_the_last_block_run(
    runner: MolmoRunner, samples: list[Sample]
) -> None:
    encoder = runner.model.model.vision_backbone.image_vit
    inputs = runner.inputs([runner.prepare(samples[1], setting(None), "easy_vqa")])
    _, read = encoder(inputs["images"][0], with_last_input=True)
    block = encoder.transformer.resblocks[max(encoder.read_layers)]
    seen: list[torch.Tensor] = []
    handle = block.register_forward_pre_hook(lambda _, own: seen.append(own[0]))
    encoder(inputs["images"][0])
    handle.remove()
    assert torch.equal(read, seen[0])
    x = block.attention_norm(read).double().numpy()
    own = block.attention
    q, k = (
        x @ layer.weight.double().numpy().T + layer.bias.double().numpy()
        for layer in (own.wq, own.wk)
    )
    heads, width = own.num_heads, q.shape[-1] // own.num_heads
    expected = np.zeros((len(x), 576))
    for crop in range(len(x)):
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            products = q[crop, 0, part] @ k[crop, :, part].T / np.sqrt(width)
            shares = np.exp(products - products.max())
            expected[crop] += (shares / shares.sum())[1:] / heads
    np.testing.assert_allclose(encoder.cls_attention(read), expected, rtol=1e-4)
    pooled = runner.model.model.vision_backbone.pooled_scores(torch.from_numpy(expected))
    token = expected[1].reshape(24, 24)[2:4, 6:8].mean()  # row 1, column 3 of 12 x 12
    assert float(pooled[1, 12 + 3]) == pytest.approx(token)


def test_tokens_are_given_in_the_order_of_the_prompt(
    runner: MolmoRunner, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = runner.prepare(samples[3], setting(Reduction("stride", kept=ALL)), "easy_vqa")
    prompt: ReduciblePrompt = runner._reducible(prepared)
    ids, image_ids = prepared.input_ids.tolist(), runner.tokenizer.image_ids
    assert prompt.places.tolist() == [i for i, own in enumerate(ids) if own == image_ids[2]]
    assert prompt.grids == ((12, 12), (20, 20))
    assert prepared.image.tiling == Tiling(2, 2)
    index = prepared.image.image_input_idx.flatten()
    assert (index[prompt.source] + prepared.image_at).tolist() == prompt.places.tolist()


def test_the_stage_is_timed_within_the_prefill(runner: MolmoRunner, samples: list[Sample]) -> None:
    times = runner.timed_prefill(samples[3], setting(Reduction("max_min", kept=64)), "easy_vqa")
    assert times.reduction_ms is not None and times.reduction_ms > 0
    parts = times.vision_ms + times.reduction_ms + times.llm_prefill_ms
    assert parts == pytest.approx(times.prefill_ms, abs=1)
    plain = runner.timed_prefill(samples[3], setting(None), "easy_vqa")
    assert plain.reduction_ms is None
    memory = runner.prefill_memory(samples[3], setting(Reduction("max_min", kept=64)), "easy_vqa")
    assert not memory or "reduction" in memory


def test_a_method_that_gives_another_number_is_refused(
    runner: MolmoRunner, samples: list[Sample], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "own_reduction.py").write_text(
        "from vtexp.models.reduction.method import kept\n"
        "import torch\n"
        "def first(encoded, k):\n"
        "    return kept(encoded, torch.arange(k))\n"
        "def one_more(encoded, k):\n"
        "    return kept(encoded, torch.arange(k + 1))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    good = setting(Reduction("python", kept=9, function="own_reduction:first"))
    with runner.probe() as probe:
        answers(runner, samples[:2], good)
        assert [count.vision_tokens for count in probe.take()] == [9, 9]
    bad = setting(Reduction("python", kept=9, function="own_reduction:one_more"))
    with pytest.raises(VtexpError, match="reduction to 9 tokens"):
        answers(runner, samples[:1], bad)
