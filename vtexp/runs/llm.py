"""From a config and its checkpoint to the experts and blocks that work in each run."""

from __future__ import annotations

from vtexp.budget.knobs import KnobValue
from vtexp.budget.llm import LlmSetting, LlmSizes, blocks_left, listed_blocks, middle_first
from vtexp.budget.llm import setting_of as setting_of_numbers
from vtexp.config.schema import Config, ModelConfig
from vtexp.errors import ConfigError
from vtexp.models.checkpoints import Checkpoint
from vtexp.runs.block_order import read_block_order


def llm_setting(config: Config, checkpoint: Checkpoint, value: KnobValue) -> LlmSetting | None:
    """What of the language model works under a value of the knob; None: all, as published.

    Raises ConfigError for what the model cannot do, or a file that is not an order of its blocks.
    """
    model, knob = config.model, value.name
    sizes = checkpoint.family.llm_sizes(checkpoint.config)
    top_k = int(value.value) if knob == "moe_top_k" else model.moe_top_k
    blocks = int(value.value) if knob == "transformer_blocks" else model.active_blocks
    if model.moe_first_block_as_published and top_k is None:
        raise ConfigError(
            "model.moe_first_block_as_published=true: needs model.moe_top_k or knob=moe_top_k "
            "beside it; set one of them, or leave it out"
        )
    if top_k is None and blocks is None and model.block_order is None:
        return None
    if not checkpoint.family.varies_llm:
        given = {"moe_top_k": top_k, "active_blocks": blocks, "block_order": model.block_order}
        key = next(f"model.{key}" for key, value in given.items() if value is not None)
        raise ConfigError(f"{key}: not for {checkpoint.family.name}, only for Molmo v1")
    _require_top_k(model, sizes, top_k, "knob.top_k" if knob == "moe_top_k" else "model.moe_top_k")
    key = "knob.blocks" if knob == "transformer_blocks" else "model.active_blocks"
    return setting_of_numbers(
        sizes,
        top_k,
        _blocks(model, sizes.layers, blocks, key),
        first_as_published=model.moe_first_block_as_published,
    )


def remark(config: Config, setting: LlmSetting | None, layers: int) -> str | None:
    """What a reader must know of how the blocks of a run were chosen; None where nothing."""
    model, dataset = config.model, config.dataset
    if setting is None or setting.blocks is None or isinstance(model.active_blocks, list):
        return None
    if model.block_order is not None:
        found = read_block_order(model.block_order)
        if (found.dataset, found.split) != (dataset.name, dataset.split):
            return None
        return (
            f"model.block_order was measured on this split too ({found.dataset}, {found.split}): "
            "the accuracy of fewer blocks is too good here"
        )
    gone = sorted(set(range(layers)) - set(setting.blocks))
    named = f"block {gone[0]}" if len(gone) == 1 else f"blocks {', '.join(map(str, gone))}"
    return (
        f"{named} of 0 to {layers - 1} left out: the middle ones, as no model.block_order says "
        "which matter least (python -m vtexp importance measures that)"
    )


def _require_top_k(model: ModelConfig, sizes: LlmSizes, top_k: int | None, key: str) -> None:
    if top_k is None:
        return
    if sizes.experts is None:
        raise ConfigError(f"{key}={top_k}: {model.name} has no experts; leave it out")
    if not 1 <= top_k <= sizes.experts:
        raise ConfigError(
            f"{key}={top_k}: {model.name} has {sizes.experts} experts; give 1 to {sizes.experts}"
        )


def _blocks(
    model: ModelConfig, layers: int, asked: int | list[int] | None, key: str
) -> tuple[int, ...] | None:
    """Indices of the blocks that run; None: all."""
    order = middle_first(layers)
    if model.block_order is not None:
        found = read_block_order(model.block_order)
        if found.layers != layers:
            raise ConfigError(
                f"model.block_order={model.block_order}: of a model with {found.layers} blocks; "
                f"{model.name} has {layers}"
            )
        order = found.order
    if asked is None:
        return None
    try:
        if isinstance(asked, list):
            return listed_blocks(asked, layers)
        return blocks_left(asked, order, layers)
    except ConfigError as error:
        raise ConfigError(f"{key}={asked}: {error}") from error
