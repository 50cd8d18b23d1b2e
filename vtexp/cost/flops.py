"""What a prefill must compute and move, in closed form: FLOPs, bytes, memory. No torch here.

Everything follows from a model's sizes (`architectures.py` reads them of config.json) and three
counts of a prompt. What is counted is what the implementation computes, in the three stages in
which prefills are timed. Formulas and conventions: docs/arithmetic.md.

Counted are products of matrices alone, at 2 FLOPs per multiplication and addition, as by torch's
FlopCounterMode: no norms, activations, softmax or rotary positions.
"""

from __future__ import annotations

from dataclasses import dataclass

from vtexp.budget.geometry import Geometry
from vtexp.cost.parts import Connector, Encoder, LanguageModel, Pairs
from vtexp.cost.prompts import PromptCounts
from vtexp.cost.reductions import last_query_flops, similarity_flops

#: Bytes of one number.
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
#: The stages of a prefill, in order.
COMPUTED_STAGES = ("vision_encoder", "connector", "llm_prefill")


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
