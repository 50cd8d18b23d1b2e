"""The sizes of a config.json's model, for the arithmetic of its prefills. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vtexp.budget.geometry import Geometry
from vtexp.budget.llm import LlmSetting
from vtexp.cost.flops import ModelArithmetic
from vtexp.cost.parts import (
    Attention,
    Block,
    Connector,
    Encoder,
    FeedForward,
    LanguageModel,
    Windows,
)
from vtexp.models.molmo.defaults import DEFAULT_CONNECTOR, DEFAULT_VISION_BACKBONE, MOLMOE_NAMES


def model_arithmetic(
    config: dict[str, Any], geometry: Geometry, setting: LlmSetting | None = None
) -> ModelArithmetic | None:
    """The arithmetic of a config.json's model; None where that of its family is not known.

    None, too, where a size in it is not a number: what loads the model says so. `setting`: which
    experts and blocks of the language model work; the others only take memory.
    """
    read = _READERS.get(config["model_type"])
    try:
        if read is None:
            return None
        model = read(config, geometry)
        return model if setting is None else replace(model, llm=_with_setting(model.llm, setting))
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def _with_setting(llm: LanguageModel, setting: LlmSetting) -> LanguageModel:
    """A language model of which fewer experts and blocks work."""
    ran = len(setting.ran(llm.layers))
    if setting.top_k is None:
        return replace(llm, ran=ran)
    first = None if setting.first_top_k is None else _with_top_k(llm.block, setting.first_top_k)
    return replace(llm, block=_with_top_k(llm.block, setting.top_k), ran=ran, first_block=first)


def _with_top_k(block: Block, top_k: int) -> Block:
    return replace(block, feed_forward=replace(block.feed_forward, top_k=top_k))


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


#: What transformers' InternVL and Qwen2.5-VL classes take where config.json says nothing (5.23).
_INTERNVL_VISION: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "attention_bias": False,
    "use_qk_norm": False,
    "norm_type": "layer_norm",
    "use_mask_token": False,
    "use_absolute_position_embeddings": True,
    "use_mean_pooling": True,
}
_QWEN_VISION: dict[str, Any] = {
    "depth": 32,
    "hidden_size": 3584,
    "intermediate_size": 3420,
    "num_heads": 16,
    "window_size": 112,
    "out_hidden_size": 3584,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
#: Biases and norms of a language model's attention, by its model_type: whether queries, keys and
#: values have a bias, whether the output has, and whether queries and keys are normalised per head.
#: None: as `attention_bias` says.
_TEXT_ATTENTION: dict[str, tuple[bool | None, bool | None, bool]] = {
    "llama": (None, None, False),
    "qwen2": (True, False, False),
    "qwen2_5_vl": (True, False, False),
    "qwen2_5_vl_text": (True, False, False),
    "qwen3": (None, None, True),
}


def _internvl(config: dict[str, Any], geometry: Geometry) -> ModelArithmetic:
    """InternVL, as transformers computes it; patches go side by side into the projector."""
    vision = _INTERNVL_VISION | (config.get("vision_config") or {})
    encoder = _internvl_encoder(vision, config.get("vision_feature_layer", -1), geometry)
    text = {"model_type": "qwen2"} | config["text_config"]
    tied = config.get("tie_word_embeddings", True)
    llm = _plain_llm(text, tied=tied)
    wide = geometry.pool**2 * encoder.features_width
    projector = FeedForward(wide, llm.width, llm.width, gated=False)
    connector = Connector(None, projector, geometry.pool**2, vectors=2 * wide + 2 * llm.width)
    return ModelArithmetic(geometry, encoder, connector, llm)


def _internvl_encoder(vision: dict[str, Any], layer_read: object, geometry: Geometry) -> Encoder:
    width, heads, layers = (
        vision[key] for key in ("hidden_size", "num_attention_heads", "num_hidden_layers")
    )
    attention = Attention(width, heads, width // heads, heads, width)
    norm = 2 * width if vision["norm_type"] == "layer_norm" else width
    vectors = 2 * norm + 2 * width + vision["intermediate_size"] + width  # norms, scales, biases
    vectors += width + (3 * width if vision["attention_bias"] else 0)
    vectors += 2 * width if vision["use_qk_norm"] else 0
    positions = geometry.patches_per_crop + 1  # one of the class
    outside = width + width  # of the class, and the bias of the patch embedding
    outside += width if vision["use_mask_token"] else 0
    outside += positions * width if vision["use_absolute_position_embeddings"] else 0
    outside += 0 if vision["use_mean_pooling"] else 2 * width
    return Encoder(
        Block(attention, FeedForward(width, vision["intermediate_size"], width, False), vectors),
        layers=layers,
        layers_run=layers,
        layers_read=1,
        layers_kept=0 if layer_read == -1 else layers + 1,
        positions=positions,
        patches=geometry.patches_per_crop,
        patch_values=3 * geometry.patch_px**2,
        vectors=outside,
    )


def _qwen2_5_vl(config: dict[str, Any], geometry: Geometry) -> ModelArithmetic:
    """Qwen2.5-VL, as transformers computes it: a crop is the 2 x 2 patches of one vision token."""
    vision = _QWEN_VISION | (config.get("vision_config") or {})
    width, heads, layers = vision["hidden_size"], vision["num_heads"], vision["depth"]
    attention = Attention(width, heads, width // heads, heads, width)
    feed_forward = FeedForward(width, vision["intermediate_size"], width, gated=True)
    vectors = 2 * width + attention.biases + 2 * feed_forward.hidden + width
    encoder = Encoder(
        Block(attention, feed_forward, vectors),
        layers=layers,
        layers_run=layers,
        layers_read=1,
        layers_kept=0,
        positions=geometry.patches_per_crop,
        patches=geometry.patches_per_crop,
        patch_values=2 * 3 * geometry.patch_px**2,  # of a film of two equal frames
        vectors=0,
        windows=Windows(
            vision["window_size"] // geometry.crop_px,
            sum(layer < layers for layer in set(vision["fullatt_block_indexes"])),
        ),
    )
    # Published ones have the language model's sizes at the top.
    text = config.get("text_config") or config
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    llm = _plain_llm(text | {"model_type": "qwen2_5_vl_text"}, tied=tied)
    wide = geometry.pool**2 * width
    projector = FeedForward(wide, wide, vision["out_hidden_size"], gated=False)
    vectors = width + wide + vision["out_hidden_size"]
    return ModelArithmetic(
        geometry, encoder, Connector(None, projector, geometry.pool**2, vectors), llm
    )


def _plain_llm(text: dict[str, Any], *, tied: bool) -> LanguageModel:
    """A language model of transformers: causal, gated, all of its last block computed."""
    width, heads = text["hidden_size"], text["num_attention_heads"]
    head_dim = text.get("head_dim") or width // heads
    kv_heads = text.get("num_key_value_heads") or heads
    attention = Attention(width, heads, head_dim, kv_heads, width)
    feed_forward = FeedForward(width, text["intermediate_size"], width, gated=True)
    of_inputs, of_output, normed = _TEXT_ATTENTION[text["model_type"]]
    said = bool(text.get("attention_bias"))
    kv_width = kv_heads * head_dim
    vectors = 2 * width
    vectors += attention.inner + 2 * kv_width if (said if of_inputs is None else of_inputs) else 0
    vectors += width if (said if of_output is None else of_output) else 0
    vectors += 2 * head_dim if normed else 0
    vectors += 2 * feed_forward.hidden + width if text.get("mlp_bias") else 0
    return LanguageModel(
        Block(attention, feed_forward, vectors),
        layers=text["num_hidden_layers"],
        embedding_rows=text["vocab_size"],
        logits=text["vocab_size"],
        logits_tied=tied,
        last_block_in_full=True,
        image_is_mutual=False,
    )


_READERS: dict[str, Callable[[dict[str, Any], Geometry], ModelArithmetic]] = {
    "molmo": _molmo,
    "molmo2": _molmo2,
    "internvl": _internvl,
    "qwen2_5_vl": _qwen2_5_vl,
}
