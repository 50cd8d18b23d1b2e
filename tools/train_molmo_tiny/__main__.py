"""Train molmo_tiny to read small_print and to know easy-VQA.

`python -m tools.train_molmo_tiny --out FOLDER`, from the root of the repository.

Seeded, resumable (run the same command again), with a progress bar. Ten stages:

- read (`see.py`): the vision encoder alone. A head asks each patch for the characters it shows.
  From answers alone, nothing was learned.
- place: the same, and each patch learns which of the four patches of its vision token it is.
  Without, the connector cannot tell "47" from "74".
- connect: the connector alone. Heads ask each vision token for characters, words, colours, shapes.
  Trained together from the start, its first, random gradients undid what the encoder had learned.
- see: encoder and connector together.
- look (`answer.py`): the language model alone, for the same reason, on small pages in one crop:
  few tokens to look among, most of them readable, and many questions a step.
- answer: the same on pages of all sizes under all budgets.
- all: everything, at a low rate.
- tables: the language model alone, with more tables, whose values are found by row and column.
- settle: everything again, with more tables.
- finish: everything, all kinds of pages alike: with more tables, the others were read worse.

The heads are not kept.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    track,
)
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset

from tools.train_molmo_tiny.answer import FieldHeads, answer, draw_answer_batch
from tools.train_molmo_tiny.reading import TextPage, draw_text_page
from tools.train_molmo_tiny.see import (
    PAGE_CROPS,
    SHAPE_CROPS,
    TEXT_CROPS,
    PlaceHead,
    ReadingCrops,
    SeeHead,
    ShapeCrops,
    cut_texts,
    draw_page_crops,
    draw_shape,
    read,
    see,
)
from tools.train_molmo_tiny.tiny import (
    initialise,
    mark_places,
    pool_by_place,
    tiny_config,
    train_tokenizer,
)
from vtexp.data.builtin import easy_vqa, small_print
from vtexp.data.builtin.small_print_pages import draw_page
from vtexp.data.sample import Sample
from vtexp.models.molmo.modeling import MolmoForCausalLM
from vtexp.models.molmo.preprocess import ImageTokenIds
from vtexp.prompts.form import build_prompt
from vtexp.prompts.tokenizer import PromptTokenizer

TOKENIZER_PAGES = 300
WARM_UP_STEPS = 30


class Stage(NamedTuple):
    """A part of training with its peak learning rates."""

    name: str
    steps: int
    muon_learning_rate: float
    adamw_learning_rate: float


STAGES = (
    Stage("read", 4500, 1e-2, 4e-3),
    Stage("place", 300, 4e-3, 3e-3),
    Stage("connect", 800, 4e-3, 1e-2),
    Stage("see", 2400, 1.5e-3, 2e-3),
    Stage("look", 1000, 4e-3, 6e-3),
    Stage("answer", 2600, 2e-3, 3e-3),
    Stage("all", 600, 3e-4, 4e-4),
    Stage("tables", 2500, 2e-3, 3e-3),
    Stage("settle", 800, 5e-4, 5e-4),
    Stage("finish", 700, 4e-4, 4e-4),
)
#: Stages on whole images with their questions.
ANSWERING = ("look", "answer", "all", "tables", "settle", "finish")
#: Loss of a step, and what was found in it, for the log.
Step = tuple[torch.Tensor, dict[str, float]]
#: What is drawn once for the stages that look at single crops.
TEXT_DRAWS, PAGE_DRAWS, SHAPE_DRAWS = 4000, 800, 1500


class Materials(NamedTuple):
    """What every stage draws from."""

    groups: list[list[Sample]]  # easy-VQA's questions by image
    tokenizer: PromptTokenizer
    ids: ImageTokenIds


class Draws(Dataset):
    """Anything drawn from (seed, name, number) alone, so that a resumed run is the same run."""

    def __init__(self, name: str, count: int, seed: int, materials: Materials) -> None:
        self.name, self.count, self.seed, self.materials = name, count, seed, materials

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Any:
        """The draw of this number."""
        groups, tokenizer, ids = self.materials
        rng = rng_of(self.seed, self.name, number)
        if self.name == "texts":
            return draw_text_page(rng)
        if self.name == "pages":
            return draw_page_crops(rng, ids)
        if self.name == "shapes":
            return draw_shape(rng, groups, ids)
        small, tables = self.name == "look", self.name in ("tables", "settle")
        return draw_answer_batch(rng, groups, tokenizer, small=small, tables=tables)


def as_it_is(draw: Any) -> Any:
    """No batching and no conversion to tensors."""
    return draw


def rng_of(seed: int, name: str, number: int) -> np.random.Generator:
    """A random generator of its own for each use."""
    return np.random.default_rng((seed, *name.encode(), number))


def join(draws: Sequence[Any]) -> Any:
    """Named tuples of tensors, nested or not, joined along the first axis."""
    first = draws[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(list(draws))
    return type(first)(*(join(column) for column in zip(*draws, strict=True)))


def pick(draws: Any, rows: np.ndarray) -> Any:
    """Rows of a named tuple of tensors, nested or not."""
    if isinstance(draws, torch.Tensor):
        return draws[rows]
    return type(draws)(*(pick(column, rows) for column in draws))


def build_optimizers(model: MolmoForCausalLM, heads: nn.Module) -> list[torch.optim.Optimizer]:
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
    others += heads.parameters()
    return [
        torch.optim.Muon(matrices, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def update(
    model: MolmoForCausalLM,
    optimizers: list[torch.optim.Optimizer],
    loss: torch.Tensor,
    rates: tuple[float, float],
) -> None:
    """One step of the optimizers at their rates; parameters without a gradient stay."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer, rate in zip(optimizers, rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def save_checkpoint(model: MolmoForCausalLM, folder: Path) -> None:
    """config.json and model.safetensors (float16) in the published layout."""
    model.config.save_pretrained(folder)
    weights = {name: p.detach().to(torch.float16) for name, p in model.named_parameters()}
    partial = folder / "model.safetensors.partial"
    save_file(weights, partial, metadata={"format": "pt"})
    partial.chmod(0o644)  # safetensors makes it readable for its owner only
    partial.replace(folder / "model.safetensors")


def write_log(path: Path, log: list[dict]) -> None:
    """The curve so far, one row per line."""
    path.write_text("[\n" + ",\n".join(json.dumps(row) for row in log) + "\n]\n")


class Heads(nn.Module):
    """What reads the model from inside while it learns; not kept."""

    def __init__(self, model: MolmoForCausalLM) -> None:
        super().__init__()
        self.see = SeeHead(model)
        self.place = PlaceHead(self.see.reading.patch_characters.in_features)
        self.fields = FieldHeads(model.config.hidden_size)


class Training:
    """Model, heads and progress of a training, kept on disk so that it can go on."""

    def __init__(self, out: Path, seed: int, materials: Materials) -> None:
        tokenizer = materials.tokenizer
        torch.manual_seed(seed)
        self.model = MolmoForCausalLM(tiny_config(min(tokenizer.image_ids), tokenizer.eos_id))
        initialise(self.model)
        self.heads = Heads(self.model)
        self.optimizers = build_optimizers(self.model, self.heads)
        self.out, self.seed, self.materials = out, seed, materials
        self.stage, self.step, self.seconds = 0, 0, 0.0
        self.log: list[dict[str, Any]] = []
        self.drawn: dict[str, list[Any]] = {}
        self.state_path = out / "training_state.pt"
        if self.state_path.is_file():
            self._load()

    def _load(self) -> None:
        state = torch.load(self.state_path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.stage, self.step, self.seconds = state["stage"], state["step"], state["seconds"]
        self.log = state["log"]

    def save(self) -> None:
        """Write the state so that a kill leaves the old one or the new one, never half."""
        partial = self.state_path.with_suffix(".partial")
        torch.save(
            {
                "model": self.model.state_dict(),
                "heads": self.heads.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "stage": self.stage,
                "step": self.step,
                "seconds": self.seconds,
                "log": self.log,
            },
            partial,
        )
        partial.replace(self.state_path)

    def run_stage(self, stage: Stage, most_steps: int | None, save_every: int) -> None:
        """The steps of a stage that are still to be done, then on to the next."""
        began = time.monotonic() - self.seconds
        steps = min(stage.steps, most_steps or stage.steps)
        if self.step == 0:
            self._prepare(stage)
        answering = stage.name in ANSWERING
        losses = self.answers(stage, steps) if answering else self.looks(stage, steps)
        recent: list[dict[str, float]] = []
        name = TextColumn(stage.name)
        columns = (name, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns) as progress:
            task = progress.add_task(stage.name, total=steps, completed=self.step)
            for loss, found in losses:
                # Warm-up, then linear decay to zero.
                share = min((self.step + 1) / WARM_UP_STEPS, (steps - self.step) / steps)
                rates = (share * stage.muon_learning_rate, share * stage.adamw_learning_rate)
                update(self.model, self.optimizers, loss, rates)
                recent.append(found)
                self.step += 1
                self.seconds = time.monotonic() - began
                if self.step % 20 == 0 or self.step == steps:
                    self._note(stage, recent)
                    recent.clear()
                progress.update(task, completed=self.step)
                if self.step % save_every == 0:
                    self.save()
        self.stage, self.step = self.stage + 1, 0
        # Each stage trains other parameters: what the optimizers remember is of no use to it.
        self.optimizers = build_optimizers(self.model, self.heads)
        self.save()

    def _prepare(self, stage: Stage) -> None:
        """What a stage starts with besides the weights of the one before."""
        backbone = self.model.model.vision_backbone
        if stage.name == "place":
            mark_places(backbone.image_vit)
        if stage.name == "connect":
            pool_by_place(backbone.image_pooling_2d, self.heads.place.places.weight)

    def looks(self, stage: Stage, steps: int) -> Iterator[Step]:
        """Losses of the stages on single crops, which are drawn once."""
        texts: list[TextPage] = self.draw_all("texts", TEXT_DRAWS, stage, steps)
        if stage.name in ("read", "place"):
            places = self.heads.place if stage.name == "place" else None
            for step in range(self.step, steps):
                rng = rng_of(self.seed, stage.name, step)
                yield read(self.model, self.heads.see, places, cut_texts(texts, TEXT_CROPS, rng))
            return
        pages: ReadingCrops = join(self.draw_all("pages", PAGE_DRAWS, stage, steps))
        shapes: ShapeCrops = join(self.draw_all("shapes", SHAPE_DRAWS, stage, steps))
        for step in range(self.step, steps):
            rng = rng_of(self.seed, stage.name, step)
            of_pages = pick(pages, rng.choice(len(pages.patches), PAGE_CROPS, replace=False))
            crops = join([cut_texts(texts, TEXT_CROPS, rng), of_pages])
            some = pick(shapes, rng.choice(len(shapes.patches), SHAPE_CROPS, replace=False))
            yield see(self.model, self.heads.see, crops, some, stage.name == "connect")

    def draw_all(self, name: str, count: int, stage: Stage, steps: int) -> list[Any]:
        """All draws of a name, made by two processes; kept for the next stage.

        Few are drawn where the stage is cut short.
        """
        if name not in self.drawn:
            count = count if steps == stage.steps else 20
            draws = Draws(name, count, self.seed, self.materials)
            loader = DataLoader(draws, batch_size=None, num_workers=2, collate_fn=as_it_is)
            bar = track(loader, f"drawing {name}", total=count)
            # A copy frees the memory shared with the process.
            self.drawn[name] = [copy.deepcopy(draw) for draw in bar]
        return self.drawn[name]

    def answers(self, stage: Stage, steps: int) -> Iterator[Step]:
        """Losses of the stages on whole images with their questions, drawn ahead of need."""
        draws = Draws(stage.name, steps, self.seed, self.materials)
        order = range(self.step, steps)
        loader = DataLoader(draws, batch_size=None, sampler=order, num_workers=1, prefetch_factor=8)
        seeing = stage.name in ("all", "settle", "finish")
        for batch in loader:
            yield answer(self.model, self.heads.fields, batch, seeing)

    def _note(self, stage: Stage, recent: list[dict[str, float]]) -> None:
        means = {
            key: round(fmean(values), 5)
            for key in dict.fromkeys(key for row in recent for key in row)
            if (values := [row[key] for row in recent if not math.isnan(row.get(key, math.nan))])
        }
        row = {"stage": stage.name, "step": self.step, "seconds": round(self.seconds)}
        self.log.append(row | means)
        write_log(self.out / "training_log.json", self.log)


def prepare(out: Path) -> Materials:
    """Questions of the training halves, and a tokenizer made of them in the folder `out`."""
    samples = easy_vqa.load("train")
    groups: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.image_id].append(sample)
    asked = [("easy_vqa", s.question, s.references[0]) for s in samples]
    for number in range(TOKENIZER_PAGES):
        page = draw_page(np.random.default_rng((small_print.SEEDS["train"], number)))
        asked += [("small_print", f.question, f.answer) for f in page.fields]
    texts = {build_prompt(question, style) + " " + answer for style, question, answer in asked}
    train_tokenizer(sorted(texts), out)
    tokenizer = PromptTokenizer.from_folder(out)
    return Materials(list(groups.values()), tokenizer, ImageTokenIds(*tokenizer.image_ids))


def main() -> None:
    """Train, or go on from where the same command was stopped."""
    parser = argparse.ArgumentParser(prog="python -m tools.train_molmo_tiny", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--seed", type=int, default=0, help="of weights and data order")
    parser.add_argument("--most-steps", type=int, help="updates of each stage, at most")
    parser.add_argument("--save-every", type=int, default=100, help="steps between saved states")
    args = parser.parse_args()

    training = Training(args.out, args.seed, prepare(args.out))
    for stage in STAGES[training.stage :]:
        training.run_stage(stage, args.most_steps, args.save_every)
    save_checkpoint(training.model, args.out)
    training.state_path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
