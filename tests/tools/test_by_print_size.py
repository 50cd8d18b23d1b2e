"""The benchmark of accuracy by print size: tables of a sweep, or one line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.facts import says
from tests.helpers.made_sweeps import make_run

#: One question in each group of print.
SIZES_PX = (10, 13, 16, 20, 25, 30)


@pytest.fixture
def by_print_size(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import by_print_size

    return by_print_size


def run(benchmark: Any, sweep: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the benchmark's files."""
    monkeypatch.setattr(sys, "argv", ["by_print_size.py", str(sweep), "--out", str(sweep / "out")])
    benchmark.main()
    return sweep / "out"


def test_accuracy_by_print_size(
    by_print_size: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attributes = {"print_px": [*SIZES_PX, 30]}
    make_run(tmp_path, "336x336", 288, [0.0] * 6 + [1.0], attributes=attributes)
    make_run(tmp_path, "560x560", 544, [1.0] * 7, attributes=attributes)
    folder = run(by_print_size, tmp_path, monkeypatch)
    assert "| 27-32 | 2 | 50.0 | 100.0 |" in (folder / "table.md").read_text()
    assert (folder / "print_size.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("sizes", "scores", "facts"),
    [
        (SIZES_PX[1:5], [1.0] * 4, ("4 questions", "10-11, 27-32 px", "dataset.limit")),
        (None, [1.0] * 4, ("dataset=d", "small_print")),
        (SIZES_PX, [None] * 6, ("random weights",)),
        (None, None, ("no finished run",)),
    ],
)
def test_what_it_cannot_show_is_one_line(
    sizes: list[int] | None,
    scores: list[float | None] | None,
    facts: tuple[str, ...],
    by_print_size: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sweep = tmp_path / "sweep"
    if scores:
        attributes = {} if sizes is None else {"print_px": sizes}
        make_run(sweep, "336x336", 288, scores, attributes=attributes)
    with pytest.raises(SystemExit) as caught:
        run(by_print_size, sweep, monkeypatch)
    line = str(caught.value)
    assert says(line, str(sweep), *facts) and "\n" not in line
    assert not (sweep / "out").exists()
