"""Memory and time of 200 000 samples: planned, decoded in chunks, their records written.

    python benchmarks/many_samples.py [--samples 200000] [--workers 2]
        [--out benchmarks/results/many_samples.json]

A private set is written first: JSON lines, ten questions to each JPEG of 320x240. Then all that a
run does with samples but for the model: the plan (rows read, image headers read, prompts counted),
images decoded in chunks, a record of each sample added to a file. Memory is the process's anonymous
memory, workers not counted, above what it had before; after each tenth of the samples.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from results_file import write_results

from vtexp.config.compose import compose_config
from vtexp.data.decoding import decoded_chunks
from vtexp.runs.plan import make_plan
from vtexp.utils import files

QUESTIONS_PER_IMAGE = 10
SET = """
defaults:
  - /schema/dataset@_here_
name: many
licence: none
split: test
limit: null
style: vqa2
max_new_tokens: 12
metric: exact_match
source: {{form: json, folder: {folder}, files: test.jsonl, splits: [test]}}
columns: {{question: question, answers: answer, image: image, image_id: image, sample_id: id}}
"""


def write_set(folder: Path, count: int) -> None:
    """A set of `count` questions, and the YAML file that names it."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (count // QUESTIONS_PER_IMAGE, 6, 8, 3), dtype=np.uint8)
    (folder / "images").mkdir()
    for number, pixels in enumerate(coarse):
        image = Image.fromarray(pixels).resize((320, 240), Image.Resampling.BICUBIC)
        image.save(folder / "images" / f"{number}.jpg")
    with (folder / "test.jsonl").open("w") as file:
        for number in range(count):
            row = {
                "id": number,
                "image": f"images/{number // QUESTIONS_PER_IMAGE}.jpg",
                "question": f"What is written on sign {number} of the picture?",
                "answer": str(number % 97),
            }
            file.write(json.dumps(row) + "\n")
    (folder / "dataset").mkdir()
    (folder / "dataset" / "many.yaml").write_text(SET.format(folder=folder))


def memory_mib() -> float:
    """Anonymous memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no RssAnon")


def measure(folder: Path, workers: int) -> dict[str, Any]:
    """Memory after the plan and after each tenth of the samples, and seconds of both."""
    config = compose_config(["dataset=many", "knob.sizes=[336x336]"], folder)
    before, began = memory_mib(), time.monotonic()
    plan = make_plan(config)
    planned, plan_s = memory_mib() - before, time.monotonic() - began
    count = len(plan.samples)
    rows = files.RowsFile(folder / "samples.jsonl")
    tenths: list[float] = []
    began = time.monotonic()
    for chunk in decoded_chunks(
        plan.samples, plan.image_sizes, indices=range(len(plan.samples)), workers=workers
    ):
        rows.write(
            {"sample_id": plan.samples[i].sample_id, "mean": float(pixels.mean())}
            for i, pixels in chunk.items()
            if isinstance(pixels, np.ndarray)
        )
        if (max(chunk) + 1) * 10 // count > len(tenths):
            tenths.append(memory_mib() - before)
    read_s = time.monotonic() - began
    rows.finish()
    assert sum(1 for _ in files.rows_of(folder / "samples.jsonl")) == count
    return {
        "samples": count,
        "images": len({sample.image_id for sample in plan.samples}),
        "workers": workers,
        "plan_mib": planned,
        "plan_s": plan_s,
        "read_s": read_s,
        "tenths_mib": tenths,
    }


def main() -> None:
    """Write the set, measure, print, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        write_set(Path(name), args.samples)
        found = measure(Path(name), args.workers)
    print(
        f"{found['samples']} samples of {found['images']} images, {args.workers} workers: plan "
        f"{found['plan_s']:.0f} s and {found['plan_mib']:.0f} MiB; decoded and recorded in "
        f"{found['read_s']:.0f} s; MiB after each tenth: "
        + " ".join(f"{mib:.0f}" for mib in found["tenths_mib"])
    )
    write_results(args.out, found)


if __name__ == "__main__":
    main()
