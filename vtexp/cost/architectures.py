"""The sizes of a config.json's model, for the arithmetic of its prefills. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vtexp.budget.geometry import Geometry
from vtexp.cost.flops import (
    Attention,
    Block,
    Connector,
    Encoder,
    FeedForward,
    LanguageModel,
    ModelArithmetic,
)
from vtexp.models.molmo.defaults import DEFAULT_CONNECTOR, DEFAULT_VISION_BACKBONE, MOLMOE_NAMES


def model_arithmetic(config: dict[str, Any], geometry: Geometry) -> ModelArithmetic | None:
    """The arithmetic of a config.json's model; None where that of its family is not known.

    None, too, where a size in it is no number: what loads the model says so.
    """
    read = _READERS.get(config["model_type"])
    try:
        return None if read is None else read(config, geometry)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def _molmo(config: dict[str, Any], geometry: Geometry) -> ModelArithmetic:
    """Molmo v1 and MolmoE, as vtexp/models/molmo computes them."""
    config = {MOLMOE_NAMES.get(key, key): value for key, value in config.items()}
    vit = DEFAULT_VISION_BACKBONE | (config.get("vision_backbone") or {})
    read = {"vit_layers": config["vit_layers"]} if config.get("vit_layers") else {}
    layers_read = (DEFAULT_CONNECTOR | read | (config.get("connector") or {}))["vit_layers"]
    encoder = _molmo_encoder(vit, layers_read, geometry)
    llm = _molmo_llm(config)
    pooling = replace(encoder.block.attention, width=encoder.features_width)
    connector = Connector(
        pooling,
        FeedForward(encoder.width, llm.block.feed_forward.hidden, llm.width, gated=True),
        pooled=geometry.pool**2,
        vectors=pooling.biases + 2 * encoder.features_width,
    )
    return ModelArithmetic(geometry, encoder, connector, llm)


def _molmo_encoder(vit: dict[str, Any], layers_read: list[int], geometry: Geometry) -> Encoder:
    width, heads, layers = vit["image_emb_dim"], vit["image_num_heads"], vit["image_num_layers"]
    attention = Attention(width, heads, vit["image_head_dim"], heads, width)
    return Encoder(
        _vision_block(attention, vit["image_mlp_dim"], biased=True),
        layers=layers,
        layers_run=max(layer % layers for layer in layers_read) + 1,
        layers_read=len(layers_read),
        layers_kept=len(layers_read),
        positions=geometry.patches_per_crop + 1,  # one of the class
        patches=geometry.patches_per_crop,
        patch_values=3 * geometry.patch_px**2,
        vectors=(1 + vit["image_num_pos"] + 2) * width,
    )


def _vision_block(attention: Attention, hidden: int, *, biased: bool) -> Block:
    """A block with two norms and a feed-forward with biases; `biased`: its attention too."""
    width = attention.width
    vectors = 4 * width + hidden + width + (attention.biases if biased else 0)
    return Block(attention, FeedForward(width, hidden, width, gated=False), vectors)


def _molmo_llm(config: dict[str, Any]) -> LanguageModel:
    width, heads = config["hidden_size"], config["num_attention_heads"]
    both_halves = (
        config.get("intermediate_size")
        or config.get("mlp_hidden_size")
        or config.get("mlp_ratio", 4) * width
    )
    kv_heads = config.get("num_key_value_heads") or heads
    attention = Attention(width, heads, width // heads, kv_heads, width)
    experts = config.get("moe_num_experts") or None
    top_k = config.get("moe_top_k", 8) if experts else 1
    feed_forward = FeedForward(width, both_halves // 2, width, True, experts, top_k)
    kv_width = kv_heads * attention.head_dim
    biases = width + 2 * kv_width if config.get("qkv_bias", True) else 0
    norms = width + kv_width if config.get("attention_layer_norm", False) else 0
    logits = config.get("embedding_size") or config["vocab_size"]
    return LanguageModel(
        Block(attention, feed_forward, vectors=2 * width + biases + norms),
        layers=config["num_hidden_layers"],
        embedding_rows=logits + config.get("additional_vocab_size", 128),
        logits=logits,
        logits_tied=bool(config.get("weight_tying")),
        last_block_in_full=False,
        image_is_mutual=False,
    )


#: What transformers' Molmo2 classes take where config.json says nothing (version 5.23).
_MOLMO2_VISION: dict[str, Any] = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 25,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 72,
    "attention_bias": True,
}
_MOLMO2_ADAPTER: dict[str, Any] = {
    "hidden_size": 1152,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 72,
    "attention_bias": True,
    "intermediate_size": 18944,
    "mlp_bias": False,
}
_MOLMO2_TEXT: dict[str, Any] = {
    "num_key_value_heads": 8,
    "head_dim": 128,
    "additional_vocab_size": 128,
    "qk_norm_type": "qwen3",
    "intermediate_size": 12288,
}


def _molmo2(config: dict[str, Any], geometry: Geometry) -> ModelArithmetic:
    """Molmo2, as transformers computes it: every layer of the encoder is run, and kept."""
    adapter = _MOLMO2_ADAPTER | (config.get("adapter_config") or {})
    layers_read = adapter.get("vit_layers") or adapter.get("vision_feature_layer") or [24, 18]
    encoder = _molmo2_encoder(config, layers_read, geometry)
    pooling = Attention(
        encoder.features_width,
        adapter["num_attention_heads"],
        adapter["head_dim"],
        adapter["num_key_value_heads"],
        adapter["hidden_size"],
    )
    llm = _molmo2_llm(_MOLMO2_TEXT | config["text_config"])
    projector = FeedForward(pooling.width_out, adapter["intermediate_size"], llm.width, gated=True)
    vectors = pooling.biases if adapter["attention_bias"] else 0
    vectors += 2 * projector.hidden if adapter["mlp_bias"] else 0
    connector = Connector(pooling, projector, geometry.pool**2, vectors)
    return ModelArithmetic(geometry, encoder, connector, llm)


def _molmo2_encoder(config: dict[str, Any], layers_read: list[int], geometry: Geometry) -> Encoder:
    published = config.get("vit_config")
    vision = _MOLMO2_VISION | (config.get("vision_config") or published or {})
    layers = vision["num_hidden_layers"]
    if published is not None:  # it says 27; transformers builds those that are read
        layers = max(layer % layers for layer in layers_read) + 1
    width = vision["hidden_size"]
    heads = vision["num_attention_heads"], vision["head_dim"], vision["num_key_value_heads"]
    return Encoder(
        _vision_block(
            Attention(width, *heads, width),
            vision["intermediate_size"],
            biased=vision["attention_bias"],
        ),
        layers=layers,
        layers_run=layers,
        layers_read=len(layers_read),
        layers_kept=layers + 1,
        positions=geometry.patches_per_crop,
        patches=geometry.patches_per_crop,
        patch_values=3 * geometry.patch_px**2,
        vectors=(1 + geometry.patches_per_crop) * width,
    )


def _molmo2_llm(text: dict[str, Any]) -> LanguageModel:
    width, head_dim = text["hidden_size"], text["head_dim"]
    attention = Attention(
        width, text["num_attention_heads"], head_dim, text["num_key_value_heads"], width
    )
    kv_width = attention.kv_heads * head_dim
    norms = 2 * head_dim if text["qk_norm_type"] == "qwen3" else attention.inner + kv_width
    biased = text.get("qkv_bias", text.get("attention_bias", False))
    biases = attention.inner + 2 * kv_width if biased else 0
    feed_forward = FeedForward(width, text["intermediate_size"], width, gated=True)
    return LanguageModel(
        Block(attention, feed_forward, vectors=2 * width + norms + biases),
        layers=text["num_hidden_layers"],
        embedding_rows=text["vocab_size"] + text["additional_vocab_size"],
        logits=text["vocab_size"],
        logits_tied=False,
        last_block_in_full=True,
        image_is_mutual=True,
    )


_READERS: dict[str, Callable[[dict[str, Any], Geometry], ModelArithmetic]] = {
    "molmo": _molmo,
    "molmo2": _molmo2,
}
