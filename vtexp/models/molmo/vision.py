"""Molmo v1's vision side: CLIP-like encoder, 2x2 attention pooling and projector.

Shapes: N crops (packed over the batch), P patches per crop (576), T pooled tokens per crop (144).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from vtexp.models.molmo.configuration import MolmoConfig

#: Blocks pooled at once, at most: CUDA's attention kernels take no larger batch (pytorch #146704).
MOST_POOLED = 65_535
#: Rows gated at once on a CPU, whose caches then hold what lies between.
GATED_ROWS = 128


class VisionAttention(nn.Module):
    """Multi-head attention of `width_in` wide inputs into `width_out`, all projections biased."""

    def __init__(self, width_in: int, width_out: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.wq = nn.Linear(width_in, num_heads * head_dim)
        self.wk = nn.Linear(width_in, num_heads * head_dim)
        self.wv = nn.Linear(width_in, num_heads * head_dim)
        self.wo = nn.Linear(num_heads * head_dim, width_out)
        self.set_fused(None)

    def set_fused(self, layer: nn.Module | None) -> None:
        """One layer for queries, keys and values, in place of three; its parameters are theirs, so
        it is no child of this module."""
        self.__dict__["fused"] = layer

    @torch.no_grad()
    def fuse(self) -> None:
        """Make the weights of queries, keys and values parts of one matrix, for one matmul where
        all are of the same input. Call it once they are where they stay; names stay."""
        projections = (self.wq, self.wk, self.wv)
        weight = torch.cat([p.weight for p in projections])
        bias = torch.cat([p.bias for p in projections])
        for projection, rows, entries in zip(
            projections, weight.chunk(3), bias.chunk(3), strict=True
        ):
            projection.weight.data, projection.bias.data = rows, entries
        fused = nn.Linear(weight.shape[1], len(weight), device="meta")
        fused.weight, fused.bias = (nn.Parameter(t, requires_grad=False) for t in (weight, bias))
        self.set_fused(fused)

    def in_heads(self, x: torch.Tensor) -> torch.Tensor:
        """(N, Q, heads * head_dim) -> (N, heads, Q, head_dim)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def forward(self, query: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """query (N, Q, width_in), context (N, K, width_in) -> (N, Q, width_out)."""

        if self.fused is not None and query is context:
            q, k, v = self.fused(query).chunk(3, dim=-1)
        else:
            q, k, v = self.wq(query), self.wk(context), self.wv(context)
        heads = self.in_heads
        out = F.scaled_dot_product_attention(heads(q), heads(k), heads(v))
        return self.wo(out.transpose(1, 2).flatten(2))


class VisionMlp(nn.Module):
    """Two-layer MLP with quick GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, hidden)
        self.w2 = nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., width) -> (..., width)."""
        x = self.w1(x)
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self.w2(x * torch.sigmoid(1.702 * x))
        # In place: fresh memory for it costs more than the sums.
        rows = x.flatten(0, -2)
        for some in rows.split(GATED_ROWS if x.device.type == "cpu" else max(1, len(rows))):
            some.mul_((1.702 * some).sigmoid_())
        return self.w2(x)


class VisionBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, vit: dict) -> None:
        super().__init__()
        width, eps = vit["image_emb_dim"], vit["image_norm_eps"]
        self.attention = VisionAttention(
            width, width, vit["image_num_heads"], vit["image_head_dim"]
        )
        self.feed_forward = VisionMlp(width, vit["image_mlp_dim"])
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.ffn_norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 1 + P, width) -> the same."""
        normed = self.attention_norm(x)
        x = x + self.attention(normed, normed)
        return x + self.feed_forward(self.ffn_norm(x))


class VisionTransformer(nn.Module):
    """The crop encoder. Its forward hook sees exactly the crops that are encoded."""

    def __init__(self, config: MolmoConfig) -> None:
        super().__init__()
        vit = config.vision_backbone
        width, patch = vit["image_emb_dim"], vit["image_patch_size"]
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(vit["image_num_pos"], width))
        self.patch_embedding = nn.Linear(patch * patch * 3, width, bias=False)
        self.pre_ln = nn.LayerNorm(width, eps=vit["image_norm_eps"])
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(
            VisionBlock(vit) for _ in range(vit["image_num_layers"])
        )
        num_layers = vit["image_num_layers"]
        self.read_layers = [layer % num_layers for layer in config.connector["vit_layers"]]

    def forward(
        self, patches: torch.Tensor, with_last_input: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """patches (N, P, 588) -> (N, P, width * layers read); stops at the last layer read.

        With `with_last_input` also what the last block read, (N, 1 + P, width).
        """
        x = self.patch_embedding(patches)
        cls = self.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        x = self.pre_ln(torch.cat([cls, x], dim=1) + self.positional_embedding.to(x.dtype))
        outputs, read = {}, x
        for index in range(max(self.read_layers) + 1):
            read, x = x, self.transformer.resblocks[index](x)
            if index in self.read_layers:
                outputs[index] = x[:, 1:]
        features = torch.cat([outputs[index] for index in self.read_layers], dim=-1)
        return (features, read) if with_last_input else features

    def cls_attention(self, last_input: torch.Tensor) -> torch.Tensor:
        """What CLS pays to each patch in the last block, mean over the heads: float32 (N, P).

        Computed once more from the block's input (N, 1 + P, width): the fast kernels keep none.
        """
        block = self.transformer.resblocks[max(self.read_layers)]
        own, x = block.attention, block.attention_norm(last_input)
        query, key = own.in_heads(own.wq(x[:, :1])), own.in_heads(own.wk(x))
        products = (query @ key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5
        return products.softmax(dim=-1).mean(dim=1)[:, 0, 1:]

    def fuse(self) -> None:
        """One matmul for queries, keys and values of each block, see `VisionAttention.fuse`."""
        for block in self.transformer.resblocks:
            block.attention.fuse()


class Projector(nn.Module):
    """SwiGLU from the vision width to the language model's; here the first factor is the gate."""

    def __init__(self, width_in: int, hidden: int, width_out: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(width_in, hidden, bias=False)
        self.w2 = nn.Linear(hidden, width_out, bias=False)
        self.w3 = nn.Linear(width_in, hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., width_in) -> (..., width_out)."""
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class VisionBackbone(nn.Module):
    """Encoder and connector: crops in, vision tokens out."""

    def __init__(self, config: MolmoConfig) -> None:
        super().__init__()
        vit, connector = config.vision_backbone, config.connector
        width = vit["image_emb_dim"]
        width_read = width * len(connector["vit_layers"])
        self.side = vit["image_default_input_size"][0] // vit["image_patch_size"]
        self.pool = connector["image_pooling_h"]
        self.image_vit = VisionTransformer(config)
        self.image_pooling_2d = VisionAttention(
            width_read, width, vit["image_num_heads"], vit["image_head_dim"]
        )
        self.image_projector = Projector(width, config.intermediate_size // 2, config.hidden_size)
        self.pad_embed = nn.Parameter(torch.empty(2, width_read))

    def forward(
        self, images: torch.Tensor, image_masks: torch.Tensor, kept: torch.Tensor | None = None
    ) -> torch.Tensor:
        """images (N, P, 588), image_masks (N, P) share of image pixels -> (N, T, hidden)."""
        return self.connect(self.image_vit(images), image_masks, kept)

    def connect(
        self, features: torch.Tensor, image_masks: torch.Tensor, kept: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What the encoder read (N, P, width_read) -> vision tokens (N, T, hidden).

        With `kept` (n,) only those of the N * T tokens are pooled and projected: (n, hidden).
        Adds the learned embedding of all-padding and of partly padded patches; a mask of -1 (the
        released row for the global crop) counts as partly padded.
        """
        image_masks = image_masks.to(features.device)  # another GPU's, where a model is sharded
        all_pad = (image_masks == 0).unsqueeze(-1)
        partial_pad = ((image_masks < 1) & (image_masks != 0)).unsqueeze(-1)
        pad_embed = self.pad_embed.to(features.dtype)
        features = features + pad_embed[0] * all_pad + pad_embed[1] * partial_pad

        side, pool = self.side // self.pool, self.pool
        blocks = features.unflatten(1, (side, pool, side, pool)).transpose(2, 3)
        blocks = blocks.flatten(0, 2).flatten(1, 2)  # (N * T, pool * pool, width_read)
        if kept is not None:
            blocks = blocks[kept.to(blocks.device, non_blocking=True)]
        pooled = torch.cat(
            [
                self.image_pooling_2d(some.mean(dim=1, keepdim=True), some)
                for some in blocks.split(MOST_POOLED)
            ]
        )
        shape = (len(features), side * side) if kept is None else (len(pooled),)
        return self.image_projector(pooled.view(*shape, -1))

    def pooled_scores(self, scores: torch.Tensor) -> torch.Tensor:
        """Mean of the scores (N, P) of the patches behind each pooled token: (N, T)."""
        side, pool = self.side // self.pool, self.pool
        return scores.unflatten(1, (side, pool, side, pool)).mean(dim=(2, 4)).flatten(1)
