"""Draws taken some at a time, so that they need little memory."""

from collections.abc import Iterator

#: Numbers of one chunk.
_NUMBERS = 10_000_000


def chunks(draws: int, width: int) -> Iterator[int]:
    """Sizes that add up to `draws`; a chunk of that width has some 10 million numbers."""
    size = max(1, _NUMBERS // width)
    for start in range(0, draws, size):
        yield min(size, draws - start)
