"""Decoding ahead in worker processes: the same pixels, each image once, bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vtexp.data import decoding
from vtexp.data.base import FailedSample, ImageFile, Sample
from vtexp.data.decoding import Decoder
from vtexp.geometry import Size

Draw = Callable[[list[tuple[int, int]]], list[Sample]]
SHAPES = [(30, 40), (64, 64), (200, 100), (20, 20), (90, 90)]


@pytest.fixture
def samples(draw_noise: Draw) -> list[Sample]:
    """Five images, and a second question about the first."""
    drawn = draw_noise(SHAPES)
    return [*drawn, replace(drawn[0], sample_id="again")]


def sizes(samples: list[Sample]) -> list[Size]:
    return [sample.image_size() for sample in samples]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_chunks_have_each_image_once_in_order(samples: list[Sample], workers: int) -> None:
    order = [2, 0, 5, 1, 4, 3]
    with Decoder(workers) as decoder:
        chunks = list(decoder.chunks(samples, sizes(samples), order, most_mib=1))
    (chunk,) = chunks
    assert list(chunk) == order
    for i, pixels in chunk.items():
        assert isinstance(pixels, np.ndarray)
        assert np.array_equal(pixels, samples[i].pixels())
    assert chunk[0] is chunk[5]


def test_chunks_take_no_more_than_they_may(
    samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    real = decoding.image_pixels

    def counting(image: ImageFile) -> np.ndarray:
        decoded.append(str(image))
        return real(image)

    monkeypatch.setattr(decoding, "image_pixels", counting)
    most = 3 * 64 * 64 + 3 * 30 * 40
    parts = list(decoding._parts(samples, sizes(samples), range(6), most))
    assert parts == [[0, 1], [2], [3], [4], [5]]  # the third is larger: alone
    with Decoder(0) as decoder:
        chunks = decoder.chunks(samples, sizes(samples), range(6), most_mib=1)
        assert sorted(i for chunk in chunks for i in chunk) == list(range(6))
    assert len(decoded) == 5


def test_an_image_that_cannot_be_decoded_fails_alone(samples: list[Sample], tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    data = samples[2].image.open_bytes().read()
    path.write_bytes(data[: len(data) // 2])
    samples[2] = replace(samples[2], image=ImageFile(path), image_id="cut")
    with Decoder(0) as decoder:
        (chunk,) = decoder.chunks(samples, sizes(samples), range(6))
    failed = chunk[2]
    assert isinstance(failed, FailedSample) and failed.sample_id == samples[2].sample_id
    assert "cut.png: the image cannot be decoded" in failed.reason
    assert all(isinstance(chunk[i], np.ndarray) for i in (0, 1, 3, 4, 5))
