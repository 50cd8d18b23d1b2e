"""Do the report's intervals hold the truth, and how often is there a false alarm? By simulation.

    python benchmarks/coverage.py [--times 4000] [--out benchmarks/results/coverage.json]

Made-up answers whose true accuracies are known, of the kinds in tests/stats/test_statistics.py,
which does the same fewer times. Printed are shares of the simulations: wanted are 93 to 97 % for
the intervals, at least 93 % for the bounds of all budgets at once, at most 5 % for each alarm. A
share is known to about ±0.7 points with 4 000 simulations (95 %).
"""

from __future__ import annotations

import argparse
import sys
from multiprocessing import Pool
from pathlib import Path

from results_file import write_results
from rich.box import SIMPLE_HEAD
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.stats.test_statistics import SIMULATIONS, simulate_kind
from vtexp.utils.console import console

HEADS = {
    "covered": "intervals of\ndifferences",
    "bounds": "bounds of\nall budgets",
    "not_enough": "called enough,\nbut is not",
    "not_worse": "called worse,\nbut is not",
    "unequal": "called unequal,\nbut is not",
}


def main() -> None:
    """Simulate each kind, print a row each, and write all as JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=4000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    kinds = list(SIMULATIONS)
    with Pool() as pool:
        shares = pool.starmap(simulate_kind, [(kind, args.times) for kind in kinds], chunksize=1)
    table = Table(box=SIMPLE_HEAD, title=f"{args.times} simulations each, %", pad_edge=False)
    table.add_column("answers")
    for head in HEADS.values():
        table.add_column(head, justify="right")
    for kind, found in zip(kinds, shares, strict=True):
        table.add_row(kind, *(f"{100 * found[name]:.1f}" for name in HEADS))
    console.print(table)
    write_results(args.out, {"times": args.times, "shares": dict(zip(kinds, shares, strict=True))})


if __name__ == "__main__":
    main()
