"""What each token reduction costs and saves in a prefill: methods take turns on the same image.

    python benchmarks/reduction.py [--model embedded:molmo_tiny] [--random] [--device cuda]
        [--dtype float32] [--max-crops 9] [--kept 544 144] [--rounds 15] [--out FILE.json]

One page of small_print, cut under the cap, is prefilled without a reduction, by each method at each
number of kept tokens, and resized to that many, in random order in each round. Shown are medians in
ms: the reduction itself, the language model, the whole prefill, and the median over the rounds of
prefill without a reduction over that with one (the speed-up: below 1 the reduction makes prefill
slower), with its 95 % bootstrap interval. With --device cuda all are CUDA graphs where they can be.
With --random, --model is a published checkpoint's name, and weights are random ones of its size.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results_file import write_results
from rich.box import SIMPLE_HEAD
from rich.table import Table

from vtexp.budget.geometry import MOLMO
from vtexp.budget.knobs import CropSetting, KnobValue
from vtexp.budget.reduction import DEFAULT_LAYER, EARLY_LAYER, RESIZE, Reduction
from vtexp.config.choices import Device, Dtype
from vtexp.config.schema import HardwareConfig
from vtexp.data.builtin.small_print_pages import KINDS, new_page
from vtexp.data.sample import ImageFile, Sample
from vtexp.models.checkpoints import find_checkpoint
from vtexp.models.families import FAMILIES
from vtexp.models.molmo.runner import MolmoRunner
from vtexp.stages import StageTimes
from vtexp.utils.console import console

#: All that Molmo v1 has, but for a user's own.
METHODS = (RESIZE, *(name for name in FAMILIES["molmo"].reduces if name != "python"))
SIDE = 784


def drawn(folder: Path) -> Sample:
    """A question about a page that 3 x 3 crops cover exactly."""
    rng = np.random.default_rng(0)
    pen = new_page("table", SIDE, SIDE, rng)
    KINDS["table"](pen)
    path = folder / "page.png"
    pen.page.image.save(path)
    return Sample("0", "0", ImageFile(path), "What is the total?", ("1",), "table")


def settings(crops: int, kept: list[int]) -> dict[str, CropSetting]:
    """What is timed, by its name; `none` keeps all."""
    found = {"none": KnobValue("max_crops", str(crops)).crop_setting(MOLMO)}
    for count in kept:
        for method in METHODS:
            own = Reduction(method, kept=count)
            if method == EARLY_LAYER:
                own = replace(own, layer=DEFAULT_LAYER, positions="keep")
            value = KnobValue("kept_tokens", str(count), reduction=own, max_crops=crops)
            found[f"{method} {count}"] = value.crop_setting(MOLMO)
    return found


def timed(
    runner: MolmoRunner, sample: Sample, asked: dict[str, CropSetting], rounds: int
) -> dict[str, list[StageTimes]]:
    """Times of each setting, one in each round; two rounds before are not kept."""
    for setting in asked.values():
        runner.capture(sample, setting, "vqa2")
    rng, times = random.Random(0), defaultdict(list)
    for number in range(-2, rounds):
        for name in rng.sample(list(asked), len(asked)):
            spent = runner.timed_prefill(sample, asked[name], "vqa2")
            if number >= 0:
                times[name].append(spent)
    return times


def summary(own: list[StageTimes], plain: list[StageTimes]) -> dict[str, Any]:
    """Medians in ms, and the speed-up with the ends of its interval."""
    ratios = np.array([a.prefill_ms / b.prefill_ms for a, b in zip(plain, own, strict=True)])
    rng = np.random.default_rng(0)
    draws = np.median(rng.choice(ratios, (2000, len(ratios))), axis=1)
    low, high = np.percentile(draws, [2.5, 97.5])
    found: dict[str, Any] = {
        key: float(np.median([getattr(one, key) or 0.0 for one in own]))
        for key in ("vision_ms", "reduction_ms", "llm_prefill_ms", "prefill_ms")
    }
    speed_up = {"median": float(np.median(ratios)), "low": float(low), "high": float(high)}
    return found | {"speed_up": speed_up, "cuda_graph": all(one.cuda_graph for one in own)}


def show(found: dict[str, dict[str, Any]]) -> None:
    """Print the table."""
    heads = ("reduction", "vision, ms", "reduction, ms", "LLM, ms", "prefill, ms", "speed-up")
    table = Table(*heads, box=SIMPLE_HEAD)
    for name, own in found.items():
        ratio = own["speed_up"]
        times = ("vision_ms", "reduction_ms", "llm_prefill_ms", "prefill_ms")
        table.add_row(
            name,
            *(f"{own[key]:.1f}" for key in times),
            f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})",
        )
    console.print(table)


def main() -> None:
    """Time, show and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="embedded:molmo_tiny")
    parser.add_argument("--random", action="store_true")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--max-crops", type=int, default=9)
    parser.add_argument("--kept", type=int, nargs="+", default=[544, 144])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    hardware = HardwareConfig(
        name=given.device, device=Device(given.device), dtype=Dtype(given.dtype)
    )
    checkpoint = find_checkpoint(given.model, random=given.random)
    runner = MolmoRunner.load(checkpoint, MOLMO, hardware)
    asked = settings(given.max_crops, given.kept)
    with tempfile.TemporaryDirectory() as folder:
        times = timed(runner, drawn(Path(folder)), asked, given.rounds)
    found = {name: summary(times[name], times["none"]) for name in asked}
    show(found)
    about = {"rounds": given.rounds, "graph_failure": runner.graph_failure}
    about["torch_threads"] = torch.get_num_threads()
    write_results(given.out, about | {"prefills": found}, given.device)


if __name__ == "__main__":
    main()
