"""The stages of a prefill: their names, and the times of one pass."""

from __future__ import annotations

from dataclasses import dataclass

#: The stages of the time to first token in the order in which they happen, and what people read.
STAGE_NAMES = {
    "image_decode_ms": "image decoding",
    "preprocess_ms": "preprocess",
    "transfer_ms": "transfer",
    "vision_encoder_ms": "vision encoder",
    "connector_ms": "connector",
    "reduction_ms": "token reduction",
    "llm_prefill_ms": "LLM prefill",
    "first_token_ms": "first token",
}
#: The one that happens only where vision tokens are reduced behind the connector.
REDUCTION = "reduction_ms"
#: Those of every prefill.
STAGES = tuple(stage for stage in STAGE_NAMES if stage != REDUCTION)
#: All that is summarised of a timed prefill: its stages, then several of them together.
SUMMARISED = (
    *STAGE_NAMES,
    *("vision_ms", "prefill_ms", "ttft_without_preprocess_ms", "ttft_ms", "decode_ms_per_token"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """Milliseconds of one pass at batch 1, stage by stage, and of several stages together.

    Each is read off its borders, none is a difference of others. ttft_ms is the wall clock around
    everything, from the encoded image file to the first token's id on the host, the device idle at
    both ends; ttft_without_preprocess_ms starts with the transfer. reduction_ms: scoring and
    dropping of vision tokens, within prefill_ms and ttft_ms; None where none are dropped. Where
    that happens within the language model, llm_prefill_ms is the sum of the parts before and after.
    cuda_graph: whether the stages of the prefill were replayed from CUDA graphs.
    """

    image_decode_ms: float
    preprocess_ms: float
    transfer_ms: float
    vision_encoder_ms: float
    connector_ms: float
    llm_prefill_ms: float
    first_token_ms: float
    vision_ms: float
    prefill_ms: float
    ttft_without_preprocess_ms: float
    ttft_ms: float
    reduction_ms: float | None = None
    cuda_graph: bool = False
