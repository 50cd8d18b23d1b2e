"""One timed prefill, as a row of `latency.jsonl` has it."""

from __future__ import annotations

from dataclasses import dataclass

from vtexp.stages import StageTimes


@dataclass(frozen=True, kw_only=True)
class TimedQuestion:
    """What was timed: in which process, which question, in which round, and its counts.

    `tiling` is None of models that show none; `sequence_length` counts the whole prompt that the
    language model's first block reads; `vision_tokens` are a mean over its blocks.
    """

    rank: int = 0
    process: int = 0
    sample_id: str
    repeat: int = 0
    tiling: str | None
    num_crops: int
    vision_tokens: float
    sequence_length: int


@dataclass(frozen=True, kw_only=True)
class LatencyRow(StageTimes, TimedQuestion):
    """A timed prefill; `decode_ms_per_token` is None where decoding was not timed."""

    decode_ms_per_token: float | None = None
