"""How fast answers come in batches: which batches count, and how their parts are told apart."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch

from vtexp.config.schema import Config
from vtexp.models.answer_clock import AnswerClock
from vtexp.models.molmo.answering import AnswerSteps
from vtexp.runs.job import load_runner
from vtexp.runs.plan import make_plan
from vtexp.runs.records import AnswerTimes
from vtexp.runs.throughput import TimedBatch, answer_times, of_all_ranks

MakeConfig = Callable[..., Config]


def batch(
    samples: int, prefill_s: float, tokens: int = 100, *, replayed: bool = False
) -> TimedBatch:
    times = AnswerTimes(
        batch_size=samples, samples=samples, preprocess_s=0.5, prefill_s=prefill_s, decode_s=0.25,
        vision_tokens=tokens,
    )  # fmt: skip
    return TimedBatch(times, replayed)


def test_only_the_largest_batches_count_and_not_the_first_of_them() -> None:
    found = answer_times([batch(4, 9), batch(8, 9), batch(8, 2, 200), batch(8, 4), batch(3, 9)])
    assert found == AnswerTimes(
        batch_size=8, samples=16, preprocess_s=1.0, prefill_s=6.0, decode_s=0.5, vision_tokens=150
    )
    alone = answer_times([batch(4, 9.0)])
    assert alone is not None and (alone.samples, alone.prefill_s) == (4, 9.0)
    assert answer_times([]) is None


def test_batches_without_a_graph_do_not_count_where_others_had_one() -> None:
    first, second = batch(8, 1.0), batch(8, 2.0, replayed=True)
    new_shape, third = batch(8, 3.0), batch(8, 4.0, replayed=True)
    found = answer_times([first, second, new_shape, third, batch(4, 9.0, replayed=True)])
    assert found is not None and (found.samples, found.prefill_s) == (16, 6.0)
    only_eager = answer_times([first, new_shape, batch(4, 9.0, replayed=True)])
    assert only_eager is not None and only_eager.prefill_s == 3.0
    known_shape = answer_times([second, first, new_shape])
    assert known_shape is not None and known_shape.prefill_s == 2.0


def test_ranks_are_added_up() -> None:
    own = [answer_times([batch(size, 2.0)]) for size in (8, 8, 4)]
    found = of_all_ranks([*own, None])
    assert found is not None
    assert (found.batch_size, found.samples, found.prefill_s) == (8, 16, 4.0)
    assert found.vision_tokens == 100
    assert of_all_ranks([None]) is None


def test_prompts_and_further_tokens_are_told_apart(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading the prompts is made 0.2 s longer, each further token 0.05 s."""
    plan = make_plan(make_config("knob.sizes=[336x336]"))
    runner, run = load_runner(plan), plan.runs[0]
    style = plan.config.dataset.style
    prepared = [runner.prepare(sample, run.setting, style) for sample in plan.samples[:3]]
    monkeypatch.setattr(runner.tokenizer.__class__, "end_ids", (10**6,))
    plain = AnswerClock(runner.wait)
    runner.answer(prepared, 4, plain)
    start, step = AnswerSteps.start, AnswerSteps.next

    def slow_start(self: AnswerSteps, *arguments: object) -> torch.Tensor:
        time.sleep(0.2)
        return start(self, *arguments)  # type: ignore[arg-type]

    def slow_step(self: AnswerSteps) -> torch.Tensor:
        time.sleep(0.05)
        return step(self)

    monkeypatch.setattr(AnswerSteps, "start", slow_start)
    monkeypatch.setattr(AnswerSteps, "next", slow_step)
    slow = AnswerClock(runner.wait)
    began = time.perf_counter()
    runner.answer(prepared, 4, slow)
    whole = time.perf_counter() - began
    assert slow.prefill_s >= 0.2 and slow.decode_s >= 0.15
    assert 0.9 * whole <= slow.prefill_s + slow.decode_s <= whole
    assert plain.prefill_s > 0 and plain.decode_s > 0
