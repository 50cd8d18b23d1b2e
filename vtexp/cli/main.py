"""`vtexp COMMAND`, or `python -m vtexp COMMAND`; `vtexp launch` is `python launch.py`."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

import vtexp
from vtexp.errors import ConfigError
from vtexp.utils.by_name import imported
from vtexp.utils.output import output_may_close
from vtexp.utils.text import refuse_arguments

#: Commands of `sweep.py` by their names.
SWEEP_COMMANDS = {
    "status": "show the runs of a sweep and how far they are",
    "wait": "watch a sweep to its end, then compare its runs",
    "cancel": "cancel the queued and running jobs of a sweep",
    "resume": "run what is missing or failed in a sweep",
}

COMMANDS = sorted(
    [
        *SWEEP_COMMANDS,
        *("launch", "datasets", "importance", "publish", "report", "sweeps", "completion"),
    ]
)
SHELLS = ("bash", "zsh", "fish")


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        refuse_arguments(self, message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code. Raises SystemExit for --help and unknown arguments.

    Commands are imported by name once chosen: Hydra takes longer than all the rest.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["launch"]:
        sys.argv = [f"{_program()} launch", *arguments[1:]]
        return imported("vtexp.cli.launch:main")()
    return _command(arguments)


@output_may_close(fails=True)
def _command(arguments: Sequence[str]) -> int:
    """Run any command but `launch`."""
    if arguments[:1] == ["complete"]:  # asked by the shells' scripts
        line = arguments[1] if len(arguments) > 1 else ""
        imported("vtexp.cli.complete:print_candidates")(line, COMMANDS)
        return 0
    parser = _parser()
    parsed, rest = parser.parse_known_args(_joined(arguments, parser.error))
    words = [*getattr(parsed, "words", []), *rest]
    unknown = [word for word in rest if word.startswith("-") or not parsed.keys]
    if unknown:
        parser.error(f"{parsed.prog} takes no {unknown[0]}")
    return imported("vtexp.config.user_errors:reported")(
        lambda: parsed.command(parsed, words),
        show_traceback="HYDRA_FULL_ERROR" in os.environ,
        interrupted=parsed.interrupted,
    )


def _joined(arguments: Sequence[str], error: Callable[[str], NoReturn]) -> list[str]:
    """The arguments, each key of the config as `launch.py` takes it.

    `--knob.sizes 560x336`, `--knob.sizes=560x336` and `knob.sizes=560x336` are one. `error` is
    called with what is wrong.
    """
    flags = [argument for argument in arguments if argument.startswith("--")]
    if not flags or "--help" in flags or "--version" in flags:  # no need to import the schema
        return list(arguments)
    keys = [f.name for f in fields(imported("vtexp.config.schema:Config"))]
    joined: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        key, equals, _ = argument.partition("=")
        if not key.startswith("--") or key[2:].partition(".")[0] not in keys:
            joined.append(argument)
        elif equals:
            joined.append(argument[2:])
        elif (value := next(rest, "--")).startswith("--"):
            error(f"{argument}: needs a value")
        else:
            joined.append(f"{argument[2:]}={value}")
    return joined


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
    _add_importance(commands)
    for name, about in SWEEP_COMMANDS.items():
        command = _command_of(commands, name, about, _sweep_command)
        command.set_defaults(name=name, interrupted="what has been submitted is left alone")
        command.add_argument("sweep", metavar="SWEEP", help="its name in outputs/, or its folder")
        _add_options(name, command)
    _add_sweeps(commands)
    _add_report(commands)
    _add_publish(commands)
    _add_completion(commands)
    return parser


def _command_of(
    commands: argparse._SubParsersAction[_Parser],
    name: str,
    about: str,
    run: Callable[[argparse.Namespace, Sequence[str]], None],
    *,
    keys: bool = False,
    epilog: str | None = None,
) -> _Parser:
    """The parser of a command, which runs `run`; `keys`: it takes keys of the config."""
    command = commands.add_parser(name, help=about, description=about, epilog=epilog)
    command.set_defaults(command=run, keys=keys, prog=command.prog)
    return command


def _add_completion(commands: argparse._SubParsersAction[_Parser]) -> None:
    about = "print the script that completes vtexp's arguments in a shell"
    how = 'bash, zsh: eval "$(vtexp completion bash)"; fish: vtexp completion fish | source'
    completion = _command_of(commands, "completion", about, _completion, epilog=how)
    completion.add_argument("shell", choices=SHELLS, help="your shell")


def _add_options(name: str, command: argparse.ArgumentParser) -> None:
    """The options of one command."""
    if name == "status":
        command.add_argument("--json", dest="as_json", action="store_true", help="all runs as JSON")
        about = "show all runs; default: the 20 that need attention first"
        command.add_argument("--all", dest="every", action="store_true", help=about)
    elif name == "wait":
        about = "stop watching after so long, such as 90s, 30m or 2h (plain numbers: seconds); "
        about += "exit code 124 if the sweep is not over then"
        command.add_argument(
            "--timeout", dest="timeout_s", type=_seconds, metavar="TIME", help=about
        )
    elif name == "cancel":
        about = "only these runs: a knob's value, such as 560x336, or a run's folder"
        command.add_argument("runs", metavar="RUN", nargs="*", default=[], help=about)
    elif name == "resume":
        _add_resume(command)


def _add_resume(resume: argparse.ArgumentParser) -> None:
    resume.set_defaults(command=_resume, keys=True)
    about = "keys of hardware that change, such as hardware.slurm.partition=gpu"
    resume.add_argument("words", metavar="KEY=VALUE", nargs="*", default=[], help=about)
    about = "submit and return; wait comes back"
    resume.add_argument("--no-wait", action="store_true", help=about)
    about = "also runs whose jobs cannot be queried: another user's, or of a SLURM that is gone"
    resume.add_argument("--anyway", action="store_true", help=about)


def _seconds(text: str) -> float:
    """A time such as `90`, `90s`, `1.5h`, in seconds. Raises ArgumentTypeError for others."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r}: not a time such as 90s, 30m or 2h")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


def _add_sweeps(commands: argparse._SubParsersAction[_Parser]) -> None:
    about = "list the sweeps, newest first, with their state"
    sweeps = _command_of(commands, "sweeps", about, _list_sweeps)
    about = "folder of the sweeps (default: outputs)"
    sweeps.add_argument("folder", type=Path, metavar="FOLDER", nargs="?", help=about)
    sweeps.add_argument("--json", dest="as_json", action="store_true", help="as JSON")


def _add_report(commands: argparse._SubParsersAction[_Parser]) -> None:
    about = "compare the runs of one or several sweeps that are done"
    report = _command_of(commands, "report", about, _report)
    about = "their names in outputs/, or their folders"
    report.add_argument("sweeps", metavar="SWEEP", nargs="+", help=about)
    about = "folder of the report; default: the sweep's own, of several report-NAMES beside the "
    about += "first"
    report.add_argument("--out", type=Path, metavar="FOLDER", help=about)
    about = "points of accuracy that a budget may lose; default: report.margin of the sweeps"
    report.add_argument("--margin", type=float, metavar="POINTS", help=about)
    about = "only budgets within it, such as max_prefill_ms=20; default: the limits of the sweeps"
    report.add_argument("--limit", dest="limits", action="append", metavar="KEY=NUMBER", help=about)
    about = "where runs answered different questions: compare nothing (all, the default), or those "
    about += "that all answered (shared)"
    report.add_argument("--questions", choices=("all", "shared"), default="all", help=about)


def _add_publish(commands: argparse._SubParsersAction[_Parser]) -> None:
    about = "upload sweeps to Weights & Biases, with one report of them all"
    publish = _command_of(commands, "publish", about, _publish)
    publish.set_defaults(interrupted="what was uploaded stays")
    about = "their names in outputs/, or their folders"
    publish.add_argument("sweeps", metavar="SWEEP", nargs="+", help=about)
    about = "W&B user or team; default: tracking.entity of the sweep, WANDB_ENTITY, yours"
    publish.add_argument("--entity", metavar="NAME", help=about)
    about = "W&B project; default: tracking.project of the sweep, WANDB_PROJECT, vtexp"
    publish.add_argument("--project", metavar="NAME", help=about)


def _add_datasets(commands: argparse._SubParsersAction[_Parser]) -> None:
    about = "list the data sets: size, metric, licence, and whether they are on this machine"
    listing = _command_of(commands, "datasets", about, _list_datasets)
    _add_config_dir(listing, default=None)
    about = "draw one sample: image, crops, overlap, padding, tokens, question and references"
    show = _command_of(
        listing.add_subparsers(title="commands", metavar="[show NAME]"),
        "show",
        about,
        _show_sample,
        keys=True,
        epilog="Any key of launch.py can be given too, such as --knob.sizes 560x336, or "
        "--knob max_crops --knob.max_crops 4, or --dataset.split train.",
    )
    about = "name of the data set, as in dataset=NAME, and keys of launch.py"
    show.add_argument("words", metavar="NAME [KEY=VALUE]", nargs="*", default=[], help=about)
    about = "place of the question in the order of a run, from 0 (default)"
    show.add_argument("--index", type=int, default=0, help=about)
    about = "PNG to write; default: named after the sample, in this folder"
    show.add_argument("--out", type=Path, metavar="FILE.png", help=about)
    # Without a default of its own, it would undo what stands before `show`.
    _add_config_dir(show, default=argparse.SUPPRESS)


def _add_config_dir(parser: argparse.ArgumentParser, default: object) -> None:
    about = "folder with a folder dataset/ of sets of your own, as for launch.py"
    parser.add_argument("--config-dir", type=Path, metavar="FOLDER", default=default, help=about)


def _add_importance(commands: argparse._SubParsersAction[_Parser]) -> None:
    about = "measure how much accuracy each block of the language model is worth; write their order"
    importance = _command_of(
        commands,
        "importance",
        about,
        _importance,
        keys=True,
        epilog="Keys are those of launch.py, such as model=molmo_7b_d dataset=text_vqa "
        "dataset.split=train dataset.limit=500. The budget is one value of a knob; default: "
        "knob=max_crops knob.max_crops=12.",
    )
    importance.set_defaults(interrupted="no order was written")
    about = "keys of launch.py"
    importance.add_argument("words", metavar="KEY=VALUE", nargs="*", default=[], help=about)
    about = "JSON file to write; default: outputs/block_order-MODEL-DATASET-SPLIT.json"
    importance.add_argument("--out", type=Path, metavar="FILE.json", help=about)
    _add_config_dir(importance, default=None)


def _completion(parsed: argparse.Namespace, words: Sequence[str]) -> None:
    imported("vtexp.cli.complete:print_script")(parsed.shell)


def _list_sweeps(parsed: argparse.Namespace, words: Sequence[str]) -> None:
    folder = parsed.folder or Path("outputs")
    imported("vtexp.cli.sweeps:show_sweeps")(folder, as_json=parsed.as_json)


def _sweep_command(parsed: argparse.Namespace, words: Sequence[str]) -> None:
    given = ("as_json", "every", "timeout_s", "runs")
    options = {key: getattr(parsed, key) for key in given if getattr(parsed, key, None)}
    imported(f"vtexp.cli.sweep:{parsed.name}")(parsed.sweep, **options)


def _resume(parsed: argparse.Namespace, words: Sequence[str]) -> None:
    if other := [word for word in words if "=" not in word]:
        raise ConfigError(f"resume: one sweep at a time, and KEY=VALUE; not {other[0]}")
    imported("vtexp.cli.sweep:resume")(
        parsed.sweep, words, wait=not parsed.no_wait, anyway=parsed.anyway
    )


def _report(parsed: argparse.Namespace, words: Sequence[str]) -> None:
    imported("vtexp.cli.sweep:report")(
        parsed.sweeps, parsed.out, parsed.margin, parsed.questions, parsed.limits
    )


def _publish(parsed: argparse.Namespace, words: Sequence[str]) -> None:
    imported("vtexp.cli.sweep:publish")(parsed.sweeps, parsed.entity, parsed.project)


def _importance(parsed: argparse.Namespace, words: Sequence[str]) -> None:
    if other := [word for word in words if "=" not in word]:
        raise ConfigError(f"importance: keys as KEY=VALUE; not {other[0]}")
    imported("vtexp.cli.importance:show_importance")(words, parsed.out, parsed.config_dir)


def _list_datasets(parsed: argparse.Namespace, words: Sequence[str]) -> None:
    imported("vtexp.cli.datasets:show_list")(parsed.config_dir)


def _show_sample(parsed: argparse.Namespace, words: Sequence[str]) -> None:
    names = [word for word in words if "=" not in word]
    if len(names) != 1:
        raise ConfigError(f"datasets show: give the name of one data set, not {len(names)}")
    keys = [word for word in words if "=" in word]
    imported("vtexp.cli.datasets:show_sample")(
        names[0], parsed.index, parsed.out, parsed.config_dir, keys
    )
