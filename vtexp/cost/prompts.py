"""The counts of one prompt from which its arithmetic follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from vtexp.budget.geometry import Tiling
from vtexp.budget.reduction import Reduction


class Span(NamedTuple):
    """So many blocks, each over `length` tokens of a prompt, among them `vision_tokens`."""

    layers: int
    length: int
    vision_tokens: int


@dataclass(frozen=True, slots=True)
class PromptCounts:
    """What a prompt's image became, by the names that rows of latency.jsonl have.

    num_crops: high-resolution crops; vision_tokens: those that enter the language model;
    sequence_length: tokens of the whole prompt; tiling: of the crops, where it is known;
    connected_tokens: those that the connector makes, where a `reduction` then drops some of them;
    late_length: tokens of the prompt that stay where that is within the language model, whose first
    block reads `sequence_length`. `vision_tokens` is the mean over the blocks then.
    """

    num_crops: int
    vision_tokens: float
    sequence_length: int
    tiling: Tiling | None = None
    connected_tokens: int | None = None
    reduction: Reduction | None = None
    late_length: int | None = None

    @property
    def connected(self) -> int:
        """Vision tokens that the connector makes."""
        return int(self.vision_tokens) if self.connected_tokens is None else self.connected_tokens

    @property
    def inserted(self) -> int:
        """Vision tokens that enter the language model's first block."""
        return int(self.vision_tokens) if self.late_length is None else self.connected

    def spans(self, layers: int) -> tuple[Span, ...]:
        """What so many blocks of the language model read, those that read as much together."""
        if self.late_length is None or self.reduction is None:
            return (Span(layers, self.sequence_length, int(self.vision_tokens)),)
        early, kept = self.reduction.layer or 0, self.reduction.kept_of(self.connected)
        return (
            Span(early, self.sequence_length, self.connected),
            Span(layers - early, self.late_length, kept),
        )

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Self:
        """The counts of a row of latency.jsonl."""
        shown = row.get("tiling")
        tiling = None if shown is None else Tiling(*(int(side) for side in shown.split("x")))
        return cls(row["num_crops"], row["vision_tokens"], row["sequence_length"], tiling)
