"""Images given by address: downloaded once, checked, and failed one by one."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vtexp.config.schema import Config
from vtexp.data.load import load_samples
from vtexp.data.sample import LoadedSamples
from vtexp.data.sources.images import download_images
from vtexp.errors import DataError

MakeConfig = Callable[..., Config]


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder without a word."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address that serves it."""
    folder = tmp_path / "site"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def encoded(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_pixmo_count(
    make_config: MakeConfig, site: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One image is there, one was replaced, one is gone, one address is of a file."""
    monkeypatch.setenv("VTEXP_CACHE_DIR", str(tmp_path / "cache"))
    folder, address = site
    rows = []
    for i, name in enumerate(("a", "replaced", "gone", "file")):
        data = encoded(i)
        digest = hashlib.sha256(data).hexdigest()
        if name != "gone":
            (folder / f"{name}.png").write_bytes(data if name != "replaced" else encoded(9))
        url = f"{address}/{name}.png" if name != "file" else (folder / "file.png").as_uri()
        rows.append({"image_url": url, "image_sha256": digest, "count": i + 2, "label": "Dog",
                     "points": None})  # fmt: skip
    data_folder = tmp_path / "pixmo"
    (data_folder / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), data_folder / "data" / "validation-0.parquet")

    def load(*, fetch: bool) -> LoadedSamples:
        overrides = ["dataset.source.hub=null", f"dataset.source.folder={data_folder}"]
        return load_samples(make_config("dataset=pixmo_count", *overrides).dataset, fetch=fetch)

    planned = load(fetch=False)
    assert len(planned.failed) == 4
    assert all("without plan=true" in failed.reason for failed in planned.failed)

    found = load(fetch=True)
    (sample,) = found.samples
    assert sample.question == "How many dog are there in the image?"
    assert sample.references == ("2",) and sample.pixels().shape == (20, 30, 3)
    reasons = {failed.sample_id: failed.reason for failed in found.failed}
    assert "has changed (its SHA-256 differs)" in reasons["validation-1"]
    assert "404" in reasons["validation-2"]
    assert "a web address" in reasons["validation-3"]

    (folder / "a.png").unlink()  # what is there is not asked for again
    assert load(fetch=True).samples == found.samples
    assert [
        path.name for path in (tmp_path / "cache" / "downloaded" / "pixmo_count").iterdir()
    ] == [sample.image_id]


def test_no_network_is_one_line_soon(tmp_path: Path) -> None:
    addresses = {tmp_path / f"{i}.png": f"http://127.0.0.1:9/{i}.png" for i in range(500)}
    with pytest.raises(DataError, match=r"none of 500 .*: http://127"):
        download_images(addresses)


def test_downloaded_twice_is_downloaded_once(site: tuple[Path, str], tmp_path: Path) -> None:
    folder, address = site
    (folder / "a.png").write_bytes(encoded(0))
    path = tmp_path / "images" / "a.png"
    assert download_images({path: f"{address}/a.png"}) == {}
    (folder / "a.png").unlink()
    assert download_images({path: f"{address}/a.png"}) == {}
    assert path.read_bytes() == encoded(0)
