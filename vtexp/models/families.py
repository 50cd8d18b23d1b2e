"""The kinds of models that can run: what a plan must know of each, by `model_type` of config.json.

No torch here. What reads images and runs the model is the family's runner, imported when a model is
loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vtexp.geometry import MOLMO, Geometry
from vtexp.prompts import MOLMO_FORM, PromptForm


@dataclass(frozen=True)
class Family:
    """One kind of model, as a plan sees it.

    `name` is for messages; `runner` is the import path of its runner class, MODULE:CLASS. `vision`
    are the values of config.json's `vision_config` from which the geometry follows (for sides, one
    number); `processor_keys` the values of processor_config.json that are read too.
    """

    name: str
    geometry: Geometry
    form: PromptForm
    runner: str
    vision: Mapping[str, int] = field(default_factory=dict)
    processor_keys: tuple[str, ...] = ()

    def problem(self, config: dict[str, Any]) -> str:
        """Why this family's classes cannot be a config.json's model; empty where they can.

        Checked before anything is built: what a config leaves out would be some other model's.
        """
        missing = _no_whole_number(text_config(config), TEXT_SIZES)
        vision = config.get("vision_config") or {}
        for key, expected in self.vision.items():
            found = vision.get(key, expected)
            if found not in (expected, [expected, expected]):
                return f"vision_config.{key} is {found}; only {expected} is supported"
        return missing

    def geometry_of(self, config: dict[str, Any]) -> Geometry:
        """Geometry of a config.json's model."""
        return self.geometry

    def stand_in_ids(self, config: dict[str, Any]) -> tuple[int, ...]:
        """Ids of the image tokens where there is no tokenizer."""
        return (config["image_token_id"],)


class _Molmo(Family):
    """Molmo v1, whose config.json has the language model's fields at the top."""

    def problem(self, config: dict[str, Any]) -> str:
        """As for any family; MolmoE's fields have the names of the training code."""
        dense = config.get("moe_num_experts") is None
        if missing := _no_whole_number(config, DENSE_SIZES if dense else MOLMOE_SIZES):
            return missing
        if config.get("clip_qkv") is not None or config.get("layer_norm_type", "rms") != "rms":
            return "clip_qkv and norms other than rms are not supported"
        return ""

    def stand_in_ids(self, config: dict[str, Any]) -> tuple[int, ...]:
        """The first ids after the model's own vocabulary."""
        first = config.get("embedding_size") or config["vocab_size"]
        return tuple(first + i for i in range(len(self.form.image_tokens)))


#: What the config.json of a dense Molmo v1, of MolmoE, and of transformers' own classes must say.
TEXT_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
DENSE_SIZES = (*TEXT_SIZES, "intermediate_size")
MOLMOE_SIZES = ("d_model", "n_layers", "n_heads", "vocab_size", "moe_num_experts", "moe_top_k")

FAMILIES: dict[str, Family] = {
    "molmo": _Molmo("Molmo v1", MOLMO, MOLMO_FORM, "vtexp.models.molmo.runner:MolmoRunner"),
}


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The language model's part of a config.json, which older ones have at the top."""
    return config.get("text_config") or config


def _no_whole_number(config: dict[str, Any], keys: tuple[str, ...]) -> str:
    wrong = [key for key in keys if not isinstance(config.get(key), int)]
    return f"{wrong[0]} is no whole number" if wrong else ""
