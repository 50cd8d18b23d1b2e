"""The command line around Hydra: lists without brackets, and one line per user error."""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import TracebackType

from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException, ValidationError
from yaml import YAMLError

from vtexp.config.booleans import strict_booleans
from vtexp.config.compose import COMPOSE_ERRORS, UNPARSABLE, flags_first, with_brackets
from vtexp.config.hydra_parts import INSTEAD, for_several_knobs, hydra_arguments
from vtexp.config.schema import rule_of_key
from vtexp.errors import VtexpError, message_of, no_memory_left
from vtexp.utils.text import cut, printable, refuse_arguments

#: Mistakes of a user and troubles of a machine (full disk, no permission): one line, no traceback.
USER_ERRORS = (VtexpError, *COMPOSE_ERRORS, YAMLError, OSError)

#: Packages that read what the user wrote: whatever they raise is about that.
READERS = ("hydra", "omegaconf", "antlr4", "yaml")


#: What is vtexp's own: an error there is a mistake of vtexp's.
OWN = ("__main__", "vtexp", "hydra_plugins")
#: Characters of a path that a message shows in full.
MOST_OF_A_PATH = 1000


class _PastHydra(BaseException):
    """Carries a user's error out of a job: Hydra would add lines of its own to an Exception."""


@contextmanager
def errors_past_hydra() -> Iterator[None]:
    """Around a job that Hydra runs."""
    try:
        yield
    except Exception as error:
        if not _of_the_user(error):
            raise
        raise _PastHydra from error


def call(launch: Callable[[], None]) -> int:
    """Run Hydra's entry point on sys.argv; returns the exit code after printing any error."""
    show_traceback = "HYDRA_FULL_ERROR" in os.environ
    # Hydra's own report of an error is several lines; with this it raises, and we report.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # And argparse, in Hydra, would print all flags that there are.
    setattr(argparse.ArgumentParser, "error", refuse_arguments)  # noqa: B010

    def with_arguments() -> None:
        with hydra_arguments(), strict_booleans():
            arguments = [with_brackets(argument) for argument in flags_first(sys.argv[1:])]
            sys.argv[1:] = for_several_knobs(arguments)
            launch()

    return reported(
        with_arguments,
        show_traceback=show_traceback,
        interrupted="no run was started",
    )


def reported(command: Callable[[], None], *, show_traceback: bool, interrupted: str) -> int:
    """Run a command; returns its exit code after printing any error of a user as one line.

    `interrupted`: the message after Ctrl-C, unless the interrupted code prints its own.
    """
    try:
        with warnings.catch_warnings():
            # Hydra would silently go on without a missing folder of configs.
            warnings.filterwarnings("error", "provider=.* is not available", UserWarning)
            command()
    except (Exception, _PastHydra) as raised:
        error = raised.__cause__ if isinstance(raised, _PastHydra) else raised
        assert error is not None
        if show_traceback or not _of_the_user(error):
            raise error from None
        line = (
            printable(one_line(error)) or f"no config can be made of this ({type(error).__name__})"
        )
        print(f"error: {line}", file=sys.stderr)
        if isinstance(error, VtexpError):
            return error.exit_code
        return 1 if _of_the_machine(error) else 2
    except KeyboardInterrupt as stopped:
        print(f"interrupted: {printable(str(stopped)) or interrupted}", file=sys.stderr)
        return 130
    return 0


def one_line(error: BaseException) -> str:
    """An error as one line that names the key, what is wrong and what is allowed."""
    if package := _package_that_fails(error):
        said = cut(message_of(error))
        return f"{package} cannot be imported here ({type(error).__name__}: {said})"
    if isinstance(error, VtexpError) or _of_the_machine(error):
        text = " ".join(str(error).split())
        if isinstance(error, OSError) and len(str(error.filename)) > MOST_OF_A_PATH:
            text = f"{cut(str(error.filename))}: {error.strerror}"
        if isinstance(error, OSError) and error.filename is None and _folder_is_gone():
            return "the folder that this was typed in is no longer there; cd to another one"
        if no_memory_left(error):
            return f"no memory left on this machine ({text or 'MemoryError'}); what is done is kept"
        return text
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        file = re.match(r"In '(.+?)': ", str(error))
        return _omegaconf_line(cause) + (f" (in {file[1]}.yaml)" if file else "")
    if isinstance(error, OverrideParseException):
        return f"{error.override}: {UNPARSABLE}"
    text = " ".join(str(error).split())
    missing = re.search(
        r"Could not find '((?:hydra/)?.+?)/(.*)' Available options in '[^']+': (.*)", text
    )
    if missing:
        group, option, rest = missing.groups()
        if group in INSTEAD:
            return f"{group}={option}: no such option; {INSTEAD[group]}"
        options = ", ".join(rest.partition(" Config search path")[0].split())
        return f"{group}={option}: no such option; available: {options}"
    return text if isinstance(error, USER_ERRORS) else f"no config can be made of this: {text}"


def _folder_is_gone() -> bool:
    """Whether the current folder has been deleted, or may not be asked for."""
    try:
        Path.cwd()
    except OSError:
        return True
    return False


def _of_the_user(error: BaseException) -> bool:
    """Whether an error is about what the user wrote or the machine, not a mistake of vtexp's.

    For some wrong values Hydra and OmegaConf raise a plain ValueError or TypeError.
    """
    if isinstance(error, (*USER_ERRORS, _PastHydra)) or _of_the_machine(error):
        return True
    packages = [name.partition(".")[0] for name in _modules(error.__traceback__)]
    known = [name for name in packages if name in (*READERS, "vtexp")]
    return bool(known) and known[-1] in READERS


def _package_that_fails(error: BaseException) -> str | None:
    """The package that raised an error as it was imported: broken, or refused its variables."""
    if isinstance(error, VtexpError) or no_memory_left(error):
        return None
    traceback = error.__traceback__
    while traceback is not None:
        frame, traceback = traceback.tb_frame, traceback.tb_next
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if frame.f_code.co_name == "<module>" and package not in OWN:
            return package
    return None


def _modules(traceback: TracebackType | None) -> Iterator[str]:
    """Names of the modules that a traceback goes through, the innermost last."""
    while traceback is not None:
        yield traceback.tb_frame.f_globals.get("__name__", "")
        traceback = traceback.tb_next


def _of_the_machine(error: BaseException) -> bool:
    """Whether files, memory or packages are the trouble; some of Hydra's errors are OSErrors."""
    if no_memory_left(error) or _package_that_fails(error):
        return True
    return isinstance(error, OSError) and not isinstance(error, HydraException)


def _omegaconf_line(error: OmegaConfBaseException) -> str:
    message = str(error).splitlines()[0].strip()
    kind = error.object_type
    if message.startswith("Key '") and is_dataclass(kind):
        allowed = ", ".join(field.name for field in fields(kind))
        return f"{error.full_key}: no such key; allowed here: {allowed}"
    if message.startswith("Key '"):  # of a mapping of any keys, such as hardware.slurm.extra
        return f"{error.full_key}: no such key yet; add it as +{error.full_key}=VALUE"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}: needs a value; give it with {error.full_key}=VALUE"
    if unset := re.search(r"Environment variable '(.+)' not found", message):
        return f"{error.full_key}: the environment variable {unset[1]} is not set"
    rule = rule_of_key(str(error.full_key))
    if "not a valid bool" in message:
        return f"{error.full_key}: {message[0].lower()}{message[1:]}; must be true or false"
    allowed = f"; must be {rule}" if rule and isinstance(error, ValidationError) else ""
    return f"{error.full_key}: {message[0].lower()}{message[1:]}{allowed}"
