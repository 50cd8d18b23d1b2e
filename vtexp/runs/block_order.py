"""The file of `vtexp importance`: how much each block matters, and in which order blocks leave."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vtexp.config.knob_schema import MOST_BLOCKS
from vtexp.config.schema import ModelConfig
from vtexp.errors import ConfigError, DataError
from vtexp.models.checkpoints import Checkpoint
from vtexp.utils import files
from vtexp.utils.typed import Misfit, from_json, to_json

#: Raised by one whenever a key gets another name or meaning.
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class BlockImportance:
    """Accuracy with all blocks minus that without one; `low` to `high`: its 95 % interval.

    The ends are None where the images carry no interval.
    """

    block: int
    loss: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class BlockOrder:
    """What was measured, and on what. `order`: of all blocks but the first and the last.

    `accuracy`: with all `layers` blocks, the mean score of `questions` about `images`. `alike`:
    blocks one after the other in the order whose losses these questions cannot tell apart.
    """

    model: str
    fingerprint: str
    layers: int
    dataset: str
    split: str
    questions: int
    images: int
    accuracy: float
    order: tuple[int, ...]
    blocks: tuple[BlockImportance, ...]
    alike: tuple[tuple[int, ...], ...] = ()

    def write(self, path: Path) -> None:
        """Write the file. Raises VtexpError where the disk does not take it."""
        files.write_json(path, {"format": FORMAT} | to_json(self))


def read_block_order(path: str) -> BlockOrder:
    """The file at `model.block_order`. Raises ConfigError where it is none."""
    file = Path(path).expanduser()
    try:
        there = file.is_file()
    except OSError:  # a name that no file can have
        there = False
    if not there:
        raise ConfigError(
            f"model.block_order={path}: no such file; python -m vtexp importance writes it"
        )
    try:
        plain = files.read_json(file)
        if plain.get("format") != FORMAT:
            raise _not_an_order(file, f"its format is {plain.get('format')!r:.20}")
        found = from_json(BlockOrder, plain)
    except (DataError, Misfit) as error:
        raise _not_an_order(file, str(error)) from error
    if not 3 <= found.layers <= MOST_BLOCKS:
        raise _not_an_order(file, f"a model with {found.layers} blocks")
    if sorted(found.order) != list(range(1, found.layers - 1)):
        raise _not_an_order(file, f"order must have the blocks 1 to {found.layers - 2}, each once")
    return found


def _not_an_order(file: Path, why: str) -> ConfigError:
    return ConfigError(
        f"{file}: not an order of blocks, as python -m vtexp importance writes it ({why})"
    )


def require_order_of(model: ModelConfig, checkpoint: Checkpoint) -> None:
    """Raises ConfigError where `model.block_order` was measured on another model."""
    if model.block_order is None:
        return
    found = read_block_order(model.block_order)
    if found.fingerprint != checkpoint.fingerprint:
        raise ConfigError(
            f"model.block_order={model.block_order}: measured on another model ({found.model}, "
            f"{found.fingerprint}; this one is {checkpoint.fingerprint}); run python -m vtexp "
            "importance for this one"
        )
