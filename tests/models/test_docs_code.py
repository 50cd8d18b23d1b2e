"""The code of docs/models.md works as it stands there."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from vtexp.budget.knobs import CropSetting
from vtexp.models import families, internvl
from vtexp.models.families import FAMILIES

DOCS = Path(__file__).parents[2] / "docs"
BLOCKS = re.findall(r"```python\n(.*?)```", (DOCS / "models.md").read_text(), re.DOTALL)


def test_no_code_of_the_docs_is_left_out() -> None:
    pages = {page.name for page in DOCS.glob("*.md") if "```python" in page.read_text()}
    assert pages == {"models.md"} and len(BLOCKS) == 2


def test_the_runner_of_the_docs_reads_an_image() -> None:
    space = dict(vars(internvl))
    exec(BLOCKS[0], space)
    geometry = FAMILIES["internvl"].geometry
    tokenizer = SimpleNamespace(image_ids=(7,))
    runner = SimpleNamespace(geometry=geometry, tokenizer=tokenizer)
    pixels = torch.from_numpy(np.zeros((500, 900, 3), dtype=np.uint8))
    read = space["InternVLRunner"].read_image(runner, pixels, CropSetting(max_crops=4))
    crops = len(read.tensors["pixel_values"])
    assert crops > 1 and read.image_tokens.tolist() == [7] * crops * geometry.tokens_per_crop
    assert read.layout == crops


def test_the_entry_of_the_docs_is_the_one_that_is_used() -> None:
    entry = eval("{" + BLOCKS[1] + "}", dict(vars(families)))["internvl"]
    used = FAMILIES["internvl"]
    assert entry.fixed.items() <= used.fixed.items()
    assert replace(used, fixed=entry.fixed) == entry
