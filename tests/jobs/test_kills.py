"""Killed at any moment: resumed, a run's answers are those of one that nobody disturbed."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from tests.helpers import processes
from tests.helpers.sweeps import HARDLY_TIMED, NO_FIGURES
from vtexp.utils import files

#: More by VTEXP_KILLS.
KILLS = int(os.environ.get("VTEXP_KILLS", "4"))
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
Record = Callable[[str, object], None]


@dataclass
class Killed:
    """A sweep of two runs in a folder of its own, killed and resumed."""

    folder: Path
    checkpoint: Path
    options: tuple[str, ...]

    @property
    def command(self) -> list[str]:
        return [
            *self.options,
            f"model.path={self.checkpoint}",
            "dataset=easy_vqa",
            "dataset.limit=12",
            "hardware.batch_size=1",
            *HARDLY_TIMED,
            "knob.sizes=336x336,560x336",
            f"sweep.folder={self.folder.parent}",
            f"sweep.name={self.folder.name}",
        ]

    @property
    def log(self) -> Path:
        return self.folder.with_suffix(".log")

    def make(self) -> float:
        """Nobody disturbs it; the seconds that it took from its first file on."""
        process = self._start(self.command)
        self._wait_for_a_file(process)
        began = time.monotonic()
        process.join()
        assert process.exitcode == 0, self.log.read_text()
        return time.monotonic() - began

    def _start(self, arguments: Sequence[str]) -> ForkServerProcess:
        environment = os.environ | {"PYTHONPATH": NO_FIGURES}
        return processes.start(arguments, self.log, self.log, environment=environment)

    def _run(self, arguments: Sequence[str]) -> None:
        process = self._start(arguments)
        process.join()
        assert process.exitcode == 0, self.log.read_text()

    def _wait_for_a_file(self, process: ForkServerProcess) -> None:
        while not self.folder.is_dir() and process.is_alive():
            time.sleep(0.005)

    def kill(self, after_s: float, by: signal.Signals) -> str:
        """Kill it so many seconds after its first file; the stage it was in."""
        process = self._start(self.command)
        self._wait_for_a_file(process)
        process.join(after_s)
        if not process.is_alive():
            return "ended"
        os.kill(process.pid or 0, by)
        process.join()
        return self.stage()

    def stage(self) -> str:
        """How far it is, told by its files."""
        if len(list(self.folder.glob(f"*/{files.RESULT}"))) == 2:
            return "comparison"
        if any(self.folder.glob(f"*/{files.RANKS}/0/{files.ANSWERS}*")):
            return "answers"
        if any(self.folder.glob(f"*/{files.RANKS}/*")):
            return "prefill"
        return "planned" if any(self.folder.glob(f"*/{files.CONFIG}")) else "nothing"

    def resume(self) -> str:
        """Make what is missing: by `resume`, or where it knew too little yet, typed again."""
        how = "resumed"
        if any(self.folder.glob(f"*/{files.CONFIG}")):
            self._run(["-m", "vtexp", "resume", str(self.folder)])
        if len(list(self.folder.glob(f"*/{files.RESULT}"))) < 2:
            how = "typed again"
            self._run(self.command)
        return how

    def answers(self) -> dict[str, list[tuple[str, str, float]]]:
        """Sample, prediction and score of each row, by run; in order."""
        return {
            path.parent.name: [
                (row["sample_id"], row["prediction"], row["score"])
                for row in files.read_jsonl(path.with_name(files.SAMPLES))
            ]
            for path in sorted(self.folder.glob(f"*/{files.RESULT}"))
        }

    def require_whole_files(self) -> None:
        """Each file that is there under its own name is whole, whenever it was looked at."""
        for path in self.folder.rglob("*.json"):
            json.loads(path.read_text())
        for path in self.folder.rglob("*.jsonl"):
            assert path.read_bytes().endswith(b"\n"), path
            files.read_jsonl(path)


@pytest.mark.slow
@pytest.mark.fault(
    "kill anywhere",
    "SIGKILL or SIGTERM at a random moment, of one process or of -m",
    "resumed, the same samples, predictions and scores as undisturbed; no half file is read",
)
def test_killed_at_any_moment_nothing_is_lost_or_doubled(
    tmp_path: Path, small_checkpoint: Path, record_property: Record
) -> None:
    rng = random.Random(KILLS)
    whole, seconds = {}, {}
    # The first one also starts the process that all are forked from: its time tells nothing.
    Killed(tmp_path / "first", small_checkpoint, ()).make()
    for options in ((), ("-m",)):
        undisturbed = Killed(tmp_path / f"whole{len(options)}", small_checkpoint, options)
        seconds[options] = undisturbed.make()
        whole[options] = undisturbed.answers()
        assert len(whole[options]) == 2
    assert whole[()] == whole["-m",]
    met: Counter[str] = Counter()
    number = 0
    while met["killed"] < KILLS:
        options = ((), ("-m",))[number % 2]
        killed = Killed(tmp_path / str(number), small_checkpoint, options)
        stage = killed.kill(rng.uniform(0, seconds[options]), SIGNALS[number // 2 % 2])
        killed.require_whole_files()
        how = killed.resume() if stage != "ended" else "ended"
        killed.require_whole_files()
        assert killed.answers() == whole[options], (stage, how, killed.log.read_text())
        met.update([how, *([f"in {stage}", "killed"] if stage != "ended" else [])])
        number += 1
    stages = ", ".join(f"{n} {stage}" for stage, n in sorted(met.items()) if stage[:3] == "in ")
    record_property(
        "measured",
        f"{met['killed']} kills ({stages}), {met['ended']} more had ended before; "
        f"{met['resumed']} resumed, {met['typed again']} typed again because nothing had been "
        "planned yet; 0 samples lost, doubled or changed",
    )
