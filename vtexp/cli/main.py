"""`vtexp COMMAND`, or `python -m vtexp COMMAND`; `vtexp launch` is `python launch.py`."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import NoReturn

import vtexp
from vtexp.utils.by_name import imported
from vtexp.utils.text import refuse_arguments

#: Options of the commands that take a value; any other --key is one of the config's.
OPTIONS = ("--index", "--out", "--config-dir", "--margin", "--questions", "--timeout")
#: Options that take none.
FLAGS = ("--help", "--version", "--json", "--all")

#: Commands of `sweep.py` by their names.
SWEEP_COMMANDS = {
    "status": "show the runs of a sweep and how far they are",
    "wait": "watch a sweep to its end, then compare its runs",
    "publish": "upload a sweep to Weights & Biases, with its report",
    "cancel": "cancel what is queued or running of a sweep",
    "resume": "make the runs of a sweep that are missing or failed",
}


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        refuse_arguments(self, message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code. Raises SystemExit for --help and unknown arguments.

    What runs is imported by name once it is chosen: Hydra takes longer than all the rest.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["launch"]:
        sys.argv = [f"{_program()} launch", *arguments[1:]]
        return imported("vtexp.cli.launch:main")()
    parser = _parser()
    own, overrides = split_overrides(arguments, parser.error)
    parsed = parser.parse_args(own)
    if overrides and not parsed.takes_overrides:
        parser.error(f"{parsed.prog} takes no keys of the config ({overrides[0]})")
    return imported("vtexp.config.user_errors:reported")(
        lambda: parsed.command(parsed, overrides),
        show_traceback="HYDRA_FULL_ERROR" in os.environ,
        interrupted=parsed.interrupted,
    )


def split_overrides(
    arguments: Sequence[str], error: Callable[[str], NoReturn]
) -> tuple[list[str], list[str]]:
    """A command's own arguments, and overrides as `launch.py` takes them.

    `--knob.sizes 560x336`, `--knob.sizes=560x336` and `knob.sizes=560x336` are one. `error` is
    called with what is wrong.
    """
    own: list[str] = []
    overrides: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        flag, equals, _ = argument.partition("=")
        if flag in OPTIONS:
            own.append(argument)
            if not equals:
                own += islice(rest, 1)
        elif argument.startswith("--") and argument not in FLAGS:
            value = "" if equals else next(rest, "")
            if not equals and (not value or value.startswith("--")):
                error(f"{argument}: needs a value")
            overrides.append(argument[2:] if equals else f"{argument[2:]}={value}")
        elif equals:
            overrides.append(argument)
        else:
            own.append(argument)
    return own, overrides


def _program() -> str:
    """How this was typed."""
    return "vtexp" if Path(sys.argv[0]).name == "vtexp" else "python -m vtexp"


def _parser() -> argparse.ArgumentParser:
    about = "How many vision tokens does a task need, and what do they cost?"
    parser = _Parser(prog=_program(), description=about)
    parser.set_defaults(interrupted="nothing was written")
    parser.add_argument("--version", action="version", version=f"vtexp {vtexp.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    commands.add_parser("launch", help="run a sweep, as `python launch.py` does", add_help=False)
    _add_datasets(commands)
    for name, about in SWEEP_COMMANDS.items():
        command = commands.add_parser(name, help=about, description=about)
        command.set_defaults(command=_sweep_command, takes_overrides=False, prog=command.prog)
        command.set_defaults(name=name, interrupted="what has been submitted is left alone")
        command.add_argument("sweep", metavar="SWEEP", help="its name in outputs/, or its folder")
        _add_options(name, command)
    _add_sweeps(commands)
    _add_report(commands)
    return parser


def _add_options(name: str, command: argparse.ArgumentParser) -> None:
    """What one of the commands takes beside its sweep."""
    if name == "status":
        command.add_argument("--json", dest="as_json", action="store_true", help="all runs as JSON")
        about = "show all runs; default: the 20 that need eyes first"
        command.add_argument("--all", dest="every", action="store_true", help=about)
    elif name == "wait":
        about = "stop watching after so long, such as 90s, 30m or 2h (plain numbers: seconds); "
        about += "exit code 124 if the sweep is not over then"
        command.add_argument(
            "--timeout", dest="timeout_s", type=_seconds, metavar="TIME", help=about
        )
    elif name == "cancel":
        about = "only these runs: a knob's value, such as 560x336, or a run's folder"
        command.add_argument("runs", metavar="RUN", nargs="*", help=about)


def _seconds(text: str) -> float:
    """A time such as `90`, `90s`, `1.5h`, in seconds. Raises ArgumentTypeError for others."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r}: not a time such as 90s, 30m or 2h")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


def _add_sweeps(commands: argparse._SubParsersAction[_Parser]) -> None:
    about = "list the sweeps, newest first, with their state"
    sweeps = commands.add_parser("sweeps", help=about, description=about)
    sweeps.set_defaults(command=_list_sweeps, takes_overrides=False, prog=sweeps.prog)
    about = "folder of the sweeps (default: outputs)"
    sweeps.add_argument("folder", type=Path, metavar="FOLDER", nargs="?", help=about)
    sweeps.add_argument("--json", dest="as_json", action="store_true", help="as JSON")


def _list_sweeps(parsed: argparse.Namespace, overrides: Sequence[str]) -> None:
    folder = parsed.folder or Path("outputs")
    imported("vtexp.cli.sweeps:show_sweeps")(folder, as_json=parsed.as_json)


def _add_report(commands: argparse._SubParsersAction[_Parser]) -> None:
    about = "compare the runs of one or several sweeps that are done"
    report = commands.add_parser("report", help=about, description=about)
    report.set_defaults(command=_report, takes_overrides=False, prog=report.prog)
    about = "their names in outputs/, or their folders"
    report.add_argument("sweeps", metavar="SWEEP", nargs="+", help=about)
    about = "folder of the report; default: the sweep's own, of several outputs/report-NAMES"
    report.add_argument("--out", type=Path, metavar="FOLDER", help=about)
    about = "points of accuracy that a budget may lose; default: report.margin of the sweeps"
    report.add_argument("--margin", type=float, metavar="POINTS", help=about)
    about = "where runs answered different questions: compare nothing (all, the default), or those "
    about += "that all answered (shared)"
    report.add_argument("--questions", choices=("all", "shared"), default="all", help=about)


def _add_datasets(commands: argparse._SubParsersAction[_Parser]) -> None:
    about = "list the data sets: size, metric, licence, and whether they are on this machine"
    listing = commands.add_parser("datasets", help=about, description=about)
    listing.set_defaults(command=_list_datasets, takes_overrides=False, prog=listing.prog)
    _add_config_dir(listing, default=None)
    about = "draw one sample: image, crops, overlap, padding, tokens, question and references"
    show = listing.add_subparsers(title="commands", metavar="[show NAME]").add_parser(
        "show",
        help=about,
        description=about,
        epilog="Any key of launch.py can be given too, such as --knob.sizes 560x336, or "
        "--knob max_crops --knob.max_crops 4, or --dataset.split train.",
    )
    show.set_defaults(command=_show_sample, takes_overrides=True, prog=show.prog)
    show.add_argument("name", metavar="NAME", help="of the data set, as in dataset=NAME")
    about = "place of the question in the order of a run, from 0 (default)"
    show.add_argument("--index", type=int, default=0, help=about)
    about = "PNG to write; default: named after the sample, in this folder"
    show.add_argument("--out", type=Path, metavar="FILE.png", help=about)
    # Without a default of its own, it would undo what stands before `show`.
    _add_config_dir(show, default=argparse.SUPPRESS)


def _add_config_dir(parser: argparse.ArgumentParser, default: object) -> None:
    about = "folder with a folder dataset/ of sets of your own, as for launch.py"
    parser.add_argument("--config-dir", type=Path, metavar="FOLDER", default=default, help=about)


def _sweep_command(parsed: argparse.Namespace, overrides: Sequence[str]) -> None:
    given = ("as_json", "every", "timeout_s", "runs")
    options = {key: getattr(parsed, key) for key in given if getattr(parsed, key, None)}
    imported(f"vtexp.cli.sweep:{parsed.name}")(parsed.sweep, **options)


def _report(parsed: argparse.Namespace, overrides: Sequence[str]) -> None:
    imported("vtexp.cli.sweep:report")(parsed.sweeps, parsed.out, parsed.margin, parsed.questions)


def _list_datasets(parsed: argparse.Namespace, overrides: Sequence[str]) -> None:
    imported("vtexp.cli.datasets:show_list")(parsed.config_dir)


def _show_sample(parsed: argparse.Namespace, overrides: Sequence[str]) -> None:
    imported("vtexp.cli.datasets:show_sample")(
        parsed.name, parsed.index, parsed.out, parsed.config_dir, overrides
    )
