"""Standard output that may go away: a closed pipe or a full disk stops the output, not the work."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

if sys.stdout is None:  # closed, as by >&-: the work is done without words
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115


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
            if not isinstance(error, BrokenPipeError):
                self.failed = True
                print(f"standard output cannot be written ({error})", file=sys.stderr)


@contextmanager
def output_may_close(*, fails: bool) -> Iterator[None]:
    """A program whose standard output may be closed early, as by `| head -1`, without an error.

    `fails`: any other failure, such as a full disk, ends it with exit code 1.
    """
    own = sys.stdout
    output = Output(lambda: own)
    sys.stdout = cast(IO[str], output)
    try:
        yield
    finally:
        output.flush()  # here: at exit Python would add words of its own
        sys.stdout = own
    if fails and output.failed:
        raise SystemExit(1)
