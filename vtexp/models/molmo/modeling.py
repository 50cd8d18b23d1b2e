"""Molmo v1 for transformers: embedding, image insertion, KV cache and generation.

Parameter names are those of the published checkpoints. Shapes: B batch, L sequence length,
C crops per image with the global crop first, P patches per crop, T pooled tokens per crop.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from vtexp.budget.llm import LlmSetting
from vtexp.models.molmo.blocks import MolmoBlock, PassContext, rotary_of
from vtexp.models.molmo.configuration import MolmoConfig
from vtexp.models.molmo.vision import VisionBackbone
from vtexp.models.prefill_graphs import cache_argument
from vtexp.models.reduced_prompt import RowSelection, TokenReduction

_CACHE_OUTPUT = cache_argument(CausalLMOutputWithPast)


class MolmoEmbedding(nn.Module):
    """Token embedding: the padded vocabulary, then the additional (image) ids."""

    def __init__(self, config: MolmoConfig) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(config.embedding_size, config.hidden_size))
        self.new_embedding = nn.Parameter(
            torch.empty(config.additional_vocab_size, config.hidden_size)
        )

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """input_ids (B, L) -> (B, L, hidden). Two look-ups: joining the tables would copy them."""
        size = len(self.embedding)
        base = F.embedding(input_ids.clamp(0, size - 1), self.embedding)
        new = F.embedding((input_ids - size).clamp(min=0), self.new_embedding)
        return torch.where((input_ids >= size).unsqueeze(-1), new, base)


class ImageInsertion(nn.Module):
    """Adds vision tokens to the embeddings of their places. Its hook sees each token inserted."""

    def forward(
        self,
        embeddings: torch.Tensor,
        tokens: torch.Tensor,
        places: torch.Tensor,
        source: torch.Tensor,
    ) -> torch.Tensor:
        """Add tokens (n, hidden) to rows `places` (n,) of embeddings (B, L, hidden), flattened.

        `source` (n,) says which of all pooled tokens, N * T, they are; only a hook wants to know.
        """
        flat = embeddings.flatten(0, 1)
        return flat.index_add(0, places, tokens.to(flat)).view_as(embeddings)


class ImagePlaces(NamedTuple):
    """Where the vision tokens of a batch go.

    real_crops: bool (B * C,), crops that are no padding; kept: int64 (n,), tokens that are not
    dropped, among all of the real crops; places: int64 (n,), their rows in (B * L, hidden).
    """

    real_crops: torch.Tensor
    kept: torch.Tensor
    places: torch.Tensor


def image_places(image_input_idx: torch.Tensor, length: int) -> ImagePlaces:
    """From image_input_idx (B, C, T), negatives dropped, in prompts of a length."""
    index = image_input_idx.flatten(0, 1)
    real_crops = (index >= 0).any(dim=-1)
    row = torch.arange(len(image_input_idx), device=index.device)
    row = row.repeat_interleave(image_input_idx.shape[1])[real_crops]
    index = index[real_crops]
    kept = (index >= 0).flatten().nonzero().squeeze(-1)
    places = (index + row[:, None] * length).flatten()[kept].long()
    return ImagePlaces(real_crops, kept, places)


class MolmoModel(nn.Module):
    """The parameters under the published prefix `model.`."""

    image_insertion: ImageInsertion
    token_reduction: TokenReduction
    row_selection: RowSelection

    def __init__(self, config: MolmoConfig, block_class: type[MolmoBlock]) -> None:
        super().__init__()
        self.transformer = nn.Module()
        self.transformer.wte = MolmoEmbedding(config)
        self.transformer.blocks = nn.ModuleList(
            block_class(config, index) for index in range(config.num_hidden_layers)
        )
        self.transformer.ln_f = nn.RMSNorm(config.hidden_size, eps=config.layer_norm_eps)
        if not config.weight_tying:
            self.transformer.ff_out = nn.Linear(
                config.hidden_size, config.embedding_size, bias=False
            )
        self.vision_backbone = VisionBackbone(config)
        # No children: of a sharded model, accelerate would give each of them a GPU, mostly the
        # last one, and send there what it is called with.
        self.__dict__["image_insertion"] = ImageInsertion()
        self.__dict__["token_reduction"] = TokenReduction()
        self.__dict__["row_selection"] = RowSelection()


class MolmoForCausalLM(PreTrainedModel, GenerationMixin):
    """Molmo v1 (dense variants D and O) with KV cache and `generate`.

    Loads published checkpoints with `from_pretrained`. Logits cover `embedding_size` ids.
    """

    config_class = MolmoConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    block_class: type[MolmoBlock] = MolmoBlock
    # The encoder's blocks are read together, and with the connector's weights.
    _no_split_modules = ("MolmoBlock", "MolmoEBlock", "VisionBackbone")
    _supports_sdpa = True

    def __init__(self, config: MolmoConfig) -> None:
        super().__init__(config)
        self.model = MolmoModel(config, self.block_class)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        for parameter in module.parameters(recurse=False):
            if not isinstance(module, nn.Linear | nn.LayerNorm | nn.RMSNorm):
                parameter.normal_(std=self.config.initializer_range)

    def compile_blocks(self) -> None:
        """Have torch compile the blocks of both transformers, at their first use.

        Those of a kind share their code. For any shape from the start, or the first knob value
        would be timed on other code than the next; and never silently uncompiled. The last block
        stays as it is: it works on one position, and would be compiled for itself.
        """
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        # One or several prompts, of one or several tokens, padded or not; for each top-k.
        torch._dynamo.config.recompile_limit = 16 * (self.config.moe_num_experts or 1)
        for block in self.model.vision_backbone.image_vit.transformer.resblocks:
            block.compile(dynamic=True)
        for block in self.model.transformer.blocks[:-1]:
            block.read_prompt = torch.compile(block.read_prompt, dynamic=True)

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding, which is no nn.Embedding (two tables)."""
        return self.model.transformer.wte

    def blocks_of(self, llm: LlmSetting | None) -> list[MolmoBlock]:
        """The blocks that run under a setting, in order, told how many experts to use.

        Call it for each pass: the setting of an earlier pass does not stay.
        """
        own, llm = self.model.transformer.blocks, llm or LlmSetting()
        blocks = [own[index] for index in llm.ran(len(own))]
        for block in blocks:
            block.use_top_k(llm.top_k_of(block.layer_idx))
        return blocks

    def encode_images(
        self, images: torch.Tensor, image_masks: torch.Tensor, kept: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Vision encoder and connector: (N, P, 588) and (N, P) -> vision tokens (N, T, hidden).

        With `kept`, int64 (n,), only those of all N * T: (n, hidden).
        """
        return self.model.vision_backbone(images, image_masks, kept)

    def embed(
        self,
        input_ids: torch.Tensor,
        images: torch.Tensor | None,
        image_masks: torch.Tensor | None,
        image_input_idx: torch.Tensor | ImagePlaces | None,
        image_features: torch.Tensor | None,
    ) -> torch.Tensor:
        """What the first block reads, (B, L, hidden), of what `forward` takes."""
        embeddings = self.model.transformer.wte(input_ids)
        if image_input_idx is None:
            return embeddings
        # Where a crop of a batch is padding, all its tokens are dropped: do not encode it. The
        # index may stay on the CPU; then nothing here waits for the device.
        if isinstance(image_input_idx, torch.Tensor):
            image_input_idx = image_places(image_input_idx, input_ids.shape[1])
        real_crops, kept, places = image_input_idx
        if not len(kept):  # a batch of texts whose crops are all padding
            return embeddings
        if image_features is None:
            assert images is not None and image_masks is not None
            images, image_masks = images.flatten(0, 1), image_masks.flatten(0, 1)
            if not real_crops.all():
                chosen = real_crops.to(images.device)
                images, image_masks = images[chosen], image_masks[chosen]
            image_features = self.encode_images(images, image_masks, kept)
        if image_features.ndim == 3:
            image_features = image_features.flatten(0, 1)[kept.to(image_features.device)]
        device = embeddings.device
        return self.model.image_insertion(
            embeddings,
            image_features,
            places.to(device, non_blocking=True),
            kept,
        )

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        images: torch.Tensor | None = None,
        image_masks: torch.Tensor | None = None,
        image_input_idx: torch.Tensor | ImagePlaces | None = None,
        image_features: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        cache: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        last_positions: torch.Tensor | None = None,
        rows: torch.Tensor | None = None,
        llm: LlmSetting | None = None,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """Next-token logits (B, L or logits_to_keep, embedding_size) and the KV cache.

        input_ids (B, L), negative = padding; attention_mask (B, past + L) of 0/1, without which
        padding must be on the right, or a ready bool mask (B, 1, L, past + L); positions follow
        from it (cumulative sum - 1). past_key_values is `cache` from transformers 5.24 on. images
        (B, C, P, 588), image_masks (B, C, P), image_input_idx (B, C, T) with negatives dropped, or
        the `image_places` of it; or image_features (N, T, hidden), or (n, hidden) of those kept,
        the output of `encode_images`, in place of the first two. Where the last logits alone are
        wanted, the last block works on the last position alone, but for keys and values. With
        last_positions int64 (B,) the logits are those of one position of each prompt, (B, 1, ...).
        With rows int64 (B, l) the blocks read only these rows of the prompts, in this order; all
        else that has positions is of these then. llm: which blocks and how many experts work;
        a block that is left out has no keys and values.
        """
        cache = past_key_values if cache is None else cache
        if cache is not None and cache.get_seq_length() > 0:
            image_input_idx = None  # the image was read with the prompt
        x = self.embed(input_ids, images, image_masks, image_input_idx, image_features)
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        past = cache.get_seq_length() if cache is not None else 0
        if rows is not None:
            x = self.model.row_selection(x, rows)
        length = x.shape[1]
        if position_ids is None:
            position_ids = _position_ids(attention_mask, past, length, x.device)
        mask = _attention_mask(attention_mask, past, length)
        rotary = rotary_of(position_ids, self.config)
        context = PassContext(rotary, mask, cache, is_prompt=past == 0)
        *blocks, last_block = self.blocks_of(llm)
        for block in blocks:
            x = block(x, context)
        last_alone = isinstance(logits_to_keep, int) and logits_to_keep == 1
        x = last_block(x, context, last_alone=last_alone)
        if last_positions is not None:
            x = x.take_along_dim(last_positions.to(x.device)[:, None, None], dim=1)
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.logits_of(x[:, keep])
        return CausalLMOutputWithPast(**{_CACHE_OUTPUT: cache}, logits=logits)

    def logits_of(self, x: torch.Tensor) -> torch.Tensor:
        """Next-token logits (B, L, embedding_size) of what the blocks made (B, L, hidden)."""
        x = self.model.transformer.ln_f(x)
        if self.config.weight_tying:
            return F.linear(x, self.model.transformer.wte.embedding)
        return self.model.transformer.ff_out(x)

    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_input_idx: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """New token ids (B, n), greedy by default; finished rows are filled with the eos id.

        Takes right-padded prompts (negative ids, or zeros in attention_mask) and moves the padding
        to the left, so that new tokens follow the text directly.
        """
        if attention_mask is None:
            attention_mask = (input_ids >= 0).long()
        if bool((attention_mask == 0).any()):
            shift = (attention_mask == 0).sum(dim=1)
            input_ids, attention_mask = _roll(input_ids, shift), _roll(attention_mask, shift)
            if image_input_idx is not None:
                offset = shift.to(image_input_idx.device, image_input_idx.dtype)[:, None, None]
                image_input_idx = torch.where(
                    image_input_idx >= 0, image_input_idx + offset, image_input_idx
                )
        kwargs = {"do_sample": False, "pad_token_id": kwargs.get("eos_token_id")} | kwargs
        output = super().generate(
            input_ids.clamp(min=0),
            attention_mask=attention_mask,
            image_input_idx=image_input_idx,
            **kwargs,
        )
        return output[:, input_ids.shape[1] :]

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Only the prompt's pass needs its last logits; positions follow from the mask."""
        inputs = super().prepare_inputs_for_generation(*args, **kwargs)
        inputs.pop("position_ids", None)
        return inputs


def _roll(x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Roll each row of (B, L) to the right by its own shift (B,)."""
    columns = torch.arange(x.shape[1], device=x.device)
    return x.gather(1, (columns - shift[:, None]) % x.shape[1])


def _position_ids(
    attention_mask: torch.Tensor | None, past: int, length: int, device: torch.device
) -> torch.Tensor:
    """Positions (B or 1, length): cumulative sum of the mask - 1, at least 0."""
    if attention_mask is None or attention_mask.ndim == 4:
        return torch.arange(past, past + length, device=device)[None]
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -length:]


def _attention_mask(
    attention_mask: torch.Tensor | None, past: int, length: int
) -> torch.Tensor | None:
    """Bool mask (B, 1, length, past + length), or None where plain causal attention does."""
    if attention_mask is None and past and length > 1:
        raise ValueError("several tokens after a cache need an attention_mask")
    if attention_mask is None or attention_mask.ndim == 4:
        return attention_mask
    # The host knows at no cost on a CPU; on a GPU callers pass None for unpadded prompts.
    if (past == 0 or length == 1) and bool(attention_mask.all()):
        return None
    keys = torch.arange(past + length, device=attention_mask.device)
    causal = keys[None, :] <= keys[past:, None]
    visible = causal & attention_mask.bool()[:, None, None, :]
    # Rows of padding see themselves, so that no softmax is over nothing.
    return visible | (keys[None, :] == keys[past:, None])
