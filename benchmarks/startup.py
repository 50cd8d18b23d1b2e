"""Start-up time: how long `--help`, a config error and a plan take, side by side with bare Python.

    python benchmarks/startup.py [--repeats 9] [--out benchmarks/results/startup.json]

The commands take turns, so that a slow spell of the machine touches all of them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

from results_file import write_results

LAUNCH = str(Path(__file__).parents[1] / "launch.py")
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import hydra": ["-c", "import hydra"],
    "launch.py --help": [LAUNCH, "--help"],
    "launch.py knob.sizes=[56ox336]": [LAUNCH, "knob.sizes=[56ox336]"],
    "launch.py knob=nope": [LAUNCH, "knob=nope"],
    "launch.py plan=true": [LAUNCH, "plan=true"],
}


def main() -> None:
    """Time each command and print a table; write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.repeats + 1):
            for name, arguments in COMMANDS.items():
                began = time.perf_counter()
                subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True)
                seconds[name].append(time.perf_counter() - began)
    rows = []
    for name, values in seconds.items():
        values = values[1:]  # the first round fills the file cache
        low, _, high = quantiles(values, n=4)
        rows.append({"command": name, "median_s": median(values), "p25_s": low, "p75_s": high})
        print(f"{median(values):6.2f} s  ({low:.2f} to {high:.2f})  {name}")
    write_results(args.out, {"repeats": args.repeats, "rows": rows})


if __name__ == "__main__":
    main()
