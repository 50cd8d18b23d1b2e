"""What a sweep costs beyond its runs' own work: 8 knob values in 8 jobs and in 2 jobs of 4.

    python benchmarks/sweep_overhead.py [--samples 12] [--repeats 3]
        [--out benchmarks/results/sweep_overhead.json]

Each job is the process that a local worker or SLURM starts. Its wall clock is parted into what the
runs themselves took (`duration_s` of their results), the start of a process up to the loaded model
(measured by processes that do only that, in turn with the jobs), and the rest: the framework's
overhead, given per run. Medians over the repeats, with the least and the most.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from results_file import write_results
from rich.box import SIMPLE_HEAD
from rich.table import Table

from vtexp.config.compose import compose_config
from vtexp.runs.frozen import freeze
from vtexp.runs.plan import make_plan
from vtexp.utils import files
from vtexp.utils.console import console

VALUES = [1, 2, 3, 4, 6, 8, 9, 12]
LOAD_ONLY = """
import sys
from pathlib import Path
from vtexp.runs.frozen import thaw
from vtexp.runs.plan import make_plan
from vtexp.utils.console import console
from vtexp.runs.job import load_runner
load_runner(make_plan(thaw([Path(f) for f in sys.argv[1:]])))
"""


def wall_s(*command: str) -> float:
    """Seconds that a command takes; its output is not shown. Raises CalledProcessError."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    return time.perf_counter() - began


def measure(folder: Path, samples: int, per_job: int) -> dict[str, float]:
    """Seconds of one sweep with so many values per job, in parts."""
    values = ",".join(map(str, VALUES))
    plan = make_plan(
        compose_config(
            [
                f"sweep.folder={folder}",
                "sweep.name=sweep",
                "knob=max_crops",
                f"knob.max_crops=[{values}]",
                f"dataset.limit={samples}",
                "measure.latency_samples=4",
                "measure.latency_repeats=1",
                "tracking=none",
            ]
        )
    )
    freeze(plan)
    names = [run.folder.name for run in plan.runs]
    jobs = [names[start : start + per_job] for start in range(0, len(names), per_job)]
    sweep = str(folder / "sweep")
    load_s = sum(wall_s("-c", LOAD_ONLY, *(f"{sweep}/{name}" for name in job)) for job in jobs)
    total_s = sum(wall_s("-m", "vtexp.jobs.worker", sweep, *job) for job in jobs)
    own_s = sum(files.read_json(run.folder / files.RESULT)["duration_s"] for run in plan.runs)
    overhead_s = (total_s - own_s - load_s) / len(names)
    return {"total_s": total_s, "runs_s": own_s, "load_s": load_s, "overhead_per_run_s": overhead_s}


def main() -> None:
    """Measure both ways in turn, show a table, and write all as JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found: dict[int, list[dict[str, float]]] = {1: [], 4: []}
    for _ in range(args.repeats):
        for per_job, rows in found.items():
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measure(Path(folder), args.samples, per_job))
    table = Table(box=SIMPLE_HEAD, title=f"{len(VALUES)} knob values, seconds")
    for name in ("values per job", "jobs", "in all", "runs", "start and load", "overhead per run"):
        table.add_column(name, justify="right")
    for per_job, rows in found.items():
        parts = []
        for key in ("total_s", "runs_s", "load_s", "overhead_per_run_s"):
            values = [row[key] for row in rows]
            parts.append(f"{median(values):.2f} ({min(values):.2f}-{max(values):.2f})")
        table.add_row(str(per_job), str(len(VALUES) // per_job), *parts)
    console.print(table)
    about = {"knob": {"max_crops": VALUES}, "samples": args.samples}
    write_results(args.out, about | {"by_values_per_job": found})


if __name__ == "__main__":
    main()
