"""Everything that is known to go wrong, made to: the fault matrix of docs/reliability.md.

    python benchmarks/faults.py [tests/jobs/test_kills.py ...] [--kills 50] [--cases 10000]

Runs the tests marked `fault` (all of them, or those of some files: an hour on 2 quiet cores), the
random ones at their full numbers, and writes what came of each to benchmarks/results/faults.json
and as tables into docs/reliability.md. What of other files is there already stays. Exit code 1
where a test failed or was skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import torch

from vtexp.runs import surroundings
from vtexp.utils.typed import to_json

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "faults.json"
DOCS = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- made by benchmarks/faults.py -->\n", "<!-- end -->\n"
PARTS = {
    "kill anywhere": "Kills",
    "resources": "Disk, memory, handles, clock, log",
    "outside world": "The hub, W&B and SLURM",
    "bad config": "Bad config",
    "bad data": "Bad data",
    "hostile input": "Hostile input",
    "same answer": "The same answer",
}


def run(files: list[str], kills: int, cases: int) -> dict[str, dict[str, Any]]:
    """What came of the tests of these files, or all."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = ["-m", "fault", "-o", "junit_family=xunit1", f"--junitxml={report}"]
        numbers = {"VTEXP_KILLS": str(kills), "VTEXP_FUZZ_CASES": str(cases)}
        command = [sys.executable, "-m", "pytest", *options, *files]
        subprocess.run(command, env=os.environ | numbers, cwd=ROOT)
        return read(report)


def read(report: Path) -> dict[str, dict[str, Any]]:
    """Tests of a JUnit report that show a fault, by file and name; cases of one test together."""
    found: dict[str, dict[str, Any]] = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        about = {p.attrib["name"]: p.attrib["value"] for p in case.iter("property")}
        if "fault" not in about:
            continue
        name = case.attrib["name"].partition("[")[0]
        passed = not any(case.find(kind) is not None for kind in ("failure", "error", "skipped"))
        row = found.setdefault(
            f"{case.attrib['file']}::{name}", about | {"cases": 0, "passed": True, "seconds": 0.0}
        )
        row["cases"] += 1
        row["passed"] &= passed
        row["seconds"] = round(row["seconds"] + float(case.attrib["time"]), 1)
    return found


def tables(rows: dict[str, dict[str, Any]]) -> str:
    """A table for each part, by the names of the tests' files, whichever folder they are in."""
    lines: list[str] = []
    ordered = sorted(rows.items(), key=lambda test: Path(test[0]).name)
    for part, title in PARTS.items():
        own = {test: row for test, row in ordered if row["part"] == part}
        if not own:
            continue
        lines += [f"## {title}", "| fault | what happens | shown by | |", "|---|---|---|---|"]
        for test, row in own.items():
            name = test.rpartition("::")[2].removeprefix("test_")
            file = Path(test.partition("::")[0]).name
            measured = f"; {row['measured']}" if "measured" in row else ""
            cases = f" ({row['cases']} cases)" if row["cases"] > 1 else ""
            passed = "passed" if row["passed"] else "**failed**"
            cells = (row["fault"], f"{row['outcome']}{measured}", f"`{file}`: {name}{cases}")
            lines.append(f"| {' | '.join(cells)} | {passed} |")
        lines.append("")
    return "\n".join(lines)


def made_with(environment: dict[str, Any]) -> dict[str, Any]:
    """What a row says of the code and the machine that made it."""
    own = {key: environment[key] for key in ("git", "started", "python")}
    versions = {name: environment["packages"][name] for name in ("torch", "transformers")}
    return own | versions | {"processor": environment["device"]["name"]}


def record(found: dict[str, dict[str, Any]], command: str) -> None:
    """Put results beside those that are there, and into the docs."""
    rows = json.loads(RESULTS.read_text())["tests"] if RESULTS.is_file() else {}
    made = made_with(to_json(surroundings.describe(torch.device("cpu"))))
    for test, row in found.items():
        rows[test] = row | {"command": command, "made_with": made}
    RESULTS.write_text(json.dumps({"tests": rows}, indent=2) + "\n")
    before, _, rest = DOCS.read_text().partition(BEGIN)
    DOCS.write_text(f"{before}{BEGIN}{tables(rows)}{END}{rest.partition(END)[2]}")


def main() -> int:
    """Run, record, and say what failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--cases", type=int, default=10_000)
    args = parser.parse_args()
    found = run(args.files, args.kills, args.cases)
    record(found, " ".join(["python", "benchmarks/faults.py", *sys.argv[1:]]))
    failed = [test for test, row in found.items() if not row["passed"]]
    print(f"{len(found) - len(failed)} of {len(found)} as they should be", *failed, sep="\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
