"""Decoding ahead in worker processes: the same pixels, each image once, bounded memory."""

from __future__ import annotations

import errno
import multiprocessing
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vtexp.budget.geometry import Size
from vtexp.data import decoding
from vtexp.data.decoding import decoded_chunks
from vtexp.data.sample import ImageFile, Sample
from vtexp.errors import DataError
from vtexp.utils.cores import core_count

Draw = Callable[[list[tuple[int, int]]], list[Sample]]
ANY_SAMPLE = Sample("0", "0", ImageFile(Path()), "", ("a",), "")
SHAPES = [(30, 40), (64, 64), (200, 100), (20, 20), (90, 90)]


@pytest.fixture
def samples(draw_noise: Draw) -> list[Sample]:
    """Five images, and a second question about the first."""
    drawn = draw_noise(SHAPES)
    return [*drawn, replace(drawn[0], sample_id="again")]


def sizes(samples: list[Sample]) -> list[Size]:
    return [sample.image_size() for sample in samples]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_chunk_has_each_image_once(samples: list[Sample], workers: int) -> None:
    (chunk,) = decoded_chunks(samples, sizes(samples), indices=range(6), workers=workers)
    assert list(chunk) == [0, 1, 2, 3, 4, 5]
    for i, pixels in chunk.items():
        assert isinstance(pixels, np.ndarray)
        assert np.array_equal(pixels, samples[i].pixels())
    assert chunk[0] is chunk[5]


@pytest.mark.slow
def test_no_more_workers_than_cores(samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    """As a quota leaves them; torch would warn of more."""
    monkeypatch.setattr(decoding, "core_count", lambda: 1)
    chunks = decoded_chunks(samples, sizes(samples), indices=range(6), workers=3, most_bytes=1)
    next(chunks)
    assert len(multiprocessing.active_children()) == 1
    assert len(list(chunks)) == 5  # one a sample


def test_a_machine_without_semaphores(
    samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a container whose /dev/shm cannot be written."""

    def none(_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(type(multiprocessing.get_context("spawn")), "Lock", none)
    with pytest.raises(DataError, match=r"hardware\.decode_workers=0"):
        next(decoded_chunks(samples, sizes(samples), indices=range(6), workers=2))


def test_images_of_one_image_id_are_each_their_own(samples: list[Sample]) -> None:
    """An id is for statistics, such as the document that pages are of: it names no pixels."""
    alike = [replace(sample, image_id="document") for sample in samples]
    (chunk,) = decoded_chunks(alike, sizes(samples), indices=range(6))
    for i, pixels in chunk.items():
        assert np.array_equal(pixels, samples[i].pixels())
    assert chunk[0] is chunk[5]
    size = sizes(samples)
    assert [*decoding._parts(alike, size, range(6), 3 * 64 * 64)] == [
        *decoding._parts(samples, size, range(6), 3 * 64 * 64)
    ]


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 400), st.integers(1, 3))
def test_parts_cover_all_samples_and_take_no_more_than_they_may(
    images: list[int], most: int, step: int
) -> None:
    """Every so many are asked for. Image n is n + 1 px high, 10 px wide; samples can share it."""
    asked = [replace(ANY_SAMPLE, image=ImageFile(Path(str(number)))) for number in images]
    of_images = [Size(number + 1, 10) for number in images]
    indices = range(0, len(images), step)
    parts = list(decoding._parts(asked, of_images, indices, most))
    assert [i for part in parts for i in part] == list(indices)
    for part in parts:
        needed = sum(30 * (number + 1) for number in {images[i] for i in part})
        assert needed <= most or len({images[i] for i in part}) == 1


@pytest.mark.parametrize(
    ("size", "workers", "ahead"),
    [
        (Size(480, 640), 4, decoding.AHEAD),
        (Size(3000, 4000), 4, 3),
        (Size(13_000, 13_000), 1, 1),
        (Size(13_000, 13_000), 4, 1),
    ],
)
def test_few_large_images_are_decoded_ahead(size: Size, workers: int, ahead: int) -> None:
    """One of them decides; those that are not asked about do not."""
    of_images = [Size(10, 10), size, Size(10**5, 10**5)]
    assert decoding._ahead(of_images, range(2), workers, decoding.MOST_BYTES) == ahead
    assert decoding._ahead(of_images, [], workers, decoding.MOST_BYTES) == decoding.AHEAD


LARGE = """
import sys, time
from multiprocessing import active_children
from pathlib import Path
from vtexp.data.sample import ImageFile, Sample
from vtexp.errors import DataError
from vtexp.utils.cores import core_count
from vtexp.data.decoding import decoded_chunks

def peak_mib(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024

if __name__ == "__main__":
    images = map(ImageFile, Path(sys.argv[1]).iterdir())
    samples = [Sample(str(i), str(i), image, "", ("a",), "") for i, image in enumerate(images)]
    sizes = [sample.image_size() for sample in samples]
    chunks = decoded_chunks(samples, sizes, indices=range(len(samples)), workers=1)
    next(chunks)
    (worker,) = active_children()
    seen = [0, peak_mib(worker.pid)]
    while seen[-1] > seen[-2]:  # it decodes ahead as long as it may
        time.sleep(3)
        seen.append(peak_mib(worker.pid))
    print(seen[-1])
"""


@pytest.mark.slow
def test_large_images_take_bounded_memory(tmp_path: Path) -> None:
    """Twelve small files of 285 MiB each, and a consumer that takes its time."""
    folder, script = tmp_path / "images", tmp_path / "script.py"
    folder.mkdir()
    Image.new("RGB", (10_000, 10_000)).save(folder / "0.png")
    for number in range(1, 12):
        (folder / f"{number}.png").hardlink_to(folder / "0.png")
    script.write_text(LARGE)
    command = [sys.executable, str(script), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert int(done.stdout) < 2000


def test_an_image_that_cannot_be_decoded_fails_alone(samples: list[Sample], tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    data = samples[2].image.open_bytes().read()
    path.write_bytes(data[: len(data) // 2])
    samples[2] = replace(samples[2], image=ImageFile(path), image_id="cut")
    (chunk,) = decoded_chunks(samples, sizes(samples), indices=range(6))
    assert "cut.png: the image" in str(chunk[2])
    assert all(isinstance(chunk[i], np.ndarray) for i in (0, 1, 3, 4, 5))


SCRIPT = """
import os, signal, sys
from pathlib import Path
from multiprocessing import active_children
from vtexp.data.sample import ImageFile, Sample
from vtexp.errors import DataError
from vtexp.utils.cores import core_count
from vtexp.data.decoding import decoded_chunks

if __name__ == "__main__":
    images, victim = map(ImageFile, Path(sys.argv[1]).iterdir()), sys.argv[2]
    samples = [Sample(str(i), str(i), image, "", ("a",), "") for i, image in enumerate(images)]
    sizes = [samples[0].image_size()] * 200
    chunks = decoded_chunks(samples, sizes, indices=range(200), workers=2, most_bytes=10**6)
    next(chunks)
    print(*(child.pid for child in active_children()), flush=True)
    os.kill(os.getpid() if victim == "parent" else active_children()[0].pid, signal.SIGKILL)
    list(chunks)
"""


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["parent", "worker"])
@pytest.mark.fault(
    "kill anywhere",
    "a process that decodes images, or its parent, is killed",
    "no process is left behind",
)
def test_a_killed_process_is_survived_by_no_other(tmp_path: Path, victim: str) -> None:
    """Workers end with the process they work for; that one learns of a worker's death."""
    folder, script = tmp_path / "images", tmp_path / "script.py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (700, 500, 3), dtype=np.uint8)).save(folder / "0.png")
    for number in range(1, 200):
        (folder / f"{number}.png").hardlink_to(folder / "0.png")
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(folder), victim]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if victim == "parent":
        assert killed.returncode == -signal.SIGKILL
    else:
        assert "DataError: a process" in killed.stderr
    workers = [Path("/proc", pid) for pid in killed.stdout.split()]
    assert len(workers) == min(2, core_count())
    until = time.monotonic() + 30
    while any(path.exists() for path in workers) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(path.exists() for path in workers)
