"""How fast a run answers in batches: what a service pays, other than the latency at batch 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vtexp.runs.records import AnswerTimes


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTimes:
    """Seconds of one batch of answers, and the vision tokens of all its questions together."""

    samples: int
    preprocess_s: float
    prefill_s: float
    decode_s: float
    vision_tokens: int


def answer_times(batches: Sequence[BatchTimes]) -> AnswerTimes | None:
    """Of the largest batches, without the first of them where there are more; None without any."""
    size = max((batch.samples for batch in batches), default=0)
    largest = [batch for batch in batches if batch.samples == size]
    counted = largest[1:] or largest
    return None if not counted else _sum(size, counted)


def _sum(size: int, batches: Sequence[BatchTimes]) -> AnswerTimes:
    samples = sum(batch.samples for batch in batches)
    return AnswerTimes(
        batch_size=size,
        samples=samples,
        preprocess_s=sum(batch.preprocess_s for batch in batches),
        prefill_s=sum(batch.prefill_s for batch in batches),
        decode_s=sum(batch.decode_s for batch in batches),
        vision_tokens=sum(batch.vision_tokens for batch in batches) / samples,
    )


def of_all_ranks(ranks: Sequence[AnswerTimes | None]) -> AnswerTimes | None:
    """Sums over those ranks whose batches were as large as any's."""
    known = [own for own in ranks if own is not None]
    size = max((own.batch_size for own in known), default=0)
    alike = [own for own in known if own.batch_size == size]
    if not alike:
        return None
    samples = sum(own.samples for own in alike)
    return AnswerTimes(
        batch_size=size,
        samples=samples,
        preprocess_s=sum(own.preprocess_s for own in alike),
        prefill_s=sum(own.prefill_s for own in alike),
        decode_s=sum(own.decode_s for own in alike),
        vision_tokens=sum(own.vision_tokens * own.samples for own in alike) / samples,
    )
