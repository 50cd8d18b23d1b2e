"""Which values of a config.json can be a model's: checked before anything is computed of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from vtexp.utils.typed import is_whole_number

#: The most that a whole number can be, by its key in any part of a config.json. Above, a model
#: would be built for hours before its weights are found not to fit.
MOST = (
    dict.fromkeys(("num_hidden_layers", "n_layers", "image_num_layers", "depth"), 1000)
    | dict.fromkeys(("num_attention_heads", "n_heads", "num_heads", "image_num_heads"), 10**4)
    | dict.fromkeys(("num_key_value_heads", "n_kv_heads"), 10**4)
    | dict.fromkeys(("moe_num_experts", "moe_top_k"), 10**4)
    | dict.fromkeys(("hidden_size", "d_model", "text_hidden_size", "out_hidden_size"), 200_000)
    | dict.fromkeys(("intermediate_size", "mlp_hidden_size", "head_dim"), 200_000)
    | dict.fromkeys(("image_emb_dim", "image_head_dim", "image_mlp_dim"), 200_000)
    | dict.fromkeys(("vocab_size", "embedding_size", "additional_vocab_size"), 10**7)
    | dict.fromkeys(("max_position_embeddings", "max_sequence_length"), 10**9)
    | dict.fromkeys(("image_col_id",), 10**7)
)
#: Those that may be 0 or null, which means that another number says them, or that there are none.
MAY_BE_NOTHING = frozenset(
    [
        "num_key_value_heads",
        "n_kv_heads",
        "moe_num_experts",
        "moe_top_k",
        "intermediate_size",
        "mlp_hidden_size",
        "head_dim",
        "embedding_size",
        "additional_vocab_size",
    ]
)
#: Numbers that need not be whole.
REALS = frozenset(["rope_theta", "layer_norm_eps", "rms_norm_eps", "image_norm_eps"])


#: Settings of Molmo v1's training code (ModelConfig in olmo/config.py of github.com/allenai/molmo)
#: that change what a model computes, and the values that this project's classes compute.
MOLMO_SETTINGS: dict[str, tuple[object, ...]] = {
    "activation_type": ("swiglu",),
    "alibi": (False,),
    "attn_logit_softcapping": (None,),
    "clip_qkv": (None,),
    "crop_mode": ("overlap-and-resize-c2",),
    "final_logit_softcapping": (None,),
    "fix_image_padding": (False,),
    "image_mlp_activations": ("quick_gelu",),
    "image_model_type": ("openai",),
    "image_padding_embed": ("pad_and_partial_pad",),
    "image_pooling_2d": ("attention_meanq", "attention-meanq"),
    "image_projector": ("mlp",),
    "layer_norm_type": ("rms",),
    "moe_shared_expert": (False,),
    "normalize_input_embeds": (False,),
    "overlap_margins": ([4, 4],),
    "pad_value": (0,),
    "rope": (True,),
    "scale_logits": (False,),
    "use_cls_feature": (False,),
    "use_col_tokens": (True,),
    "use_position_ids": (True,),
}


def wrong_number(config: dict[str, Any]) -> str:
    """Which number of a config.json no model can have, in words; empty where there is none."""
    for name, key, value in _values(config):
        if key in REALS:
            if not (is_whole_number(value) or (isinstance(value, float) and math.isfinite(value))):
                return f"{name} is not a number"
        elif key in MOST and not (key in MAY_BE_NOTHING and value in (None, 0)):
            if not is_whole_number(value):
                return f"{name} is not a whole number"
            if not 1 <= value <= MOST[key]:
                return f"{name} is not between 1 and {MOST[key]}"
    return ""


def other_setting(config: dict[str, Any], settings: Mapping[str, tuple[object, ...]]) -> str:
    """Which setting of a config.json has another value than those of `settings`, in words.

    Empty where there is none; a config.json may leave settings out.
    """
    for name, key, value in _values(config):
        if key in settings and value not in settings[key]:
            return f"{name} is {value}; only {settings[key][0]} is supported"
    return ""


def _values(config: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Dotted name, key and value of all that a config.json has at the top and in its parts."""
    for key, value in config.items():
        yield key, key, value
        if isinstance(value, dict):
            yield from ((f"{key}.{inner}", inner, v) for inner, v in value.items())
