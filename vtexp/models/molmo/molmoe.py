"""MolmoE: Molmo v1 with a router and experts in each block, multiplied as groups."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
)
from transformers.integrations.moe import use_experts_implementation

from vtexp.models.molmo.blocks import MolmoBlock
from vtexp.models.molmo.configuration import MolmoConfig
from vtexp.models.molmo.modeling import MolmoForCausalLM

#: From the published MolmoE checkpoint to this model: other names, and one tensor for all experts.
MOLMOE_CONVERSION = [
    WeightRenaming(r"\.attn\.(att_proj|attn_out|attn_norm|q_norm|k_norm)\.", r".\1."),
    WeightRenaming(r"\.mlp\.ff_norm\.", ".ff_norm."),
    WeightRenaming(r"^lm_head\.", "model.transformer.ff_out."),
    WeightConverter(
        [".experts.*.gate_proj.weight", ".experts.*.up_proj.weight"],
        ".experts.gate_up_proj",
        operations=[MergeModulelist(dim=0), Concatenate(dim=1)],
    ),
    WeightConverter(
        ".experts.*.down_proj.weight", ".experts.down_proj", operations=[MergeModulelist(dim=0)]
    ),
]


@use_experts_implementation
class Experts(nn.Module):
    """E SwiGLU experts as two tensors; the matmuls are transformers' grouped ones."""

    def __init__(self, config: MolmoConfig) -> None:
        super().__init__()
        self.num_experts, hidden = config.moe_num_experts, config.hidden_size
        width = config.intermediate_size // 2
        self.gate_up_proj = nn.Parameter(torch.empty(self.num_experts, 2 * width, hidden))
        self.down_proj = nn.Parameter(torch.empty(self.num_experts, hidden, width))
        self.act_fn = nn.SiLU()

    @property
    def can_be_grouped(self) -> bool:
        """Whether torch's grouped matmul takes these experts: it needs rows of whole 16 bytes."""
        return all(
            tensor.shape[-1] * tensor.element_size() % 16 == 0
            for tensor in (self.gate_up_proj, self.down_proj)
        )

    def forward(self, x: torch.Tensor, chosen: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        """x (n, hidden), chosen int64 (n, k), shares (n, k) -> (n, hidden); one expert at a time.

        Only where `config._experts_implementation` is "eager".
        """
        out = torch.zeros_like(x)
        for index in range(self.num_experts):
            rows, places = torch.where(chosen == index)
            gate, up = F.linear(x[rows], self.gate_up_proj[index]).chunk(2, dim=-1)
            expert = F.linear(self.act_fn(gate) * up, self.down_proj[index])
            out.index_add_(0, rows, expert * shares[rows, places, None])
        return out


class MixtureOfExperts(nn.Module):
    """Each token goes to its `top_k` most likely experts, as published `moe_top_k` of them.

    Likelihoods: softmax over all experts in float32, not renormalised over those chosen.
    """

    def __init__(self, config: MolmoConfig) -> None:
        super().__init__()
        self.published_top_k = self.top_k = config.moe_top_k
        self.gate = nn.Linear(config.hidden_size, config.moe_num_experts, bias=False)
        self.experts = Experts(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, L, hidden) -> the same."""
        tokens = x.flatten(0, -2)
        shares, chosen = self.gate(tokens).float().softmax(dim=-1).topk(self.top_k, dim=-1)
        return self.experts(tokens, chosen, shares.to(x.dtype)).view_as(x)


class MolmoEBlock(MolmoBlock):
    """Decoder block with a mixture of experts for its feed-forward."""

    def _add_feed_forward(self, config: MolmoConfig) -> None:
        self.mlp = MixtureOfExperts(config)

    def use_top_k(self, top_k: int | None) -> None:
        """How many experts the next passes use; None: as published."""
        self.mlp.top_k = self.mlp.published_top_k if top_k is None else top_k

    def _feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mlp(x)


class MolmoEForCausalLM(MolmoForCausalLM):
    """MolmoE-1B: published under other parameter names than the dense variants."""

    block_class = MolmoEBlock
    #: Experts are read one by one and put together: read ahead, all would be there twice.
    load_in_order = True
    # transformers' answer to the same question for the dense class would be inherited.
    _can_set_experts_implementation_cached_value = True

    def __init__(self, config: MolmoConfig) -> None:
        super().__init__(config)
        if not self.model.transformer.blocks[0].mlp.experts.can_be_grouped:
            self.config._experts_implementation = "eager"


register_checkpoint_conversion_mapping(
    MolmoEForCausalLM.__name__, MOLMOE_CONVERSION, overwrite=True
)
