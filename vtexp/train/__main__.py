"""Train molmo_tiny on the training half of easy-VQA: `python -m vtexp.train --out FOLDER`.

Seeded, resumable (run the same command again), with a progress bar. Three stages:

- see: vision encoder and connector alone; `SightHead` asks single vision tokens for the colour and
  shape that the image's answers name. From answers alone, shapes were not learned in an hour.
- answer: the language model alone, on what the encoder sees. Trained together from the start, its
  first, random gradients undid what the encoder had learned.
- all: everything, at a low rate.

All questions of an image share one sequence: each question sees the image and itself, not the
others. The head is not kept.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from vtexp.data import easy_vqa
from vtexp.data.base import Sample
from vtexp.geometry import MOLMO
from vtexp.knobs import KnobValue
from vtexp.models.molmo.modeling import MolmoForCausalLM
from vtexp.preprocess import ImageTokenIds, ProcessedImage, preprocess_image
from vtexp.prompts import PromptTokenizer, build_prompt
from vtexp.train.tiny import initialise, tiny_config, train_tokenizer

STYLE = "easy_vqa"
#: Crops encoded per step; larger tilings take fewer images, so that steps cost about the same.
CROPS_PER_STEP = 24
#: Image sizes and how often each is drawn.
SIZES = {"336x336": 10, "560x336": 2, "336x560": 2, "560x560": 2, "784x560": 1, "784x784": 2}
WARM_UP_STEPS = 20
SIGHT_WEIGHT = 0.5


class Stage(NamedTuple):
    """A part of training, as a share of all steps, with its peak learning rates."""

    name: str
    share: float
    muon_learning_rate: float
    adamw_learning_rate: float


STAGES = (
    Stage("see", 0.3, 7e-3, 2e-3),
    Stage("answer", 0.47, 4e-3, 2e-3),
    Stage("all", 0.23, 1e-3, 5e-4),
)


@dataclass(frozen=True)
class Batch:
    """Model inputs of one step: B images, each with all its questions in one row of length L."""

    input_ids: torch.Tensor  # int64 (B, L)
    labels: torch.Tensor  # int64 (B, L), -100 where there is no answer token
    position_ids: torch.Tensor  # int64 (B, L)
    mask: torch.Tensor  # bool (B, 1, L, L)
    images: torch.Tensor  # float32 (B, C, 576, 588)
    image_masks: torch.Tensor  # float32 (B, C, 576)
    image_input_idx: torch.Tensor  # int32 (B, C, 144)
    sights: torch.Tensor  # int64 (B, 2), class of the colour and of the shape, -100 where unknown


class SightHead(nn.Module):
    """Colour and shape from each single vision token that shows a part of the shape."""

    def __init__(self, width: int, colors: int, shapes: int) -> None:
        super().__init__()
        self.colors = nn.Linear(width, colors)
        self.shapes = nn.Linear(width, shapes)

    def forward(
        self, tokens: torch.Tensor, shown: torch.Tensor, sights: torch.Tensor
    ) -> torch.Tensor:
        """Loss (scalar) of tokens (B, C, T, width), those `shown` (B, C, T), and sights (B, 2)."""
        wanted = sights[:, None, None].expand(*shown.shape, 2)[shown]
        tokens = tokens[shown]
        losses = [
            F.cross_entropy(head(tokens), wanted[:, column], ignore_index=-100, reduction="sum")
            for column, head in enumerate((self.colors, self.shapes))
        ]
        return sum(losses) / (wanted >= 0).sum().clamp(min=1)


def shown_in_tokens(images: torch.Tensor) -> torch.Tensor:
    """Which vision tokens (B, C, T) of unpadded images (B, C, P, 588) show a part of the shape.

    Those with a pixel that differs from the background, the median of the global crop.
    """
    pixels = images.unflatten(-1, (-1, 3))
    background = pixels[:, 0].flatten(1, 2).median(dim=1).values
    differs = (pixels - background[:, None, None, None]).abs().amax(dim=-1) > 0.5
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


def pack_questions(
    image: ProcessedImage, questions: list[Sample], tokenizer: PromptTokenizer
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Ids, labels, positions and block numbers of an image with its questions (block 0: image)."""
    ids = [tokenizer.bos_id, *image.image_tokens.tolist()]
    prefix = len(ids)
    labels, positions, blocks = [-100] * prefix, list(range(prefix)), [0] * prefix
    for number, sample in enumerate(questions, start=1):
        prompt = tokenizer.encode(build_prompt(sample.question, STYLE))
        answer = [*tokenizer.encode(" " + sample.references[0]), tokenizer.eos_id]
        ids += prompt + answer
        # The label of a place is the token that follows it.
        labels += [-100] * (len(prompt) - 1) + answer + [-100]
        positions += range(prefix, prefix + len(prompt) + len(answer))
        blocks += [number] * (len(prompt) + len(answer))
    return ids, labels, positions, blocks


def collate(
    images: list[ProcessedImage], questions: list[list[Sample]], tokenizer: PromptTokenizer
) -> Batch:
    """One batch of images of the same tiling."""
    rows = [pack_questions(i, q, tokenizer) for i, q in zip(images, questions, strict=True)]
    length = max(len(row[0]) for row in rows)

    def stack(column: int, fill: int) -> torch.Tensor:
        padded = [row[column] + [fill] * (length - len(row[column])) for row in rows]
        return torch.tensor(padded)

    blocks = stack(3, -1)
    same = (blocks[:, :, None] == blocks[:, None, :]) | (blocks[:, None, :] == 0)
    mask = same & torch.ones(length, length, dtype=torch.bool).tril()
    index = torch.stack([image.image_input_idx for image in images])
    return Batch(
        input_ids=stack(0, 0),
        labels=stack(1, -100),
        position_ids=stack(2, 0),
        mask=mask[:, None],
        images=torch.stack([image.patches for image in images]),
        image_masks=torch.stack([image.padding_mask for image in images]),
        image_input_idx=torch.where(index < 0, index, index + 1),
        sights=torch.tensor([sights_of(group) for group in questions]),
    )


def draw_size(rng: np.random.Generator) -> str:
    """One of SIZES, as often as it says."""
    weights = np.array(list(SIZES.values()), dtype=float)
    return str(rng.choice(list(SIZES), p=weights / weights.sum()))


def read_image(
    group: list[Sample], value: KnobValue, rng: np.random.Generator, ids: ImageTokenIds
) -> ProcessedImage:
    """The image of a group of questions, every second time mirrored."""
    pixels = group[0].pixels()
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]  # no question depends on left or right
    return preprocess_image(np.ascontiguousarray(pixels), value.crop_setting(MOLMO), MOLMO, ids)


def draw_batch(
    groups: list[list[Sample]], rng: np.random.Generator, tokenizer: PromptTokenizer
) -> Batch:
    """Images of one size with their questions."""
    fit = str(rng.choice(["stretch", "letterbox"]))
    full = bool(rng.random() < 0.15)
    value = KnobValue("image_size", draw_size(rng), fit=fit, force_full_tokens=full)
    count = max(1, CROPS_PER_STEP // (value.crop_setting(MOLMO).max_crops + 1))
    chosen = [groups[i] for i in rng.choice(len(groups), size=count, replace=False)]
    ids = ImageTokenIds(*tokenizer.image_ids)
    batch = collate([read_image(group, value, rng, ids) for group in chosen], chosen, tokenizer)
    if fit == "letterbox":
        batch.sights.fill_(-100)  # padding would be taken for a part of the shape
    return batch


def build_optimizers(model: MolmoForCausalLM, head: SightHead) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of blocks, connector and patch embedding, AdamW for the rest.

    Patch pixels are strongly correlated: with AdamW's equal steps the patch embedding never
    settled, and shapes were not learned.
    """
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        inner = ("blocks.", "image_pooling", "image_projector", "patch_embedding")
        chosen = parameter.ndim == 2 and any(part in name for part in inner)
        (matrices if chosen else others).append(parameter)
    others += head.parameters()
    return [
        torch.optim.Muon(matrices, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def stage_at(step: int, steps: int) -> tuple[Stage, float]:
    """Stage of a step, and the share of its peak rates: warm-up, then linear decay to zero."""
    begin = 0
    for number, stage in enumerate(STAGES):
        length = round(stage.share * steps) if number < len(STAGES) - 1 else steps - begin
        if step < begin + length:
            done = step - begin
            return stage, min((done + 1) / WARM_UP_STEPS, (length - done) / length)
        begin += length
    raise ValueError(f"step {step} of {steps}")


def update(
    model: MolmoForCausalLM,
    optimizers: list[torch.optim.Optimizer],
    loss: torch.Tensor,
    rates: Sequence[float],
) -> None:
    """One step of the optimizers at their rates; parameters without a gradient stay."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer, rate in zip(optimizers, rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def see(
    model: MolmoForCausalLM,
    head: SightHead,
    groups: list[list[Sample]],
    rng: np.random.Generator,
    ids: ImageTokenIds,
) -> dict[str, torch.Tensor]:
    """Loss of the first stage: colour and shape from the tokens of one crop of each image."""
    chosen = [groups[i] for i in rng.choice(len(groups), size=CROPS_PER_STEP, replace=False)]
    pairs, masks = [], []
    for group in chosen:
        image = read_image(group, KnobValue("image_size", draw_size(rng), "stretch"), rng, ids)
        crop = int(rng.integers(len(image.patches)))
        pairs.append(image.patches[[0, crop]])
        masks.append(image.padding_mask[crop])
    patches = torch.stack(pairs)
    tokens = model.encode_images(patches[:, 1], torch.stack(masks)).unsqueeze(1)
    sights = torch.tensor([sights_of(group) for group in chosen])
    return {"sight_loss": head(tokens, shown_in_tokens(patches)[:, 1:], sights)}


def answer(
    model: MolmoForCausalLM, head: SightHead, batch: Batch, learn_to_see: bool
) -> dict[str, torch.Tensor]:
    """Losses of the later stages, answers and sight; and the share of answer words right."""
    with torch.set_grad_enabled(learn_to_see):
        features = model.encode_images(batch.images.flatten(0, 1), batch.image_masks.flatten(0, 1))
    answered = (batch.labels != -100).any(dim=0)
    logits = model(
        batch.input_ids,
        attention_mask=batch.mask,
        position_ids=batch.position_ids,
        image_features=features,
        image_input_idx=batch.image_input_idx,
        logits_to_keep=torch.nonzero(answered).squeeze(-1),
    ).logits
    labels = batch.labels[:, answered]
    tokens = features.unflatten(0, batch.images.shape[:2])
    # The end of text is always right: judge the words.
    words = (labels != -100) & (labels != model.config.eos_token_id)
    return {
        "sight_loss": head(tokens, shown_in_tokens(batch.images), batch.sights),
        "answer_loss": F.cross_entropy(logits.flatten(0, 1), labels.flatten()),
        "word_accuracy": (logits.argmax(dim=-1) == labels)[words].float().mean(),
    }


def save_checkpoint(model: MolmoForCausalLM, folder: Path) -> None:
    """config.json and model.safetensors (float16) in the published layout."""
    model.config.save_pretrained(folder)
    weights = {name: p.detach().to(torch.float16) for name, p in model.named_parameters()}
    partial = folder / "model.safetensors.partial"
    save_file(weights, partial, metadata={"format": "pt"})
    partial.chmod(0o644)  # safetensors makes it readable for its owner only
    partial.replace(folder / "model.safetensors")


def save_state(path: Path, state: dict) -> None:
    """Write the training state so that a kill leaves the old one or the new one, never half."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def write_log(path: Path, log: list[dict]) -> None:
    """The curve so far, one row per line."""
    path.write_text("[\n" + ",\n".join(json.dumps(row) for row in log) + "\n]\n")


def main() -> None:
    """Train, or go on from where the same command was stopped."""
    parser = argparse.ArgumentParser(prog="python -m vtexp.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--steps", type=int, default=1500, help="updates in all")
    parser.add_argument("--seed", type=int, default=0, help="of weights and data order")
    parser.add_argument("--save-every", type=int, default=100, help="steps between saved states")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    samples = easy_vqa.load("train")
    by_image: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_image[sample.image_id].append(sample)
    groups = list(by_image.values())
    texts = [build_prompt(s.question, STYLE) + " " + s.references[0] for s in samples]
    train_tokenizer(texts, args.out)
    tokenizer = PromptTokenizer.from_folder(args.out)
    ids = ImageTokenIds(*tokenizer.image_ids)

    model = MolmoForCausalLM(tiny_config(min(tokenizer.image_ids), tokenizer.eos_id))
    initialise(model)
    head = SightHead(model.config.hidden_size, len(easy_vqa.COLORS), len(easy_vqa.SHAPES))
    optimizers = build_optimizers(model, head)
    state_path, start, seconds = args.out / "training_state.pt", 0, 0.0
    log: list[dict] = []
    if state_path.is_file():
        state = torch.load(state_path, weights_only=True)
        model.load_state_dict(state["model"])
        head.load_state_dict(state["head"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        start, seconds, log = state["step"], state["seconds"], state["log"]

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*(TextColumn(c) if isinstance(c, str) else c for c in columns)) as progress:
        task = progress.add_task("training", total=args.steps, completed=start)
        began = time.monotonic() - seconds
        recent: list[dict[str, float]] = []
        for step in range(start, args.steps):
            # Of seed and step only, so that a resumed run is the same run.
            rng = np.random.default_rng((args.seed, step))
            stage, share = stage_at(step, args.steps)
            if stage.name == "see":
                found = see(model, head, groups, rng, ids)
                loss = found["sight_loss"]
            else:
                batch = draw_batch(groups, rng, tokenizer)
                found = answer(model, head, batch, learn_to_see=stage.name == "all")
                loss = found["answer_loss"] + SIGHT_WEIGHT * found["sight_loss"]
            rates = (share * stage.muon_learning_rate, share * stage.adamw_learning_rate)
            update(model, optimizers, loss, rates)
            recent.append({key: value.item() for key, value in found.items()})
            done = step + 1
            last_of_stage = done == args.steps or stage_at(done, args.steps)[0] != stage
            if done % 20 == 0 or last_of_stage:
                means = {key: round(fmean(row[key] for row in recent), 5) for key in recent[0]}
                recent.clear()
                seconds = time.monotonic() - began
                log.append({"stage": stage.name, "step": done, "seconds": round(seconds), **means})
                write_log(args.out / "training_log.json", log)
                text = ", ".join(f"{key} {value:.3f}" for key, value in means.items())
                progress.update(task, description=text)
            progress.update(task, completed=done)
            if done % args.save_every == 0 and done < args.steps:
                states = [optimizer.state_dict() for optimizer in optimizers]
                save_state(
                    state_path,
                    {"model": model.state_dict(), "head": head.state_dict()}
                    | {"optimizers": states, "step": done, "seconds": seconds, "log": log},
                )
    save_checkpoint(model, args.out)
    state_path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
