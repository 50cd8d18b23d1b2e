"""What the parts of a model compute and hold: attention, feed-forward, encoder, connector, blocks.

Formulas and conventions: docs/arithmetic.md. Counted are products of matrices alone, at 2 FLOPs per
multiplication and addition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vtexp.budget.geometry import Tiling
from vtexp.cost.prompts import Span
from vtexp.cost.reductions import attention_flops, received_flops

#: Which products of a query and a key count. `all`: every query with every key, masked or not: what
#: FlopCounterMode counts, and the convention of published MFUs (Chowdhery et al. 2022, PaLM,
#: arXiv:2204.02311, appendix B). `visible`: only those that the mask shows, which is the least that
#: any kernel must do.
Pairs = Literal["all", "visible"]


@dataclass(frozen=True, slots=True)
class Attention:
    """Projections of an attention: `width` in, `heads` x `head_dim` wide, `width_out` out."""

    width: int
    heads: int
    head_dim: int
    kv_heads: int
    width_out: int

    @property
    def inner(self) -> int:
        """Width of all heads together."""
        return self.heads * self.head_dim

    @property
    def query_weights(self) -> int:
        """Weights of the projection of queries."""
        return self.width * self.inner

    @property
    def output_weights(self) -> int:
        """Weights of the projection of the output."""
        return self.inner * self.width_out

    @property
    def key_value_weights(self) -> int:
        """Weights of the projections of keys and values."""
        return 2 * self.width * self.kv_heads * self.head_dim

    @property
    def biases(self) -> int:
        """Biases of all four projections, where they have them."""
        return self.inner + 2 * self.kv_heads * self.head_dim + self.width_out

    @property
    def weights(self) -> int:
        """Weights of all projections."""
        return self.query_weights + self.key_value_weights + self.output_weights

    def flops(self, queries: int, keys: int, outputs: int, pairs: float) -> float:
        """FLOPs of so many queries, keys (with their values), outputs and products of both."""
        projections = queries * self.query_weights + keys * self.key_value_weights
        return 2 * (projections + outputs * self.output_weights) + 4 * pairs * self.inner


@dataclass(frozen=True, slots=True)
class FeedForward:
    """Two projections, or three with a gate; of `experts` alike, `top_k` work on each position."""

    width: int
    hidden: int
    width_out: int
    gated: bool
    experts: int | None = None
    top_k: int = 1

    @property
    def expert_weights(self) -> int:
        """Weights of one expert; without experts, all."""
        return self.hidden * (self.width * (2 if self.gated else 1) + self.width_out)

    @property
    def router_weights(self) -> int:
        """Weights that choose among experts."""
        return self.width * (self.experts or 0)

    def weights(self, positions: int | None = None) -> int:
        """All weights, or those that so many positions can touch: each its own experts at most."""
        experts = self.experts or 1
        touched = experts if positions is None else min(experts, positions * self.top_k)
        return self.router_weights + touched * self.expert_weights

    def flops(self, positions: int) -> int:
        """FLOPs of so many positions."""
        return 2 * positions * (self.router_weights + self.top_k * self.expert_weights)


@dataclass(frozen=True, slots=True)
class Block:
    """A transformer block; `vectors` are the numbers in its norms and biases."""

    attention: Attention
    feed_forward: FeedForward
    vectors: int

    def weights(self, positions: int | None = None) -> int:
        """All parameters, or those that so many positions can touch."""
        return self.attention.weights + self.feed_forward.weights(positions) + self.vectors

    def flops(self, positions: int, outputs: int, pairs: float) -> float:
        """FLOPs of so many positions, of which `outputs` go on from queries, keys and values."""
        attention = self.attention.flops(positions, positions, outputs, pairs)
        return attention + self.feed_forward.flops(outputs)


@dataclass(frozen=True, slots=True)
class Windows:
    """Attention of an encoder whose crops see each other: within windows, or all crops.

    `side`: crops along a window's side; in `whole_layers` layers every crop sees all.
    """

    side: int
    whole_layers: int

    def pairs(self, crops: int, tiling: Tiling | None) -> int:
        """Pairs of crops in one layer with windows; without a tiling, all windows are whole."""
        if tiling is None:
            return crops * self.side**2

        def squares(length: int) -> int:
            return length // self.side * self.side**2 + (length % self.side) ** 2

        return squares(tiling.rows) * squares(tiling.cols)


@dataclass(frozen=True, slots=True)
class Encoder:
    """The vision encoder: all crops alike, `positions` in each.

    Crops see only themselves, but where there are `windows`. `layers` are there, `layers_run` are
    computed, and the outputs of `layers_read` go on to the connector; `layers_kept` of them are
    held until then. `vectors`: parameters outside the blocks and the patch embedding.
    """

    block: Block
    layers: int
    layers_run: int
    layers_read: int
    layers_kept: int
    positions: int
    patches: int
    patch_values: int
    vectors: int
    windows: Windows | None = None

    @property
    def width(self) -> int:
        """Numbers of each position."""
        return self.block.attention.width

    @property
    def features_width(self) -> int:
        """Numbers of a patch that the connector reads."""
        return self.width * self.layers_read

    def scoring_flops(self, crops: int) -> float:
        """FLOPs of the attention to each patch, computed once more: the class's, where there is
        one, else that of all patches that see each other in a layer without windows."""
        attention, of_all = self.block.attention, crops * self.positions
        if self.positions > self.patches:
            return attention_flops(crops, self.positions, self.width, attention.inner)
        pairs = of_all * (self.positions if self.windows is None else of_all)
        keys = attention.kv_heads * attention.head_dim
        return received_flops(of_all, pairs, self.width, attention.inner, keys)

    def weights(self, layers: int) -> int:
        """Parameters with so many layers."""
        return self.patch_values * self.width + layers * self.block.weights() + self.vectors

    def flops(self, crops: int, tiling: Tiling | None = None) -> float:
        """FLOPs of so many crops: every position looks at all those of the crops that it sees."""
        p, of_all = self.positions, crops * self.positions
        embedding = 2 * crops * self.patches * self.patch_values * self.width
        if self.windows is None:
            return embedding + self.layers_run * self.block.flops(of_all, of_all, crops * p * p)
        pairs = self.windows.pairs(crops, tiling) * p * p
        whole = self.block.flops(of_all, of_all, of_all * of_all)
        windowed = self.block.flops(of_all, of_all, pairs)
        count = self.windows.whole_layers
        return embedding + count * whole + (self.layers_run - count) * windowed


@dataclass(frozen=True, slots=True)
class Connector:
    """Pools `pooled` patches by attention from their mean, then projects them.

    Without `pooling`, the patches are projected side by side. Made are only tokens that the
    language model gets.
    """

    pooling: Attention | None
    projector: FeedForward
    pooled: int
    vectors: int

    @property
    def weights(self) -> int:
        """All parameters."""
        pooling = 0 if self.pooling is None else self.pooling.weights
        return pooling + self.projector.weights() + self.vectors

    def flops(self, tokens: int) -> float:
        """FLOPs of so many tokens."""
        if self.pooling is None:
            return tokens * self.projector.flops(1)
        pooling = self.pooling.flops(1, self.pooled, 1, self.pooled)
        return tokens * (pooling + self.projector.flops(1))


@dataclass(frozen=True, slots=True)
class LanguageModel:
    """Blocks over the prompt, and logits of its last position.

    `layers` are there, of which `ran` are computed, the last among them; None: all. `first_block`:
    the first where it computes other than the rest. `last_block_in_full`: whether the last block
    computes all positions to the end, of which only the last is used beyond keys and values.
    `image_is_mutual`: vision tokens look at all others, also later ones, through a mask.
    `embedding_rows` are looked up, not multiplied; `logits` is the width of the output;
    `logits_tied`: the embedding serves for it too.
    """

    block: Block
    layers: int
    embedding_rows: int
    logits: int
    logits_tied: bool
    last_block_in_full: bool
    image_is_mutual: bool
    ran: int | None = None
    first_block: Block | None = None

    @property
    def width(self) -> int:
        """Numbers of each position."""
        return self.block.attention.width

    @property
    def blocks(self) -> list[Block]:
        """Those that are computed, in order."""
        count = self.layers if self.ran is None else self.ran
        return [self.first_block or self.block, *[self.block] * (count - 1)]

    @property
    def weights(self) -> int:
        """All parameters: embedding, final norm, logits, blocks."""
        rows = self.embedding_rows + 1 + (0 if self.logits_tied else self.logits)
        return rows * self.width + self.layers * self.block.weights()

    @property
    def cache_values(self) -> int:
        """Keys and values of one position in all blocks that are computed."""
        return self.cached(Span(len(self.blocks), 1, 0))

    def cached(self, *spans: Span) -> int:
        """Keys and values of prompts."""
        values = 2 * self.block.attention.kv_heads * self.block.attention.head_dim
        return values * sum(span.layers * span.length for span in spans)

    def weights_read(self, positions: int) -> int:
        """Parameters that a pass over so many positions must read: of the embedding, their rows."""
        rows = positions + 1 + self.logits
        *blocks, last = self.blocks
        read = sum(block.weights(positions) for block in blocks)
        return rows * self.width + read + last.weights(positions if self.last_block_in_full else 1)

    def pairs(self, length: int, vision_tokens: int, pairs: Pairs) -> float:
        """Products of a query and a key in one block."""
        if pairs == "all":
            return length * length
        mutual = vision_tokens * (vision_tokens - 1) / 2 if self.image_is_mutual else 0
        return length * (length + 1) / 2 + mutual

    def flops(self, spans: Sequence[Span], pairs: Pairs) -> float:
        """FLOPs of a prefill of what the computed blocks read, in order."""
        read = [span for span in spans for _ in range(span.layers)]
        in_full = [
            block.flops(own.length, own.length, self.pairs(own.length, own.vision_tokens, pairs))
            for block, own in zip(self.blocks, read, strict=True)
        ]
        total = sum(in_full)
        if not self.last_block_in_full:
            length = read[-1].length
            total += self.blocks[-1].flops(length, 1, length) - in_full[-1]
        return total + 2 * self.width * self.logits
