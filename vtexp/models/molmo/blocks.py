"""The decoder blocks of Molmo v1's language model, and the positions that they rotate by.

Parameter names are those of the published checkpoints. Shapes: B batch, L sequence length.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers.cache_utils import Cache

from vtexp.models.molmo.configuration import MolmoConfig

#: cos and sin of positions, by which queries and keys are rotated.
Rotary = tuple[torch.Tensor, torch.Tensor]


class PassContext(NamedTuple):
    """What the blocks of one pass share, beside their input.

    rotary: cos and sin of the positions; mask: bool (B, 1, L, past + L), or None where plain causal
    attention does; cache: of keys and values, or None; is_prompt: nothing is in the cache yet.
    """

    rotary: Rotary
    mask: torch.Tensor | None
    cache: Cache | None
    is_prompt: bool


class MolmoBlock(nn.Module):
    """Decoder block: fused qkv, rotary positions, SwiGLU whose **second** half is the gate."""

    def __init__(self, config: MolmoConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.norm_after = config.norm_after
        kv_width = config.num_key_value_heads * config.head_dim
        self.widths = (config.hidden_size, kv_width, kv_width)
        self.grouped = config.num_key_value_heads != config.num_attention_heads

        def norm(width: int) -> nn.RMSNorm:
            return nn.RMSNorm(width, eps=config.layer_norm_eps)

        self.att_proj = nn.Linear(config.hidden_size, sum(self.widths), bias=config.qkv_bias)
        self.attn_out = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.attn_norm = norm(config.hidden_size)
        self.ff_norm = norm(config.hidden_size)
        self.q_norm = norm(config.hidden_size) if config.attention_layer_norm else nn.Identity()
        self.k_norm = norm(kv_width) if config.attention_layer_norm else nn.Identity()
        self._add_feed_forward(config)

    def _add_feed_forward(self, config: MolmoConfig) -> None:
        self.ff_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.ff_out = nn.Linear(config.intermediate_size // 2, config.hidden_size, bias=False)

    def _heads(
        self, x: torch.Tensor, rotary: Rotary
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, key and value of x (B, L, hidden): (B, heads, L, head_dim), positions rotated."""
        query, key, value = self.att_proj(x).split(self.widths, dim=-1)
        query, key = self.q_norm(query), self.k_norm(key)
        query, key, value = (
            t.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for t in (query, key, value)
        )
        return _rotate(query, rotary), _rotate(key, rotary), value

    def _attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """What positions (B, heads, Q, head_dim) read of all keys: (B, Q, hidden)."""
        grouped, alone = self.grouped, query.shape[2] == 1
        if grouped and mask is not None:  # CUDA's fast kernels take groups only without a mask
            grouped = False
            if alone:  # the heads of a group are as many queries of their one key
                query = query.view(len(query), key.shape[1], -1, self.head_dim)
            else:
                repeats = query.shape[1] // key.shape[1]
                key, value = (t.repeat_interleave(repeats, dim=1) for t in (key, value))
        out = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            is_causal=mask is None and not alone,
            enable_gqa=grouped,
        )
        if alone:
            return self.attn_out(out.reshape(len(out), 1, -1))
        return self.attn_out(out.transpose(1, 2).flatten(2))

    def attention_inputs(
        self, x: torch.Tensor, rotary: Rotary
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, key and value of a block's input (B, L, hidden); norms come before or after."""
        return self._heads(x if self.norm_after else self.attn_norm(x), rotary)

    def use_top_k(self, top_k: int | None) -> None:
        """How many experts the next passes use; None: as published. Without experts, nothing."""

    def _feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        first, gate = self.ff_proj(x).chunk(2, dim=-1)
        return self.ff_out(F.silu(gate) * first)

    def forward(
        self, x: torch.Tensor, context: PassContext, last_alone: bool = False
    ) -> torch.Tensor:
        """x (B, L, hidden) -> the same; with `last_alone` its last position, (B, 1, hidden)."""
        rotary, mask, cache, is_prompt = context
        if not is_prompt:
            return self.read_on(x, rotary, mask, cache)
        x, key, value = self.read_prompt(x, rotary, mask, last_alone)
        if cache is not None:
            cache.update(key, value, self.layer_idx)
        return x

    def read_prompt(
        self,
        x: torch.Tensor,
        rotary: Rotary,
        mask: torch.Tensor | None,
        last_alone: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """All positions, or the last alone, with nothing before them; and their keys and values.

        Free of a cache, so that it compiles as one piece.
        """
        query, key, value = self.attention_inputs(x, rotary)
        if last_alone:
            x, query = x[:, -1:], query[:, :, -1:]
            mask = None if mask is None else mask[:, :, -1:]
        return self._add(x, self._attend(query, key, value, mask)), key, value

    def read_on(
        self,
        x: torch.Tensor,
        rotary: Rotary,
        mask: torch.Tensor | None,
        cache: Cache,
    ) -> torch.Tensor:
        """Positions behind those of a cache, which their keys and values are added to."""
        query, key, value = self.attention_inputs(x, rotary)
        key, value = cache.update(key, value, self.layer_idx)
        return self._add(x, self._attend(query, key, value, mask))

    def _add(self, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Add what was attended to, then the feed-forward."""
        if self.norm_after:
            x = x + self.attn_norm(attended)
            return x + self.ff_norm(self._feed_forward(x))
        x = x + attended
        return x + self._feed_forward(self.ff_norm(x))


def rotary_of(position_ids: torch.Tensor, config: MolmoConfig) -> Rotary:
    """cos and sin, float32 (B, 1, L, head_dim), for positions (B, L)."""
    exponents = torch.arange(0, config.head_dim, 2, device=position_ids.device) / config.head_dim
    angles = position_ids[:, None, :, None].float() * config.rope_theta**-exponents
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def _rotate(x: torch.Tensor, rotary: Rotary) -> torch.Tensor:
    """Rotate-half positions in float32, whatever the dtype of x (B, heads, L, head_dim)."""
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = rotary
    return (x * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)
