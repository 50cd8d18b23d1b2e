"""How fast a run answers in batches: what a service pays, other than the latency at batch 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from vtexp.runs.records import AnswerTimes


class TimedBatch(NamedTuple):
    """Times of one batch, and whether a CUDA graph gave the tokens behind the first."""

    times: AnswerTimes
    replayed: bool


def answer_times(batches: Sequence[TimedBatch]) -> AnswerTimes | None:
    """Sums over the largest batches but the first, if there are more; None without any.

    Where graphs gave some of them, those alone: the first batch of each shape goes without, as all
    do on a CPU, and a mean of both is the time of neither.
    """
    size = max((batch.times.batch_size for batch in batches), default=0)
    largest = [batch for batch in batches if batch.times.batch_size == size]
    later = largest[1:] or largest
    replayed = [[batch for batch in part if batch.replayed] for part in (later, largest)]
    chosen = next(filter(None, replayed), later)
    return _together([batch.times for batch in chosen])


def of_all_ranks(ranks: Sequence[AnswerTimes | None]) -> AnswerTimes | None:
    """Sums over those ranks whose batches were as large as any's."""
    return _together(_largest([own for own in ranks if own is not None]))


def _largest(parts: Sequence[AnswerTimes]) -> list[AnswerTimes]:
    size = max((part.batch_size for part in parts), default=0)
    return [part for part in parts if part.batch_size == size]


def _together(parts: Sequence[AnswerTimes]) -> AnswerTimes | None:
    """Sums over parts of one batch size, and their mean vision tokens; None without any."""
    if not parts:
        return None
    samples = sum(part.samples for part in parts)
    return AnswerTimes(
        batch_size=parts[0].batch_size,
        samples=samples,
        preprocess_s=sum(part.preprocess_s for part in parts),
        prefill_s=sum(part.prefill_s for part in parts),
        decode_s=sum(part.decode_s for part in parts),
        vision_tokens=sum(part.vision_tokens * part.samples for part in parts) / samples,
    )
