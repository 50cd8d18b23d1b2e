"""How many answers change with the batch, in a given precision, beside those asked alone.

    python benchmarks/batches.py [--dtype bfloat16] [--sizes 8,32] [--limit 200] [--out FILE.json]
        [OVERRIDE ...]

molmo_tiny on the default set at 4 crops at most. Asked alone (`hardware.batch_size=1`) twice, the
second time only a quarter of the questions, so that an answer's neighbours and place differ; then
in batches of each size. OVERRIDES go to launch.py.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from results_file import write_results

from vtexp.utils import files

ROOT = Path(__file__).parents[1]
HARDLY_TIMED = ("latency_samples=1", "latency_repeats=1", "min_seconds=0", "energy_seconds=0")

#: Prediction and score by the question's id.
Answers = dict[str, tuple[str, float]]


def ask(folder: Path, name: str, dtype: str, batch_size: int, overrides: list[str]) -> Answers:
    """The answers of one run in a process of its own."""
    command = [
        *(sys.executable, str(ROOT / "launch.py"), "knob=max_crops", "knob.max_crops=4"),
        *("tracking=none", f"sweep.folder={folder}", f"sweep.name={name}"),
        *(f"measure.{setting}" for setting in HARDLY_TIMED),
        *(f"hardware.dtype={dtype}", f"hardware.batch_size={batch_size}"),
        *overrides,
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (path,) = (folder / name).glob(f"*/{files.SAMPLES}")
    rows = files.read_jsonl(path)
    return {row["sample_id"]: (row["prediction"], row["score"]) for row in rows}


def beside(alone: Answers, other: Answers) -> dict[str, Any]:
    """How many answers differ from those asked alone, and what that does to the score."""
    common = [name for name in other if name in alone]
    changed = [name for name in common if other[name][0] != alone[name][0]]
    return {
        "questions": len(common),
        "changed": len(changed),
        "scores_changed": sum(other[name][1] != alone[name][1] for name in changed),
        "mean_score": sum(other[name][1] for name in common) / len(common),
        "mean_score_alone": sum(alone[name][1] for name in common) / len(common),
        "examples": [[alone[name][0], other[name][0]] for name in changed[:5]],
    }


def main() -> None:
    """Ask in each way, print a line for each, and write all as JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--sizes", default="8,32", help="batch sizes beside 1")
    parser.add_argument("--limit", type=int, default=200, help="questions")
    parser.add_argument("--out", type=Path)
    parser.add_argument("overrides", nargs="*", help="further overrides of launch.py")
    args = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as name:

        def answers(label: str, size: int, limit: int) -> Answers:
            overrides = [f"dataset.limit={limit}", *args.overrides]
            return ask(Path(name), label, args.dtype, size, overrides)

        alone = answers("alone", 1, args.limit)
        found["1, a quarter of the questions"] = beside(alone, answers("q", 1, args.limit // 4))
        for size in map(int, args.sizes.split(",")):
            found[str(size)] = beside(alone, answers(f"b{size}", size, args.limit))
    for label, row in found.items():
        print(
            f"{args.dtype}, batches of {label}: {row['changed']} of {row['questions']} answers "
            f"differ from those asked alone, {row['scores_changed']} scores; mean score "
            f"{row['mean_score']:.4f}, alone {row['mean_score_alone']:.4f}"
        )
    write_results(args.out, {"dtype": args.dtype, "batches": found})


if __name__ == "__main__":
    main()
