"""A picture of small_print: the first test page of each kind, with its first question above.

python benchmarks/sample_pages.py docs/images/small_print_pages.png
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vtexp.data.builtin.small_print import SEEDS
from vtexp.data.builtin.small_print_pages import KINDS, Page, draw_page
from vtexp.utils import files


def first_pages() -> dict[str, Page]:
    """The first page of each kind in the test split."""
    found: dict[str, Page] = {}
    number = 0
    while len(found) < len(KINDS):
        page = draw_page(np.random.default_rng((SEEDS["test"], number)))
        found.setdefault(page.kind, page)
        number += 1
    return {kind: found[kind] for kind in KINDS}


def main() -> None:
    """Draw the pages side by side at one scale."""
    figure = Figure(figsize=(12, 4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    pages = first_pages()
    widths = [page.image.width for page in pages.values()]
    axes = figure.subplots(1, len(pages), width_ratios=widths)
    tallest = max(page.image.height for page in pages.values())
    for axis, (kind, page) in zip(axes, pages.items(), strict=True):
        axis.imshow(np.asarray(page.image))
        axis.set_ylim(tallest, 0)
        axis.set_axis_off()
        asked = page.fields[0]
        size = f"{page.image.height}x{page.image.width}"
        text = f"{kind}, {size}\n{asked.question}\n{asked.answer} ({asked.print_px} px)"
        axis.set_title(text, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    files.write_bytes(Path(sys.argv[1]), buffer.getvalue())


if __name__ == "__main__":
    main()
