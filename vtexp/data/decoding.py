"""Images decoded ahead in worker processes, in bounded memory, each once for all that use it then.

The memory that is taken is a chunk of images, and as much again for the few that the workers have
decoded ahead; one image each is always decoded.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vtexp.budget.geometry import Size
from vtexp.data.images import AnyImage, image_pixels
from vtexp.data.sample import Sample
from vtexp.errors import DataError
from vtexp.utils.cores import core_count

#: Decoded images of a chunk by the index of their sample, or why there are none.
Chunk = dict[int, np.ndarray | str]
#: A chunk's images take at most so much memory (or are one image), and are at most so many.
MOST_BYTES, MOST_SAMPLES = 512 * 2**20, 4096
#: Images that each worker decodes ahead of need, where they are small enough.
AHEAD = 16


def decoded_chunks(
    samples: Sequence[Sample],
    sizes: Sequence[Size],
    *,
    indices: Sequence[int],
    workers: int = 0,
    most_bytes: int = MOST_BYTES,
) -> Iterator[Chunk]:
    """The images of the samples of these indices, in their order, in chunks.

    `sizes` are those of the images' headers. An image that several samples of a chunk share is
    decoded once and is the same array. Workers decode while a chunk is in use; without any, images
    are decoded when their chunk's turn comes. No more of them work than there are cores. Raises
    DataError where a worker cannot be started or dies, or memory ends.
    """
    from torch.utils.data import DataLoader

    if workers := min(workers, core_count()):
        _require_semaphores()
    parts = list(_parts(samples, sizes, indices, most_bytes))
    wanted = [list(dict.fromkeys(samples[i].image for i in part)) for part in parts]
    loader: DataLoader[Any] = DataLoader(
        _Images([image for images in wanted for image in images]),  # type: ignore[arg-type]
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=workers,
        prefetch_factor=_ahead(sizes, indices, workers, most_bytes) if workers else None,
        # A process that holds a GPU must not be forked.
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=_follow_parent,
    )
    try:
        decoded = iter(loader)
        for part, images in zip(parts, wanted, strict=True):
            found = {image: next(decoded) for image in images}
            yield {i: found[samples[i].image] for i in part}
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        raise DataError(
            "a process that decodes images ended or has no memory left; take fewer "
            "hardware.decode_workers, or 0"
        ) from error


def _require_semaphores() -> None:
    """Raises DataError where this machine has none, by which processes wait for each other."""
    try:
        multiprocessing.get_context("spawn").Lock()
    except OSError as error:
        raise DataError(
            f"no process that decodes images can be started ({error.strerror}; containers need "
            "/dev/shm for it); take hardware.decode_workers=0"
        ) from error


class _Images:
    """Images to be decoded, as a loader takes them."""

    def __init__(self, images: Sequence[AnyImage]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> np.ndarray | str:
        """Pixels of an image, or why there are none."""
        try:
            return image_pixels(self.images[place])
        except DataError as error:
            return str(error)


def _parts(
    samples: Sequence[Sample], sizes: Sequence[Size], indices: Sequence[int], most_bytes: int
) -> Iterator[Sequence[int]]:
    """The indices cut into runs whose distinct images take no more than so much memory."""
    start, taken = 0, 0
    seen: set[AnyImage] = set()
    for place, i in enumerate(indices):
        image = samples[i].image
        needed = 0 if image in seen else _decoded_bytes(sizes[i])
        if place > start and (taken + needed > most_bytes or place - start == MOST_SAMPLES):
            yield indices[start:place]
            start, taken, seen = place, 0, set()
            needed = _decoded_bytes(sizes[i])
        seen.add(image)
        taken += needed
    if start < len(indices):
        yield indices[start:]


def _ahead(sizes: Sequence[Size], indices: Sequence[int], workers: int, most_bytes: int) -> int:
    """How many images each worker decodes ahead: at most so much memory together, if they can."""
    largest = max((_decoded_bytes(sizes[i]) for i in indices), default=1)
    return max(1, min(AHEAD, most_bytes // (workers * largest)))


def _decoded_bytes(size: Size) -> int:
    return 3 * size.height * size.width


def _as_it_is(image: Any) -> Any:
    """No conversion to a tensor."""
    return image


def _follow_parent(_: int) -> None:
    """Ctrl-C is for the process that uses the images; the workers end with it, however it ends.

    PyTorch's own watch does not end a worker that waits for its results to be taken.
    """
    for ignored in (signal.SIGINT, signal.SIGUSR2):  # SLURM's word that the time is up
        signal.signal(ignored, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
