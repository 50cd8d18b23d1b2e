"""Prompts and pixels beside transformers' own processors, on random questions and sizes.

    pip install --no-deps torchvision  # for Molmo2; beside a CPU build of torch, any build will do
    python benchmarks/peers_prompts.py [--cases 40] [--batches 8]
        [--out benchmarks/results/peers_prompts.json]

Each family's processor reads a small checkpoint in the published files (tests/helpers/
peer_checkpoints.py) and its chat template: with Pillow, with torchvision, and with a changed
preprocessor_config.json. Images are noise of 1x1 to 2000x2000 px, the extremes among them, with
random questions: alone, and in batches of four, padded. Counted is how many prompts have the same
ids and how many images the same values (within 1e-6 of their spread); each disagreement by its
kind. Molmo v1 has no processor in transformers: tests/golden holds its reference's values.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from results_file import write_results

sys.path.insert(0, str(Path(__file__).parents[1]))

#: Operators of torchvision that must be declared to import it beside a torch it was not made for.
OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
for operator in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, operator):
        OPERATORS.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from transformers.utils import logging  # noqa: E402

from tests.helpers.peer_checkpoints import peer_processor, write_checkpoint  # noqa: E402
from vtexp.budget.knobs import CropSetting  # noqa: E402
from vtexp.data.sample import ImageFile, Sample  # noqa: E402
from vtexp.models.checkpoints import find_checkpoint  # noqa: E402
from vtexp.models.host_resize import one_thread  # noqa: E402
from vtexp.models.native import NativeRunner  # noqa: E402
from vtexp.models.runners import runner_class  # noqa: E402

#: The most crops of each family's own preprocessing.
CAPS = {"internvl": 12, "qwen2_5_vl": 16384, "molmo2": 8}
EXTREMES = [(1, 1), (1, 2000), (2000, 1), (2000, 30), (30, 2000), (28, 28), (2000, 2000)]
WORDS = ["is", "red?", "the", " ", "\n", "what's", "12.5", "größer", "是什么", "🙂", "<img>", "{x}"]
#: Shares of the spread within which values are the same.
CLOSE = 1e-6


@dataclass(frozen=True)
class Peer:
    """One of transformers' processors: its family, and how its checkpoint is made."""

    name: str
    family: str
    llama: bool = False
    torchvision: bool = False
    images: dict[str, Any] = field(default_factory=dict)


PEERS = [
    Peer("InternVL (Qwen2), Pillow", "internvl"),
    Peer("InternVL (Qwen2), torchvision", "internvl", torchvision=True),
    Peer("InternVL (Llama), Pillow", "internvl", llama=True),
    Peer(
        "InternVL, other mean and std",
        "internvl",
        images={"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]},
    ),
    Peer("Qwen2.5-VL, Pillow", "qwen2_5_vl"),
    Peer("Qwen2.5-VL, torchvision", "qwen2_5_vl", torchvision=True),
    Peer(
        "Qwen2.5-VL, other limits of pixels",
        "qwen2_5_vl",
        images={"min_pixels": 256 * 784, "max_pixels": 1280 * 784},
    ),
    Peer("Qwen2.5-VL, not normalised", "qwen2_5_vl", images={"do_normalize": False}),
    Peer("Molmo2, torchvision", "molmo2", torchvision=True),
]


@dataclass
class Found:
    """Counts of one peer: prompts and images that agree, and the kinds of those that do not."""

    prompts: int = 0
    images: int = 0
    same_ids: int = 0
    same_pixels: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    largest: float = 0.0

    def add(self, kind: str, example: str) -> None:
        """One disagreement, by its kind."""
        self.kinds[kind] += 1
        self.examples.setdefault(kind, example)

    def as_json(self) -> dict[str, Any]:
        """For the results file."""
        return {
            "prompts": self.prompts,
            "prompts_with_the_same_ids": self.same_ids,
            "images": self.images,
            "images_with_the_same_values": self.same_pixels,
            "largest_difference_of_the_spread": self.largest,
            "disagreements": dict(self.kinds),
            "first_of_each": self.examples,
        }


def draw_sizes(rng: random.Random, count: int) -> Iterator[tuple[int, int]]:
    """Heights and widths in px: the extremes, then any, small ones as often as large ones."""
    yield from EXTREMES[:count]
    for _ in range(count - len(EXTREMES)):
        yield round(2000 ** rng.random()), round(2000 ** rng.random())


def draw_batch(rng: random.Random) -> list[tuple[int, int]]:
    """Four sizes, none so flat that Qwen2.5-VL's processor would refuse the whole batch."""
    sizes: list[tuple[int, int]] = []
    while len(sizes) < 4:
        height, width = round(2000 ** rng.random()), round(2000 ** rng.random())
        if max(height, width) <= 200 * min(height, width):
            sizes.append((height, width))
    return sizes


def draw_question(rng: random.Random) -> str:
    """A few words, spaces and signs; no special token of a family, which stays text here only."""
    words = [rng.choice(WORDS) for _ in range(rng.randint(1, 12))]
    return " ".join(word for word in words if word != "<img>")


def draw_image(rng: random.Random, size: tuple[int, int]) -> np.ndarray:
    """Noise, uint8 (H, W, 3)."""
    values = np.random.default_rng(rng.randrange(2**32))
    return values.integers(0, 256, (*size, 3), dtype=np.uint8)


def runner_of(folder: Path) -> NativeRunner:
    """What reads a checkpoint's prompts and images here; without a model."""
    checkpoint = find_checkpoint(str(folder), weights=False)
    family, config = checkpoint.family, checkpoint.config
    made: Any = runner_class(family)
    geometry = family.geometry_of(config)
    return made(
        None,
        checkpoint.tokenizer,
        geometry,
        torch.device("cpu"),
        torch.float32,
        normalisation=family.normalisation_of(config),
    )


class Comparison:
    """This project and one peer, on the same questions and images."""

    def __init__(self, peer: Peer, folder: Path) -> None:
        write_checkpoint(folder, peer.family, llama=peer.llama, images=peer.images)
        self._peer = peer
        self._runner = runner_of(folder)
        self._processor = peer_processor(folder, peer.family, torchvision=peer.torchvision)
        self.found = Found()

    def compare(self, cases: list[tuple[str, np.ndarray]]) -> None:
        """One prompt, or a batch of them."""
        sizes = ", ".join("x".join(map(str, image.shape[:2])) for _, image in cases)
        self.found.prompts += len(cases)
        self.found.images += len(cases)
        try:
            theirs = self._theirs(cases)
        except ValueError as error:
            self.found.add(f"transformers refuses: {str(error).split(',')[0]}", sizes)
            return
        ours = self._ours(cases)
        for row, (question, _) in enumerate(cases):
            found, expected = (_ids(inputs, row) for inputs in (ours, theirs))
            if found == expected:
                self.found.same_ids += 1
            elif len(found) == len(expected):
                self.found.add("other ids", f"{sizes}: {question!r}")
            else:
                self.found.add("other lengths", f"{sizes}: {len(found)} and {len(expected)}")
        self._compare_pixels(ours, theirs, sizes, len(cases))

    def _ours(self, cases: list[tuple[str, np.ndarray]]) -> dict[str, Any]:
        setting = CropSetting(CAPS[self._peer.family], fit="stretch")
        prepared = [
            self._runner.prepare(_sample(question), setting, "vqa2", image)
            for question, image in cases
        ]
        return self._runner.inputs(prepared)

    def _theirs(self, cases: list[tuple[str, np.ndarray]]) -> dict[str, Any]:
        wording = self._runner.tokenizer.form.wording
        chats = [
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": Image.fromarray(image)},
                        {"type": "text", "text": wording.message(_sample(question), "vqa2")},
                    ],
                }
            ]
            for question, image in cases
        ]
        with one_thread():  # with more, torch rounds some bytes of Molmo2's resize the other way
            return self._processor.apply_chat_template(
                chats,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                padding=True,
            )

    def _compare_pixels(
        self, ours: dict[str, Any], theirs: dict[str, Any], sizes: str, count: int
    ) -> None:
        for name in ("image_grid_thw", "image_token_pooling", "image_grids"):
            if name in ours and not torch.equal(ours[name], theirs[name].to(ours[name].dtype)):
                self.found.add(f"other {name}", sizes)
        found, expected = ours["pixel_values"], theirs["pixel_values"]
        if found.shape != expected.shape:
            self.found.add("other crops", f"{sizes}: {list(found.shape)}, {list(expected.shape)}")
            return
        spread = (expected.max() - expected.min()).item() or 1.0
        off = (found - expected).abs().max().item() / spread
        self.found.largest = max(self.found.largest, off)
        if off <= CLOSE:
            self.found.same_pixels += count
        else:
            much = "up to" if round(255 * off) <= 2 else "more than"
            self.found.add(f"values off by {much} 2 bytes of 255", sizes)


def _sample(question: str) -> Sample:
    return Sample("0", "0", ImageFile(Path("none")), question, ("yes",), "unused")


def _ids(inputs: dict[str, Any], row: int) -> list[int]:
    """Ids of a row without its padding."""
    ids = inputs["input_ids"][row]
    mask = inputs.get("attention_mask")
    return ids.tolist() if mask is None else ids[mask[row].bool()].tolist()


def compare(peer: Peer, cases: int, batches: int, folder: Path) -> dict[str, Any]:
    """Counts of one peer: alone, and in batches."""
    rng = random.Random(0)
    found = {}
    for kind, sizes in (
        ("alone", [[size] for size in draw_sizes(rng, cases)]),
        ("batches", [draw_batch(rng) for _ in range(batches)]),
    ):
        comparison = Comparison(peer, folder)
        for batch in sizes:
            comparison.compare([(draw_question(rng), draw_image(rng, size)) for size in batch])
        found[kind] = comparison.found.as_json()
        print(f"{peer.name}, {kind}: {found[kind]}", flush=True)
    return found


def main() -> None:
    """Compare all peers, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=40, help="prompts alone, per peer")
    parser.add_argument("--batches", type=int, default=8, help="batches of four, per peer")
    parser.add_argument("--out", type=Path, help="JSON file for the counts")
    args = parser.parse_args()
    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        found = {
            peer.name: compare(peer, args.cases, args.batches, Path(folder) / str(number))
            for number, peer in enumerate(PEERS)
        }
    write_results(args.out, {"cases": args.cases, "batches": args.batches, "peers": found})


if __name__ == "__main__":
    main()
