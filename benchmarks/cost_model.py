"""How well a cost model predicts settings that it was not fitted to: molmo_tiny on this machine.

    python benchmarks/cost_model.py [--out benchmarks/results/cost_model.json] [OVERRIDE ...]

Times 1 to 12 crops per image with launch.py (random weights: latency alone) and predicts three
kinds of settings from others: each one from all others, every second one from those between, and
the largest third from the rest. OVERRIDES go to launch.py.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

from results_file import write_results

from vtexp.cost.latency_fit import TimedRun, fit_runs, mean_prefill_ms, timed_run
from vtexp.utils.text import percent

LAUNCH = Path(__file__).parents[1] / "launch.py"
CROPS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)
#: Each setting's error must be below this.
WANTED = 0.1


def main() -> None:
    """Time, fit, predict and print; write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = _timed(Path(folder), args.overrides)
    found = {
        "each from all others": _errors([([r for r in runs if r is not o], [o]) for o in runs]),
        "every second from those between": _errors([(runs[::2], runs[1::2])]),
        "the largest third from the rest": _errors([(runs[:-4], runs[-4:])]),
    }
    for name, predicted in found.items():
        sizes = [abs(row["error"]) for row in predicted]
        met = "met" if max(sizes) < WANTED else "not met"
        print(
            f"{name}: mean {percent(fmean(sizes), 1)}, worst {percent(max(sizes), 1)} "
            f"(under {percent(WANTED)}: {met})"
        )
        for row in predicted:
            times = "{setting}: {measured_ms:.1f} ms, {predicted_ms:.1f}".format(**row)
            print(f"  {times} ({percent(row['error'], 1)})")
    disturbed = {run.label: run.disturbed for run in runs if run.disturbed}
    write_results(args.out, {"disturbed": disturbed, "predicted": found})


def _timed(folder: Path, overrides: list[str]) -> list[TimedRun]:
    """Timed runs in the order of their crops."""
    targets = ",".join(str(144 * (crops + 1)) for crops in CROPS)
    command = [sys.executable, str(LAUNCH), "model.weights=random", "tracking=none"]
    command += ["knob=vision_tokens", f"knob.targets={targets}", "dataset.limit=16"]
    command += [f"sweep.folder={folder}", "sweep.name=sweep", *overrides]
    subprocess.run(command, check=True)
    folders = sorted(path.parent for path in folder.glob("sweep/*/result.json"))
    runs = [run for path in folders if (run := timed_run(path)) is not None]
    if len(runs) != len(CROPS):
        sys.exit(f"only {len(runs)} of {len(CROPS)} settings were timed")
    return sorted(runs, key=lambda run: run.points[0].num_crops)


def _errors(cases: list[tuple[list[TimedRun], list[TimedRun]]]) -> list[dict[str, Any]]:
    """Of each case (fitted to, predicted): measured and predicted milliseconds, relative error."""
    rows = []
    for fitted, predicted in cases:
        coefficients = fit_runs(fitted)
        for run in predicted:
            expected = mean_prefill_ms(coefficients, run)
            rows.append(
                {
                    "setting": f"{run.points[0].num_crops} crops",
                    "measured_ms": run.prefill_ms,
                    "predicted_ms": expected,
                    "error": expected / run.prefill_ms - 1,
                }
            )
    return rows


if __name__ == "__main__":
    main()
