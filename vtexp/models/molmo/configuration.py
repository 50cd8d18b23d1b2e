"""Configuration of Molmo v1 in the field names of the published `config.json` files."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from vtexp.models.molmo.defaults import (
    DEFAULT_CONNECTOR,
    DEFAULT_VISION_BACKBONE,
    MOLMOE_NAMES,
)


class MolmoConfig(PreTrainedConfig):
    """Molmo v1: language model fields at the top, `vision_backbone` and `connector` inside.

    `intermediate_size` counts both halves of the SwiGLU (of each expert, where there are
    `moe_num_experts`); `embedding_size` is the padded vocabulary and the width of the logits; ids
    from there on are the `additional_vocab_size` new ones.
    Source: config.json of allenai/Molmo-7B-D-0924, Molmo-7B-O-0924 and MolmoE-1B-0924.
    """

    model_type = "molmo"
    keys_to_ignore_at_inference = ("past_key_values",)

    vocab_size: int = 152064
    embedding_size: int | None = None
    additional_vocab_size: int = 128
    hidden_size: int = 3584
    intermediate_size: int | None = None
    mlp_hidden_size: int | None = None
    mlp_ratio: int = 4
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: int | None = 4
    max_position_embeddings: int = 4096
    rope_theta: float = 1e6
    layer_norm_eps: float = 1e-6
    layer_norm_type: str = "rms"
    qkv_bias: bool = True
    attention_layer_norm: bool = False
    norm_after: bool = False
    moe_num_experts: int | None = None
    moe_top_k: int = 8
    clip_qkv: float | None = None
    weight_tying: bool = False
    use_position_ids: bool = True
    initializer_range: float = 0.02
    use_cache: bool = True
    vision_backbone: dict[str, Any] | None = None
    connector: dict[str, Any] | None = None
    vit_layers: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        for name, field in MOLMOE_NAMES.items():
            if name in kwargs:
                setattr(self, field, kwargs.pop(name))
        kwargs.pop("head_dim", None)
        # The training code's rule, for configs that leave the size out (MolmoE's).
        self.intermediate_size = (
            self.intermediate_size or self.mlp_hidden_size or self.mlp_ratio * self.hidden_size
        )
        self.num_key_value_heads = self.num_key_value_heads or self.num_attention_heads
        self.embedding_size = self.embedding_size or self.vocab_size
        self.vision_backbone = DEFAULT_VISION_BACKBONE | (self.vision_backbone or {})
        read = {"vit_layers": self.vit_layers} if self.vit_layers else {}
        self.connector = DEFAULT_CONNECTOR | read | (self.connector or {})
        super().__post_init__(**kwargs)

    @property
    def head_dim(self) -> int:
        """Width of one attention head of the language model."""
        return self.hidden_size // self.num_attention_heads
