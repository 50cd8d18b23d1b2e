"""Tilings, resized sizes and token counts against the reference implementations."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from vtexp.budget.geometry import (
    MOLMO2,
    Size,
    Tiling,
    image_tiling,
    theoretical_tokens,
    token_layout,
)
from vtexp.budget.placement import letterbox

pytestmark = pytest.mark.golden


def read(path: Path) -> dict:
    data = path.read_bytes()
    return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)


def test_select_tiling(golden_dir: Path) -> None:
    data = read(golden_dir / "tilings.json.gz")
    columns = (data[key] for key in ("h", "w", "max_crops", "rows", "cols"))
    wrong = [
        (h, w, cap, image_tiling(Size(h, w), cap), (rows, cols))
        for h, w, cap, rows, cols in zip(*columns, strict=True)
        if image_tiling(Size(h, w), cap) != (rows, cols)
    ]
    assert wrong == []


def test_letterbox(golden_dir: Path) -> None:
    rows = read(golden_dir / "resize_dims.json.gz")["rows"]
    assert rows
    for height, width, target_height, target_width, *expected in rows:
        scaled_height, scaled_width, top, left = expected[:4]
        placement = letterbox(Size(height, width), Size(target_height, target_width))
        assert placement.scaled == (scaled_height, scaled_width)
        if 0 not in placement.scaled:  # such an image cannot be resized: pads mean nothing
            assert (placement.top_pad, placement.left_pad) == (top, left)


def test_token_counts_of_tilings(golden_dir: Path) -> None:
    table = read(golden_dir / "counts.json")["table"]
    assert table
    for row in table:
        tiling = Tiling(row["rows"], row["cols"])
        layout = token_layout(tiling)
        assert layout.vision_tokens == row["valid_idx"]
        assert layout.column_tokens == row["n_col_tokens"]
        assert layout.sequence_length == row["sequence_tokens"]
        assert theoretical_tokens(tiling.num_crops) == row["pooled_slots"]
        assert tiling.num_crops + 1 == row["n_crops_with_global"]


def test_token_counts_of_padded_images(golden_dir: Path) -> None:
    cases = read(golden_dir / "counts_padding.json")["cases"]
    assert cases
    for case in cases:
        tiling = image_tiling(Size(case["height"], case["width"]), case["max_crops"])
        assert list(tiling) == case["tiling"]
        assert token_layout(tiling).vision_tokens == case["valid_idx"]
        assert token_layout(tiling).sequence_length == case["sequence_tokens"]


def test_molmo2_layout(golden_dir: Path) -> None:
    """Grids and pooled tokens of transformers' Molmo2 processor; the grid fixes the tiling."""
    cases = read(golden_dir / "molmo2_processor_index.json")["cases"]
    assert cases
    for case in cases:
        side, _, grid_rows, grid_cols = case["image_grids"]
        crops = case["image_num_crops"] - 1
        layouts = [
            token_layout(Tiling(rows, crops // rows), MOLMO2)
            for rows in range(1, crops + 1)
            if crops % rows == 0
        ]
        matching = [
            x for x in layouts
            if (x.global_side, x.grid_rows, x.grid_cols) == (side, grid_rows, grid_cols)
        ]  # fmt: skip
        assert len(matching) == 1
        assert matching[0].vision_tokens == case["n_pooled"]
