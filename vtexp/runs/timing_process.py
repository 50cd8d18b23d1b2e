"""A further process of a job that only times its runs: `measure.repeats`.

`python -m vtexp.runs.timing_process NUMBER RANK PARENT FOLDER...`, as
`job.time_in_fresh_processes` starts it.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from vtexp.config import user_errors
from vtexp.runs.frozen import thaw
from vtexp.runs.job import RunsUnderWay, load_runner
from vtexp.runs.plan import make_plan


def time_once_more(number: int, rank: int, folders: Sequence[Path]) -> None:
    """Time the runs of these folders, into the folders of their rank; a run that fails has none."""
    plan = make_plan(thaw(folders))
    RunsUnderWay(plan, plan.runs, load_runner(plan), rank, process=number).time()


def end_with(parent: int) -> None:
    """End this process when its parent has ended, however: it would disturb who takes over."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    number, rank, parent, *folders = sys.argv[1:]
    end_with(int(parent))
    sys.exit(
        user_errors.reported(
            lambda: time_once_more(int(number), int(rank), [Path(folder) for folder in folders]),
            show_traceback="HYDRA_FULL_ERROR" in os.environ,
            interrupted="times of this process are missing",
        )
    )
