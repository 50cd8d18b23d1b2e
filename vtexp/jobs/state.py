"""A job as its launcher sees it."""

from __future__ import annotations

from typing import NamedTuple


class JobState(NamedTuple):
    """A job as its launcher sees it: `queued`, `running`, `ended` or `unknown`, and more of it.

    cause: why it waits, or how it ended; node: where it runs or ran.
    """

    state: str
    cause: str = ""
    node: str = ""
