"""Preprocessing of all families on the host and on a device; Molmo v1 beside the public reference.

    git clone https://github.com/allenai/molmo /somewhere/molmo
    pip install --no-deps torchvision  # what the reference resizes with; a CUDA build will do
    python benchmarks/preprocess.py --reference /somewhere/molmo
        [--device cuda] [--crops 1 4 9 12] [--repeats 40]
        [--out benchmarks/results/preprocess.json]

A JPEG of 1200x900 is read and decoded, then resized, normalised and laid out, up to crops, padding
mask, image tokens and their places: a page of small_print and a smooth, grainy picture, both made
here. Decoding is timed by itself. `exact` is what models in float32 read, `products` what those in
16 bits do, on one thread of the host. With --device, `device` sends the decoded pixels there and
does the rest there, until all is done; to the times of the host is added then what sending their
result takes. The device's largest error is against `exact`, that of `exact` against the reference.

The reference does the same with its own `load_image` and `MultiModalPreprocessor`, same file, same
outputs, one thread. All take turns, in random order. Shown are medians, and the median of the
ratios of neighbouring runs, decoding included, with its 95 % bootstrap interval: of the wall clock,
and of the processor's time, which other processes disturb less. Without --reference only this
project's own are timed. The other families are timed at the most crops asked for, Qwen2.5-VL, whose
crops are single tokens, at up to 1280.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from PIL import Image
from reference import make_importable, make_torchvision_importable
from results_file import write_results
from rich.box import SIMPLE_HEAD
from rich.table import Table

from vtexp.budget.geometry import INTERNVL, MOLMO, QWEN2_5_VL
from vtexp.budget.knobs import CropSetting
from vtexp.data.builtin.small_print_pages import KINDS, add_noise, new_page
from vtexp.data.images import ImageFile, image_pixels
from vtexp.models.internvl import InternVLRunner
from vtexp.models.molmo.preprocess import (
    ImageTokenIds,
    Pixels,
    ProcessedImage,
    Resize,
    preprocess_image,
)
from vtexp.models.molmo2.preprocess import Molmo2TokenIds, preprocess_molmo2
from vtexp.models.qwen2_5_vl import Qwen2_5_VLRunner
from vtexp.utils.console import console
from vtexp.utils.text import percent

HEIGHT, WIDTH = 1200, 900
JPEG_QUALITY = 85
IDS = ImageTokenIds(start=1, end=2, patch=3, column=4)
MOLMO2_IDS = Molmo2TokenIds(start=1, global_start=2, end=3, patch=4, column=5)
HOST_WAYS = get_args(Resize)
#: Tokens of Qwen2.5-VL, whose `max_crops` counts them.
QWEN_TOKENS = 1280
#: Above this share of wall time spent off the processor, something else was running.
DISTURBED = 0.1


class Time(NamedTuple):
    """One call, in ms."""

    wall: float
    cpu: float


class Output(NamedTuple):
    """What a model reads of an image."""

    patches: np.ndarray
    padding_mask: np.ndarray
    image_tokens: np.ndarray
    image_input_idx: np.ndarray


def draw_page() -> Image.Image:
    """A table of small_print."""
    rng = np.random.default_rng(0)
    pen = new_page("table", WIDTH, HEIGHT, rng)
    KINDS["table"](pen)
    return add_noise(pen.page.image, rng)


def draw_photo() -> Image.Image:
    """Random waves, the longer the stronger as in photos, in slightly different channels; grain."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH))
    frequency[0, 0] = np.inf
    waves = np.fft.irfft2(
        np.fft.rfft2(rng.standard_normal((4, HEIGHT, WIDTH))) / frequency**1.2, s=(HEIGHT, WIDTH)
    )
    waves /= waves.std(axis=(1, 2), keepdims=True)
    pixels = 120 + 45 * (waves[:1] + 0.4 * waves[1:]) + rng.normal(0, 2, (1, HEIGHT, WIDTH))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


#: An image's tensors that go to the model's device, made of decoded pixels.
Preprocess = Callable[[Pixels], tuple[torch.Tensor, ...]]


def molmo(pixels: Pixels, max_crops: int, resize: Resize = "exact") -> ProcessedImage:
    """This project's preprocessing of decoded pixels."""
    return preprocess_image(pixels, CropSetting(max_crops), MOLMO, IDS, resize=resize)


def molmo_tensors(
    pixels: Pixels, max_crops: int, resize: Resize = "exact"
) -> tuple[torch.Tensor, ...]:
    """What goes to the device of `molmo`."""
    image = molmo(pixels, max_crops, resize)
    return image.patches, image.padding_mask


def other_families(max_crops: int) -> dict[str, Preprocess]:
    """The preprocessing of each family but Molmo v1."""
    setting = CropSetting(max_crops, fit="stretch")
    tokenizer = SimpleNamespace(image_ids=(IDS.patch,))
    internvl: Any = SimpleNamespace(geometry=INTERNVL, tokenizer=tokenizer, normalisation=None)
    qwen: Any = SimpleNamespace(geometry=QWEN2_5_VL, tokenizer=tokenizer, normalisation=None)
    tokens = CropSetting(QWEN_TOKENS, fit="stretch")
    return {
        "molmo2": lambda pixels: (preprocess_molmo2(pixels, setting, MOLMO2_IDS).patches,),
        "internvl": lambda pixels: tuple(
            InternVLRunner.read_image(internvl, pixels, setting).tensors.values()
        ),
        "qwen2_5_vl": lambda pixels: tuple(
            Qwen2_5_VLRunner.read_image(qwen, pixels, tokens).tensors.values()
        ),
    }


def on_host(pixels: np.ndarray, preprocess: Preprocess, device: torch.device | None) -> None:
    """Preprocess on the host; send the result where there is a device, and wait for it."""
    tensors = preprocess(pixels)
    if device is not None:
        for tensor in tensors:
            to_device(tensor, device)
        wait_for(device)


def on_device(pixels: np.ndarray, preprocess: Preprocess, device: torch.device) -> None:
    """Send decoded pixels to a device, preprocess there, and wait for it."""
    preprocess(to_device(torch.from_numpy(pixels), device))
    wait_for(device)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on a device, by way of pinned memory to a GPU, as runners send theirs."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def wait_for(device: torch.device) -> None:
    """Until all work of a GPU is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def load_reference(folder: Path) -> tuple[Callable[[Path, int], Output], Callable[[Path], Any]]:
    """The reference's preprocessing of a file under a cap, and its reading and decoding alone."""
    make_torchvision_importable()
    make_importable(folder)
    from olmo.data.model_preprocessor import MultiModalPreprocessor, load_image
    from olmo.tokenizer import EXTRA_TOKENS

    names = ("<im_start>", "<im_end>", "<im_patch>", "<im_col>")
    numbers = dict(zip(names, (IDS.start, IDS.end, IDS.patch, IDS.column), strict=True))

    class Tokenizer:
        """What the preprocessor asks of a tokenizer: the ids of the image tokens."""

        def encode(self, text: str) -> list[int]:
            return [numbers.get(word, 5) for word in text.split(" ")]

    assert set(names) <= set(EXTRA_TOKENS)
    # As in the released checkpoints; the other fields' defaults are theirs.
    made = MultiModalPreprocessor(Tokenizer(), crop_mode="overlap-and-resize-c2")

    def run(path: Path, max_crops: int) -> Output:
        made.max_crops = max_crops
        crops, tokens, index, mask = made.preprocess(load_image(path), is_training=False)
        return Output(crops, mask, tokens, index)

    return run, load_image


def largest_difference(ours: ProcessedImage, theirs: Output) -> float:
    """Largest difference of a patch value. Exits where anything else differs at all."""
    for name in ("padding_mask", "image_tokens", "image_input_idx"):
        if not np.array_equal(getattr(ours, name).numpy(), getattr(theirs, name)):
            sys.exit(f"{name} differs from the reference's")
    if ours.patches.shape != theirs.patches.shape:
        sys.exit(f"patches are {tuple(ours.patches.shape)}, the reference's {theirs.patches.shape}")
    return float(np.abs(ours.patches.numpy() - theirs.patches).max())


def time_of(call: Callable[[], Any]) -> Time:
    """Wall clock and processor time of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return Time(1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu))


def interval(values: np.ndarray) -> list[float]:
    """95 % bootstrap interval of the median."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(values, (2000, len(values))), axis=1)
    return np.percentile(medians, [2.5, 97.5]).tolist()


def take_turns(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, np.ndarray]:
    """Wall and processor times (repeats, 2) of each call, in ms, after two untimed rounds."""
    times: dict[str, list[Time]] = {name: [] for name in calls}
    for number in range(repeats + 2):
        for name in random.sample(list(calls), len(calls)):
            spent = time_of(calls[name])
            if number >= 2:
                times[name].append(spent)
    return {name: np.array(values) for name, values in times.items()}


def summarise(times: dict[str, np.ndarray], ways: list[str]) -> dict[str, Any]:
    """Medians and least of each call, and how many times as long the reference takes.

    The time of a way with decoding is the sum of both, run by run: `..._ms` of a way is that of
    what follows decoding.
    """
    row: dict[str, Any] = {}
    for name, values in times.items():
        row[f"{name}_ms"], row[f"{name}_cpu_ms"] = np.median(values, axis=0).tolist()
        row[f"{name}_least_ms"], row[f"{name}_least_cpu_ms"] = values.min(axis=0).tolist()
    for way in ways:
        from_file = times["decode"] + times[way]
        row[f"{way}_from_file_images_per_s"] = 1000 / float(np.median(from_file[:, 0]))
        if "reference" not in times:
            continue
        ratios = times["reference"] / from_file
        for clock, part in (("ratio", 0), ("cpu_ratio", 1)):
            row[f"{way}_{clock}"] = float(np.median(ratios[:, part]))
            row[f"{way}_{clock}_interval"] = interval(ratios[:, part])
            least = times["reference"][:, part].min() / from_file[:, part].min()
            row[f"{way}_{clock}_of_least"] = float(least)
    wall, cpu = sum(values.sum(axis=0) for values in times.values())
    row["off_processor"] = max(0.0, float(1 - cpu / wall))
    return row


def measure_molmo(
    path: Path,
    max_crops: int,
    device: torch.device | None,
    reference: tuple[Callable[[Path, int], Output], Callable[[Path], Any]] | None,
    repeats: int,
) -> dict[str, Any]:
    """Errors and times of Molmo v1's preprocessing of a file."""
    pixels = image_pixels(ImageFile(path))
    exact = molmo(pixels, max_crops)
    row: dict[str, Any] = {"max_crops": max_crops, "tiling": str(exact.tiling)}
    calls: dict[str, Callable[[], Any]] = {"decode": partial(image_pixels, ImageFile(path))}
    patches = {}
    for way in HOST_WAYS:
        patches[way] = molmo(pixels, max_crops, way).patches
        preprocess = partial(molmo_tensors, max_crops=max_crops, resize=way)
        calls[way] = partial(on_host, pixels, preprocess, device)
    if device is not None:
        sent = torch.from_numpy(pixels).to(device)
        patches["device"] = molmo(sent, max_crops).patches.cpu()
        preprocess = partial(molmo_tensors, max_crops=max_crops)
        calls["device"] = partial(on_device, pixels, preprocess, device)
    for way, found in patches.items():
        error = (found - exact.patches).abs()
        row[f"{way}_largest_error"] = error.max().item()
        row[f"{way}_mean_error"] = error.mean().item()
    if reference is not None:
        run, decode = reference
        row["exact_largest_error"] = largest_difference(exact, run(path, max_crops))
        calls["reference"] = partial(run, path, max_crops)
        calls["reference_decode"] = partial(decode, path)
    return row | summarise(take_turns(calls, repeats), list(patches))


def measure_others(
    path: Path, max_crops: int, device: torch.device | None, repeats: int
) -> list[dict[str, Any]]:
    """Times of the other families' preprocessing of a file, after decoding."""
    pixels = image_pixels(ImageFile(path))
    rows = []
    for family, preprocess in other_families(max_crops).items():
        calls: dict[str, Callable[[], Any]] = {"host": partial(on_host, pixels, preprocess, device)}
        if device is not None:
            calls["device"] = partial(on_device, pixels, preprocess, device)
        times = take_turns(calls, repeats)
        medians = {f"{way}_ms": float(np.median(t[:, 0])) for way, t in times.items()}
        crops = QWEN_TOKENS if family == "qwen2_5_vl" else max_crops
        rows.append({"family": family, "max_crops": crops} | medians)
    return rows


def main() -> None:
    """Measure each picture and cap, show a table, and write all as JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reference", type=Path, help="checkout of github.com/allenai/molmo")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="time the device path there too")
    parser.add_argument("--crops", type=int, nargs="+", default=[1, 4, 9, 12])
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    device = None if args.device is None else torch.device(args.device)
    reference = None
    if args.reference is None:
        print("no --reference: only this project's preprocessing is timed")
    else:
        try:
            reference = load_reference(args.reference)
        except ModuleNotFoundError as error:
            print(f"the reference cannot be imported ({error}): only this project's is timed")

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, draw in (("page", draw_page), ("photo", draw_photo)):
            path = Path(folder) / f"{name}.jpg"
            draw().save(path, quality=JPEG_QUALITY)
            about: dict[str, Any] = {"picture": name, "file_kb": path.stat().st_size / 1000}
            for max_crops in args.crops:
                found = measure_molmo(path, max_crops, device, reference, args.repeats)
                rows.append(about | found)
        others = measure_others(path, max(args.crops), device, args.repeats)
    show(rows)
    show_others(others)
    results = {
        "image_size": f"{HEIGHT}x{WIDTH}",
        "jpeg_quality": JPEG_QUALITY,
        "repeats": args.repeats,
        "disturbed": any(row["off_processor"] > DISTURBED for row in rows),
        "rows": rows,
        "other_families": others,
    }
    write_results(args.out, results, args.device or "cpu")


def show(rows: list[dict[str, Any]]) -> None:
    """The rows as a table, how equal the outputs are, and whether other processes disturbed."""
    title = f"Molmo v1, JPEG of {HEIGHT}x{WIDTH}, one thread: ms of decoding, and of what follows"
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title)
    with_reference = "reference_ms" in rows[0]
    ways = [*HOST_WAYS, "device"] if "device_ms" in rows[0] else [*HOST_WAYS]
    headings = ["picture", "crops", "decode", *ways]
    if with_reference:
        headings += ["reference in all", *(f"{way} by" for way in ways)]
    for heading in headings:
        justify: Any = "left" if heading == "picture" else "right"
        table.add_column(heading, justify=justify)
    for row in rows:
        cells = [row["picture"], str(row["max_crops"])]
        cells += [f"{row[f'{part}_ms']:.2f}" for part in ("decode", *ways)]
        if with_reference:
            cells.append(f"{row['reference_ms']:.2f}")
            for way in ways:
                low, high = row[f"{way}_ratio_interval"]
                cells.append(f"{row[f'{way}_ratio']:.2f} ({low:.2f}-{high:.2f})")
        table.add_row(*cells)
    console.print(table)
    if with_reference:
        most = max(row["exact_largest_error"] for row in rows)
        console.print(
            f"exact: masks, tokens and places are the reference's, patches within {most:.1e}"
        )
    for way in ways[1:]:
        most, mean = (
            max(row[f"{way}_{name}_error"] for row in rows) for name in ("largest", "mean")
        )
        console.print(f"{way}: patches off by up to {most:.1e}, {mean:.1e} in the mean")
    share = max(row["off_processor"] for row in rows)
    if share > DISTURBED:
        console.print(f"disturbed or waiting for the device: up to {percent(share)} of the time")


def show_others(rows: list[dict[str, Any]]) -> None:
    """The other families as a table."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title="other families: ms after decoding")
    ways = ["host", "device"] if "device_ms" in rows[0] else ["host"]
    for heading in ("family", "max crops", *ways):
        table.add_column(heading, justify="left" if heading == "family" else "right")
    for row in rows:
        times = [f"{row[f'{way}_ms']:.2f}" for way in ways]
        table.add_row(row["family"], str(row["max_crops"]), *times)
    console.print(table)


if __name__ == "__main__":
    main()
