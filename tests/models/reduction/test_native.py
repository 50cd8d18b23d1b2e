"""InternVL, Qwen2.5-VL and Molmo2 with reduced prompts, beside transformers' plain classes."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.waiting import captured, on_the_device
from tests.models.test_families import SMALL, expected_tokens, save_tokenizer
from vtexp.budget.knobs import CropSetting, KnobValue
from vtexp.budget.reduction import Reduction
from vtexp.config.schema import Config, HardwareConfig
from vtexp.data.sample import Sample
from vtexp.errors import ConfigError, CountMismatchError, VtexpError
from vtexp.models.checkpoints import find_checkpoint
from vtexp.models.families import FAMILIES
from vtexp.models.native import NativeRunner
from vtexp.models.reduction.method import Encoded, Reduced
from vtexp.models.runners import runner_class
from vtexp.runs.plan import make_plan

METHODS = ("random", "stride", "pool", "max_min", "cls_attention", "conditional")
SHAPES = [(300, 300), (300, 900), (900, 400)]
ALL = 10**5
#: Structure tokens around and between the image's, by name.
STRUCTURE = {
    "internvl": ("<img>", "</img>"),
    "qwen2_5_vl": ("<|vision_start|>", "<|vision_end|>"),
    "molmo2": ("<im_start>", "<low_res_im_start>", "<im_end>", "<im_col>"),
}


@pytest.fixture(scope="module", params=SMALL)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint whose encoder's attention is far from even."""
    folder = tmp_path_factory.mktemp("checkpoints") / request.param
    folder.mkdir()
    torch.manual_seed(0)
    model = SMALL[request.param](save_tokenizer(request.param, folder))
    kind = runner_class(FAMILIES[request.param])
    assert issubclass(kind, NativeRunner)
    tower = model.get_submodule(kind.vision_tower)
    for name, parameter in tower.named_parameters():
        if "lambda" in name:
            parameter.data.fill_(1.0)
        elif parameter.ndim > 1:
            parameter.data.normal_(std=0.2)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def runner(folder: Path) -> NativeRunner:
    checkpoint = find_checkpoint(str(folder))
    geometry = checkpoint.family.geometry_of(checkpoint.config)
    found = runner_class(checkpoint.family).load(checkpoint, geometry, HardwareConfig())
    assert isinstance(found, NativeRunner)
    return found


@pytest.fixture(scope="module")
def samples(draw_noise: Callable[[list[tuple[int, int]]], list[Sample]]) -> list[Sample]:
    return draw_noise(SHAPES)


def setting(runner: NativeRunner, reduction: Reduction | None = None) -> CropSetting:
    cap = "200" if is_qwen(runner) else "4"
    return replace(KnobValue("max_crops", cap).crop_setting(runner.geometry), reduction=reduction)


def is_qwen(runner: NativeRunner) -> bool:
    return runner.model.config.model_type == "qwen2_5_vl"


def logits(runner: NativeRunner, sample: Sample, asked: CropSetting) -> torch.Tensor:
    with torch.inference_mode():
        return runner._pass(sample, asked, "easy_vqa", lambda _: None, None)[0]


def answers(runner: NativeRunner, batch: list[Sample], asked: CropSetting) -> list[list[int]]:
    return runner.answer([runner.prepare(one, asked, "easy_vqa") for one in batch], 4)


@pytest.mark.parametrize("positions", ["keep", "renumber"])
def test_all_kept_is_the_plain_model_bit_for_bit(
    runner: NativeRunner, samples: list[Sample], positions: str
) -> None:
    expected = logits(runner, samples[0], setting(runner))
    for method in METHODS:
        whole = setting(runner, Reduction(method, kept=ALL, positions=positions, merge=True))
        assert torch.equal(logits(runner, samples[0], whole), expected)
    whole = setting(runner, Reduction("cls_attention", kept=ALL, positions=positions))
    assert answers(runner, samples, whole) == answers(runner, samples, setting(runner))


@pytest.mark.parametrize(
    ("method", "positions", "structure"),
    [
        ("pool", "keep", "keep"),
        ("max_min", "renumber", "drop"),
        ("cls_attention", "renumber", "keep"),
        ("stride", "keep", "drop"),
    ],
)
def test_measured_is_asked_alone_and_in_a_batch(
    runner: NativeRunner, samples: list[Sample], method: str, positions: str, structure: str
) -> None:
    for kept in (1, 150) if method == "stride" else (150,):
        own = Reduction(method, kept=kept, positions=positions, structure_tokens=structure)
        asked = setting(runner, own)
        prepared = [runner.prepare(sample, asked, "easy_vqa") for sample in samples]
        with runner.probe() as probe:
            together, counts = runner.answer(prepared, 3), probe.take()
            alone = [(runner.answer([one], 3)[0], probe.take()[0]) for one in prepared]
        assert [(together[i], counts[i]) for i in range(len(samples))] == alone
        name = runner.model.config.model_type
        tilings = [asked.tiling(sample.image_size(), runner.geometry) for sample in samples]
        tokens = [expected_tokens(name, *tiling, False) for tiling in tilings]
        assert [count.vision_tokens for count in counts] == [min(kept, n) for n in tokens]
        assert [count.num_crops for count in counts] == [tiling.num_crops for tiling in tilings]
        if name != "internvl":
            assert [count.tiling for count in counts] == tilings


def read_ids(runner: NativeRunner, sample: Sample, asked: CropSetting) -> list[int]:
    """What the language model's embedding reads of the prompt."""
    seen: list[torch.Tensor] = []
    embedding = runner.model.get_input_embeddings()
    handle = embedding.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    logits(runner, sample, asked)
    handle.remove()
    return seen[-1][0].tolist()


def test_dropped_tokens_leave_the_prompt(runner: NativeRunner, samples: list[Sample]) -> None:
    patch, tokenizer = runner.image_token_id, runner.tokenizer.tokenizer
    structure = [tokenizer.token_to_id(t) for t in STRUCTURE[runner.model.config.model_type]]
    plain = [i for i in read_ids(runner, samples[1], setting(runner)) if i != patch]
    assert set(structure) < set(plain)
    for kind, others in (
        ("keep", plain),
        ("drop", [i for i in plain if i not in structure]),
    ):
        asked = setting(runner, Reduction("stride", kept=40, structure_tokens=kind))
        found = read_ids(runner, samples[1], asked)
        assert [i for i in found if i != patch] == others
        assert found.count(patch) == 40
        assert runner.prepare(samples[1], asked, "easy_vqa").sequence_length == len(found)
    first = found.index(patch)
    assert found[first : first + 40] == [patch] * 40


def by_hand(runner: NativeRunner, sample: Sample, chosen: np.ndarray, keep: bool) -> torch.Tensor:
    """Logits of a prompt that has some of the image's tokens, written out for transformers."""
    prepared = runner.prepare(sample, setting(runner), "easy_vqa")
    inputs = runner.inputs([prepared])
    ids = inputs["input_ids"][0].numpy()
    places = np.flatnonzero(ids == runner.image_token_id)
    rows = np.setdiff1d(np.arange(len(ids)), np.setdiff1d(places, places[chosen]))
    made = runner.encode(inputs).pooler_output
    features = made.flatten(0, 1) if isinstance(made, torch.Tensor) else torch.cat(made)
    embeddings = runner.model.get_input_embeddings()(torch.from_numpy(ids[rows]))[None]
    own = np.flatnonzero(np.isin(rows, places[chosen]))
    adds = runner.model.config.model_type == "molmo2"
    embeddings[0, own] = features[chosen] + (embeddings[0, own] if adds else 0)
    positions = hand_positions(runner, prepared, places, chosen, keep)
    more = {}
    if adds:
        more["mm_token_type_ids"] = inputs["mm_token_type_ids"][:, rows]
    return runner.model(
        inputs_embeds=embeddings,
        position_ids=torch.from_numpy(positions),
        attention_mask=torch.ones(1, len(rows), dtype=torch.long),
        logits_to_keep=1,
        **more,
    ).logits


def hand_positions(
    runner: NativeRunner, prepared: Any, places: np.ndarray, chosen: np.ndarray, keep: bool
) -> np.ndarray:
    """(1, l), or for Qwen (3, 1, l) by its rule: text counts on behind the longer side."""
    length = len(prepared.input_ids)
    rows = np.setdiff1d(np.arange(length), np.setdiff1d(places, places[chosen]))
    if not is_qwen(runner):
        return (rows if keep else np.arange(len(rows)))[None]
    tiling = prepared.image.layout
    in_rows, in_cols = chosen // tiling.cols, chosen % tiling.cols
    sides = tiling
    if not keep:
        row_names, col_names = sorted(set(in_rows)), sorted(set(in_cols))
        in_rows = np.array([row_names.index(row) for row in in_rows])
        in_cols = np.array([col_names.index(col) for col in in_cols])
        sides = len(row_names), len(col_names)
    first = places[0]
    after = first + max(sides) + np.arange(length - places[-1] - 1)
    before = np.arange(first)
    image = [np.full(len(chosen), first), first + in_rows, first + in_cols]
    return np.stack([np.concatenate([before, axis, after]) for axis in image])[:, None]


@pytest.mark.parametrize("keep", [True, False])
@torch.inference_mode()
def test_kept_tokens_stand_at_their_own_places(
    runner: NativeRunner, samples: list[Sample], keep: bool
) -> None:
    positions = "keep" if keep else "renumber"
    asked = setting(runner, Reduction("random", kept=5, seed=1, positions=positions))
    tokens = int((runner.prepare(samples[1], asked, "x").input_ids == runner.image_token_id).sum())
    drawn = torch.randperm(tokens, generator=torch.Generator().manual_seed(1))[:5]
    expected = by_hand(runner, samples[1], np.sort(drawn.numpy()), keep)
    found = logits(runner, samples[1], asked)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("positions", ["keep", "renumber"])
def test_answers_go_on_behind_the_prompt(
    runner: NativeRunner, samples: list[Sample], positions: str
) -> None:
    """Token by token without a cache: each next one from a prompt with the answer so far."""
    asked = setting(runner, Reduction("stride", kept=30, positions=positions))
    (found,) = answers(runner, [samples[1]], asked)
    prepared = runner.prepare(samples[1], asked, "easy_vqa")
    ids: list[int] = []
    for _ in range(len(found)):
        more = torch.cat([prepared.input_ids, torch.tensor(ids, dtype=torch.long)])
        inputs = runner.inputs([replace(prepared, input_ids=more)])
        with torch.inference_mode():
            reduced = runner.reduce(inputs, runner.encode(inputs))
            ids.append(int(runner.prefill(inputs, reduced)[0, -1].argmax()))
    assert ids == found


@torch.inference_mode()
def seen_by_method(runner: NativeRunner, sample: Sample, monkeypatch: Any) -> tuple[Encoded, Any]:
    """What a method gets of an image, its scores computed, and the prepared sample."""
    seen: list[Encoded] = []

    def method(encoded: Encoded, k: int) -> Reduced:
        found = encoded.attention()
        seen.append(encoded._replace(attention=lambda: found))
        return Reduced(encoded.features[:k], torch.arange(k))

    monkeypatch.setattr("vtexp.models.native_reduction.method_of", lambda _: method)
    prepared = runner.prepare(sample, setting(runner, Reduction("stride", kept=9)), "easy_vqa")
    inputs = runner.inputs([prepared])
    runner.reduce(inputs, runner.encode(inputs))
    return seen[0], prepared


@torch.inference_mode()
def test_methods_see_what_the_connector_made(
    runner: NativeRunner, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded, prepared = seen_by_method(runner, samples[1], monkeypatch)
    plain = runner.inputs([runner.prepare(samples[1], setting(runner), "easy_vqa")])
    made = runner.encode(plain).pooler_output
    expected = made.flatten(0, 1) if isinstance(made, torch.Tensor) else torch.cat(made)
    assert torch.equal(encoded.features, expected)
    assert sum(grid.tokens for grid in encoded.grids) == len(expected)
    text = runner.tokenizer.tokenizer.decode(
        prepared.input_ids[-len(encoded.question) :].tolist(), skip_special_tokens=False
    )
    question = runner.model.get_input_embeddings()(prepared.input_ids[-len(encoded.question) :])
    assert torch.equal(encoded.question, question)
    assert "is " in text or samples[1].question in text
    assert not {"</img>", "<|vision_end|>", "<im_end>"} & set(text.split())


def softmax(x: np.ndarray) -> np.ndarray:
    shares = np.exp(x - x.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def block_attention(runner: NativeRunner, sample: Sample) -> list[np.ndarray]:
    """Attention (heads, queries, keys) of each crop in the scored block, as transformers' own eager
    attention gives it."""
    block = runner.attention_block
    own = getattr(block, "attention", None) or getattr(block, "self_attn", None) or block.attn
    seen: list[np.ndarray] = []

    def eager(module: Any, query: Any, key: Any, value: Any, *_: Any, **more: Any) -> Any:
        products = query.double().numpy() @ key.double().numpy().swapaxes(-1, -2)
        weights = softmax(products * more["scaling"])
        if module is own:
            seen.extend(weights)
        out = torch.from_numpy(weights @ value.double().numpy()).float()
        return out.transpose(1, 2).contiguous(), None

    from transformers import AttentionInterface

    AttentionInterface.register("slow", eager)
    before = own.config._attn_implementation
    own.config._attn_implementation = "slow"
    try:
        runner.encode(runner.inputs([runner.prepare(sample, setting(runner), "easy_vqa")]))
    finally:
        own.config._attn_implementation = before
    return seen


def patches_of_token(runner: NativeRunner, prepared: Any, token: int) -> np.ndarray:
    """Patches, numbered through all crops, on which one token of the connector depends at all."""
    encode, connect = runner.vision_stages(prepared)
    with torch.no_grad():
        read = encode(prepared.image.tensors["pixel_values"])
    read = read.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(connect(read)[token].square().sum(), read)
    return np.flatnonzero(gradient.flatten(0, -2).abs().sum(dim=-1))


def test_scores_are_the_attention_to_each_tokens_patches(
    runner: NativeRunner, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded, prepared = seen_by_method(runner, samples[1], monkeypatch)
    attention = block_attention(runner, samples[1])
    if runner.model.config.model_type == "internvl":  # of the class token to the patches
        of_patches = np.concatenate([own[:, 0, 1:].mean(axis=0) for own in attention])
    else:
        of_patches = np.concatenate([own.mean(axis=(0, 1)) for own in attention])
    scores, n = encoded.attention().numpy(), len(encoded.features)
    chosen = np.random.default_rng(0).choice(n, 12, replace=False)
    behind = [patches_of_token(runner, prepared, token) for token in chosen]
    assert max(map(len, behind)) == 4
    expected = [of_patches[patches].mean() for patches in behind]
    assert max(expected) > 1.2 * min(expected)  # else the test shows less than it says
    np.testing.assert_allclose(scores[chosen], expected, rtol=2e-4)


@pytest.mark.parametrize("folder", ["qwen2_5_vl"], indirect=True)
def test_an_encoder_of_windows_alone_has_no_scores(
    runner: NativeRunner, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner.model.model.visual.config, "fullatt_block_indexes", [])
    answers(runner, samples[:1], setting(runner, Reduction("max_min", kept=5)))
    with pytest.raises(VtexpError, match="whole image"):
        answers(runner, samples[:1], setting(runner, Reduction("cls_attention", kept=5)))


def test_attention_of_long_images_is_computed_in_parts(
    runner: NativeRunner, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = seen_by_method(runner, samples[1], monkeypatch)
    monkeypatch.setattr("vtexp.models.native_reduction.MOST_PRODUCTS", 10**5)
    parts, _ = seen_by_method(runner, samples[1], monkeypatch)
    torch.testing.assert_close(parts.attention(), whole.attention())


#: The others share the code of a family that these three ask: one without scores, one with those of
#: the encoder, one with the question; of each alone, tests/models/llm/test_settings.py has stages.
QUICK = ("stride", "cls_attention", "conditional")


@pytest.mark.parametrize(
    "method",
    [pytest.param(own, marks=() if own in QUICK else pytest.mark.slow) for own in METHODS],
)
@torch.inference_mode()
def test_stages_for_graphs_are_the_eager_ones_and_wait_for_nothing(
    runner: NativeRunner, samples: list[Sample], method: str
) -> None:
    for positions, structure in (("keep", "keep"), ("renumber", "drop")):
        own = Reduction(
            method, kept=40, merge=True, positions=positions, structure_tokens=structure
        )
        prepared = runner.prepare(samples[0], setting(runner, own), "easy_vqa")
        stages = runner.graph_stages(prepared)
        assert stages.reduce is not None
        assert torch.equal(stages.run(), logits(runner, samples[0], setting(runner, own)))
        captured(on_the_device(runner).graph_stages(prepared))
    plain = replace(prepared, reduction=None)
    assert runner.shape(prepared) != runner.shape(plain)


@pytest.mark.parametrize("method", [None, "cls_attention"])
def test_graphs_keep_no_pixels_of_the_sample_they_were_captured_with(
    runner: NativeRunner, samples: list[Sample], method: str | None
) -> None:
    own = Reduction(method, kept=40) if method else None
    prepared = runner.prepare(samples[0], setting(runner, own), "easy_vqa")
    pixels = weakref.ref(prepared.image.tensors["pixel_values"])
    stages = runner.graph_stages(prepared)._replace(inputs={})
    del prepared
    gc.collect()
    assert stages is not None and pixels() is None


def test_stages_of_plain_prompts_wait_for_nothing(
    runner: NativeRunner, samples: list[Sample]
) -> None:
    there = on_the_device(runner)
    for sample in samples:
        captured(there.graph_stages(runner.prepare(sample, setting(runner), "easy_vqa")))


def test_the_stage_is_timed_within_the_prefill(runner: NativeRunner, samples: list[Sample]) -> None:
    asked = setting(runner, Reduction("max_min", kept=64))
    times = runner.timed_prefill(samples[2], asked, "easy_vqa")
    assert times.reduction_ms is not None and times.reduction_ms > 0
    parts = times.vision_ms + times.reduction_ms + times.llm_prefill_ms
    assert parts == pytest.approx(times.prefill_ms, abs=1)
    assert runner.timed_prefill(samples[2], setting(runner), "easy_vqa").reduction_ms is None
    assert runner.timed_decode(samples[2], asked, "easy_vqa", 3) > 0


def test_own_methods_are_run_and_checked(
    runner: NativeRunner, samples: list[Sample], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "native_own.py").write_text(
        "from vtexp.models.reduction.method import kept\n"
        "import torch\n"
        "def last(encoded, k):\n"
        "    return kept(encoded, torch.arange(len(encoded.features))[-k:])\n"
        "def one_more(encoded, k):\n"
        "    return kept(encoded, torch.arange(k + 1))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    good = setting(runner, Reduction("python", kept=9, function="native_own:last"))
    with runner.probe() as probe:
        answers(runner, samples[:2], good)
        assert [count.vision_tokens for count in probe.take()] == [9, 9]
    bad = setting(runner, Reduction("python", kept=9, function="native_own:one_more"))
    with pytest.raises(VtexpError, match="reduction to 9 tokens"):
        answers(runner, samples[:1], bad)


def test_a_token_lost_behind_the_reduction_is_noticed(
    runner: NativeRunner, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it counts as text: its features are those that its place has without it."""
    asked, plain = setting(runner, Reduction("stride", kept=9)), runner.token_reduction.forward
    text = runner.model.get_input_embeddings()(torch.tensor(runner.image_token_id))
    if runner.model.config.model_type == "molmo2":  # there features are added
        text = torch.zeros_like(text)

    def lossy(*inputs: Any) -> Reduced:
        reduced = plain(*inputs)
        reduced.features[-1] = text
        return reduced

    monkeypatch.setattr(runner.token_reduction, "forward", lossy)
    with runner.probe(), pytest.raises(CountMismatchError, match=r"left 9, but 8 entered"):
        answers(runner, samples[:1], asked)


@pytest.mark.parametrize("structure", ["keep", "drop"])
def test_plans_know_the_lengths(
    make_config: Callable[..., Config], folder: Path, runner: NativeRunner, structure: str
) -> None:
    asked = (f"model.path={folder}", "knob=kept_tokens", "knob.kept=[3]", "dataset.limit=2")
    more = ("reduction=max_min", f"reduction.structure_tokens={structure}")
    plan = make_plan(make_config(*asked, *more, "knob.max_crops=[4]"))
    (run,) = plan.runs
    assert run.predicted_vision_tokens == 3
    lengths = [
        runner.prepare(sample, run.setting, plan.config.dataset.style or "").sequence_length
        for sample in plan.samples
    ]
    assert list(run.prompt_lengths) == lengths


def test_methods_that_a_family_has_not_are_refused_in_one_line(
    make_config: Callable[..., Config], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = FAMILIES[folder.name]
    monkeypatch.setitem(FAMILIES, folder.name, replace(family, reduces=("stride",)))
    asked = (f"model.path={folder}", "knob=kept_tokens", "knob.kept=[600]", "dataset.limit=2")
    with pytest.raises(ConfigError, match=rf"pool: not for {family.name}, only for .*resize") as no:
        make_plan(make_config(*asked, "reduction=pool"))
    assert "\n" not in str(no.value)
    make_plan(make_config(*asked, "reduction=stride"))
    (run,) = make_plan(make_config(*asked, "reduction=resize")).runs
    assert run.predicted_vision_tokens <= 600 and run.setting.fit == "stretch"
