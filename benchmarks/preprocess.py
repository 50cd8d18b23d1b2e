"""Molmo v1's preprocessing beside the public reference code: same files, same outputs, one thread.

    git clone https://github.com/allenai/molmo /somewhere/molmo
    pip install --no-deps torchvision  # what the reference resizes with; a CUDA build will do
    python benchmarks/preprocess.py --reference /somewhere/molmo
        [--out benchmarks/results/preprocess.json]

A JPEG of 1200x900 is read, decoded, resized, normalised and laid out, up to crops, padding mask,
image tokens and their places: a page of small_print and a smooth, grainy picture, both made here.
The reference does so with its own `load_image` and `MultiModalPreprocessor`. All take turns, in
random order. Shown are medians, and the median of the ratios of neighbouring runs with its 95 %
bootstrap interval: of the wall clock, and of the processor's time, which other processes disturb
less. `exact` is what models in float32 read, `products` what those in 16 bits do, `bytes` is
`hardware.uint8_crops`: resized as bytes and normalised where the model is, so that its error is
that of the normalised patches, and normalising is not in its time. Errors are against `exact`, that
of `exact` against the reference. Without --reference only this project's three are timed.
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
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from PIL import Image
from reference import make_importable, make_torchvision_importable
from results_file import write_results
from rich.box import SIMPLE_HEAD
from rich.table import Table

from vtexp.budget.geometry import MOLMO
from vtexp.budget.knobs import CropSetting
from vtexp.data.builtin.small_print_pages import KINDS, add_noise, new_page
from vtexp.data.images import ImageFile, image_pixels
from vtexp.models.molmo.preprocess import (
    ImageTokenIds,
    ProcessedImage,
    Resize,
    normalised_bytes,
    preprocess_image,
)
from vtexp.utils.console import console

HEIGHT, WIDTH = 1200, 900
JPEG_QUALITY = 85
IDS = ImageTokenIds(start=1, end=2, patch=3, column=4)
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


def native(path: Path, max_crops: int, resize: Resize) -> ProcessedImage:
    """This project's preprocessing of a file."""
    pixels = image_pixels(ImageFile(path))
    return preprocess_image(pixels, CropSetting(max_crops), MOLMO, IDS, resize=resize)


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


def summarise(times: dict[str, np.ndarray]) -> dict[str, Any]:
    """Medians and least of each call, and how many times as long the reference takes."""
    row: dict[str, Any] = {}
    for name, values in times.items():
        row[f"{name}_ms"], row[f"{name}_cpu_ms"] = np.median(values, axis=0).tolist()
        row[f"{name}_least_ms"], row[f"{name}_least_cpu_ms"] = values.min(axis=0).tolist()
        row[f"{name}_images_per_s"] = 1000 / row[f"{name}_ms"]
    for name in get_args(Resize) if "reference" in times else ():
        ratios = times["reference"] / times[name]
        for clock, part in (("ratio", 0), ("cpu_ratio", 1)):
            row[f"{name}_{clock}"] = float(np.median(ratios[:, part]))
            row[f"{name}_{clock}_interval"] = interval(ratios[:, part])
            least = times["reference"][:, part].min() / times[name][:, part].min()
            row[f"{name}_{clock}_of_least"] = float(least)
    wall, cpu = sum(values.sum(axis=0) for values in times.values())
    row["off_processor"] = max(0.0, float(1 - cpu / wall))
    return row


def main() -> None:
    """Measure each picture and cap, show a table, and write all as JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reference", type=Path, help="checkout of github.com/allenai/molmo")
    parser.add_argument("--crops", type=int, nargs="+", default=[1, 4, 9, 12])
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    reference = decode = None
    if args.reference is None:
        print("no --reference: only this project's preprocessing is timed")
    else:
        try:
            reference, decode = load_reference(args.reference)
        except ModuleNotFoundError as error:
            print(f"the reference cannot be imported ({error}): only this project's is timed")

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, draw in (("page", draw_page), ("photo", draw_photo)):
            path = Path(folder) / f"{name}.jpg"
            draw().save(path, quality=JPEG_QUALITY)
            for max_crops in args.crops:
                exact = native(path, max_crops, "exact")
                row: dict[str, Any] = {
                    "picture": name,
                    "file_kb": path.stat().st_size / 1000,
                    "max_crops": max_crops,
                    "tiling": str(exact.tiling),
                }
                calls: dict[str, Callable[[], Any]] = {
                    "decode": partial(image_pixels, ImageFile(path))
                }
                for way in get_args(Resize):
                    calls[way] = partial(native, path, max_crops, way)
                    patches = native(path, max_crops, way).patches
                    if patches.dtype == torch.uint8:
                        patches = normalised_bytes(patches)
                    error = (patches - exact.patches).abs()
                    row[f"{way}_largest_error"] = error.max().item()
                    row[f"{way}_mean_error"] = error.mean().item()
                if reference is not None:
                    difference = largest_difference(exact, reference(path, max_crops))
                    row["exact_largest_error"] = difference
                    calls["reference"] = partial(reference, path, max_crops)
                    calls["reference_decode"] = partial(decode, path)
                rows.append(row | summarise(take_turns(calls, args.repeats)))
    show(rows)
    found = {
        "image_size": f"{HEIGHT}x{WIDTH}",
        "jpeg_quality": JPEG_QUALITY,
        "repeats": args.repeats,
        "disturbed": any(row["off_processor"] > DISTURBED for row in rows),
        "rows": rows,
    }
    write_results(args.out, found)


def show(rows: list[dict[str, Any]]) -> None:
    """The rows as a table, how equal the outputs are, and whether other processes disturbed."""
    title = f"images per second, JPEG of {HEIGHT}x{WIDTH}, one thread"
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title)
    with_reference = "reference_ms" in rows[0]
    ways = get_args(Resize)
    headings = ["picture", "crops", *ways]
    if with_reference:
        headings += ["reference", *(f"{way} by" for way in ways)]
    for heading in headings:
        justify: Any = "left" if heading == "picture" else "right"
        table.add_column(heading, justify=justify)
    for row in rows:
        cells = [row["picture"], str(row["max_crops"])]
        cells += [f"{row[f'{way}_images_per_s']:.1f}" for way in ways]
        if with_reference:
            cells.append(f"{row['reference_images_per_s']:.1f}")
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
        console.print(f"disturbed: other processes ran up to {share:.0%} of the time instead")


if __name__ == "__main__":
    main()
