"""The kinds of models that can run: what a plan must know of each, by `model_type` of config.json.

No torch here. What reads images and runs the model is the family's runner, imported when a model is
loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vtexp.budget.geometry import INTERNVL, MOLMO, MOLMO2, QWEN2_5_VL, Geometry
from vtexp.budget.llm import LlmSizes
from vtexp.budget.reduction import EARLY_LAYER
from vtexp.models.config_checks import MOLMO_SETTINGS, other_setting
from vtexp.models.processors import (
    BICUBIC,
    BILINEAR,
    CLIP,
    HALF,
    IMAGENET,
    IMAGES,
    ImageRules,
    Normalisation,
    pixel_limits,
)
from vtexp.prompts.form import IMAGE_TOKENS, MOLMO_FORM, PromptForm
from vtexp.prompts.wording import Wording
from vtexp.utils.typed import is_whole_number

#: Reductions of what any connector made.
BEHIND_CONNECTOR = (
    "random",
    "stride",
    "pool",
    "max_min",
    "cls_attention",
    "conditional",
    "python",
)


@dataclass(frozen=True)
class Family:
    """One kind of model, as a plan sees it.

    `name` is for messages; `runner` is the import path of its runner class, MODULE:CLASS. `fixed`
    are the values of config.json from which the geometry follows, by dotted key (for sides, one
    number); `id_keys` say where config.json has the ids of image tokens, empty where it has none;
    `processor_keys` are the values of processor_config.json that are read too, and `images` the
    rules for what the image processor's file says; `transparent_on_white`: whether its own loader
    pastes RGBA images on white; `reduces`: the methods by which its runner can reduce vision tokens
    behind the connector or within the language model; `varies_llm`: whether it can leave out
    experts and blocks of the latter.
    """

    name: str
    geometry: Geometry
    form: PromptForm
    runner: str
    images: ImageRules
    fixed: Mapping[str, float | str] = field(default_factory=dict)
    id_keys: tuple[str, ...] = ("image_token_id",)
    processor_keys: tuple[str, ...] = ()
    transparent_on_white: bool = False
    reduces: tuple[str, ...] = ()
    varies_llm: bool = False

    def problem(self, config: dict[str, Any]) -> str:
        """Why this family's classes cannot be a config.json's model; empty where they can.

        Checked before anything is built: what a config leaves out would be some other model's. Its
        numbers have been found to be such (`wrong_number`).
        """
        if changed := self._changed(config) or self.images.problem(config.get(IMAGES, {})):
            return changed
        missing = _no_whole_number(text_config(config), TEXT_SIZES)
        return missing or _no_whole_number(config, self.id_keys)

    def _changed(self, config: dict[str, Any]) -> str:
        """Which of the fixed values a config.json changes; it may leave them out."""
        for part in ("vision_config", "text_config", "vision_backbone", "connector"):
            if not isinstance(config.get(part) or {}, dict):
                return f"{part} is not an object"
        for key, expected in self.fixed.items():
            part, _, name = key.rpartition(".")
            found = ((config.get(part) or {}) if part else config).get(name, expected)
            if found not in (expected, [expected, expected]):
                return f"{key} is {found}; only {expected} is supported"
        return ""

    def geometry_of(self, config: dict[str, Any]) -> Geometry:
        """Geometry of a config.json's model."""
        own = self.images.own_max_crops(config.get(IMAGES))
        return self.geometry if own is None else replace(self.geometry, own_max_crops=own)

    def llm_sizes(self, config: dict[str, Any]) -> LlmSizes:
        """Blocks of a config.json's language model, and its experts where they can be chosen."""
        return LlmSizes(text_config(config)["num_hidden_layers"])

    def normalisation_of(self, config: dict[str, Any]) -> Normalisation:
        """How pixels in [0, 1] are normalised for a config.json's model."""
        return self.images.normalisation(config.get(IMAGES))

    def image_ids(self, config: dict[str, Any]) -> tuple[int, ...]:
        """Ids of the form's image tokens as a config.json has them."""
        return tuple(config[key] for key in self.id_keys)


class _Molmo(Family):
    """Molmo v1, whose config.json has the language model's fields at the top."""

    def problem(self, config: dict[str, Any]) -> str:
        """As for any family; published MolmoE's fields have the names of the training code."""
        sizes = MOLMOE_SIZES if "d_model" in config else DENSE_SIZES
        experts = EXPERT_SIZES if config.get("moe_num_experts") is not None else ()
        if missing := _no_whole_number(config, (*sizes, *experts)):
            return missing
        if changed := self._changed(config) or other_setting(config, MOLMO_SETTINGS):
            return changed
        if changed := self.images.problem(config.get(IMAGES, {})):
            return changed
        layers = (config.get("vision_backbone") or {}).get("image_num_layers", 23)
        connector = config.get("connector") or {}
        for name, read in (
            ("vit_layers", config.get("vit_layers") or []),
            ("connector.vit_layers", connector.get("vit_layers", [])),
        ):
            if not _are_layers(read, layers):
                return f"{name} is {read}, of {layers} layers"
        return ""

    def image_ids(self, config: dict[str, Any]) -> tuple[int, ...]:
        """The first ids after the model's own vocabulary: no config.json says them."""
        first = config["vocab_size"]
        return tuple(first + i for i in range(len(self.form.image_tokens)))

    def llm_sizes(self, config: dict[str, Any]) -> LlmSizes:
        """At the top of config.json, of MolmoE under the names of the training code."""
        layers = config["n_layers" if "d_model" in config else "num_hidden_layers"]
        experts = config.get("moe_num_experts") or None
        return LlmSizes(layers, experts, config.get("moe_top_k") if experts else None)


class _Molmo2(Family):
    """Molmo2, whose published config.json has older names than transformers writes."""

    def problem(self, config: dict[str, Any]) -> str:
        """As for any family; and views must begin and have columns as the published ones do."""
        for key in ("image_use_col_tokens", "use_single_crop_start_token"):
            if not config.get(key, True):
                why = " (MolmoWeb: its images are read causally)" if "start" in key else ""
                return f"{key}=false in processor_config.json is not supported{why}"
        if config.get("use_single_crop_col_tokens") not in (None, True, False):
            return "use_single_crop_col_tokens in processor_config.json is neither true nor false"
        if "vit_config" in config:
            old = config["vit_config"]
            if not isinstance(old, dict):
                return "vit_config is not an object"
            names = {"image_size": "image_default_input_size", "patch_size": "image_patch_size"}
            vision = {new: old[name] for new, name in names.items() if name in old}
            config = config | {"vision_config": vision}
        return super().problem(config)

    def geometry_of(self, config: dict[str, Any]) -> Geometry:
        """processor_config.json says whether the global view has column tokens."""
        columns = config.get("use_single_crop_col_tokens")
        return replace(super().geometry_of(config), global_columns=columns is None or columns)

    def image_ids(self, config: dict[str, Any]) -> tuple[int, ...]:
        """transformers writes no id of the column token: it is the one after the patch token's."""
        start, end, patch, global_start = super().image_ids(config)
        return start, end, patch, config.get("image_col_id", patch + 1), global_start


class _InternVL(Family):
    """InternVL, whose processor counts the tokens of a tile itself."""

    def problem(self, config: dict[str, Any]) -> str:
        """As for any family; and a tile must have the tokens of its geometry."""
        said = config.get("image_seq_length", self.geometry.tokens_per_crop)
        if said != self.geometry.tokens_per_crop:
            return f"image_seq_length is {said}; only {self.geometry.tokens_per_crop} is supported"
        return super().problem(config)


class _Qwen2_5_VL(Family):
    """Qwen2.5-VL, whose images have least and most pixels."""

    def problem(self, config: dict[str, Any]) -> str:
        """As for any family; and pixels must be counted."""
        if problem := super().problem(config):
            return problem
        said = config.get(IMAGES, {})
        if pixel_limits(said) == (0, 0):
            keys = ", ".join(f"{k}: {said.get(k)}" for k in ("size", "min_pixels", "max_pixels"))
            return f"its limits on an image's pixels are invalid ({keys})"
        if said.get("do_resize") is False:
            return "do_resize is false; images must be resized to whole cells"
        return ""

    def geometry_of(self, config: dict[str, Any]) -> Geometry:
        """Limits of pixels are those of the image processor's file."""
        limits = pixel_limits(config.get(IMAGES))
        if limits is None:
            return self.geometry
        return replace(self.geometry, min_pixels=limits[0], max_pixels=limits[1])


#: Molmo2's published chat template names the style of a task before its question, but not these
#: (of those about single images). Options are asked about as at its evaluation; it answers
#: `A. text`.
MOLMO2_WORDING = Wording(
    unnamed=frozenset(
        [
            "a_okvqa_mc",
            "ai2_diagram",
            "ai2_diagram_no_letter",
            "science_qa",
            "user_qa",
            "correction_qa",
            "demo",
            "point_count",
            "pointing",
            "cosyn_point",
            "long_caption",
            "short_caption",
        ]
    ),
    choice="{question}\nOnly return the correct answer option.\n{options}",
    option="{name}. {text}",
)

#: Molmo2's published chat template, with the image before the question.
MOLMO2_FORM = PromptForm(
    "{bos}{image}<|im_start|>user\n{message}<|im_end|>\n<|im_start|>assistant\n",
    (*IMAGE_TOKENS, "<low_res_im_start>"),
    MOLMO2_WORDING,
    placeholder="<|image|>",
)

#: For models that were not trained on tasks by their name: as InternVL's own evaluation asks.
PLAIN_WORDING = Wording(
    names_styles=False,
    choice="{question}\n{options}\n"
    "Answer with the option's letter from the given choices directly.",
    option="{name}. {text}",
    short_answer="{question}\nAnswer the question using a single word or phrase.",
    caption="Provide a one-sentence caption for the provided image.",
)

#: The chat template of InternVL3's -hf checkpoints.
INTERNVL_FORM = PromptForm(
    "<|im_start|>user\n<img>{image}</img>\n{message}<|im_end|>\n<|im_start|>assistant\n",
    ("<IMG_CONTEXT>",),
    PLAIN_WORDING,
    placeholder="<IMG_CONTEXT>",
    image="<img>{image}</img>",
)

#: Qwen2.5-VL's published chat template with its default system message.
QWEN2_5_VL_FORM = PromptForm(
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    "<|vision_start|>{image}<|vision_end|>{message}<|im_end|>\n<|im_start|>assistant\n",
    ("<|image_pad|>",),
    PLAIN_WORDING,
    placeholder="<|image_pad|>",
)

#: What the config.json of a dense Molmo v1, of MolmoE, and of transformers' own classes must say.
TEXT_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
DENSE_SIZES = (*TEXT_SIZES, "intermediate_size")
MOLMOE_SIZES = ("d_model", "n_layers", "n_heads", "vocab_size")
EXPERT_SIZES = ("moe_num_experts", "moe_top_k")

FAMILIES: dict[str, Family] = {
    "molmo": _Molmo(
        "Molmo v1",
        MOLMO,
        MOLMO_FORM,
        "vtexp.models.molmo.runner:MolmoRunner",
        ImageRules(
            CLIP,
            CLIP,
            fixed={
                "base_image_input_size": [336, 336],
                "overlap_margins": [4, 4],
                "image_patch_size": 14,
                "image_token_length_h": 12,
                "image_token_length_w": 12,
                "image_padding_mask": True,
            },
            normalises=False,
        ),
        fixed={
            "vision_backbone.image_default_input_size": 336,
            "vision_backbone.image_patch_size": 14,
            "vision_backbone.image_num_pos": 577,
            "connector.image_pooling_h": 2,
            "connector.image_pooling_w": 2,
        },
        id_keys=(),
        reduces=(*BEHIND_CONNECTOR, EARLY_LAYER),
        varies_llm=True,
    ),
    "molmo2": _Molmo2(
        "Molmo2",
        MOLMO2,
        MOLMO2_FORM,
        "vtexp.models.molmo2.runner:Molmo2Runner",
        ImageRules(
            HALF,
            HALF,
            fixed={
                "overlap_margins": [4, 4],
                "patch_size": 14,
                "pooling_size": [2, 2],
                "resample": BILINEAR,
            },
            side=378,
        ),
        fixed={"vision_config.image_size": 378, "vision_config.patch_size": 14},
        id_keys=(
            "image_start_token_id",
            "image_end_token_id",
            "image_patch_id",
            "low_res_image_start_token_id",
        ),
        processor_keys=(
            "image_use_col_tokens",
            "use_single_crop_col_tokens",
            "use_single_crop_start_token",
        ),
        reduces=BEHIND_CONNECTOR,
    ),
    "internvl": _InternVL(
        "InternVL",
        INTERNVL,
        INTERNVL_FORM,
        "vtexp.models.internvl:InternVLRunner",
        # Its processor always asks for tiles, whatever `crop_to_patches` and `do_resize` say.
        ImageRules(
            IMAGENET,
            CLIP,
            fixed={"min_patches": 1, "resample": BICUBIC},
            side=448,
            own_cap="max_patches",
        ),
        fixed={
            "vision_config.image_size": 448,
            "vision_config.patch_size": 14,
            "downsample_ratio": 0.5,
            "vision_feature_select_strategy": "default",
        },
        processor_keys=("image_seq_length",),
        reduces=BEHIND_CONNECTOR,
    ),
    "qwen2_5_vl": _Qwen2_5_VL(
        "Qwen2.5-VL",
        QWEN2_5_VL,
        QWEN2_5_VL_FORM,
        "vtexp.models.qwen2_5_vl:Qwen2_5_VLRunner",
        ImageRules(
            CLIP,
            CLIP,
            fixed={
                "patch_size": 14,
                "merge_size": 2,
                "temporal_patch_size": 2,
                "resample": BICUBIC,
            },
        ),
        fixed={
            "vision_config.patch_size": 14,
            "vision_config.spatial_merge_size": 2,
            "vision_config.temporal_patch_size": 2,
        },
        transparent_on_white=True,
        reduces=BEHIND_CONNECTOR,
    ),
}


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The language model's part of a config.json, which older ones have at the top."""
    return config.get("text_config") or config


def _no_whole_number(config: dict[str, Any], keys: tuple[str, ...]) -> str:
    wrong = [key for key in keys if not is_whole_number(config.get(key))]
    return f"{wrong[0]} is not a whole number" if wrong else ""


def _are_layers(read: object, layers: int) -> bool:
    """Whether a value of a config.json is a list of layers of so many, from either end."""
    return isinstance(read, list) and all(
        is_whole_number(layer) and -layers <= layer < layers for layer in read
    )
