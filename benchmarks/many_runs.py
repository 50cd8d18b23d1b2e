"""Memory and time of a sweep of 500 runs with as little work in each as there can be.

    python benchmarks/many_runs.py [--runs 500] [--per-job 10]
        [--out benchmarks/results/many_runs.json]

One question, one timed prefill, as many image sizes of one crop as runs, made as `-m` makes them in
one process: planned, frozen in their folders, jobs of so many values one after the other. Memory is
the process's anonymous memory above what it had before the first job, and seconds are wall clock,
after each tenth of the runs. Then what `status` and `wait` ask for (a look at all runs, before the
first is made and after the last), and the comparison.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from many_samples import memory_mib
from results_file import write_results

from vtexp.config.choices import Launcher
from vtexp.config.compose import compose_config
from vtexp.jobs.finish import show_comparison
from vtexp.jobs.status import look
from vtexp.jobs.worker import make_job
from vtexp.report.files import CSV_NAME
from vtexp.runs.frozen import freeze
from vtexp.runs.ledger import note_submitted, of_process
from vtexp.runs.plan import make_plan


def seconds(work: Callable[[], Any]) -> float:
    """Wall clock of something."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(folder: Path, runs: int, per_job: int) -> dict[str, Any]:
    """Seconds and MiB of each part of the sweep."""
    sizes = [f"{200 + number // 100}x{200 + number % 100}" for number in range(runs)]
    options = [
        *("dataset=easy_vqa", "dataset.limit=1", "dataset.max_new_tokens=1", "tracking=none"),
        *("measure.latency_samples=1", "measure.latency_repeats=1", "measure.warmup_repeats=0"),
        *("measure.min_seconds=0", "measure.max_seconds=0"),
        *(f"sweep.folder={folder}", "sweep.name=many", f"knob.sizes=[{','.join(sizes)}]"),
    ]
    found: dict[str, Any] = {"runs": runs, "per_job": per_job}
    began = time.perf_counter()
    plan = make_plan(compose_config(options))
    freeze(plan)
    found["plan_and_freeze_s"] = time.perf_counter() - began
    folders = [run.folder for run in plan.runs]
    jobs = [folders[start : start + per_job] for start in range(0, runs, per_job)]
    names = [[path.name for path in job] for job in jobs]
    sweep = folder / "many"
    note_submitted(sweep, [of_process(job, Launcher.local, os.getppid()) for job in names])
    found["look_before_s"] = seconds(lambda: look(sweep))
    make_job(jobs[0])  # loads the model
    before, began = memory_mib(), time.perf_counter()
    tenths_mib, tenths_s = [], []
    for number, job in enumerate(jobs[1:], 2):
        make_job(job)
        if number * 10 // len(jobs) > len(tenths_s):
            tenths_mib.append(memory_mib() - before)
            tenths_s.append(time.perf_counter() - began)
    found |= {"tenths_mib": tenths_mib, "tenths_s": tenths_s}
    found["look_after_s"] = seconds(lambda: look(sweep))
    found["comparison_s"] = seconds(lambda: show_comparison(sweep))
    rows = (sweep / CSV_NAME).read_text().splitlines()
    assert len(rows) == runs + 1, f"{len(rows)} lines in the comparison"
    return found


def main() -> None:
    """Measure, print, and write the JSON file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--per-job", type=int, default=10)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = measure(Path(name), args.runs, args.per_job)
    print(
        f"{found['runs']} runs, {found['per_job']} a job: planned and frozen in "
        f"{found['plan_and_freeze_s']:.0f} s; a look at all {found['look_before_s']:.2f} s before, "
        f"{found['look_after_s']:.2f} s after; comparison {found['comparison_s']:.0f} s\n"
        f"MiB after each tenth: {' '.join(f'{mib:.0f}' for mib in found['tenths_mib'])}\n"
        f"s after each tenth: {' '.join(f'{s:.0f}' for s in found['tenths_s'])}"
    )
    write_results(args.out, found)


if __name__ == "__main__":
    main()
