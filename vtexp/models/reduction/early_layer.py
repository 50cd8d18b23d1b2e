"""Tokens that the language model itself attends to in an early block: what FastV keeps.

Chen et al., An Image is Worth 1/2 Tokens After Layer 2 (arXiv:2403.06764): K blocks read all
tokens, one block's attention ranks the vision tokens, and only the first of them go on. Written
from the paper. What differs: the paper takes the mean attention that a token receives from all
positions; here it is what the prompt's last position pays in block K - 1, the position that the
answer comes from, as in later methods of this kind. Tokens keep their positions by default, as in
the paper: the first K blocks hold all tokens, and a new token then has one position in all blocks.
"""

from __future__ import annotations

import torch


def early_layer(attention: torch.Tensor, k: int) -> torch.Tensor:
    """Indices of the k highest scores, int64 (k,), ascending; the first of equals."""
    return attention.argsort(descending=True, stable=True)[:k].sort().values


def last_attention(query: torch.Tensor, key: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """What the last position of each prompt pays to all, mean over the heads: float32 (B, L).

    query (B, heads, 1, head_dim) of these positions and key (B, kv_heads, L, head_dim), rotated;
    last int64 (B,): their places. What is behind them is padding, and gets 0.
    """
    grouped = query.float().reshape(len(key), key.shape[1], -1, key.shape[-1])
    products = grouped @ key.float().transpose(-1, -2) * key.shape[-1] ** -0.5
    padding = torch.arange(key.shape[2], device=key.device) > last[:, None]
    products = products.masked_fill(padding[:, None, None], -torch.inf)
    return products.softmax(dim=-1).mean(dim=(1, 2))
