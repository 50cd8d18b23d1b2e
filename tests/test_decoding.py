"""Decoding ahead in worker processes: the same pixels, each image once, bounded memory."""

from __future__ import annotations

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

from vtexp.data import decoding
from vtexp.data.base import ImageFile, Sample
from vtexp.data.decoding import Decoder
from vtexp.geometry import Size

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
    with Decoder(workers) as decoder:
        (chunk,) = decoder.chunks(samples, sizes(samples), most_mib=1)
    assert list(chunk) == [0, 1, 2, 3, 4, 5]
    for i, pixels in chunk.items():
        assert isinstance(pixels, np.ndarray)
        assert np.array_equal(pixels, samples[i].pixels())
    assert chunk[0] is chunk[5]


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 400))
def test_parts_cover_all_samples_and_take_no_more_than_they_may(
    images: list[int], most: int
) -> None:
    """Image number n is n + 1 px high and 10 px wide; several samples can share it."""
    asked = [replace(ANY_SAMPLE, image_id=str(number)) for number in images]
    of_images = [Size(number + 1, 10) for number in images]
    parts = list(decoding._parts(asked, of_images, most))
    assert [i for part in parts for i in part] == list(range(len(images)))
    for part in parts:
        needed = sum(30 * (number + 1) for number in {images[i] for i in part})
        assert needed <= most or len({images[i] for i in part}) == 1


def test_an_image_that_cannot_be_decoded_fails_alone(samples: list[Sample], tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    data = samples[2].image.open_bytes().read()
    path.write_bytes(data[: len(data) // 2])
    samples[2] = replace(samples[2], image=ImageFile(path), image_id="cut")
    with Decoder(0) as decoder:
        (chunk,) = decoder.chunks(samples, sizes(samples))
    assert "cut.png: the image cannot be decoded" in str(chunk[2])
    assert all(isinstance(chunk[i], np.ndarray) for i in (0, 1, 3, 4, 5))


KILLED = """
import os, signal, sys, time
from pathlib import Path
from vtexp.data.base import ImageFile, Sample
from vtexp.data.decoding import Decoder

if __name__ == "__main__":
    image = ImageFile(Path(sys.argv[1]))
    sample = Sample("0", "0", image, "", ("a",), "")
    with Decoder(2) as decoder:
        list(decoder.chunks([sample], [sample.image_size()]))
        print(*decoder._pool._processes, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_workers_end_with_a_process_that_is_killed(samples: list[Sample], tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script), str(samples[0].image)]
    killed = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    workers = [Path("/proc", pid) for pid in killed.stdout.split()]
    assert workers
    until = time.monotonic() + 20
    while any(path.exists() for path in workers) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(path.exists() for path in workers)
