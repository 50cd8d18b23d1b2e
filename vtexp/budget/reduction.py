"""What a run asks of token reduction: how many vision tokens stay, and by which method. No torch.

A reduction works behind the connector, `early_layer` behind the first blocks of the language model.
`resize` instead makes the image smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vtexp.budget.geometry import (
    Geometry,
    Size,
    Tiling,
    largest_tiling,
    tiling_to_resolution,
    tilings_up_to,
    token_layout,
)
from vtexp.errors import ConfigError

#: The floor that works before the encoder: every family has it.
RESIZE = "resize"
#: The method that drops tokens within the language model, and the blocks that read all of them if
#: nothing else is asked: FastV's.
EARLY_LAYER, DEFAULT_LAYER = "early_layer", 2
#: Share of merged tokens among those that `cls_attention` keeps with `merge`: VisionZip's 10 of 64,
#: 20 of 128, 30 of 192.
CONTEXTUAL = 10 / 64
#: At most, an image is stretched this much more on one side than on the other.
MOST_STRETCHED = 2.0


@dataclass(frozen=True, slots=True)
class Reduction:
    """One reduction, as the config has it; keys that the method does not use are at their defaults.

    kept: vision tokens that stay per image, all crops together; or ratio: their share of those that
    the crop setting gives. structure_tokens (`keep` or `drop`): start, end and column tokens around
    the image; positions (`keep` or `renumber`): of what stays in the prompt. layer: how many blocks
    of the language model read all tokens, of `early_layer` alone.
    """

    method: str
    kept: int | None = None
    ratio: float | None = None
    structure_tokens: str = "keep"
    positions: str = "renumber"
    seed: int = 0
    merge: bool = False
    function: str | None = None
    layer: int | None = None

    def plain(self) -> dict[str, Any]:
        """What makes it another reduction, for hashes: `layer` only where there is one.

        It came later; earlier runs keep their ids.
        """
        found = asdict(self)
        return found if self.layer is not None else {k: v for k, v in found.items() if k != "layer"}

    def kept_of(self, tokens: int) -> int:
        """How many of an image's vision tokens stay: at least 1, at most all."""
        wanted = self.kept if self.kept is not None else round((self.ratio or 0.0) * tokens)
        return max(1, min(tokens, wanted))

    def by_block(self, tokens: int, blocks: int) -> tuple[int, ...]:
        """How many of an image's vision tokens each of so many blocks reads."""
        early = min(self.layer or 0, blocks)
        return (tokens,) * early + (self.kept_of(tokens),) * (blocks - early)


def mean_over_blocks(by_block: Sequence[int]) -> float:
    """Mean of the vision tokens that blocks read; a whole number where all read as many."""
    return by_block[0] if len(set(by_block)) == 1 else sum(by_block) / len(by_block)


def contextual_tokens(kept: int, tokens: int) -> int:
    """How many of the kept tokens are merged ones; none where all are kept."""
    return round(CONTEXTUAL * kept) if kept < tokens else 0


def nearest_tiling(size: Size, tokens: int, most: Tiling, geometry: Geometry) -> Tiling:
    """The tiling whose measured vision tokens are nearest to a number: the floor `resize`.

    Considers tilings of at most `most` crops whose canvas has nearly the image's shape (W/H within
    a factor of MOST_STRETCHED), and of 1x1; among equally near ones that of the nearest shape, then
    the one with fewer rows. Where an image has no crops, the largest of its shape that has no more
    tokens.
    """
    if geometry.tiling_rule == "pixels":
        return largest_tiling(size, min(tokens, most.num_crops), geometry)

    def stretched(tiling: Tiling) -> float:
        height, width = tiling_to_resolution(tiling, geometry)
        ratio = width / height / size.aspect_ratio
        return max(ratio, 1 / ratio)

    def distance(tiling: Tiling) -> tuple[int, float, int]:
        found = token_layout(tiling, geometry).vision_tokens
        return abs(found - tokens), stretched(tiling), tiling.rows

    near = [
        tiling for tiling in tilings_up_to(most.num_crops) if stretched(tiling) <= MOST_STRETCHED
    ]
    return min([Tiling(1, 1), *near], key=distance)


def parse_kept(value: str) -> tuple[int | None, float | None]:
    """Parse a value of `knob=kept_tokens`: tokens (`144`), or a share of them (`0.25`).

    Raises ConfigError for anything else.
    """
    try:
        return (None, float(value)) if "." in value else (int(value), None)
    except ValueError:
        raise ConfigError(
            f"kept_tokens value {value!r} is neither a number of tokens nor a share such as 0.25"
        ) from None
