"""How much each block of the language model matters: accuracy with all blocks less that without it.

All answer the same questions, so that losses are paired. A block is left out alone: two that lose
little each may lose much together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from vtexp.budget.knobs import CropSetting
from vtexp.budget.llm import LlmSetting, middle_first
from vtexp.data.decoding import decoded_chunks
from vtexp.data.sample import FailedSample, require_few_failed
from vtexp.errors import ConfigError
from vtexp.metrics import metric
from vtexp.runs.batching import BatchSize
from vtexp.runs.block_order import BlockImportance, BlockOrder
from vtexp.runs.plan import Plan
from vtexp.stats.comparison import Differences, differences, paired_scores
from vtexp.utils.typed import known

if TYPE_CHECKING:
    from vtexp.models.runner import Runner


def require_measurable(plan: Plan) -> None:
    """Raises ConfigError where a plan has no block that could be left out, or nothing to score."""
    model, layers = plan.config.model, plan.runs[0].llm_sizes.layers
    if not plan.checkpoint.family.varies_llm:
        raise ConfigError(f"importance: not for {plan.checkpoint.family.name}, only for Molmo v1")
    if not plan.answers:
        raise ConfigError("importance: random weights have no accuracy; load pretrained ones")
    if len(plan.runs) != 1:
        raise ConfigError(f"importance: give one value of knob={plan.config.knob.name}, the budget")
    for key in ("active_blocks", "block_order"):
        if getattr(model, key) is not None:
            raise ConfigError(f"model.{key}: importance is measured with all blocks; leave it null")
    if plan.config.knob.name == "transformer_blocks":
        raise ConfigError("knob=transformer_blocks: importance is measured with all blocks")
    if (asked := plan.runs[0].setting.reduction) is not None and asked.layer is not None:
        raise ConfigError(
            "reduction=early_layer: a block that is left out would move where tokens leave; "
            "measure importance without it"
        )
    if layers < 3:
        raise ConfigError(
            f"importance: {model.name} has {layers} blocks; the first and the last always stay"
        )


def steps(plan: Plan) -> int:
    """Answers that a measurement takes."""
    return len(plan.samples) * (plan.runs[0].llm_sizes.layers - 1)


def measure(plan: Plan, runner: Runner, advance: Callable[[int], None]) -> BlockOrder:
    """Answer the plan's questions with all blocks and without each; `advance` hears of answers.

    Raises VtexpError for what a user can mend.
    """
    own, layers, dataset = plan.runs[0].setting, plan.runs[0].llm_sizes.layers, plan.config.dataset
    # Stable sorting: of equal losses, the block nearer to the middle leaves first.
    blocks = middle_first(layers)
    settings = [own, *(_without(own, block, layers) for block in blocks)]
    scores, kept = _Answers(plan, runner, settings).score(advance)
    images = [plan.samples[i].image_id for i in kept]
    found = differences(paired_scores(scores, images, (0.0, metric(dataset.metric).highest)))
    order = sorted(range(1, len(settings)), key=lambda column: found.difference[0, column])
    return BlockOrder(
        model=plan.config.model.name,
        fingerprint=plan.checkpoint.fingerprint,
        layers=layers,
        dataset=dataset.name,
        split=dataset.split,
        questions=len(kept),
        images=len(set(images)),
        accuracy=float(scores[:, 0].mean()),
        order=tuple(blocks[column - 1] for column in order),
        blocks=tuple(_importance(blocks[column - 1], found, column) for column in order),
        alike=tuple(
            (blocks[one - 1], blocks[other - 1])
            for one, other in pairwise(order)
            if not found.low[one, other]
            > 0  # accuracy without the one above that without the other
        ),
    )


def _importance(block: int, found: Differences, column: int) -> BlockImportance:
    low, high = found.low[0, column], found.high[0, column]
    return BlockImportance(
        block=block,
        loss=float(found.difference[0, column]),
        low=known(low),
        high=known(high),
    )


def _without(setting: CropSetting, block: int, layers: int) -> CropSetting:
    blocks = tuple(index for index in range(layers) if index != block)
    return replace(setting, llm=replace(setting.llm or LlmSetting(), blocks=blocks))


class _Answers:
    """The same questions answered under several settings, each image decoded once."""

    def __init__(self, plan: Plan, runner: Runner, settings: Sequence[CropSetting]) -> None:
        self._plan, self._runner, self._settings = plan, runner, settings
        self._score = metric(plan.config.dataset.metric).prepare(plan.samples)
        size = plan.config.hardware.batch_size, plan.config.hardware.auto_adjust_batch_size
        self._batches = [BatchSize(*size) for _ in settings]

    def score(self, advance: Callable[[int], None]) -> tuple[np.ndarray, list[int]]:
        """Scores (n, k) under each setting of the samples that can be read, and their indices."""
        plan, kept = self._plan, []
        scores = np.zeros((len(plan.samples), len(self._settings)))
        every, workers = range(len(plan.samples)), plan.config.hardware.decode_workers
        broken: list[FailedSample] = []
        for chunk in decoded_chunks(plan.samples, plan.image_sizes, indices=every, workers=workers):
            images = {i: own for i, own in chunk.items() if not isinstance(own, str)}
            broken += [
                FailedSample(plan.samples[i].sample_id, why)
                for i, why in chunk.items()
                if isinstance(why, str)
            ]
            kept += sorted(images)
            failed, dataset = (*plan.failed, *broken), plan.config.dataset
            left = len(plan.samples) - len(broken)
            require_few_failed(failed, left, dataset)
            for column in range(len(self._settings)):
                for i, found in self._answered(column, images, advance):
                    scores[i, column] = found
        return scores[kept], kept

    def _answered(
        self, column: int, images: Mapping[int, np.ndarray], advance: Callable[[int], None]
    ) -> Iterator[tuple[int, float]]:
        """Index and score of each sample of these images under one setting."""
        plan, runner, setting = self._plan, self._runner, self._settings[column]
        dataset, lengths = plan.config.dataset, plan.runs[0].prompt_lengths

        def answers(batch: Sequence[int]) -> list[list[int]]:
            prepared = [
                runner.prepare(plan.samples[i], setting, dataset.style, images[i]) for i in batch
            ]
            return runner.answer(prepared, dataset.max_new_tokens)

        # Like with like, as in a run: batches of equal lengths have no padding.
        order = sorted(images, key=lambda i: lengths[i])
        for batch, found in self._batches[column].run(order, answers):
            for i, ids in zip(batch, found, strict=True):
                yield i, self._score(runner.tokenizer.decode(ids), plan.samples[i])
            advance(len(batch))
