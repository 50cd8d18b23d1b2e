"""Output that may go away: a closed pipe or a full disk stops the output, not the work."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

for descriptor in range(3):  # closed, as by >&-: a file of results would take its number, and words
    try:
        os.fstat(descriptor)
    except OSError:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115
sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115


class Output:
    """A stream that drops what is written after its first failure.

    `failed`: whether that was any other than a closed pipe, whose reader has read enough.
    """

    def __init__(self, stream: Callable[[], IO[str]]) -> None:
        """`stream` gives the stream as it is when something is written."""
        self._stream = stream
        self.failed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream(), name)

    def write(self, text: str) -> int:
        """Write, or from the first failure on drop what is to be written."""
        with self._going_on():
            self._stream().write(text)
        return len(text)

    def flush(self) -> None:
        """As `write`."""
        with self._going_on():
            self._stream().flush()

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream().fileno())
            if not isinstance(error, BrokenPipeError) and not self.failed:
                self.failed = True
                print(f"standard output cannot be written ({error})", file=errors)


#: Standard error, where a full disk stops no work either.
errors = cast(IO[str], Output(lambda: sys.stderr))


@contextmanager
def output_may_close(*, fails: bool) -> Iterator[None]:
    """A program whose standard output may be closed early, as by `| head -1`, without an error.

    `fails`: any other failure, such as a full disk, ends it with exit code 1. What standard error
    does not take is lost.
    """
    own, own_errors = sys.stdout, sys.stderr
    output, words = Output(lambda: own), Output(lambda: own_errors)
    sys.stdout, sys.stderr = cast(IO[str], output), cast(IO[str], words)
    try:
        yield
    finally:
        output.flush()  # here: at exit Python would add words of its own
        words.flush()
        sys.stdout, sys.stderr = own, own_errors
    if fails and output.failed:
        raise SystemExit(1)
