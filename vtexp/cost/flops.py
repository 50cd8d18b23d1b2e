"""What a prefill must compute and move, in closed form: FLOPs, bytes, memory. No torch here.

Everything follows from a model's sizes (`architectures.py` reads them of config.json) and three
counts of a prompt. What is counted is what the implementation computes, in the three stages in
which prefills are timed. Formulas and conventions: docs/arithmetic.md.

Counted are products of matrices alone, at 2 FLOPs per multiplication and addition, as by torch's
FlopCounterMode: no norms, activations, softmax or rotary positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

from vtexp.budget.geometry import Geometry, Tiling
from vtexp.budget.reduction import Reduction
from vtexp.cost.reductions import (
    attention_flops,
    last_query_flops,
    received_flops,
    similarity_flops,
)

#: Bytes of one number.
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
#: The stages of a prefill, in order.
COMPUTED_STAGES = ("vision_encoder", "connector", "llm_prefill")
#: Which products of a query and a key count. `all`: every query with every key, masked or not: what
#: FlopCounterMode counts, and the convention of published MFUs (Chowdhery et al. 2022, PaLM,
#: arXiv:2204.02311, appendix B). `visible`: only those that the mask shows, which is the least that
#: any kernel must do.
Pairs = Literal["all", "visible"]


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
        """Of a row of latency.jsonl."""
        shown = row.get("tiling")
        tiling = None if shown is None else Tiling(*(int(side) for side in shown.split("x")))
        return cls(row["num_crops"], row["vision_tokens"], row["sequence_length"], tiling)


@dataclass(frozen=True, slots=True)
class Memory:
    """Estimated bytes on the device at the worst moment of a prefill or answer."""

    weights: int
    cache: int
    activations: int

    @property
    def total(self) -> int:
        """All together; what the device's own software takes is not in it."""
        return self.weights + self.cache + self.activations


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
        """Of so many queries, keys (with their values), outputs and products of query and key."""
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
        """Of so many positions."""
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
        """Of so many positions, of which `outputs` go on from their queries, keys and values."""
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
        """Of each position."""
        return self.block.attention.width

    @property
    def features_width(self) -> int:
        """Numbers of a patch that the connector reads."""
        return self.width * self.layers_read

    def scoring_flops(self, crops: int) -> float:
        """Of the attention to each patch, computed once more: of the class, where there is one,
        else of all patches that see each other in a layer without windows."""
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
        """Of so many crops: every position looks at all those of the crops that it sees."""
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
        """Of so many tokens."""
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
        """Of each position."""
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
        """Of a prefill of what the computed blocks read, in order."""
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


@dataclass(frozen=True)
class ModelArithmetic:
    """The arithmetic of one model: what a prompt costs, stage by stage."""

    geometry: Geometry
    encoder: Encoder
    connector: Connector
    llm: LanguageModel

    def encoded_crops(self, counts: PromptCounts) -> int:
        """Crops that the encoder reads, the global crop included."""
        return counts.num_crops + self.geometry.global_crops(counts.num_crops)

    def flops(self, counts: PromptCounts, pairs: Pairs = "all") -> dict[str, float]:
        """FLOPs of each stage of one prefill; of `reduction` where tokens are reduced."""
        scoring = {} if counts.reduction is None else {"reduction": self._scoring_flops(counts)}
        return scoring | {
            "vision_encoder": self.encoder.flops(self.encoded_crops(counts), counts.tiling),
            "connector": self.connector.flops(counts.connected),
            "llm_prefill": self.llm.flops(counts.spans(len(self.llm.blocks)), pairs),
        }

    def _scoring_flops(self, counts: PromptCounts) -> float:
        asked, kept = counts.reduction, counts.vision_tokens
        assert asked is not None
        if asked.layer is not None:
            own = self.llm.block.attention
            kv_width = own.kv_heads * own.head_dim
            return last_query_flops(own.width, own.inner, kv_width, counts.sequence_length)
        flops = similarity_flops(asked, counts.connected, int(kept), self.llm.width)
        if asked.method == "cls_attention":
            flops += self.encoder.scoring_flops(self.encoded_crops(counts))
        return flops

    def decode_flops(self, context: int) -> float:
        """FLOPs of one further token that looks at `context` positions, its own included."""
        llm = self.llm
        blocks = sum(block.flops(1, 1, context) for block in llm.blocks)
        return blocks + 2 * llm.width * llm.logits

    def minimum_bytes(self, counts: PromptCounts, dtype: str) -> dict[str, int]:
        """Bytes that each stage of one prefill must read or write at least.

        Each weight that is needed read once, a stage's input read and its output written once; what
        is between is taken to stay on the chip.
        """
        encoder, llm = self.encoder, self.llm
        patches = self.encoded_crops(counts) * encoder.patches
        length = counts.sequence_length
        numbers = {
            "vision_encoder": encoder.weights(encoder.layers_run)
            + patches * (encoder.patch_values + encoder.features_width),
            "connector": self.connector.weights
            + min(patches, counts.connected * self.connector.pooled) * encoder.features_width
            + counts.connected * llm.width,
            "llm_prefill": llm.weights_read(length)
            + counts.inserted * llm.width
            + llm.cached(*counts.spans(len(llm.blocks)))
            + llm.logits,
        }
        return {stage: count * ITEM_BYTES[dtype] for stage, count in numbers.items()}

    def decode_minimum_bytes(self, context: int, dtype: str) -> int:
        """Bytes of one further token: the weights, and keys and values of all `context`."""
        llm = self.llm
        numbers = llm.weights_read(1) + context * llm.cache_values + llm.logits
        return numbers * ITEM_BYTES[dtype]

    @property
    def parameters(self) -> int:
        """Parameters of the whole model."""
        encoder = self.encoder.weights(self.encoder.layers)
        return encoder + self.connector.weights + self.llm.weights

    def weights_bytes(self, dtype: str) -> int:
        """Bytes of all parameters."""
        return self.parameters * ITEM_BYTES[dtype]

    def roofline_ms(
        self, counts: PromptCounts, dtype: str, peak_tflops: float, bandwidth_gb_per_s: float
    ) -> dict[str, float]:
        """Least milliseconds of each stage: of its FLOPs at the peak or its bytes, the longer.

        Williams, Waterman and Patterson 2009 (doi:10.1145/1498765.1498785). Of attention only the
        visible pairs count here, or the bound would not be one.
        """
        flops, moved = self.flops(counts, "visible"), self.minimum_bytes(counts, dtype)
        return {
            stage: max(
                flops[stage] / (peak_tflops * 1e9), moved[stage] / (bandwidth_gb_per_s * 1e6)
            )
            for stage in COMPUTED_STAGES
        }

    def memory(
        self, counts: PromptCounts, dtype: str, batch_size: int = 1, new_tokens: int = 0
    ) -> Memory:
        """Estimated peak of a batch of equal prompts and their answers.

        Weights and cache are exact; activations are those of the largest stage, see
        docs/arithmetic.md for what is in them.
        """
        crops = self.encoded_crops(counts) * batch_size
        length, tokens = counts.sequence_length, counts.connected * batch_size
        pixels = crops * self.encoder.patches * self.encoder.patch_values
        features = tokens * self.llm.width
        largest = max(
            self._encoder_values(crops),
            self._connector_values(crops, tokens),
            features + self._llm_values(length, batch_size),
        )
        item, llm = ITEM_BYTES[dtype], self.llm
        cached = llm.cached(*counts.spans(len(llm.blocks))) + new_tokens * llm.cache_values
        return Memory(
            weights=self.weights_bytes(dtype),
            cache=batch_size * cached * item,
            activations=(pixels + largest) * item,
        )

    def _encoder_values(self, crops: int) -> int:
        """Numbers held in the feed-forward of the last block: its input, both norms, what is added
        to, two of the hidden width, and the outputs kept of earlier blocks."""
        encoder = self.encoder
        block = 4 * encoder.width + 2 * encoder.block.feed_forward.hidden
        return crops * encoder.positions * (block + encoder.layers_kept * encoder.width)

    def _connector_values(self, crops: int, tokens: int) -> int:
        """Numbers held in the projector: features of all patches, the patches pooled, and three of
        the hidden width; or, before that, four of the features."""
        encoder, connector = self.encoder, self.connector
        features = crops * encoder.patches * encoder.features_width
        kept = max(0, encoder.layers_kept - encoder.layers_read)
        kept *= crops * encoder.positions * encoder.width
        pooled = tokens * connector.pooled * encoder.features_width
        projector = tokens * 3 * connector.projector.hidden
        return kept + max(4 * features, features + pooled + projector)

    def _llm_values(self, length: int, batch_size: int) -> int:
        """Numbers held in a block's feed-forward: its input, what is added to, a norm, four of the
        hidden width (of each expert's row); and a mask where there is one."""
        ff = self.llm.block.feed_forward
        top_k = max(block.feed_forward.top_k for block in self.llm.blocks)
        expert = 4 * ff.hidden + (2 * ff.width if ff.experts else 0)
        masked = batch_size > 1 or self.llm.image_is_mutual
        row = 3 * ff.width + top_k * expert + (length if masked else 0)
        return batch_size * length * row


def mfu(flops: float, time_ms: float, peak_tflops: float) -> float:
    """Model FLOPs utilisation, a share of 1: FLOPs over what the device could do in that time.

    Chowdhery et al. 2022 (PaLM), appendix B; `flops` with all pairs, as there.
    """
    return flops / (time_ms * peak_tflops * 1e9)
