"""Small checkpoints in the files of the published ones, and transformers' own processors of them.

Only what prompts and pixels follow from: configs, tokenizers and processors, no weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, InternVLProcessor, ProcessorMixin, Qwen2_5_VLProcessor
from transformers.models.molmo2 import Molmo2Processor

TEXT = ["the user asks the assistant: is there a red circle? What is it, a system or 12 images?\n"]
#: What the published checkpoints' preprocessor_config.json say.
IMAGES: dict[str, dict[str, Any]] = {
    "internvl": {
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "crop_to_patches": False,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "max_patches": 12,
        "min_patches": 1,
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"height": 448, "width": 448},
    },
    "qwen2_5_vl": {
        "image_processor_type": "Qwen2VLImageProcessor",
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    },
    "molmo2": {
        "image_processor_type": "Molmo2ImageProcessor",
        "do_convert_rgb": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "max_crops": 8,
        "overlap_margins": [4, 4],
        "patch_size": 14,
        "pooling_size": [2, 2],
        "resample": 2,
        "size": {"height": 378, "width": 378},
    },
}
#: And their processor_config.json.
PROCESSORS: dict[str, dict[str, Any]] = {
    "internvl": {"image_seq_length": 256, "processor_class": "InternVLProcessor"},
    "qwen2_5_vl": {},
    "molmo2": {
        "image_use_col_tokens": True,
        "use_single_crop_col_tokens": False,
        "use_single_crop_start_token": True,
    },
}
_ROLE = "{{ '<|im_start|>' + message['role'] + '\\n' }}"
_ASSISTANT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"


def _template(image: str, start: str = "") -> str:
    """A chat template that writes an image as a text, and each message as <|im_start|> does."""
    part = "{% if part['type'] == 'image' %}{{ '" + image + "' }}{% else %}{{ part['text'] }}"
    parts = "{% for part in message['content'] %}" + part + "{% endif %}{% endfor %}"
    message = _ROLE + parts + "{{ '<|im_end|>\\n' }}"
    return start + "{% for message in messages %}" + message + "{% endfor %}" + _ASSISTANT


#: Chat templates that write what the published ones do of one image and one question.
TEMPLATES = {
    "internvl": _template("<IMG_CONTEXT>\\n"),
    "qwen2_5_vl": _template(
        "<|vision_start|><|image_pad|><|vision_end|>",
        "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}",
    ),
    # The published one writes images before the messages.
    "molmo2": "{{ '<|image|>' }}" + _template(""),
}
SPECIAL = {
    "internvl": ("<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
    "qwen2_5_vl": ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
    "molmo2": (
        *("<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<low_res_im_start>"),
        *("<frame_start>", "<frame_end>", "<im_low>", "<|image|>", "<|video|>"),
    ),
}
_OF_INTERNVL = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}


def _byte_tokenizer(special: tuple[str, ...]) -> Tokenizer:
    """As Qwen's, which gives its texts no start."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        vocab_size=400,
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return tokenizer


def _llama_tokenizer(special: tuple[str, ...]) -> Tokenizer:
    """As Llama's: words with their space, bytes where they are unknown, <s> before each text."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps)
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(
        special_tokens=["<unk>", "<s>", "</s>", *bytes_], vocab_size=400, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def write_checkpoint(
    folder: Path,
    name: str,
    *,
    llama: bool = False,
    images: Mapping[str, Any] | None = None,
    processor: Mapping[str, Any] | None = None,
    tokenizer: Mapping[str, Any] | None = None,
    chat_template: str | None = None,
) -> Path:
    """A checkpoint of a family without weights, its files changed as asked; gives the folder.

    `llama`: with Llama's kind of tokenizer, whose end of text is not what ends an answer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    special = (*SPECIAL[name], "<|im_start|>", "<|im_end|>")
    made = _llama_tokenizer(special) if llama else _byte_tokenizer(special)
    made.save(str(folder / "tokenizer.json"))
    ids = {token: made.token_to_id(token) for token in special}
    end = "</s>" if llama else "<|endoftext|>"
    config: dict[str, Any] = {"eos_token": end, "pad_token": end}
    config["tokenizer_class"] = "LlamaTokenizerFast" if llama else "PreTrainedTokenizerFast"
    if llama:
        config |= {"bos_token": "<s>", "unk_token": "<unk>", "legacy": False}
    if name == "internvl":
        config["extra_special_tokens"] = _OF_INTERNVL
    files = {
        "tokenizer_config.json": config | dict(tokenizer or {}),
        "preprocessor_config.json": IMAGES[name] | dict(images or {}),
        "processor_config.json": PROCESSORS[name] | dict(processor or {}),
        "generation_config.json": {"eos_token_id": [ids["<|im_end|>"], made.token_to_id("</s>")]}
        if llama
        else {},
        "config.json": _config(name, ids, made.get_vocab_size()),
    }
    for file, content in files.items():
        (folder / file).write_text(json.dumps(content))
    if chat_template is not None:
        (folder / "chat_template.jinja").write_text(chat_template)
    return folder


def _config(name: str, ids: dict[str, int], size: int) -> dict[str, Any]:
    narrow = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**narrow, "vocab_size": size, "intermediate_size": 64, "max_position_embeddings": 65536}
    config: dict[str, Any] = {"model_type": name, "text_config": text}
    if name == "molmo2":
        return config | {
            "image_start_token_id": ids["<im_start>"],
            "image_end_token_id": ids["<im_end>"],
            "image_patch_id": ids["<im_patch>"],
            "image_col_id": ids["<im_col>"],
            "low_res_image_start_token_id": ids["<low_res_im_start>"],
        }
    image = {"internvl": "<IMG_CONTEXT>", "qwen2_5_vl": "<|image_pad|>"}[name]
    return config | {"image_token_id": ids[image]}


class _OfInternVL(InternVLProcessor):
    """Without a video processor, which would need torchvision."""

    def check_argument_for_proper_class(self, *_: Any) -> None:
        """Whatever it is."""


class _OfQwen(Qwen2_5_VLProcessor):
    """Without a video processor, which would need torchvision."""

    def check_argument_for_proper_class(self, *_: Any) -> None:
        """Whatever it is."""


class _OfMolmo2(Molmo2Processor):
    """Without a video processor."""

    def check_argument_for_proper_class(self, *_: Any) -> None:
        """Whatever it is."""


def _image_class(name: str, torchvision: bool) -> Any:
    """transformers' image processor by its name, in one of its two ways."""
    return getattr(transformers, name if torchvision else f"{name}Pil")


def peer_processor(folder: Path, name: str, *, torchvision: bool = False) -> ProcessorMixin:
    """transformers' processor of a checkpoint; Molmo2's images need torchvision.

    The others' are read with Pillow, or with `torchvision` where that is wanted.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    said = json.loads((folder / "processor_config.json").read_text())
    own = folder / "chat_template.jinja"
    template = own.read_text() if own.is_file() else TEMPLATES[name]
    if name == "internvl":
        images = _image_class("GotOcr2ImageProcessor", torchvision).from_pretrained(folder)
        length = said["image_seq_length"]
        return _OfInternVL(images, tokenizer, None, length, chat_template=template)
    if name == "qwen2_5_vl":
        images = _image_class("Qwen2VLImageProcessor", torchvision).from_pretrained(folder)
        return _OfQwen(images, tokenizer, chat_template=template)
    images = _image_class("Molmo2ImageProcessor", torchvision=True).from_pretrained(folder)
    return _OfMolmo2(images, None, tokenizer, chat_template=template, **said)
