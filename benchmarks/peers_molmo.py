"""The native Molmo v1 beside the public reference code, on inputs made at random.

    python benchmarks/peers_molmo.py --reference CHECKOUT --out FILE [--share 1.0] [--seed 0]

CHECKOUT is a clone of github.com/allenai/molmo; what it imports must be installed (einops), and any
build of torchvision. Compared are tilings, resized sizes, preprocessed images, prompts, and logits
of small random models, both kinds of dense block. Any difference ends the script with exit code 1.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reference import make_importable, make_torchvision_importable
from results_file import write_results

from vtexp.budget.geometry import MOLMO, Size, Tiling, image_tiling, tiling_to_resolution
from vtexp.budget.knobs import CropSetting
from vtexp.budget.placement import letterbox
from vtexp.data.sample import NO_LETTERS, ImageFile, Sample
from vtexp.errors import DataError
from vtexp.models.molmo.preprocess import ImageTokenIds, preprocess_image
from vtexp.prompts import wording
from vtexp.prompts.form import build_prompt

#: Ids of image tokens, in the order start, end, patch, column.
IDS = (152064, 152065, 152066, 152067)
NAMES = ("<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<|image|>")
#: Most that logits may differ, of their spread: rounding of float32, which some weights enlarge.
OF_LOGITS = 1e-4
#: Most that pixels may differ where torch resizes another memory layout in another order.
OF_PIXELS = 1e-6
STYLES = ("vqa2", "text_vqa", "doc_qa", "science_qa", "point_count", "user_qa", "android_control")
CHARACTERS = [*"aB3 .,?!:'\"{}[]<>|%\n\t", "é", "北", "{label}", "<im_patch>", "Assistant:"]
ANY = Sample("0", "0", ImageFile(Path("none")), "", ("x",), "any")

#: A case in words, and whether both are equal in it.
Case = tuple[str, bool]


def side(rng: random.Random) -> int:
    """A side in px: small, near a border between tilings, or any."""
    border = MOLMO.margin_px + MOLMO.window_px * rng.randint(0, 12) + rng.randint(-2, 2)
    return rng.choice((rng.randint(1, 130), border, rng.randint(1, 2500), rng.randint(1, 20_000)))


def sizes(rng: random.Random) -> Iterator[Case]:
    """Tilings and resized sizes."""
    from olmo.data import model_preprocessor as peer

    while True:
        size, cap = Size(side(rng), side(rng)), rng.randint(1, 40)
        inner = [length - MOLMO.margin_px for length in size]
        expected = peer.select_tiling(*inner, MOLMO.window_px, cap).tolist()
        yield f"tiling of {size}, {cap} crops", list(image_tiling(size, cap)) == expected
        target = tiling_to_resolution(Tiling(rng.randint(1, 9), rng.randint(1, 9)))
        scale = min(np.float32(t) / np.float32(s) for t, s in zip(target, size, strict=True))
        scaled = tuple(int(np.float32(length) * scale) for length in size)
        yield f"{size} in {target}", tuple(letterbox(size, target).scaled) == scaled


def images(rng: random.Random) -> Iterator[Case]:
    """Patches, padding masks, image tokens and their places."""
    from olmo.data.model_preprocessor import MultiModalPreprocessor

    options: dict[str, Any] = {"crop_mode": "overlap-and-resize-c2", "image_padding_mask": True}
    while True:
        size, cap = Size(rng.randint(1, 1300), rng.randint(1, 1300)), rng.randint(1, 12)
        if letterbox(size, Size(MOLMO.crop_px, MOLMO.crop_px)).scaled.width == 1:
            continue  # to a width of 1 px torch 2.13 resizes the reference's memory layout wrongly
        pixels = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (*size, 3), np.uint8)
        peer = MultiModalPreprocessor(None, max_crops=cap, **options)
        try:
            own = preprocess_image(pixels, CropSetting(cap), MOLMO, ImageTokenIds(*IDS))
        except DataError:  # too flat: there, torch refuses it
            continue
        patches, tokens, places, mask = peer.preprocess(pixels, is_training=False)
        same = np.abs(own.patches.numpy() - patches).max() <= OF_PIXELS
        others = ((own.image_tokens, tokens), (own.image_input_idx, places))
        same &= all(np.array_equal(found, expected) for found, expected in others)
        yield f"{size}, {cap} crops", bool(same and np.array_equal(own.padding_mask, mask))


def words(rng: random.Random) -> str:
    """A text of odd characters, not blank."""
    return "q" + "".join(rng.choices(CHARACTERS, k=rng.randint(0, 12)))


def prompts(rng: random.Random) -> Iterator[Case]:
    """Texts after the image, of questions with and without options, and of labels."""
    from olmo.data.data_formatter import DataFormatter

    formatter = DataFormatter("uber_model", "role", "demo_or_style", always_start_with_space=True)
    wording.EVALUATION_SEED = 0
    while True:
        seed, question, style = rng.randint(0, 9999), words(rng), rng.choice(STYLES)
        sample = replace(ANY, sample_id=f"test-{seed}", question=question)
        options = [words(rng) for _ in range(rng.randint(2, 7))]
        asked: dict[str, Any] = {"question": question}
        kind = rng.choice(("question", "options", "no letters", "label"))
        if kind == "label":
            style, asked = rng.choice(("point_count", "pointing")), {"label": question}
            sample = replace(sample, question="", attributes=asked)
        elif kind != "question":
            style = NO_LETTERS if kind == "no letters" else "a_okvqa_mc"
            asked["unlabelled_options" if style == NO_LETTERS else "options"] = options
            sample = replace(sample, options=tuple(options), style=style)
        draws = np.random.RandomState(seed)
        (expected,), _ = formatter(asked | {"style": style}, False, True, draws)
        found = build_prompt(wording.MOLMO_WORDING.message(sample, style), style="")
        yield f"{style}: {question!r}", found == expected


def small_config(rng: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    """A dense model of a random size: its sizes, and its settings in the way of 7B-D or of 7B-O."""
    heads, after = rng.choice((2, 4)), rng.random() < 0.5
    vision = {"image_emb_dim": 24, "image_num_heads": 2, "image_head_dim": 12, "image_mlp_dim": 40}
    found_sizes = {
        "vocab_size": 256,
        "hidden_size": heads * rng.choice((8, 16)) * 2,
        "intermediate_size": 2 * rng.randint(20, 80),
        "num_hidden_layers": rng.randint(1, 3),
        "num_attention_heads": heads * 2,
        "num_key_value_heads": heads * 2 if after else heads,
        "vision_backbone": vision | {"image_num_layers": rng.randint(9, 12)},
    }
    settings = {
        "qkv_bias": not after,
        "attention_layer_norm": after,
        "norm_after": after,
        "rope_theta": rng.choice((1e4, 5e5, 1e6)),
        "layer_norm_eps": rng.choice((1e-6, 1e-5)),
    }
    return found_sizes, settings


def models(rng: random.Random) -> Iterator[Case]:
    """Logits of all positions of a prompt with an image."""
    # transformers looks for torchvision, which must have been made importable.
    from prefill import build_reference, make_inputs

    from vtexp.models.molmo.configuration import MolmoConfig
    from vtexp.models.molmo.modeling import MolmoForCausalLM

    torch.set_grad_enabled(False)
    while True:
        torch.manual_seed(rng.randrange(2**32))
        own_sizes, settings = small_config(rng)
        native = MolmoForCausalLM(MolmoConfig(**own_sizes, **settings)).eval()
        for name, parameter in native.named_parameters():
            spread = 1.0 if "emb" in name or parameter.ndim == 1 else parameter.shape[-1] ** -0.5
            parameter.normal_(mean=float("norm" in name), std=spread * 0.5)
        peer = build_reference(CHECKOUT[0], native, **settings)
        inputs = make_inputs(native.config, rng.randint(1, 4), "cpu", torch.float32)
        expected = peer(**{name: tensor.clone() for name, tensor in inputs.items()}).logits
        off = (native(**inputs).logits - expected).abs().max() / np.ptp(expected.numpy())
        yield f"{own_sizes} {settings}: off by {off:.1e}", bool(off <= OF_LOGITS)


#: The checkout that the command names.
CHECKOUT: list[Path] = []
#: Kinds of cases, and how many of each.
KINDS = {sizes: 100_000, images: 500, prompts: 20_000, models: 60}


def prepare(checkout: Path) -> None:
    """Make the reference importable, with this script's image tokens."""
    make_torchvision_importable()
    make_importable(checkout)
    from olmo.data import model_preprocessor

    ids = dict(zip(NAMES, (*IDS, IDS[-1] + 1), strict=True))
    model_preprocessor.get_special_token_ids = lambda _: ids
    CHECKOUT.append(checkout)


def main() -> int:
    """Compare all kinds of cases; 1 where any differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--reference", type=Path, required=True, help="clone of allenai/molmo")
    parser.add_argument("--share", type=float, default=1.0, help="of the cases of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file of what was found")
    arguments = parser.parse_args()
    prepare(arguments.reference)
    torch.set_num_threads(1)
    found = {}
    for kind, count in KINDS.items():
        made, wanted = kind(random.Random(arguments.seed)), max(1, round(count * arguments.share))
        cases = [next(made) for _ in range(wanted)]
        different = [case for case, same in cases if not same]
        found[kind.__name__] = {"cases": wanted, "different": different}
        print(f"{kind.__name__}: {len(different)} of {wanted} cases differ", *different[:3])
    write_results(arguments.out, {"seed": arguments.seed, "found": found})
    return int(any(part["different"] for part in found.values()))


if __name__ == "__main__":
    raise SystemExit(main())
