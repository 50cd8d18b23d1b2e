"""Commands of a user as processes that can be killed, forked from one that has torch imported."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: On the path of a command whose reports have no figures: they take most of a small sweep's time.
NO_FIGURES_FOLDER = Path(__file__).parent / "no_figures"
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


def start(
    arguments: Sequence[str],
    output: Path,
    errors: Path,
    *,
    environment: Mapping[str, str],
    folder: Path = Path("/"),
) -> ForkServerProcess:
    """Type `launch.py ARGUMENTS`, or `-m vtexp ...`, in a folder; what it says goes to files."""
    how = (tuple(arguments), output, errors, dict(environment), folder)
    process = _context.Process(target=_type, args=how)
    process.start()
    return process


def _type(
    arguments: tuple[str, ...],
    output: Path,
    errors: Path,
    environment: dict[str, str],
    folder: Path,
) -> None:
    import torch

    from vtexp.report import write

    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)  # several that take all cores each would be in each other's way
    if str(NO_FIGURES_FOLDER) in environment["PYTHONPATH"]:
        write.write_figures = lambda *_: None
    for number, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(folder)
    try:
        if arguments[:2] == ("-m", "vtexp"):
            sys.argv = list(arguments[1:])
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
