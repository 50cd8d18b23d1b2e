"""Stages `read` to `see`: vision encoder and connector learn what single vision tokens show.

First characters and words, from text-filled crops and crops of a page as a tiling cuts it; then
colours and shapes too, from crops of easy-VQA images. Shapes from the start kept it from reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tools.train_molmo_tiny.reading import (
    ReadingHead,
    ReadingLabels,
    TextPage,
    cut_text,
    join_labels,
    label_views,
)
from vtexp.budget.geometry import MOLMO
from vtexp.budget.knobs import CropSetting, KnobValue
from vtexp.data.builtin import easy_vqa
from vtexp.data.builtin.small_print_pages import draw_page
from vtexp.data.sample import Sample
from vtexp.models.molmo.modeling import MolmoForCausalLM
from vtexp.models.molmo.preprocess import ImageTokenIds, ProcessedImage, preprocess_image

#: Crops per step: of text pages, of pages and of shapes. Stage `read` has text alone.
TEXT_CROPS, PAGE_CROPS, SHAPE_CROPS = 8, 3, 2
SIGHT_WEIGHT = 0.1
#: Budgets that pages and shapes are shown under, and how often each.
BUDGETS = {
    ("max_crops", "1", "letterbox"): 2,
    ("max_crops", "2", "letterbox"): 1,
    ("max_crops", "4", "letterbox"): 2,
    ("max_crops", "6", "letterbox"): 1,
    ("max_crops", "9", "letterbox"): 2,
    ("max_crops", "12", "letterbox"): 2,
    ("image_size", "336x336", "stretch"): 2,
    ("image_size", "560x336", "stretch"): 1,
    ("image_size", "560x560", "stretch"): 2,
    ("image_size", "784x784", "stretch"): 2,
}


class ReadingCrops(NamedTuple):
    """Crops to be read."""

    patches: torch.Tensor  # float16 or float32 (N, 576, 588)
    padding_mask: torch.Tensor  # float32 (N, 576)
    labels: ReadingLabels


class ShapeCrops(NamedTuple):
    """Crops of easy-VQA images."""

    patches: torch.Tensor  # float16 (N, 576, 588)
    padding_mask: torch.Tensor  # float32 (N, 576)
    shown: torch.Tensor  # bool (N, 144), tokens that show a part of the shape
    sights: torch.Tensor  # int64 (N, 2), class of the colour and of the shape, -100 where unknown


class SightHead(nn.Module):
    """Colour and shape from each single vision token that shows a part of the shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.colors = nn.Linear(width, len(easy_vqa.COLORS))
        self.shapes = nn.Linear(width, len(easy_vqa.SHAPES))

    def forward(
        self, tokens: torch.Tensor, shown: torch.Tensor, sights: torch.Tensor
    ) -> torch.Tensor:
        """Loss (scalar) of tokens (S, T, width), those `shown` (S, T), and sights (S, 2)."""
        wanted = sights[:, None].expand(*shown.shape, 2)[shown]
        tokens = tokens[shown]
        losses = [
            F.cross_entropy(head(tokens), wanted[:, column], ignore_index=-100, reduction="sum")
            for column, head in enumerate((self.colors, self.shapes))
        ]
        return torch.stack(losses).sum() / (wanted >= 0).sum().clamp(min=1)


class PlaceHead(nn.Module):
    """Which of the four patches of its vision token each patch is."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.places = nn.Linear(width, MOLMO.pool**2)
        rows, cols = np.divmod(np.arange(MOLMO.patches_per_crop), MOLMO.patches_per_side)
        self.wanted = torch.from_numpy(rows % MOLMO.pool * MOLMO.pool + cols % MOLMO.pool)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Loss of patch features (N, P, width), and the share of patches placed rightly."""
        logits = self.places(features)
        loss = F.cross_entropy(logits.flatten(0, 1), self.wanted.repeat(len(features)))
        return loss, (logits.argmax(dim=-1) == self.wanted).float().mean().item()


class SeeHead(nn.Module):
    """What reads the encoder while it learns; not kept."""

    def __init__(self, model: MolmoForCausalLM) -> None:
        super().__init__()
        width = model.config.vision_backbone["image_emb_dim"] * 2
        self.reading = ReadingHead(width, model.config.hidden_size)
        self.sight = SightHead(model.config.hidden_size)


def draw_budget(rng: np.random.Generator) -> KnobValue:
    """One of BUDGETS, as often as it says."""
    weights = np.array(list(BUDGETS.values()), dtype=float)
    name, value, fit = list(BUDGETS)[rng.choice(len(BUDGETS), p=weights / weights.sum())]
    return KnobValue(name, value, fit)


def draw_page_crops(rng: np.random.Generator, ids: ImageTokenIds) -> ReadingCrops:
    """Up to four crops of a page."""
    page, setting = draw_page(rng), draw_budget(rng).crop_setting(MOLMO)
    image = preprocess_image(np.array(page.image), setting, MOLMO, ids)
    crops = rng.permutation(len(image.patches))[:4]
    return ReadingCrops(
        image.patches[crops].to(torch.float16),
        image.padding_mask[crops],
        ReadingLabels(*(v[crops] for v in label_views(page, image.tiling, setting.fit))),
    )


def cut_texts(pages: Sequence[TextPage], count: int, rng: np.random.Generator) -> ReadingCrops:
    """Crops cut from different text pages at any offset."""
    chosen = rng.choice(len(pages), count, replace=False)
    patches, labels = zip(*(cut_text(pages[i], rng) for i in chosen), strict=True)
    return ReadingCrops(
        torch.stack(patches), torch.ones(count, MOLMO.patches_per_crop), join_labels(labels)
    )


def draw_shape(
    rng: np.random.Generator, groups: list[list[Sample]], ids: ImageTokenIds
) -> ShapeCrops:
    """One crop of an easy-VQA image; `groups` are the data set's questions by image."""
    group = groups[rng.integers(len(groups))]
    image = read_shape(group, draw_budget(rng).crop_setting(MOLMO), rng, ids)
    crop = [int(rng.integers(len(image.patches)))]
    return ShapeCrops(
        image.patches[crop].to(torch.float16),
        image.padding_mask[crop],
        shown_in_tokens(image.patches)[crop],
        torch.tensor([sights_of(group)]),
    )


def read_shape(
    group: list[Sample], setting: CropSetting, rng: np.random.Generator, ids: ImageTokenIds
) -> ProcessedImage:
    """The easy-VQA image of a group of questions, every second time mirrored; squares need no
    padding."""
    pixels = group[0].pixels()
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]  # no question depends on left or right
    return preprocess_image(np.ascontiguousarray(pixels), setting, MOLMO, ids)


def shown_in_tokens(patches: torch.Tensor) -> torch.Tensor:
    """Which vision tokens (C, T) of an unpadded image (C, P, 588) show a part of the shape.

    Those with a pixel that differs from the background, the median of the global crop.
    """
    pixels = patches.unflatten(-1, (-1, 3))
    background = pixels[0].flatten(0, 1).median(dim=0).values
    differs = (pixels - background).abs().amax(dim=-1) > 0.5
    side, pool = MOLMO.tokens_per_side, MOLMO.pool
    blocks = differs.any(dim=-1).unflatten(-1, (side, pool, side, pool))
    return blocks.any(dim=-1).any(dim=-2).flatten(-2)


def sights_of(questions: list[Sample]) -> list[int]:
    """Colour and shape that the answers to an image's open questions name, -100 if none does."""
    found = {s.question_type: s.references[0] for s in questions}
    return [
        names.index(found[kind]) if kind in found else -100
        for kind, names in (("color", easy_vqa.COLORS), ("shape", easy_vqa.SHAPES))
    ]


def read(
    model: MolmoForCausalLM, head: SeeHead, places: PlaceHead | None, crops: ReadingCrops
) -> tuple[torch.Tensor, dict[str, float]]:
    """Loss of the encoder alone on some crops, and the shares of characters and, where asked for,
    of places told rightly."""
    features = model.model.vision_backbone.image_vit(crops.patches.float())
    loss, found = head.reading(features, None, crops.labels)
    found["reading_loss"] = loss.item()
    if places is not None:
        place_loss, found["places"] = places(features)
        loss = loss + place_loss
    return loss, found


def see(
    model: MolmoForCausalLM,
    head: SeeHead,
    crops: ReadingCrops,
    shapes: ShapeCrops,
    frozen: bool,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Loss of encoder and connector, or with a `frozen` encoder of the connector alone, and what
    was told rightly."""
    backbone = model.model.vision_backbone
    backbone.image_vit.requires_grad_(not frozen)
    features: list[torch.Tensor] = []
    hook = backbone.image_vit.register_forward_hook(lambda *call: features.append(call[2]))
    tokens = backbone(
        torch.cat([crops.patches, shapes.patches]).float(),
        torch.cat([crops.padding_mask, shapes.padding_mask]),
    )
    hook.remove()
    count = len(crops.patches)
    reading, found = head.reading(features[0][:count], tokens[:count], crops.labels)
    sight = head.sight(tokens[count:], shapes.shown, shapes.sights)
    found |= {"reading_loss": reading.item(), "sight_loss": sight.item()}
    return reading + SIGHT_WEIGHT * sight, found
