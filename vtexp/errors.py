"""The errors a user can meet. Each message is one line: what was wrong, where, and what to do."""

from __future__ import annotations


class VtexpError(Exception):
    """Base of every error that is the user's to solve; shown as one line, exit code `exit_code`."""

    exit_code = 1


class ConfigError(VtexpError):
    """The configuration asks for something impossible; found before any model is loaded."""

    exit_code = 2


class ArgumentError(ConfigError, ValueError):
    """A function of the Python API was called with a wrong argument."""


class MissingExtraError(ConfigError):
    """A package that only some uses need is not installed."""


class DataError(VtexpError):
    """A data set is missing, unreadable or inconsistent."""


class CheckpointError(VtexpError):
    """Model weights, config or tokenizer are missing or do not fit together."""


class CountMismatchError(VtexpError):
    """The model read another number of crops or vision tokens than the layout predicts."""


class RunFailedError(VtexpError):
    """One or more runs of a sweep failed; the others are kept."""


def message_of(error: BaseException) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def error_line(error: BaseException) -> str:
    """An error as one line, with its kind where it is not a user's."""
    text = " ".join(str(error).split())
    return text if isinstance(error, VtexpError) else f"{type(error).__name__}: {text}"


#: What errors of several libraries say where the host's memory or address space is used up.
_NO_MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "can't start new thread",
    "failed to map segment from shared object",
)


def no_memory_left(error: BaseException) -> bool:
    """Whether an error says that the host had no memory left, be it for data or for code."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    libraries = isinstance(error, OSError | RuntimeError | ImportError)
    return libraries and any(sign in text for sign in _NO_MEMORY)
