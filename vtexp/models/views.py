"""What a model sees of an image, taken from its own inputs: crops, padding, vision tokens.

Shapes: C crops with the global crop first, S pixels and N patches along the side of a crop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from vtexp.budget.geometry import Geometry, Size, Tiling, crop_corners, tiling_to_resolution
from vtexp.budget.knobs import CropSetting
from vtexp.errors import ConfigError
from vtexp.models.checkpoints import Checkpoint
from vtexp.models.molmo.preprocess import IMAGE_MEAN, IMAGE_STD, ImageTokenIds, preprocess_image
from vtexp.models.molmo2.preprocess import Molmo2TokenIds, preprocess_molmo2
from vtexp.models.processors import HALF

#: In place of a token's number: no token reads the patch.
UNREAD = -1


@dataclass(frozen=True, slots=True)
class Views:
    """The crops of one image as a model reads them.

    pixels: uint8 (C, S, S, 3); padding: bool (C, S, S), true where there is no image; tokens: int
    (C, N, N), number of the vision token that reads each patch, UNREAD where none does.
    """

    tiling: Tiling
    geometry: Geometry
    pixels: np.ndarray
    padding: np.ndarray
    tokens: np.ndarray

    @property
    def num_tokens(self) -> int:
        """Vision tokens that read any patch."""
        return len(np.unique(self.tokens[self.tokens != UNREAD]))

    def tokens_of(self, crop: int) -> int:
        """Vision tokens of one crop; one that reads several crops is the first one's."""
        return len(np.setdiff1d(self.tokens[crop], [UNREAD, *np.unique(self.tokens[:crop])]))

    def on_canvas(self, crops: np.ndarray) -> np.ndarray:
        """The canvas (H, W, ...) that crops (C, S, S, ...) were cut from; the global one is not."""
        size = tiling_to_resolution(self.tiling, self.geometry)
        canvas = np.zeros((*size, *crops.shape[3:]), crops.dtype)
        side = self.geometry.crop_px
        for (top, left), crop in zip(
            crop_corners(self.tiling, self.geometry), crops[1:], strict=True
        ):
            canvas[top : top + side, left : left + side] = crop
        return canvas


def views_of(
    image: np.ndarray, setting: CropSetting, geometry: Geometry, checkpoint: Checkpoint
) -> Views:
    """What a checkpoint's model sees of a uint8 (H, W, 3) image under a crop setting.

    Raises ConfigError for a family without overlapping crops, DataError for images too flat to
    resize.
    """
    read = _READERS.get(checkpoint.config["model_type"])
    if read is None:
        raise ConfigError(
            f"{checkpoint.name} is of the family {checkpoint.family.name}; only the crops of Molmo "
            "v1 and Molmo2 can be drawn"
        )
    tiling = setting.tiling(Size(*image.shape[:2]), geometry)
    pixels, tokens = read(image, setting, geometry)
    # Padding is black even where the whole image is white.
    white, _ = read(np.full_like(image, 255), setting, geometry)
    return Views(tiling, geometry, pixels, np.all(white < 128, axis=-1), tokens)


#: Pixels and tokens of an image, as in `Views`.
_Reader = Callable[[np.ndarray, CropSetting, Geometry], tuple[np.ndarray, np.ndarray]]


def _molmo(
    image: np.ndarray, setting: CropSetting, geometry: Geometry
) -> tuple[np.ndarray, np.ndarray]:
    ids = ImageTokenIds(0, 0, 0, 0)  # where tokens stand does not depend on their ids
    read = preprocess_image(image, setting, geometry, ids)
    side, pool = geometry.tokens_per_side, geometry.pool
    index = read.image_input_idx.numpy().reshape(-1, side, side)
    tokens = np.where(index < 0, UNREAD, index).repeat(pool, axis=1).repeat(pool, axis=2)
    return _pixels(read.patches, geometry, IMAGE_MEAN, IMAGE_STD), tokens


def _molmo2(
    image: np.ndarray, setting: CropSetting, geometry: Geometry
) -> tuple[np.ndarray, np.ndarray]:
    read = preprocess_molmo2(image, setting, Molmo2TokenIds(0, 0, 0, 0, 0), geometry)
    side = geometry.patches_per_side
    pixels = _pixels(read.patches, geometry, *HALF)
    tokens = np.full(len(pixels) * side**2, UNREAD)
    pooled = read.pooled_patches.numpy()
    numbers = np.arange(len(pooled))[:, None].repeat(pooled.shape[1], axis=1)
    tokens[pooled[pooled >= 0]] = numbers[pooled >= 0]
    return pixels, tokens.reshape(-1, side, side)


_READERS: dict[str, _Reader] = {"molmo": _molmo, "molmo2": _molmo2}


def _pixels(
    patches: torch.Tensor, geometry: Geometry, mean: tuple[float, ...], std: tuple[float, ...]
) -> np.ndarray:
    """uint8 (C, S, S, 3) of normalised patches (C, P, patch_px * patch_px * 3)."""
    side, patch = geometry.patches_per_side, geometry.patch_px
    cells = patches.view(-1, side, side, patch, patch, 3) * torch.tensor(std) + torch.tensor(mean)
    crops = cells.permute(0, 1, 3, 2, 4, 5).reshape(-1, side * patch, side * patch, 3)
    return (crops * 255).round().clamp(0, 255).to(torch.uint8).numpy()
