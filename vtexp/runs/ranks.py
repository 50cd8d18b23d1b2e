"""What each process of a run has done of it, by files in the run's folder, for rank 0 to gather."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vtexp.errors import DataError, VtexpError, error_line
from vtexp.measure.timings import LatencyRow
from vtexp.runs.records import AnswerTimes, Environment
from vtexp.runs.surroundings import describe
from vtexp.utils import environment, files
from vtexp.utils.typed import Misfit, from_json, to_json

#: Which of `hardware.gpus_per_run` processes this is, where SLURM does not say.
RANK = "VTEXP_RANK"

#: Seconds without a changed file after which a rank counts as dead; loading a large model is slow.
SILENT_S = 3600

Record = TypeVar("Record")
OfAStart = TypeVar("OfAStart", "RankResult", "RankFailure")


def rank_folder(run: Path, rank: int) -> Path:
    """Where a process of a run, whose folder is given, keeps what it has so far."""
    return run / files.RANKS / str(rank)


@dataclass(frozen=True, kw_only=True)
class ProcessTimes:
    """What one process timed, and on what: `environment.processes` has this process alone."""

    environment: Environment
    rows: tuple[LatencyRow, ...]

    def write(self, folder: Path, number: int) -> None:
        """Keep it in the folder of its rank."""
        files.write_json(process_path(folder, number), to_json(self))


@dataclass(frozen=True, kw_only=True)
class RankResult:
    """What a rank has done of a run in one start of the job.

    `broken`: why samples could not be decoded, by their index as text.
    """

    start: str
    broken: dict[str, str]
    batch_size: int
    out_of_memory_count: int
    duration_s: float
    answer_times: AnswerTimes | None = None


@dataclass(frozen=True, kw_only=True)
class RankFailure:
    """Why a rank could not do its part in one start of the job."""

    start: str
    error: str


def process_path(folder: Path, number: int) -> Path:
    """Where a further process's timings lie, in the folder of its rank."""
    return folder / f"process-{number}.json"


def read_processes(folder: Path) -> dict[int, ProcessTimes]:
    """Further processes' timings in the folder of a rank, by their number; one may have failed.

    Raises DataError for a file that is damaged.
    """
    found = {number: _read_times(path) for number, path in _process_paths(folder).items()}
    return dict(sorted(found.items()))


def _process_paths(folder: Path) -> dict[int, Path]:
    """The files of further processes in the folder of a rank, by their number."""
    numbers = {path: path.stem.removeprefix("process-") for path in folder.glob("process-*.json")}
    return {int(number): path for path, number in numbers.items() if number.isdecimal()}


def _read_times(path: Path) -> ProcessTimes:
    return _read(path, ProcessTimes, "the times of a process")


def _read(path: Path, kind: type[Record], what: str) -> Record:
    try:
        return from_json(kind, files.read_json(path))
    except Misfit as error:
        raise files.damaged(path, f"not {what} ({error})") from error


def drop_other_processes(folders: Sequence[Path], device: str) -> None:
    """Delete times, in these folders of a rank, that other code or another machine took.

    Damaged ones, too.
    """
    import torch

    now = describe(torch.device(device))
    for folder in folders:
        for path in _process_paths(folder).values():
            try:
                before = _read_times(path).environment
                usable = before.same_code(now) and before.same_machine(now)
            except DataError:
                usable = False
            if not usable:
                path.unlink()


def record_rank_result(folder: Path, result: RankResult) -> None:
    """Record in the folder of a rank that it has done its part, for rank 0 to find."""
    files.write_json(folder / files.RANK_RESULT, to_json(result))


def record_rank_failure(folder: Path, rank: int, error: BaseException) -> None:
    """Record in a run's folder that a rank failed, for rank 0 to find."""
    failed = RankFailure(start=environment.attempt(), error=error_line(error))
    files.write_json(rank_folder(folder, rank) / files.FAILURE, to_json(failed))


def wait_for_ranks(folders: Sequence[Path]) -> list[RankResult]:
    """The results of all ranks, of this start of the job, as soon as all are there.

    Raises VtexpError where one failed, or none of its files has changed for `SILENT_S`.
    """
    results: list[RankResult] = []
    for rank, folder in enumerate(folders):
        # Not the time of day: it may jump, and a file server has its own.
        last, since = _last_change(folder), time.monotonic()
        while (result := _of_this_start(folder / files.RANK_RESULT, RankResult)) is None:
            if (failed := _of_this_start(folder / files.FAILURE, RankFailure)) is not None:
                raise VtexpError(f"rank {rank}: {failed.error}")
            if (changed := _last_change(folder)) != last:
                last, since = changed, time.monotonic()
            if time.monotonic() - since > SILENT_S:
                raise VtexpError(
                    f"rank {rank}: nothing heard of it for {SILENT_S // 60} min; see its log"
                )
            time.sleep(0.2)
        results.append(result)
    return results


def _of_this_start(path: Path, kind: type[OfAStart]) -> OfAStart | None:
    """What a rank wrote since this job was started, None if there is nothing yet."""
    if not path.is_file():
        return None
    found = _read(path, kind, "what a rank has done of a run")
    return found if found.start == environment.attempt() else None


def _last_change(folder: Path) -> float:
    """Time of the newest file of a folder, 0 if there is none."""
    try:
        return max((path.stat().st_mtime for path in folder.iterdir()), default=0.0)
    except OSError:
        return 0.0


def rank_of_process() -> int:
    """Which of the processes of a run this is, from 0."""
    return int(os.environ.get(RANK, os.environ.get("SLURM_PROCID", "0")))
