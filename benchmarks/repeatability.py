"""The same measurement several times in a row, each in processes of its own: do they agree?

    python benchmarks/repeatability.py [--repeats 10] [--out FILE.json] [OVERRIDE ...]

molmo_tiny at 1, 4 and 12 crops, by the protocol as configured; OVERRIDES go to launch.py. Printed
per repeat: the median prefill with its 95 % interval, and what disturbed it; at the end the largest
difference of the medians, how many neighbouring repeats have intervals that overlap, and whether
the knob values came in the same order each time. With `measure.repeats` above 1 each is the mean of
the processes' medians with its t interval, and n their number.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from results_file import write_results

from vtexp.runs.records import read_result
from vtexp.utils import files
from vtexp.utils.text import percent

ROOT = Path(__file__).parents[1]
CROPS = (1, 4, 12)


def measure(folder: Path, number: int, overrides: list[str]) -> dict[int, dict[str, Any]]:
    """One sweep in a process of its own: what was found, by crops."""
    command = [
        *(sys.executable, str(ROOT / "launch.py"), "knob=max_crops"),
        f"knob.max_crops={','.join(map(str, CROPS))}",
        *("dataset.limit=16", "tracking=none", f"sweep.folder={folder}", f"sweep.name={number}"),
        *overrides,
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found = {}
    for path in (folder / str(number)).glob(f"*/{files.RESULT}"):
        result = read_result(path.parent)
        prefill, several = result.latency["prefill_ms"], result.prefill_ms_between_processes
        interval = prefill if several is None else several
        found[int(result.knob_value)] = {
            "median_ms": prefill.median if several is None else several.mean,
            "interval_ms": [interval.low, interval.high],
            "n": interval.n,
            "timing_warnings": list(result.timing_warnings),
        }
    return {crops: found[crops] for crops in CROPS}


def judge(repeats: list[dict[int, dict[str, Any]]]) -> dict[str, Any]:
    """Do neighbouring repeats agree, and is the order of the knob values always the same?"""
    pairs = list(itertools.pairwise(repeats))

    def overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
        (low, high), (other_low, other_high) = one["interval_ms"], other["interval_ms"]
        return low <= other_high and other_low <= high

    spread = {}
    for crops in CROPS:
        medians = [repeat[crops]["median_ms"] for repeat in repeats]
        spread[crops] = max(medians) / min(medians) - 1
    orders = [sorted(CROPS, key=lambda crops: repeat[crops]["median_ms"]) for repeat in repeats]
    return {
        "largest_difference": spread,
        "overlapping": {c: sum(overlap(a[c], b[c]) for a, b in pairs) for c in CROPS},
        "pairs": len(pairs),
        "same_order": orders.count(orders[0]),
    }


def main() -> None:
    """Measure, print a line per repeat, judge, and write all as JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path)
    parser.add_argument("overrides", nargs="*", help="further overrides of launch.py")
    args = parser.parse_args()
    repeats = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.repeats):
            found = measure(Path(folder), number, args.overrides)
            repeats.append(found)
            parts = [
                f"{crops} crops {row['median_ms']:.1f} ms "
                f"({row['interval_ms'][0]:.1f}-{row['interval_ms'][1]:.1f}, n={row['n']})"
                for crops, row in found.items()
            ]
            why = sorted({reason for row in found.values() for reason in row["timing_warnings"]})
            print(f"{number}: {', '.join(parts)}{'; doubtful: ' + '; '.join(why) if why else ''}")
    judged = judge(repeats)
    for crops in CROPS:
        print(
            f"{crops} crops: medians differ by "
            f"{percent(judged['largest_difference'][crops], 1)} at most; "
            f"{judged['overlapping'][crops]} of {judged['pairs']} neighbours overlap"
        )
    print(f"the same order in {judged['same_order']} of {len(repeats)}")
    write_results(args.out, {"repeats": repeats, **judged})


if __name__ == "__main__":
    main()
