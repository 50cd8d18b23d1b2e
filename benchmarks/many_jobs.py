"""500 runs as 500 SLURM jobs on a site that takes 50 at once, with a launcher that is killed.

    PYTHONPATH=. python benchmarks/many_jobs.py [--runs 500] [--most 50] [--kill-after 100]
        [--out benchmarks/results/many_jobs.json]

Starts a private SLURM with accounting and MaxSubmitJobs (`tests/helpers/slurm_cluster.py`; needs
root and Debian's packages), types `launch.py -m`, kills the launcher once so many runs are done,
and types `vtexp wait` for the rest. A run is one question, one timed prefill and one answered token
of molmo_tiny at one image size, with one thread; every job starts Python and loads the model.
Counted from three sides: the results and notes in the sweep's folder, the logs of the jobs (who
made which run), and sacct. Exit code 1 where a run is lost or was made twice.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from results_file import write_results

from tests.helpers.slurm_cluster import Cluster, what_is_missing
from tests.helpers.sweeps import ROOT, Sweep
from vtexp.runs.ledger import JOBS, read_submitted

TINY = ROOT / "vtexp" / "assets" / "molmo_tiny"
LOOK_EVERY_S = 0.5
#: Each job gets half of a node of the private cluster, so that four run at once.
CPUS = 4


def wait_for_end(
    process: subprocess.Popen[str], cluster: Cluster, sweep: Sweep, stop_after: int | None
) -> tuple[int, int]:
    """Wait for a process, or kill it after so many results.

    Returns the most jobs seen in the queue, and the most of them that were pending.
    """
    most, most_pending = 0, 0
    while process.poll() is None:
        states = cluster.run("squeue", "--noheader", "--array", "--format=%T").splitlines()
        most = max(most, len(states))
        most_pending = max(most_pending, states.count("PENDING"))
        if stop_after is not None and len(sweep.answers()) >= stop_after:
            process.send_signal(signal.SIGKILL)
            process.wait()
        time.sleep(LOOK_EVERY_S)
    return most, most_pending


def makers(sweep: Sweep) -> Counter[str]:
    """How often each knob value was made, by the lines that jobs log for a result."""
    logs = "\n".join(log.read_text() for log in sweep.folder.glob(f"{JOBS}/*/*_log.out"))
    lines = [line for line in logs.splitlines() if " vision tokens, accuracy " in line]
    return Counter(line.partition(":")[0] for line in lines)


def accounted(cluster: Cluster) -> Counter[str]:
    """States of all jobs that sacct knows, tasks of arrays one by one."""
    listed = cluster.run("sacct", "-a", "-n", "-P", "-X", "-S", "now-1days", "-o", "State")
    return Counter(line.split()[0] for line in listed.splitlines())


def counts(sweep: Sweep, cluster: Cluster, runs: int) -> dict[str, Any]:
    """Results, jobs and doubles, from the sweep's folder, the logs and sacct."""
    submitted = [job for job in read_submitted(sweep.folder) if job.job_id]
    jobs_of = Counter(run for job in submitted for run in job.runs)
    made = makers(sweep)
    answers = sweep.answers()
    return {
        "results": len(answers),
        "lost": runs - len(answers),
        "failed": len(sweep.failures()),
        "results_with_other_than_one_answer": sum(len(rows) != 1 for rows in answers.values()),
        "jobs_noted": len({job.job_id for job in submitted}),
        "submissions": len(list(sweep.folder.glob(f"{JOBS}/*.json"))),
        "runs_with_several_jobs": sum(count > 1 for count in jobs_of.values()),
        "runs_made_by_the_logs": len(made),
        "runs_made_twice_by_the_logs": sum(count > 1 for count in made.values()),
        "states_by_sacct": dict(accounted(cluster)),
    }


def measure(folder: Path, runs: int, most: int, kill_after: int) -> dict[str, Any]:
    """Launch, kill, wait, and count."""
    sizes = ",".join(f"{200 + number // 100}x{200 + number % 100}" for number in range(runs))
    cluster = Cluster(accounting=True, max_submit_jobs=most)
    sweep = Sweep(
        *(folder / "many", TINY, "dataset.limit=1", "dataset.max_new_tokens=1"),
        *("measure.latency_samples=1", "hardware.launcher=slurm", f"knob.sizes=[{sizes}]"),
        *(f"hardware.slurm.cpus={CPUS}", "hardware.slurm.gpus=0", "hardware.slurm.time_min=30"),
    )
    try:
        cluster.start()
        sweep.environment |= cluster.environment
        began = time.perf_counter()
        with (folder / "launcher.log").open("w") as log:
            launcher = subprocess.Popen(
                sweep.command(), env=sweep.environment, stdout=log, stderr=log, text=True
            )
            first = wait_for_end(launcher, cluster, sweep, kill_after)
            killed_s = time.perf_counter() - began
            command = [sys.executable, "-m", "vtexp", "wait", str(sweep.folder)]
            waiting = subprocess.Popen(
                command, env=sweep.environment, stdout=log, stderr=log, text=True
            )
            second = wait_for_end(waiting, cluster, sweep, None)
        return {
            **{"runs": runs, "max_submit_jobs": most, "cpus_per_job": CPUS},
            **{"launcher_exit_code": launcher.returncode, "launcher_killed_s": killed_s},
            **{"wait_exit_code": waiting.returncode, "total_s": time.perf_counter() - began},
            "most_jobs_in_queue": max(first[0], second[0]),
            "most_jobs_pending": max(first[1], second[1]),
            **counts(sweep, cluster, runs),
        }
    finally:
        print((folder / "launcher.log").read_text()[-3000:], file=sys.stderr)
        cluster.stop()


def main() -> int:
    """Measure, print, and write the JSON file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--most", type=int, default=50)
    parser.add_argument("--kill-after", type=int, default=100)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if reason := what_is_missing(accounting=True):
        parser.error(reason)
    with tempfile.TemporaryDirectory() as name:
        found = measure(Path(name), args.runs, args.most, args.kill_after)
    print(*(f"{key}: {value}" for key, value in found.items()), sep="\n")
    write_results(args.out, found)
    doubled = found["runs_with_several_jobs"] or found["runs_made_twice_by_the_logs"]
    return 1 if found["lost"] or doubled or found["wait_exit_code"] else 0


if __name__ == "__main__":
    sys.exit(main())
