"""Sweeps as a user starts and finds them again, in processes of their own, and what they left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from tests.helpers import processes
from tests.helpers.slurm_cluster import wait_until
from vtexp.config.schema import Config
from vtexp.jobs.here import run_job
from vtexp.runs.ledger import read_submitted
from vtexp.utils import files

ROOT = Path(__file__).parents[2]
#: PYTHONPATH of commands whose reports have no figures.
NO_FIGURES = os.pathsep.join([str(processes.NO_FIGURES_FOLDER), str(ROOT)])
#: Overrides of runs whose times do not matter.
HARDLY_TIMED = (
    "measure.latency_samples=2",
    "measure.latency_repeats=1",
    "measure.warmup_repeats=0",
    "measure.min_seconds=0",
    "measure.max_seconds=0",
    "tracking=none",
)


def _hear_ctrl_c() -> None:
    """Tests in a shell's background ignore it, and hand that on to all that they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run_without_report(config: Config) -> None:
    """`run_job` for tests of runs alone: without the report at its end, which takes most of it."""
    with patch("vtexp.jobs.here.show_comparison"):
        run_job(config)


class Sweep:
    """A sweep of small runs in a folder; `overrides` are those of all its commands.

    Its reports have no figures.
    """

    def __init__(self, folder: Path, checkpoint: Path, *overrides: str, root: Path = ROOT) -> None:
        self.folder = folder
        self._launcher = root / "launch.py"
        self._overrides = [
            f"model.path={checkpoint}",
            "dataset=easy_vqa",
            *HARDLY_TIMED,
            f"sweep.folder={folder.parent}",
            f"sweep.name={folder.name}",
            *overrides,
        ]
        # On two cores, several jobs that take all of them each are in each other's way.
        self.environment = os.environ | {"PYTHONPATH": NO_FIGURES, "OMP_NUM_THREADS": "1"}

    def start(self, *overrides: str) -> subprocess.Popen[str]:
        """Type `launch.py -m`; the process, which hears Ctrl-C as in a terminal."""
        return subprocess.Popen(
            self.command(*overrides),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            preexec_fn=_hear_ctrl_c,
        )

    def command(self, *overrides: str) -> list[str]:
        """`launch.py -m` as it is typed."""
        return [sys.executable, str(self._launcher), *self.arguments(*overrides)]

    def arguments(self, *overrides: str) -> list[str]:
        """What is typed behind `launch.py`."""
        return ["-m", *self._overrides, *overrides]

    def launch(self, *overrides: str) -> subprocess.CompletedProcess[str]:
        """Type `launch.py -m` and wait for it."""
        if self._launcher != ROOT / "launch.py":  # code of another place
            process = self.start(*overrides)
            said = process.communicate()
            return subprocess.CompletedProcess(process.args, process.returncode, *said)
        return self._type(self.arguments(*overrides), Path.cwd())

    def do(self, command: str) -> subprocess.CompletedProcess[str]:
        """Type `python -m vtexp COMMAND` of this sweep, in a folder of its own."""
        return self._type(["-m", "vtexp", command, str(self.folder)], Path("/"))

    def _type(self, arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
        with TemporaryDirectory() as said:
            output, errors = Path(said) / "output", Path(said) / "errors"
            process = processes.start(
                arguments, output, errors, environment=self.environment, folder=folder
            )
            process.join()
            return subprocess.CompletedProcess(
                arguments, process.exitcode or 0, output.read_text(), errors.read_text()
            )

    def answers(self) -> dict[str, list[tuple[str, str, float]]]:
        """Sample, prediction and score of each answer, by the finished run's folder."""
        found = {}
        for path in sorted(self.folder.glob(f"*/{files.RESULT}")):
            rows = files.read_jsonl(path.with_name(files.SAMPLES))
            values = [(row["sample_id"], row["prediction"], row["score"]) for row in rows]
            found[path.parent.name] = values
        return found

    def failures(self) -> dict[str, str]:
        """Error of each failed run, by its folder's name."""
        paths = sorted(self.folder.glob(f"*/{files.FAILURE}"))
        return {path.parent.name: files.read_json(path)["error"] for path in paths}

    def environment_of(self, run: str) -> dict:
        """What a finished run ran on."""
        return files.read_json(self.folder / run / files.ENVIRONMENT)

    def job_ids(self) -> list[str]:
        """Ids of the jobs that were submitted, in order."""
        ids = (job.job_id for job in read_submitted(self.folder))
        return list(dict.fromkeys(filter(None, ids)))

    def wait_for_answers(self, count: int, run: str = "*") -> None:
        """Return when so many answers of unfinished runs are written."""
        wait_until(lambda: self._written(run) >= count, f"{count} answers in {self.folder}")

    def _written(self, run: str) -> int:
        count = 0
        for path in self.folder.glob(f"{run}/{files.RANKS}/*/{files.ANSWERS}*"):
            with suppress(FileNotFoundError):  # just finished
                count += path.read_bytes().count(b"\n")
        return count


def process_of(argument: str, variable: str) -> int:
    """Id of the first Python with a text among its arguments and a variable set so: srun, which
    starts it, has both too."""
    for path in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        with suppress(OSError):  # it has ended
            variables = (path / "environ").read_text(errors="replace").split("\0")
            program, *arguments = (path / "cmdline").read_text().split("\0")
            named = any(argument in own for own in arguments)
            if "python" in program and named and variable in variables:
                return int(path.name)
    raise LookupError(f"no process with {argument} and {variable}")
