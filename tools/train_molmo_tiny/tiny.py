"""The small Molmo that ships with the package: its tokenizer, its size and its starting weights."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn

from vtexp.models.molmo.configuration import MolmoConfig
from vtexp.models.molmo.modeling import MolmoForCausalLM
from vtexp.models.molmo.vision import VisionAttention, VisionTransformer
from vtexp.prompts.form import IMAGE_TOKENS

END_OF_TEXT = "<|endoftext|>"
MAX_VOCABULARY = 640


def train_tokenizer(texts: Iterable[str], folder: Path) -> None:
    """Byte-level BPE over the texts (any text can be written in it), saved in the hub's layout.

    Digits are tokens of their own, so that a number is read digit by digit.
    The image tokens follow the vocabulary, as in the published checkpoints.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in IMAGE_TOKENS])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "additional_special_tokens": list(IMAGE_TOKENS),
        "model_max_length": 4096,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def tiny_config(vocab_size: int, eos_id: int) -> MolmoConfig:
    """Molmo v1's geometry and architecture (7B-D flags) with about 3 M parameters."""
    return MolmoConfig(
        architectures=["MolmoForCausalLM"],
        vocab_size=vocab_size,
        additional_vocab_size=len(IMAGE_TOKENS),
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        rope_theta=10_000.0,
        bos_token_id=eos_id,
        eos_token_id=eos_id,
        trained_styles=["easy_vqa", "small_print"],
        vision_backbone={
            "image_emb_dim": 128,
            "image_num_heads": 4,
            "image_head_dim": 32,
            "image_num_layers": 3,
            "image_mlp_dim": 384,
        },
        connector={"vit_layers": [-1, -3]},
    )


@torch.no_grad()
def initialise(model: MolmoForCausalLM) -> None:
    """Starting weights: scaled to the width, residual outputs small, crops told apart by place."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif "norm" in name or "ln_" in name or name.endswith("_ln.weight"):
            nn.init.ones_(parameter)
        elif parameter.ndim == 2 and "embedding" not in name.replace("patch_embedding", ""):
            scale = 0.25 if name.endswith(("wo.weight", "w2.weight", "_out.weight")) else 1.0
            nn.init.normal_(parameter, std=scale * parameter.shape[1] ** -0.5)
        else:
            nn.init.normal_(parameter, std=0.05)
    look_nearby(model.model.vision_backbone.image_vit)


@torch.no_grad()
def look_nearby(encoder: VisionTransformer) -> None:
    """Let each patch attend to itself and its neighbours from the start.

    Sine and cosine positions, and keys that equal queries, so that attention falls off with
    distance; after "mimetic initialization" (Trockman and Kolter 2023, arXiv:2305.09828).
    """
    positions = encoder.positional_embedding
    patches, width = len(positions) - 1, positions.shape[1]
    side = math.isqrt(patches)
    wavelengths = torch.logspace(math.log10(2), math.log10(4 * side), width // 4)
    angles = 2 * math.pi * torch.arange(side)[:, None] / wavelengths
    waves = math.sqrt(2) * torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, width / 2)
    rows, cols = waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)
    positions[1:] = torch.cat([rows, cols], dim=-1).flatten(0, 1)
    for block in encoder.transformer.resblocks:
        block.attention.wq.weight *= 1.7
        block.attention.wk.weight.copy_(block.attention.wq.weight)


@torch.no_grad()
def mark_places(encoder: VisionTransformer) -> None:
    """Let positions tell even from odd rows and columns sixteen times as strongly.

    In stage `read` the patch embeddings grow far larger than the positions, and places are lost: a
    linear reader of the features can hardly find them (the first rows of the stage's log).
    """
    patches, width = encoder.positional_embedding[1:].shape
    side = math.isqrt(patches)
    grid = encoder.positional_embedding[1:].view(side, side, width)
    signs = 1.0 - 2 * (torch.arange(side) % 2)
    by_row = (signs[:, None, None] * grid).mean(dim=(0, 1))
    by_col = (signs[None, :, None] * grid).mean(dim=(0, 1))
    grid += 15 * (signs[:, None, None] * by_row + signs[None, :, None] * by_col)


@torch.no_grad()
def pool_by_place(pooling: VisionAttention, places: torch.Tensor) -> None:
    """Let each head of the pooling start with one patch of each token.

    `places` (4, width): what tells a patch's place, as a linear reader of the features learned it.
    """
    head_dim = len(pooling.wq.weight) // pooling.num_heads
    pooling.wq.weight.zero_()
    pooling.wq.bias.zero_()
    for head, place in enumerate(places):
        pooling.wq.bias[head * head_dim] = math.sqrt(head_dim)
        pooling.wk.weight[head * head_dim] = 3 * place
