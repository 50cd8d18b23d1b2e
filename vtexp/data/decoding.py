"""Images decoded ahead in worker processes, in bounded memory: each once for all that use it.

The memory that is taken is two chunks: the one in use, and the one that is being decoded meanwhile.
Workers import Pillow and numpy alone, and start anew (not forked): a process that holds a GPU must
not be forked.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from types import TracebackType
from typing import Self

import numpy as np

from vtexp.data.base import Sample
from vtexp.data.images import AnyImage, image_pixels
from vtexp.errors import DataError
from vtexp.geometry import Size

#: Decoded images of a chunk by the index of their sample, or why there are none.
Chunk = dict[int, np.ndarray | str]
#: Gives the pixels of an image once they are there, or why there are none.
Task = Callable[[], np.ndarray | str]


class Decoder:
    """Decodes the images of samples; with 0 workers in this process, when they are asked for."""

    def __init__(self, workers: int) -> None:
        self._pool = None
        if workers > 0:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(workers, context, initializer=_follow_parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def chunks(
        self, samples: Sequence[Sample], sizes: Sequence[Size], *, most_mib: int = 512
    ) -> Iterator[Chunk]:
        """The images of samples in order, in chunks of at most `most_mib` (or of one image).

        `sizes` are those of the images' headers. An image that several samples of a chunk share is
        decoded once and is the same array. While a chunk is in use, workers decode the next. Raises
        DataError where a worker dies.
        """
        pending: tuple[range, dict[str, Task]] | None = None
        for part in _parts(samples, sizes, most_mib * 2**20):
            submitted = (part, self._submit([samples[i] for i in part]))
            if pending is not None:
                yield _collect(samples, *pending)
            pending = submitted
        if pending is not None:
            yield _collect(samples, *pending)

    def _submit(self, samples: Sequence[Sample]) -> dict[str, Task]:
        """A decoding task for each image of some samples."""
        images = {sample.image_id: sample.image for sample in samples}
        if self._pool is None:
            return {image_id: partial(_decode, image) for image_id, image in images.items()}
        submit = self._pool.submit
        return {image_id: submit(_decode, image).result for image_id, image in images.items()}


def _parts(samples: Sequence[Sample], sizes: Sequence[Size], most_bytes: int) -> Iterator[range]:
    """The samples cut into runs whose distinct images take no more than so much memory."""
    start, taken = 0, 0
    seen: set[str] = set()
    for i, (sample, size) in enumerate(zip(samples, sizes, strict=True)):
        needed = 3 * size.height * size.width
        if i > start and sample.image_id not in seen and taken + needed > most_bytes:
            yield range(start, i)
            start, taken, seen = i, 0, set()
        if sample.image_id not in seen:
            seen.add(sample.image_id)
            taken += needed
    if samples:
        yield range(start, len(samples))


def _collect(samples: Sequence[Sample], part: range, tasks: dict[str, Task]) -> Chunk:
    try:
        images = {image_id: task() for image_id, task in tasks.items()}
    except BrokenProcessPool as error:
        raise DataError(
            "a process that decodes images ended (out of memory, or killed); take fewer "
            "hardware.decode_workers, or 0"
        ) from error
    return {i: images[samples[i].image_id] for i in part}


def _decode(image: AnyImage) -> np.ndarray | str:
    """Pixels of an image, or why there are none: errors would not all travel between processes."""
    try:
        return image_pixels(image)
    except DataError as error:
        return str(error)


def _follow_parent() -> None:
    """Ctrl-C is for the process that uses the images; the workers end with it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
