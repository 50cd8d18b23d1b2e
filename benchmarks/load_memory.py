"""Memory that loading a checkpoint takes, over the size of the weights as loaded.

    python benchmarks/load_memory.py [--out benchmarks/results/load_memory.json]

A checkpoint of random float32 weights is written for each kind of model, and loaded in a process of
its own. Counted is anonymous memory, read every millisecond, above what the process had before; the
file's pages that the system maps are not counted, as it takes them back when it needs them. On a
GPU, host memory is what this shows as well; device memory is not looked at.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from results_file import write_results

#: Sizes of each kind: some 240 MB as float32, in as many blocks as the smallest published one.
SIZES: dict[str, dict[str, Any]] = {
    "molmo": {
        "hidden_size": 448,
        "intermediate_size": 4096,
        "num_hidden_layers": 16,
        "num_attention_heads": 7,
        "num_key_value_heads": 7,
        "vocab_size": 8000,
    },
    "molmoe": {
        "hidden_size": 256,
        "intermediate_size": 256,
        "num_hidden_layers": 16,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": 8000,
        "moe_num_experts": 32,
        "moe_top_k": 4,
    },
}
VISION = {"image_emb_dim": 256, "image_num_heads": 4, "image_head_dim": 64, "image_mlp_dim": 512}


def write_checkpoint(kind: str, folder: Path) -> None:
    """A checkpoint in the published layout, with molmo_tiny's tokenizer."""
    import shutil

    import torch

    from vtexp.models.checkpoints import ASSETS
    from vtexp.models.molmo.configuration import MolmoConfig
    from vtexp.models.molmo.modeling import MolmoForCausalLM
    from vtexp.models.molmo.molmoe import MolmoEForCausalLM

    torch.manual_seed(0)
    config = MolmoConfig(**SIZES[kind], vision_backbone=VISION)
    model_class = MolmoEForCausalLM if kind == "molmoe" else MolmoForCausalLM
    model_class(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ASSETS / "molmo_tiny" / name, folder)


def anonymous_bytes() -> int:
    """Anonymous memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return 1024 * int(line.split()[1])
    raise OSError("/proc/self/status has no RssAnon")


def load(folder: Path, dtype: str) -> dict[str, float]:
    """Load in this process: bytes of the weights, and most bytes taken meanwhile."""
    from vtexp.models.checkpoints import find_checkpoint
    from vtexp.models.loading import load_model
    from vtexp.models.molmo.runner import MolmoRunner

    checkpoint = find_checkpoint(str(folder))
    model_class = MolmoRunner.model_class(checkpoint.config)
    before, most, done = anonymous_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, anonymous_bytes())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    model = load_model(checkpoint, model_class, "cpu", dtype)
    done.set()
    watcher.join()
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return {"weights_mb": weights / 1e6, "peak_mb": (max(most, anonymous_bytes()) - before) / 1e6}


def measure(kind: str, dtype: str, folder: Path) -> dict[str, Any]:
    """One row: a fresh process loads the checkpoint of a folder."""
    command = [sys.executable, __file__, "--load", str(folder), "--dtype", dtype]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    row = {"kind": kind, "file": "float32", "dtype": dtype} | found
    return row | {"peak_over_weights": row["peak_mb"] / row["weights_mb"]}


def main() -> None:
    """Measure each kind, print a line each, and write all as JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--load", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--dtype", default="bfloat16", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.load:
        print(json.dumps(load(args.load, args.dtype)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for kind in SIZES:
            folder = Path(temporary) / kind
            write_checkpoint(kind, folder)
            for dtype in ("float32", "bfloat16"):
                row = measure(kind, dtype, folder)
                rows.append(row)
                print(
                    f"{kind:7} as {dtype:8}: weights {row['weights_mb']:6.1f} MB, "
                    f"peak {row['peak_mb']:6.1f} MB, {row['peak_over_weights']:.2f} times",
                    flush=True,
                )
    write_results(args.out, {"rows": rows})


if __name__ == "__main__":
    main()
