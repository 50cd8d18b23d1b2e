"""What of the language model works on each token: experts and blocks. Pure arithmetic, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vtexp.errors import ConfigError


@dataclass(frozen=True, slots=True)
class LlmSizes:
    """A language model as published: its blocks, and experts in each, of which `top_k` work.

    experts and top_k are None for models without experts.
    """

    layers: int
    experts: int | None = None
    top_k: int | None = None


@dataclass(frozen=True, slots=True)
class LlmSetting:
    """What works on each token; None: as published.

    top_k: experts of each block; first_top_k: of the first block, where it has another number;
    blocks: indices of those that run, ascending. The others hand on what they get, and have no
    keys and values.
    """

    top_k: int | None = None
    first_top_k: int | None = None
    blocks: tuple[int, ...] | None = None

    def top_k_of(self, block: int) -> int | None:
        """Experts of the block at an index; None: as published."""
        return self.first_top_k if block == 0 and self.first_top_k is not None else self.top_k

    def plain(self) -> dict[str, int | list[int] | None]:
        """As JSON and YAML have it."""
        blocks = None if self.blocks is None else list(self.blocks)
        return {"top_k": self.top_k, "first_top_k": self.first_top_k, "blocks": blocks}

    def ran(self, layers: int) -> tuple[int, ...]:
        """Indices of the blocks that run, of so many."""
        return tuple(range(layers)) if self.blocks is None else self.blocks


def setting_of(
    sizes: LlmSizes,
    top_k: int | None = None,
    blocks: tuple[int, ...] | None = None,
    *,
    first_as_published: bool = False,
) -> LlmSetting | None:
    """The setting of so many experts and these blocks; None where that is the published model."""
    if top_k == sizes.top_k:
        top_k = None
    if blocks == tuple(range(sizes.layers)):
        blocks = None
    if top_k is None and blocks is None:
        return None
    first = sizes.top_k if first_as_published and top_k is not None else None
    return LlmSetting(top_k, first, blocks)


def middle_first(layers: int) -> tuple[int, ...]:
    """The blocks that can leave, those in the middle first; of two as near to it the later one."""
    middle = (layers - 1) / 2
    return tuple(sorted(range(1, layers - 1), key=lambda block: (abs(block - middle), -block)))


def blocks_left(count: int, order: Sequence[int], layers: int) -> tuple[int, ...]:
    """Indices of so many blocks that stay when others leave in an order.

    Raises ConfigError for a number that cannot stay.
    """
    if not 2 <= count <= layers:
        raise ConfigError(f"must be 2 to {layers} blocks (the first and the last always stay)")
    gone = set(order[: layers - count])
    return tuple(block for block in range(layers) if block not in gone)


def listed_blocks(blocks: Sequence[int], layers: int) -> tuple[int, ...]:
    """Blocks given by their indices, ascending. Raises ConfigError where they cannot be."""
    outside = [block for block in blocks if not 0 <= block < layers]
    if outside:
        raise ConfigError(f"there is no block {outside[0]}; blocks are 0 to {layers - 1}")
    doubled = sorted({block for block in blocks if list(blocks).count(block) > 1})
    if doubled:
        raise ConfigError(f"block {doubled[0]} is given twice")
    if lacking := sorted({0, layers - 1} - set(blocks)):
        raise ConfigError(f"block {lacking[0]} is missing; the first and the last always stay")
    return tuple(sorted(blocks))
