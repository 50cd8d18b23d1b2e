"""What each process of a run has done of it, by files in the run's folder, for rank 0 to gather."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vtexp.errors import VtexpError, error_line
from vtexp.runs.surroundings import SAME_CODE, describe
from vtexp.utils import environment, files

#: Which of `hardware.gpus_per_run` processes this is, where SLURM does not say.
RANK = "VTEXP_RANK"

#: A rank that has changed no file for so long is taken for dead; loading a large model is slow.
SILENT_S = 3600


def rank_folder(run: Path, rank: int) -> Path:
    """Where a process of a run, whose folder is given, keeps what it has so far."""
    return run / files.RANKS / str(rank)


@dataclass(frozen=True)
class Repeat:
    """Timings of one process, and its surroundings."""

    surroundings: dict[str, Any]
    rows: list[dict[str, Any]]

    def write(self, folder: Path, number: int) -> None:
        """Keep it in the folder of its rank."""
        files.write_json(repeat_path(folder, number), asdict(self))


def repeat_path(folder: Path, number: int) -> Path:
    """Where a further process's timings lie, in the folder of its rank."""
    return folder / f"repeat-{number}.json"


def read_repeats(folder: Path) -> dict[int, Repeat]:
    """Further processes' timings in the folder of a rank, by their number; one may have failed."""
    found = {}
    for path in folder.glob("repeat-*.json"):
        try:
            repeat = Repeat(**files.read_json(path))
        except TypeError as error:
            raise files.damaged(path, f"not the times of a process ({error})") from error
        found[int(path.stem.removeprefix("repeat-"))] = repeat
    return dict(sorted(found.items()))


def drop_other_repeats(folders: Sequence[Path], device: str) -> None:
    """Delete repeats, in these folders of a rank, that other code or another machine timed."""
    import torch

    now = describe(torch.device(device))
    for folder in folders:
        for number, repeat in read_repeats(folder).items():
            before = repeat.surroundings
            same_code = all(before.get(key) == now[key] for key in SAME_CODE)
            if not same_code or not same_machine(before, now):
                repeat_path(folder, number).unlink()


def same_machine(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether times of two surroundings can be taken together."""
    return all(one[key] == other[key] for key in ("host", "device"))


def wait_for_ranks(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """The shares of all ranks, of this start of the job, as soon as all are there.

    Raises VtexpError where one failed, or none of its files has changed for `SILENT_S`.
    """
    shares: list[dict[str, Any]] = []
    for rank, folder in enumerate(folders):
        # No clock of the day: it may jump, and a file server has one of its own.
        last, since = _last_change(folder), time.monotonic()
        while (share := _of_this_start(folder / files.SHARE)) is None:
            if (failed := _of_this_start(folder / files.FAILURE)) is not None:
                raise VtexpError(f"rank {rank}: {failed['error']}")
            if (changed := _last_change(folder)) != last:
                last, since = changed, time.monotonic()
            if time.monotonic() - since > SILENT_S:
                raise VtexpError(
                    f"rank {rank}: nothing heard of it for {SILENT_S // 60} min; see its log"
                )
            time.sleep(0.2)
        shares.append(share)
    return shares


def _of_this_start(path: Path) -> dict[str, Any] | None:
    """What a rank wrote since this job was started, None if there is nothing yet."""
    if not path.is_file():
        return None
    row = files.read_json(path)
    return row if row["attempt"] == environment.attempt() else None


def record_rank_failure(folder: Path, rank: int, error: BaseException) -> None:
    """Leave word in a run's folder that a rank failed, for rank 0 to find."""
    row = {"attempt": environment.attempt(), "error": error_line(error)}
    files.write_json(rank_folder(folder, rank) / files.FAILURE, row)


def _last_change(folder: Path) -> float:
    """Time of the newest file of a folder, 0 if there is none."""
    try:
        return max((path.stat().st_mtime for path in folder.iterdir()), default=0.0)
    except OSError:
        return 0.0


def rank_of_process() -> int:
    """Which of the processes of a run this is, from 0."""
    return int(os.environ.get(RANK, os.environ.get("SLURM_PROCID", "0")))
