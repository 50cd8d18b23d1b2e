"""Do intervals hold the truth, and is a budget called enough that is not? By simulation.

    python benchmarks/coverage.py [--times 2000] [--parts means enough]
                                  [--out benchmarks/results/coverage.json]

With --parts the other parts of the file stay as they were; `simulated` says of each when it was.

Made-up scores and times whose truth is known go through the functions of vtexp/stats. Wanted:
every interval holds the truth in 93 to 97.5 %, and no alarm is false in more than 5 %. `error` of a
row is the standard error of its share by the number of simulations. No bound may fall below that
of one unseen full-size change; where such a change is far larger than all that are seen, the bound
holds the truth more often than 97.5 %: no interval could do both. One core, some minutes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import simulated_scores as scores
import simulated_times as times
from results_file import write_results
from rich.box import SIMPLE_HEAD
from rich.table import Table
from simulated_scores import Row

from vtexp.utils import files
from vtexp.utils.console import console

#: What is simulated, by name: a function of how often.
PARTS: dict[str, Callable[[int], Iterator[Row]]] = {
    "means": scores.means,
    "losses": scores.losses,
    "enough": scores.enough,
    "power": scores.power,
    "margins": scores.margins,
    "speed_ups": times.speed_ups,
    "processes": times.processes,
    "by_processes": times.by_processes,
    "limits": times.limits,
    "warm_up": times.warm_up,
    "cost_terms": times.cost_terms,
    "predictions": times.predictions,
    "floor": scores.floor,
}


def shown(part: str, rows: list[Row], seconds: float) -> Table:
    """A part's rows; a share with its error."""
    table = Table(box=SIMPLE_HEAD, title=f"{part} ({seconds:.0f} s)", pad_edge=False)
    heads = list(dict.fromkeys(name for row in rows for name in row))
    for head in heads:
        table.add_column(head)
    for row in rows:
        cells = (row.get(head, "") for head in heads)
        told = (
            f"{cell['share']} ±{cell['error']}" if isinstance(cell, dict) else str(cell)
            for cell in cells
        )
        table.add_row(*told)
    return table


def main() -> None:
    """Simulate each part, print its rows, and write all as JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=2000)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found, simulated = _kept(args.out, args.parts)
    for part in args.parts:
        began = time.monotonic()
        found[part] = list(PARTS[part](args.times))
        simulated[part] = f"{args.times} times on {datetime.now(UTC):%Y-%m-%d}"
        console.print(shown(part, found[part], time.monotonic() - began))
    parts = {part: found[part] for part in PARTS if part in found}
    write_results(args.out, {"simulated": simulated, "parts": parts})


def _kept(path: Path | None, parts: list[str]) -> tuple[dict[str, list[Row]], dict[str, str]]:
    """What a file has of other parts, and when it was simulated."""
    if path is None or not path.is_file():
        return {}, {}
    old = files.read_json(path)
    kept = {part: rows for part, rows in old["parts"].items() if part not in parts}
    return kept, {part: old["simulated"][part] for part in kept}


if __name__ == "__main__":
    main()
