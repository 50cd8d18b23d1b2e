"""Commands of a user as processes that can be killed, forked from one that has torch imported."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import traceback
from multiprocessing.context import ForkServerProcess
from pathlib import Path

ROOT = Path(__file__).parents[2]
_context = multiprocessing.get_context("forkserver")
#: Imported once, by the process that the others are forked from; nothing is computed there.
_context.set_forkserver_preload(
    [
        *("vtexp.runs.job", "vtexp.cli.sweep", "vtexp.runs.run", "vtexp.models.molmo.runner"),
        *(
            "vtexp.data.builtin.easy_vqa",
            "vtexp.report.write",
            "vtexp.jobs.launch",
            "matplotlib.pyplot",
        ),
    ]
)


def start(arguments: list[str], log: Path, **variables: str) -> ForkServerProcess:
    """Type `launch.py ARGUMENTS`, or `-m vtexp ...`; what it says goes to a log."""
    shared = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": os.environ["HOME"]}
    process = _context.Process(target=_type, args=(arguments, log, shared | variables))
    process.start()
    return process


def run(arguments: list[str], log: Path, **variables: str) -> int | None:
    """The exit code of a command."""
    process = start(arguments, log, **variables)
    process.join()
    return process.exitcode


def _type(arguments: list[str], log: Path, variables: dict[str, str]) -> None:
    import torch

    os.environ.update(variables)
    torch.set_num_threads(1)  # several that take all cores each would be in each other's way
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir("/")
    try:
        if arguments[:2] == ["-m", "vtexp"]:
            sys.argv = arguments[1:]
            runpy.run_module("vtexp", run_name="__main__")
        else:
            sys.argv = ["launch.py", *arguments]
            runpy.run_path(str(ROOT / "launch.py"), run_name="__main__")
    except BaseException as error:
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        sys.stdout.flush()
        code = error.code if isinstance(error, SystemExit) else 70
        os._exit(code if isinstance(code, int) else 1)
