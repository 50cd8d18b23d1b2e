"""docs/api.ipynb runs, and shows what it showed when it was committed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.notebook import code_cells, run_cells

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_notebook_shows_what_it_was_committed_with(tmp_path: Path) -> None:
    notebook = json.loads((ROOT / "docs" / "api.ipynb").read_text())
    cells = code_cells(notebook)
    kept = ["".join(output["text"]) for cell in cells for output in cell["outputs"]]
    assert len(kept) == len(cells)
    for cell, before, now in zip(cells, kept, run_cells(notebook, tmp_path), strict=True):
        assert now
        if "varies" not in cell["metadata"].get("tags", []):
            assert now == before
