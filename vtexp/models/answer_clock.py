"""The clock of the answers to a batch. No torch here."""

from __future__ import annotations

import time
from collections.abc import Callable


class AnswerClock:
    """Seconds of the answers to one batch of prompts: reading these, and all that comes behind.

    The device is waited for at each border. `prefill_s` ends with the first token of each answer;
    `decode_s` has the others.
    """

    def __init__(self, wait: Callable[[], None]) -> None:
        """`wait` returns when the device has done everything asked of it."""
        self._wait = wait
        self._since_s = 0.0
        self.prefill_s = self.decode_s = 0.0
        #: Whether the tokens behind the first came from a CUDA graph.
        self.replayed = False

    def start(self) -> None:
        """Prompts are sent or read from here on."""
        self._since_s = self._now_s()

    def pause(self) -> None:
        """What follows, until the next start, is not part of a prefill."""
        self.prefill_s += self._now_s() - self._since_s

    def prompts_read(self) -> None:
        """The first token of each answer is chosen."""
        self.pause()
        self._since_s = self._now_s()

    def end(self) -> None:
        """All answers are there."""
        self.decode_s = self._now_s() - self._since_s

    def _now_s(self) -> float:
        self._wait()
        return time.perf_counter()
