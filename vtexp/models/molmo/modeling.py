"""Molmo v1 for transformers: the language model, image insertion, KV cache and generation.

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

from vtexp.models.molmo.configuration import MolmoConfig
from vtexp.models.molmo.vision import VisionBackbone


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
    """Of image_input_idx (B, C, T), negatives dropped, in prompts of a length."""
    index = image_input_idx.flatten(0, 1)
    real_crops = (index >= 0).any(dim=-1)
    row = torch.arange(len(image_input_idx), device=index.device)
    row = row.repeat_interleave(image_input_idx.shape[1])[real_crops]
    index = index[real_crops]
    kept = (index >= 0).flatten().nonzero().squeeze(-1)
    places = (index + row[:, None] * length).flatten()[kept].long()
    return ImagePlaces(real_crops, kept, places)


class PassContext(NamedTuple):
    """What the blocks of one pass share, beside their input.

    rotary: cos and sin of the positions; mask: bool (B, 1, L, past + L), or None where plain causal
    attention does; cache: of keys and values, or None.
    """

    rotary: tuple[torch.Tensor, torch.Tensor]
    mask: torch.Tensor | None
    cache: Cache | None


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
        self, x: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, key and value of x (B, L, hidden): (B, heads, L, head_dim), positions rotated."""
        query, key, value = self.att_proj(x).split(self.widths, dim=-1)
        query, key = self.q_norm(query), self.k_norm(key)
        query, key, value = (
            t.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for t in (query, key, value)
        )
        return _rotate(query, rotary), _rotate(key, rotary), value

    def _attention(self, x: torch.Tensor, context: PassContext, count: int) -> torch.Tensor:
        """Of the last `count` positions of x, which see those before them and the cache."""
        rotary, mask, cache = context
        query, key, value = self._heads(x, rotary)
        if cache is not None:
            key, value = self._cached(cache, key, value)
        if count < query.shape[2]:
            query, mask = query[:, :, -count:], None if mask is None else mask[:, :, -count:]
        grouped = self.grouped
        if grouped and mask is not None:  # CUDA's fast kernels take groups only without a mask
            repeats, grouped = query.shape[1] // key.shape[1], False
            key, value = (t.repeat_interleave(repeats, dim=1) for t in (key, value))
        out = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            is_causal=mask is None and bool(query.shape[2] > 1),
            enable_gqa=grouped,
        )
        return self.attn_out(out.transpose(1, 2).flatten(2))

    @torch.compiler.disable  # or each layer, for its number alone, would be compiled anew
    def _cached(
        self, cache: Cache, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return cache.update(key, value, self.layer_idx)

    def attention_inputs(
        self, x: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, key and value with which this block attends, given its input (norms before)."""
        return self._heads(self.attn_norm(x), rotary)

    def _feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        first, gate = self.ff_proj(x).chunk(2, dim=-1)
        return self.ff_out(F.silu(gate) * first)

    def forward(
        self, x: torch.Tensor, context: PassContext, last_alone: bool = False
    ) -> torch.Tensor:
        """x (B, L, hidden) -> the same; with `last_alone` its last position, (B, 1, hidden)."""
        return self.last_position(x, context) if last_alone else self.every_position(x, context)

    # Two functions, each to be compiled for itself: their variants are limited in number.

    def every_position(self, x: torch.Tensor, context: PassContext) -> torch.Tensor:
        """x (B, L, hidden) -> the same."""
        return self._block(x, x, context)

    def last_position(self, x: torch.Tensor, context: PassContext) -> torch.Tensor:
        """x (B, L, hidden) -> (B, 1, hidden); keys and values are those of all positions."""
        return self._block(x, x[:, -1:], context)

    def _block(self, x: torch.Tensor, kept: torch.Tensor, context: PassContext) -> torch.Tensor:
        """The last positions of x that are `kept` (B, K, hidden), having seen all of x."""
        count = kept.shape[1]
        if self.norm_after:
            x = kept + self.attn_norm(self._attention(x, context, count))
            return x + self.ff_norm(self._feed_forward(x))
        x = kept + self._attention(self.attn_norm(x), context, count)
        return x + self._feed_forward(self.ff_norm(x))


def _rotary(position_ids: torch.Tensor, config: MolmoConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, float32 (B, 1, L, head_dim), for positions (B, L)."""
    exponents = torch.arange(0, config.head_dim, 2, device=position_ids.device) / config.head_dim
    angles = position_ids[:, None, :, None].float() * config.rope_theta**-exponents
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def _rotate(x: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotate-half positions in float32, whatever the dtype of x (B, heads, L, head_dim)."""
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = rotary
    return (x * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)


class MolmoModel(nn.Module):
    """The parameters under the published prefix `model.`."""

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
        self.image_insertion = ImageInsertion()


class MolmoForCausalLM(PreTrainedModel, GenerationMixin):
    """Molmo v1 (dense variants D and O) with KV cache and `generate`.

    Loads published checkpoints with `from_pretrained`. Logits cover `embedding_size` ids.
    """

    config_class = MolmoConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    block_class: type[MolmoBlock] = MolmoBlock
    _no_split_modules = ("MolmoBlock", "MolmoEBlock", "VisionBlock")
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
        """Have torch compile the blocks of both transformers, at their first use: a minute in all.

        Those of a kind share their code. For any shape from the start, or the first knob value
        would be timed on other code than the next; and never silently uncompiled.
        """
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        # One or several prompts, of one or several tokens, padded or not.
        torch._dynamo.config.recompile_limit = 16
        for block in self.model.vision_backbone.image_vit.transformer.resblocks:
            block.compile(dynamic=True)
        for block in self.model.transformer.blocks:
            block.every_position = torch.compile(block.every_position, dynamic=True)
            block.last_position = torch.compile(block.last_position, dynamic=True)

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding, which is no nn.Embedding (two tables)."""
        return self.model.transformer.wte

    def encode_images(
        self, images: torch.Tensor, image_masks: torch.Tensor, kept: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Vision encoder and connector: (N, P, 588) and (N, P) -> vision tokens (N, T, hidden).

        With `kept`, int64 (n,), only those of all N * T: (n, hidden).
        """
        return self.model.vision_backbone(images, image_masks, kept)

    def _embed(
        self,
        input_ids: torch.Tensor,
        images: torch.Tensor | None,
        image_masks: torch.Tensor | None,
        image_input_idx: torch.Tensor | None,
        image_features: torch.Tensor | None,
    ) -> torch.Tensor:
        embeddings = self.model.transformer.wte(input_ids)
        if image_input_idx is None:
            return embeddings
        # Where a crop of a batch is padding, all its tokens are dropped: do not encode it. The
        # index may stay on the CPU; then nothing here waits for the device.
        real_crops, kept, places = image_places(image_input_idx, input_ids.shape[1])
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
        image_input_idx: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """Next-token logits (B, L or logits_to_keep, embedding_size) and the KV cache.

        input_ids (B, L), negative = padding; attention_mask (B, past + L) of 0/1, or a ready bool
        mask (B, 1, L, past + L); positions follow from it (cumulative sum - 1). images
        (B, C, P, 588), image_masks (B, C, P), image_input_idx (B, C, T) with negatives dropped;
        or image_features (N, T, hidden), or (n, hidden) of those kept, the output of
        `encode_images`, in place of the first two. Where the last logits alone are wanted, the last
        block works on the last position alone, but for keys and values.
        """
        if past_key_values is not None and past_key_values.get_seq_length() > 0:
            image_input_idx = None  # the image was read with the prompt
        x = self._embed(input_ids, images, image_masks, image_input_idx, image_features)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        length = input_ids.shape[1]
        if position_ids is None:
            position_ids = _position_ids(attention_mask, past, length, x.device)
        mask = _attention_mask(attention_mask, past, length)
        context = PassContext(_rotary(position_ids, self.config), mask, past_key_values)
        *blocks, last_block = self.model.transformer.blocks
        for block in blocks:
            x = block(x, context)
        last_alone = isinstance(logits_to_keep, int) and logits_to_keep == 1
        x = last_block(x, context, last_alone=last_alone)
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self._logits(self.model.transformer.ln_f(x[:, keep]))
        return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
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
