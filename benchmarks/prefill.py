"""Prefill of the native Molmo v1 beside the public reference code: same weights, same inputs.

    git clone https://github.com/allenai/molmo /somewhere/molmo
    python benchmarks/prefill.py --reference /somewhere/molmo [--size 100m|7b_d] [--compile]
        [--graphs] [--device cuda] [--dtype bfloat16] [--crops 1 4 9 12] [--repeats 20]
        [--warm-up 2] [--peak-tflops 989] [--out FILE.json]

One prefill is encoder, connector and language model at batch 1, up to the logits of the last
token, with the KV cache kept. The two take turns, in random order. The reference gets what its own
pipeline gives it: crops padded to `max_crops` (12) and one. With --graphs the native model is
replayed from CUDA graphs, as runs do on a GPU; its inputs are copied in each time. Printed per
number of crops: medians, and the median of the ratios of neighbouring runs with its 95 % bootstrap
interval. Without --reference the native model alone is timed. MFU needs --peak-tflops of the
device and dtype; its FLOPs are counted by torch's FlopCounterMode, causal attention as if it were
whole (2 % of the total for 7B-D at 12 crops). In 16 bits the reference runs under autocast, as its
model card says: without, it fails.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reference import make_importable
from results_file import write_results
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vtexp.budget.geometry import MOLMO, crops_to_tiling
from vtexp.models.molmo.configuration import MolmoConfig
from vtexp.models.molmo.modeling import ImagePlaces, MolmoForCausalLM, image_places
from vtexp.models.molmo.preprocess import ImageTokenIds, image_token_sequence
from vtexp.models.prefill_graphs import GraphStages, PrefillGraph, PromptCache, Tensors
from vtexp.utils.text import percent

MAX_CROPS = 12
TEXT_TOKENS = 30
SIZES: dict[str, dict[str, Any]] = {
    "100m": {
        "vocab_size": 16_000,
        "hidden_size": 640,
        "intermediate_size": 2 * 2048,
        "num_hidden_layers": 8,
        "num_attention_heads": 10,
        "num_key_value_heads": 2,
        "vision_backbone": {
            "image_emb_dim": 512,
            "image_num_heads": 8,
            "image_head_dim": 64,
            "image_num_layers": 12,
            "image_mlp_dim": 2048,
        },
    },
    "7b_d": {"intermediate_size": 37888},
}


def build_native(size: str, device: str, dtype: torch.dtype) -> MolmoForCausalLM:
    """The native model with random weights."""
    torch.manual_seed(0)
    with torch.device(device):
        model = MolmoForCausalLM._from_config(MolmoConfig(**SIZES[size]), dtype=dtype)
    model.model.vision_backbone.image_vit.fuse()  # as runs do
    return model.eval().requires_grad_(False)


def build_reference(folder: Path, native: MolmoForCausalLM, **changed: Any) -> torch.nn.Module:
    """The reference model with the native model's weights; `changed` are other settings of it."""
    make_importable(folder)
    from launch_scripts.utils import DEFAULT_VISION_BACKBONE, QWEN2_7B
    from olmo.model import Molmo

    config, first = native.config, next(native.parameters())
    vision = {
        k: v for k, v in config.vision_backbone.items() if hasattr(DEFAULT_VISION_BACKBONE, k)
    }
    vision |= {
        "image_num_key_value_heads": vision["image_num_heads"],
        "image_default_input_size": (336, 336),
        "image_model_type": DEFAULT_VISION_BACKBONE.image_model_type,
    }
    reference_config = replace(
        QWEN2_7B,
        vocab_size=config.vocab_size,
        embedding_size=config.embedding_size,
        d_model=config.hidden_size,
        n_heads=config.num_attention_heads,
        n_kv_heads=config.num_key_value_heads,
        n_layers=config.num_hidden_layers,
        mlp_hidden_size=config.intermediate_size,
        init_device="meta",
        vit_layers=config.connector["vit_layers"],
        vision_backbone=replace(DEFAULT_VISION_BACKBONE, **vision),
        **changed,
    )
    model = Molmo(reference_config, init_params=False).to(first.dtype).to_empty(device=first.device)
    weights = {name.removeprefix("model."): p for name, p in native.named_parameters()}
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)


def make_inputs(
    config: MolmoConfig, crops: int, device: str, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Random crops in a tiling near 4:3, their token sequence and some text; batch of one."""
    first = config.embedding_size
    tiling = crops_to_tiling(crops, 4 / 3)
    ids = ImageTokenIds(first, first + 1, first + 2, first + 3)
    tokens, index = image_token_sequence(tiling, MOLMO, ids)
    generator = torch.Generator().manual_seed(crops)
    text = torch.randint(0, config.vocab_size, (1 + TEXT_TOKENS,), generator=generator)
    images = torch.randn(1, crops + 1, 576, 588, generator=generator)
    masks = torch.cat([torch.ones(crops, 576), torch.full((1, 576), -1.0)])[None]
    return {
        "input_ids": torch.cat([text[:1], torch.from_numpy(tokens), text[1:]])[None].to(device),
        "images": images.to(device, dtype),
        "image_masks": masks.to(device, dtype),
        "image_input_idx": torch.from_numpy(np.where(index < 0, -100, index + 1))[None].to(device),
    }


def pad_crops(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same inputs as the reference's collator pads them: 1 + MAX_CROPS crops."""
    missing = 1 + MAX_CROPS - inputs["images"].shape[1]
    padded = dict(inputs)
    for name, value in (("images", -1), ("image_masks", -1), ("image_input_idx", -100)):
        sides = [0, 0] * (inputs[name].ndim - 2) + [0, missing]
        padded[name] = torch.nn.functional.pad(inputs[name], sides, value=value)
    return padded


@torch.inference_mode()
def run_native(model: MolmoForCausalLM, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits of the last token."""
    return model(**inputs, use_cache=True, logits_to_keep=1).logits[:, -1]


@torch.inference_mode()
def captured(model: MolmoForCausalLM, inputs: Tensors) -> Callable[[], torch.Tensor]:
    """The same as replays of CUDA graphs: a function that gives the logits of the last token."""
    index, ids = inputs["image_input_idx"].cpu(), inputs["input_ids"]
    places = ImagePlaces(*(part.to(ids.device) for part in image_places(index, ids.shape[1])))
    backbone = model.model.vision_backbone

    def read_prompt(own: Tensors, features: torch.Tensor) -> torch.Tensor:
        return model(
            input_ids=own["input_ids"],
            image_input_idx=places,
            image_features=features,
            past_key_values=PromptCache(),
            logits_to_keep=1,
        ).logits

    one = {name: inputs[name][0] for name in ("images", "image_masks")} | {"input_ids": ids}
    stages = GraphStages(
        one,
        lambda own: backbone.image_vit(own["images"]),
        lambda own, read: backbone.connect(read, own["image_masks"], places.kept),
        read_prompt,
    )
    graph = PrefillGraph(stages, torch.cuda.graph_pool_handle(), torch.cuda.Stream())

    @torch.inference_mode()
    def replay() -> torch.Tensor:
        graph.load(one)
        graph.encode()
        graph.connect()
        return graph.read_prompt()[:, -1]

    return replay


@torch.inference_mode()
def run_reference(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits of the last token."""
    images = inputs["images"]
    in_16_bits = images.dtype != torch.float32
    with torch.autocast(images.device.type, images.dtype, enabled=in_16_bits):
        return model(**inputs, use_cache=True, last_logits_only=True).logits[:, -1]


def seconds_of(call: Any, device: str) -> float:
    """Wall clock of one call, the device idle at both ends."""
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def product_tflops(device: str, dtype: torch.dtype, side: int = 4096) -> float:
    """TFLOP/s that one large product of matrices reaches here: no prefill does better."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    torch.mm(a, b)
    seconds = min(seconds_of(lambda: torch.mm(a, b), device) for _ in range(5))
    return 2 * side**3 / seconds / 1e12


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(values, (2000, len(values))), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return float(low), float(high)


def measure(
    native: MolmoForCausalLM,
    reference: torch.nn.Module | None,
    crops: int,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Times of one number of crops, in one row."""
    inputs = make_inputs(native.config, crops, args.device, getattr(torch, args.dtype))
    calls = {"native": lambda: run_native(native, inputs)}
    if args.graphs:
        calls["native"] = captured(native, inputs)
    row: dict[str, Any] = {"crops": crops, "prompt_tokens": inputs["input_ids"].shape[1]}
    if reference is not None:
        padded = pad_crops(inputs)
        calls["reference"] = lambda: run_reference(reference, padded)
        expected = run_reference(reference, padded).float()
        difference = (calls["native"]().float() - expected).abs().max()
        row["largest_logit_difference"] = difference.item()
        row["logit_std"] = expected.std().item()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(args.warm_up + args.repeats):
        for name in random.sample(list(calls), len(calls)):
            spent = seconds_of(calls[name], args.device)
            if number >= args.warm_up:
                seconds[name].append(spent)
    for name, values in seconds.items():
        row[f"{name}_ms"] = 1000 * float(np.median(values))
        row[f"{name}_ms_interval"] = [1000 * v for v in interval(np.array(values))]
    if reference is not None:
        ratios = np.array(seconds["reference"]) / np.array(seconds["native"])
        row["ratio"], row["ratio_interval"] = float(np.median(ratios)), interval(ratios)
    # Only plain attention is counted on every device; it counts the upper half of L x L too.
    plain = (sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"))
    with plain[0], plain[1], FlopCounterMode(display=False) as counter:
        run_native(native, inputs)
    row["tflop"] = counter.get_total_flops() / 1e12
    if args.peak_tflops:
        row["mfu"] = row["tflop"] / (row["native_ms"] / 1000) / args.peak_tflops
    return row


def main() -> None:
    """Measure each number of crops, print a line each, and write all as JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reference", type=Path, help="checkout of github.com/allenai/molmo")
    parser.add_argument("--size", choices=list(SIZES), default="100m")
    parser.add_argument("--crops", type=int, nargs="+", default=[1, 4, 9, 12])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="as hardware.compile=true does")
    parser.add_argument("--graphs", action="store_true", help="as hardware.cuda_graphs=true does")
    parser.add_argument("--peak-tflops", type=float)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if max(args.crops) > MAX_CROPS:
        parser.error(f"--crops: at most {MAX_CROPS}, to which the reference is padded")
    random.seed(0)

    native = build_native(args.size, args.device, getattr(torch, args.dtype))
    if args.compile:
        native.compile_blocks()
    parameters = sum(p.numel() for p in native.parameters())
    print(f"{args.size}: {parameters / 1e6:.1f} M parameters, {args.dtype} on {args.device}")
    attainable = product_tflops(args.device, getattr(torch, args.dtype))
    print(f"a product of two 4096x4096 matrices: {attainable:.3g} TFLOP/s")
    reference = build_reference(args.reference, native) if args.reference else None
    rows = []
    for crops in args.crops:
        row = measure(native, reference, crops, args)
        rows.append(row)
        line = f"{crops:3} crops, {row['prompt_tokens']:5} tokens, {row['tflop']:.3g} TFLOP: "
        line += f"{row['native_ms']:8.1f} ms"
        if reference is not None:
            low, high = row["ratio_interval"]
            line += f", reference {row['reference_ms']:8.1f} ms, ratio {row['ratio']:.2f}"
            line += (
                f" ({low:.2f}-{high:.2f}), logits differ by {row['largest_logit_difference']:.1g}"
            )
        if args.peak_tflops:
            line += f", MFU {percent(row['mfu'])}"
        print(line, flush=True)
    found = {"parameters": parameters, "product_tflops": attainable, "rows": rows}
    write_results(args.out, found, args.device)


if __name__ == "__main__":
    main()
