"""Answers of Molmo v1, step by step."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GenerationMixin

from vtexp.budget.knobs import CropSetting
from vtexp.config.schema import HardwareConfig
from vtexp.data.sample import Sample
from vtexp.errors import VtexpError
from vtexp.models.checkpoints import find_checkpoint
from vtexp.models.molmo import answering
from vtexp.models.molmo.answering import AnswerSteps, BufferSizes
from vtexp.models.molmo.configuration import MolmoConfig
from vtexp.models.molmo.runner import MolmoRunner

SETTING = CropSetting(12)


def test_answers_are_those_of_transformers_generate(
    runner: MolmoRunner, samples: list[Sample]
) -> None:
    """Prompts of several lengths and tilings, alone and in one batch padded on the right."""
    prepared = [runner.prepare(sample, SETTING, "easy_vqa") for sample in samples]
    never = 10**9
    for batch in ([prepared[0]], prepared):
        inputs = runner.inputs(batch)
        with torch.inference_mode():
            expected = runner.model.generate(
                **inputs, max_new_tokens=7, eos_token_id=never, pad_token_id=0
            )
            heard: list[None] = []
            found = runner.generate(inputs, 7, partial(heard.append, None))
        assert found.tolist() == expected.tolist()
        assert len(heard) == 7
    assert isinstance(runner.model, GenerationMixin)


def test_an_answer_ends_at_the_end_of_text(
    runner: MolmoRunner, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = [runner.prepare(sample, SETTING, "easy_vqa") for sample in samples]
    inputs = runner.inputs(prepared)
    with torch.inference_mode():
        whole = runner.generate(inputs, 6, lambda: None).tolist()
    stop = whole[0][2]
    monkeypatch.setattr(runner._answering, "_end_ids", (stop,))
    with torch.inference_mode():
        found = runner.generate(inputs, 6).tolist()
    for own, full in zip(found, whole, strict=True):
        end = full.index(stop) + 1 if stop in full else len(full)
        assert own[:end] == full[:end][: len(own)]
        assert set(own[end:]) <= {stop}
    monkeypatch.undo()


def test_buffers_of_a_batch_hold_nothing_of_the_one_before(
    runner: MolmoRunner, samples: list[Sample]
) -> None:
    long, short = (runner.prepare(s, SETTING, "easy_vqa") for s in (samples[3], samples[0]))
    with torch.inference_mode():
        alone = runner.generate(runner.inputs([short]), 5).tolist()
        for (
            steps
        ) in runner._answering._steps.values():  # as a batch whose numbers overflowed leaves it
            for buffer in (*steps._cache.keys, *steps._cache.values):
                buffer.fill_(torch.nan)
        assert runner.generate(runner.inputs([short]), 5).tolist() == alone
        runner.generate(runner.inputs([long]), 5)


def test_buffers_of_earlier_shapes_stay_while_there_is_room(
    runner: MolmoRunner, samples: list[Sample]
) -> None:
    own = replace(runner)  # with answers of its own
    prepared = own.prepare(samples[0], SETTING, "easy_vqa")

    def kept() -> list[int]:
        for count in (1, 2, 3):
            own.answer([prepared] * count, 2)
        return [sizes.batch for sizes in own._answering._steps]

    assert kept() == [3]  # nothing is captured on the host, so there is nothing to keep
    (sizes,) = own._answering._steps
    own._answering._most_tokens = 5 * sizes.tokens
    assert kept() == [2, 3]
    own._answering._most_tokens = 6 * sizes.tokens
    assert kept() == [1, 2, 3]


def test_room_for_buffers_is_a_tenth_of_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Molmo-7B-D keeps 2 x 28 x 4 x 128 numbers of 16 bits per token: 56 KiB."""
    weight = SimpleNamespace(device=torch.device("cuda:0"), element_size=lambda: 2)
    block = SimpleNamespace(attn_norm=SimpleNamespace(weight=weight))
    parts = SimpleNamespace(transformer=SimpleNamespace(blocks=[block]))
    config = MolmoConfig(num_hidden_layers=28, num_key_value_heads=4, hidden_size=3584)
    model: Any = SimpleNamespace(config=config, model=parts)
    gpu = SimpleNamespace(total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    assert config.head_dim == 128
    assert answering.most_tokens(model) == 8 * 2**30 // (56 * 2**10)


def test_answers_by_logits_that_are_no_numbers_fail(
    small_checkpoint: Path, samples: list[Sample]
) -> None:
    """Also where only a later token's are, which no timed prefill sees."""
    checkpoint = find_checkpoint(str(small_checkpoint))
    broken = MolmoRunner.load(checkpoint, checkpoint.family.geometry, HardwareConfig())
    prepared = [broken.prepare(sample, SETTING, "easy_vqa") for sample in samples[:2]]
    first = broken.answer(prepared, 1)[1][0]
    table = broken.model.model.transformer.wte.embedding
    table[first] = torch.nan  # read as the second row's next input
    assert broken.answer(prepared, 1)[1][0] == first
    with pytest.raises(VtexpError, match="not finite"):
        broken.answer(prepared, 3)


def test_prompts_wait_for_a_step_whose_capture_failed(
    runner: MolmoRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes to their buffers on a stream of its own."""
    heard: list[str] = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            heard.append(f"{self.name} waits for {other.name}")

    def captured(*_: object) -> None:
        heard.append("captures")
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream("main"))
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(answering, "captured", captured)
    with torch.inference_mode():
        steps = AnswerSteps(runner.model, BufferSizes(1, 128))
        steps.prepare(Stream("own"))
    assert heard == ["own waits for main", "captures", "main waits for own"]
