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
    "llm_prefill_ms": "LLM prefill",
    "first_token_ms": "first token",
}
STAGES = tuple(STAGE_NAMES)
#: All that is summarised of a timed prefill: its stages, then several of them together.
SUMMARISED = (
    *STAGES,
    *("vision_ms", "prefill_ms", "ttft_without_preprocess_ms", "ttft_ms", "decode_ms_per_token"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimes:
    """Milliseconds of one pass at batch 1, stage by stage, and of several stages together.

    Each is read off two borders, none is a difference of others. ttft_ms is the wall clock around
    everything, from the encoded image file to the first token's id on the host, the device idle at
    both ends; ttft_without_preprocess_ms starts with the transfer. cuda_graph: whether the stages
    of the prefill were replayed from CUDA graphs.
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
    cuda_graph: bool = False
