"""Images decoded ahead in worker processes, in bounded memory: each once for many uses.

The memory that is taken is two chunks: the one in use, and the one that is being decoded meanwhile.
Workers import Pillow and numpy alone, and start anew (not forked): a process that holds a GPU must
not be forked.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from types import TracebackType
from typing import Self

import numpy as np

from vtexp.data.base import FailedSample, Sample
from vtexp.data.images import AnyImage, image_pixels
from vtexp.errors import DataError
from vtexp.geometry import Size

#: Pixels of a sample's image, or why there are none.
Decoded = np.ndarray | FailedSample
#: Decoded images of a chunk, by the place of their sample.
Chunk = Mapping[int, Decoded]
#: Gives the pixels of an image once they are there, or why there are none.
Task = Callable[[], np.ndarray | str]


class Decoder:
    """Decodes the images of samples; with 0 workers in this process, when they are asked for."""

    def __init__(self, workers: int) -> None:
        self._pool = None
        if workers > 0:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(workers, context, initializer=_ignore_interrupts)

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
        self,
        samples: Sequence[Sample],
        sizes: Sequence[Size],
        order: Sequence[int],
        *,
        most_mib: int = 512,
    ) -> Iterator[Chunk]:
        """The images of samples in an order, in chunks of at most `most_mib` (or of one image).

        `sizes` are those of the images' headers. An image that several samples of a chunk share is
        decoded once and is the same array. While a chunk is in use, workers decode the next. Raises
        DataError where a worker dies.
        """
        pending: tuple[list[int], dict[str, Task]] | None = None
        for part in _parts(samples, sizes, order, most_mib * 2**20):
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


def _parts(
    samples: Sequence[Sample], sizes: Sequence[Size], order: Sequence[int], most_bytes: int
) -> Iterator[list[int]]:
    """An order cut into runs whose distinct images take no more than so much memory."""
    part: list[int] = []
    seen: set[str] = set()
    taken = 0
    for i in order:
        image_id = samples[i].image_id
        needed = 0 if image_id in seen else 3 * sizes[i].height * sizes[i].width
        if part and taken + needed > most_bytes:
            yield part
            part, seen, taken = [], set(), 0
            needed = 3 * sizes[i].height * sizes[i].width
        part.append(i)
        seen.add(image_id)
        taken += needed
    if part:
        yield part


def _collect(samples: Sequence[Sample], part: Sequence[int], tasks: dict[str, Task]) -> Chunk:
    try:
        images = {image_id: task() for image_id, task in tasks.items()}
    except BrokenProcessPool as error:
        raise DataError(
            "a process that decodes images ended (out of memory, or killed); decode with fewer "
            "workers, or with none"
        ) from error
    chunk: dict[int, Decoded] = {}
    for i in part:
        found = images[samples[i].image_id]
        if isinstance(found, str):
            chunk[i] = FailedSample(samples[i].sample_id, found)
        else:
            chunk[i] = found
    return chunk


def _decode(image: AnyImage) -> np.ndarray | str:
    """Pixels of an image, or why there are none: errors would not all travel between processes."""
    try:
        return image_pixels(image)
    except DataError as error:
        return str(error)


def _ignore_interrupts() -> None:
    """Ctrl-C is for the process that uses the images; it ends the workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
