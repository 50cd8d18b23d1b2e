"""Linear layers whose products are float8: for GPUs of the Hopper generation and newer.

Weights are rounded to float8 (e4m3) once, with a scale per output, activations at each call, with a
scale per token: each row then uses the whole range of the type. Sums are in float32, results in
bfloat16. The scheme is that of Micikevicius et al. 2022 (arXiv 2209.05433) with row-wise scales as
in torch's `_scaled_mm` and torchao's dynamic float8 quantization.
"""

from __future__ import annotations

import torch
from torch import nn

from vtexp.models.molmo.modeling import MolmoForCausalLM

FLOAT8 = torch.float8_e4m3fn
#: Largest number of e4m3.
LARGEST = torch.finfo(FLOAT8).max
#: Inputs wider than this are multiplied without scales, which are applied to the sums: cuBLAS was
#: slower with scales per row where sums are long, as over SwiGLU's 18 944 (seen on an H200).
WIDE = 8192
#: Scales are no smaller: a row of zeros stays one.
LEAST_SCALE = 1e-12


def to_float8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of x (n, width) as float8, and the float32 scale (n, 1) that brings each back."""
    x = x.float()
    scale = (x.abs().amax(dim=-1, keepdim=True) / LARGEST).clamp(min=LEAST_SCALE)
    return (x * (1 / scale)).clamp(-LARGEST, LARGEST).to(FLOAT8), scale


class Float8Linear(nn.Module):
    """A linear layer without gradients, its product in float8."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """weight: (out, in) in 16 bits, both multiples of 16; bias: (out,) or None."""
        super().__init__()
        rounded, scale = to_float8(weight)
        self.register_buffer("weight", rounded, persistent=False)
        self.register_buffer("scale", scale.view(1, -1), persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self.register_buffer("one", scale.new_ones(()), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in) in bfloat16 -> (..., out)."""
        rounded, scale = to_float8(x.flatten(0, -2))
        wide = x.shape[-1] > WIDE
        out = torch._scaled_mm(
            rounded,
            self.weight.t(),
            scale_a=self.one if wide else scale,
            scale_b=self.one if wide else self.scale,
            bias=None if wide else self.bias,
            out_dtype=x.dtype,
            use_fast_accum=True,
        )
        if wide:
            out = (out.float() * (scale * self.scale)).to(x.dtype)
            out = out if self.bias is None else out + self.bias
        return out.view(*x.shape[:-1], -1)


@torch.no_grad()
def use_float8(model: MolmoForCausalLM) -> None:
    """Replace the linear layers of the blocks of both transformers, one by one.

    Embeddings, norms, connector, routers, experts and the layer of the logits stay in 16 bits.
    """
    vit = model.model.vision_backbone.image_vit
    vit.fuse()
    for block in vit.transformer.resblocks:
        block.attention.set_fused(_of(block.attention.fused))
        block.attention.wo = _of(block.attention.wo)
        block.feed_forward.w1 = _of(block.feed_forward.w1)
        block.feed_forward.w2 = _of(block.feed_forward.w2)
    for block in model.model.transformer.blocks:
        for name, child in list(block.named_children()):
            if isinstance(child, nn.Linear):
                setattr(block, name, _of(child))


def _of(linear: nn.Linear) -> Float8Linear:
    return Float8Linear(linear.weight.detach(), None if linear.bias is None else linear.bias)
