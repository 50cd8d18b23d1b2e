"""Bad images, questions and answers: each sample is scored, or recorded as failed with why."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image

from tests.data.test_images import turned_late
from tests.helpers.sweeps import run_without_report
from tests.models.test_families import asking, save_tokenizer
from vtexp.analysis.rows import collect
from vtexp.config.schema import Config
from vtexp.data import images
from vtexp.data.sample import ImageFile
from vtexp.data.sources.images import download_images
from vtexp.errors import DataError
from vtexp.models.families import FAMILIES
from vtexp.prompts.tokenizer import PromptTokenizer
from vtexp.runs.plan import make_plan
from vtexp.utils.files import SAMPLES, read_jsonl

MakeConfig = Callable[..., Config]
#: More of each by VTEXP_FUZZ_CASES.
CASES = int(os.environ.get("VTEXP_FUZZ_CASES", "300"))
QUICK = settings(
    max_examples=CASES,
    database=None,
    derandomize=CASES <= 1000,
    suppress_health_check=list(HealthCheck),
)


# --- images ---------------------------------------------------------------------------------------


def _whole(kind: str, mode: str) -> bytes:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (24, 33, 3), dtype=np.uint8)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


WHOLE = {
    (kind, mode): _whole(kind, mode)
    for kind, modes in {
        "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
        "JPEG": ("L", "RGB", "CMYK"),
        "TIFF": ("1", "L", "RGB", "CMYK", "F"),
        "GIF": ("P",),
        "BMP": ("1", "P", "RGB"),
        "WEBP": ("RGB", "RGBA"),
        "PPM": ("1", "L", "RGB"),
        "JPEG2000": ("L", "RGB"),
        "AVIF": ("RGB",),
        "ICO": ("RGBA",),
        "TGA": ("RGB",),
    }.items()
    for mode in modes
    if kind in Image.SAVE or Image.init() or kind in Image.SAVE
}
#: Bytes put in place of others: (where as a share of the file, what).
CHANGES = st.lists(
    st.tuples(
        st.one_of(st.floats(0, 1), st.floats(0, 0.1)),
        st.one_of(
            st.binary(min_size=1, max_size=4),
            st.sampled_from([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff", b"\x00\x01\x00\x00"]),
        ),
    ),
    max_size=4,
)


@QUICK
@given(source=st.sampled_from(sorted(WHOLE)), changes=CHANGES, kept=st.floats(0.02, 1.3))
@pytest.mark.fault(
    "bad data",
    "image files of all formats and modes, cut, lengthened and changed at random",
    "read in the size of their header, or failed with one line",
)
def test_spoilt_images_are_read_or_say_why(
    tmp_path_factory: pytest.TempPathFactory,
    source: tuple[str, str],
    changes: list[tuple[float, bytes]],
    kept: float,
) -> None:
    """Size and pixels, where both can be read, are of one shape: crops are planned by the size."""
    data = bytearray(WHOLE[source])
    for share, new in changes:
        at = int(share * max(0, len(data) - len(new)))
        data[at : at + len(new)] = new
    path = tmp_path_factory.getbasetemp() / "spoilt"
    path.write_bytes(data[: int(kept * len(data))])
    try:
        size = images.image_size(ImageFile(path))
    except DataError as error:
        assert "\n" not in str(error) and str(path) in str(error)
        return
    assert size.height > 0 and size.width > 0
    assert size.height * size.width <= 2 * (Image.MAX_IMAGE_PIXELS or 0)
    if size.height * size.width > 4_000_000:
        return  # decoded within the limit of memory below
    try:
        pixels = images.image_pixels(ImageFile(path))
    except DataError as error:
        assert "\n" not in str(error) and str(path) in str(error)
        return
    assert pixels.shape == (*size, 3) and pixels.dtype == np.uint8


@pytest.mark.fault(
    "hostile input",
    "an image in PostScript",
    "refused as an unknown format; Ghostscript is not started",
)
def test_no_image_starts_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostScript is a language: Pillow would hand an EPS to Ghostscript."""
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.eps", "EPS")

    def run(*_: object, **__: object) -> None:
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run)
    with pytest.raises(DataError, match="no known format"):
        images.image_pixels(ImageFile(tmp_path / "a.eps"))


# --- questions ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizers(
    tmp_path_factory: pytest.TempPathFactory, small_checkpoint: Path
) -> dict[str, PromptTokenizer]:
    """A tokenizer of each family."""
    found = {"molmo": PromptTokenizer.from_folder(small_checkpoint)}
    for name in FAMILIES:
        if name != "molmo":
            folder = tmp_path_factory.mktemp(name)
            save_tokenizer(name, folder)
            found[name] = PromptTokenizer.from_folder(folder, FAMILIES[name].form)
    return found


#: Tokens of all families, whole and in pieces, among other text.
SPECIAL = sorted(
    {t for f in FAMILIES.values() for t in (*f.form.image_tokens, *f.form.special_tokens)}
)
PIECES = st.lists(
    st.one_of(
        st.sampled_from([*SPECIAL, "<|endoftext|>", "{message}", "{image}", "{bos}", "{0}", "<s>"]),
        st.sampled_from(["<im_", "patch>", "<|", "|>", "<", ">", "\uff1cim_patch\uff1e", "\u200b"]),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
        st.sampled_from(["\0", "\x07", "\x1b[2J", "\r\n", "\u202e", "\ufeff", "\U0010ffff"]),
    ),
    max_size=8,
)


@QUICK
@given(pieces=PIECES)
@pytest.mark.fault(
    "bad data",
    "questions with special tokens, in pieces, control characters, all families",
    "no text becomes an image token or any other special one",
)
def test_no_text_becomes_a_special_token(
    tokenizers: dict[str, PromptTokenizer], pieces: list[str]
) -> None:
    for tokenizer in tokenizers.values():
        special = {*tokenizer.special_ids, *tokenizer.image_ids, tokenizer.eos_id, tokenizer.bos_id}
        plain, written = (
            [i for ids in tokenizer.prompt(asking(text), "vqa2") for i in ids if i in special]
            for text in ("red?", "".join(pieces))
        )
        assert written == plain


@pytest.mark.fault(
    "hostile input",
    "a tokenizer.json that calls image tokens ordinary",
    "text does not become image tokens",
)
def test_image_tokens_that_a_tokenizer_calls_ordinary_are_special(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(small_checkpoint / name, tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    for token in content["added_tokens"]:
        token["special"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = PromptTokenizer.from_folder(tmp_path)
    assert tokenizer.image_ids == PromptTokenizer.from_folder(small_checkpoint).image_ids
    ids = tokenizer.encode("<im_patch><|endoftext|>")
    assert not {*ids} & {*tokenizer.image_ids, tokenizer.eos_id}


# --- whole runs -----------------------------------------------------------------------------------

GOOD = {"image": "good.png", "question": "is it red?", "answers": ["yes"], "size": 3}
#: What is changed in a good row, and whether it can be asked then.
ROWS: dict[str, tuple[dict[str, Any], bool]] = {
    "good": ({}, True),
    "empty question": ({"question": ""}, True),
    "control characters": ({"question": "\0\x07\x1b[2Jred\r\n\u202e"}, True),
    "special tokens": ({"question": "<im_patch><im_end><|endoftext|>"}, True),
    "braces": ({"question": "{message} {0} {image} %s"}, True),
    "emoji": ({"question": "\U0001f9d1\u200d\U0001f680?", "answers": ["\U0001f680"]}, True),
    "1000 characters": ({"question": "is it red? " * 90}, True),
    "100 000 characters": ({"question": "x" * 100_000}, False),
    "lone surrogate": ({"question": "red \ud800?"}, False),
    "lone surrogate in an answer": ({"answers": ["\udfff"]}, False),
    "NaN question": ({"question": float("nan")}, False),
    "NaN attribute": ({"size": float("nan")}, True),
    "infinite attribute": ({"size": float("inf")}, True),
    "endless attribute": ({"size": 10**400}, True),
    "number as a question": ({"question": 17, "answers": [3.0]}, True),
    "empty answer": ({"answers": [""]}, True),
    "long answer": ({"answers": ["yes" * 30_000]}, True),
    "no answer": ({"answers": []}, False),
    "answer of records": ({"answers": {"a": {"b": 1}}}, False),
    "truncated image": ({"image": "cut.png"}, False),
    "no image": ({"image": "text.png"}, False),
    "bomb": ({"image": "bomb.png"}, False),
    "16 bits": ({"image": "grey16.png"}, True),
    "flat": ({"image": "flat.png"}, True),
    "folder": ({"image": "folder"}, False),
    "gone": ({"image": "gone.png"}, False),
    "pipe": ({"image": "pipe"}, False),
    "turned behind the header's back": ({"image": "turned.tiff"}, False),
}


def write_set(folder: Path) -> None:
    """The set of `ROWS`."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(folder / "good.png")
    data = (folder / "good.png").read_bytes()
    (folder / "cut.png").write_bytes(data[: len(data) // 2])
    (folder / "text.png").write_text("no image")
    (folder / "bomb.png").write_bytes(data[:16] + b"\0\1\0\0\0\1\0\0" + data[24:])
    Image.fromarray(rng.integers(0, 60_000, (60, 80), dtype=np.uint16)).save(folder / "grey16.png")
    Image.new("RGB", (400, 2)).save(folder / "flat.png")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    turned_late("TIFF", folder)
    rows = [GOOD | {"id": name} | change for name, (change, _) in ROWS.items()]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))


def private(folder: Path, files: str, form: str = "json") -> list[str]:
    """Overrides for a set of one's own."""
    return [
        f"dataset.source.form={form}",
        f"dataset.source.folder={folder}",
        f"dataset.source.files={files}",
        "+dataset.columns.attributes.size=size",
        "dataset.columns.sample_id=id",
        "dataset.limit=null",
    ]


@pytest.mark.fault(
    "bad data",
    "rows: empty, endless, half characters, NaN, no answer, cut images ...",
    "each is scored, or fails with a reason",
)
def test_each_sample_is_scored_or_failed(make_config: MakeConfig, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    write_set(folder)
    bad = {name for name, (_, askable) in ROWS.items() if not askable}
    settings = [*private(folder, "test.jsonl"), "knob.sizes=[336x336]"]
    with pytest.raises(DataError, match=r"more than dataset\.max_failed=3"):
        make_plan(make_config(*settings, "dataset.max_failed=3"))
    run_without_report(make_config(*settings, f"dataset.max_failed={len(bad)}"))
    (run,) = collect(tmp_path / "sweep")
    assert {failed.sample_id for failed in run.asked.failed_samples} == bad
    assert all(failed.reason for failed in run.asked.failed_samples)
    rows = read_jsonl(run.folder / SAMPLES)
    assert {r["sample_id"]: 0 <= r["score"] <= 1 for r in rows} == dict.fromkeys(
        ROWS.keys() - bad, True
    )
    of_name = {r["sample_id"]: r for r in rows}
    assert "size" not in of_name["NaN attribute"]
    assert of_name["infinite attribute"]["size"] == "inf"
    assert of_name["endless attribute"]["size"] == str(10**400)


def test_a_context_too_short_for_all_is_no_fault_of_samples(make_config: MakeConfig) -> None:
    (run,) = make_plan(make_config("knob.sizes=[336x336]", "model.max_sequence_length=300")).runs
    assert run.verdict.level == "refused"


@pytest.mark.parametrize(
    ("change", "keys", "says"),
    [
        (
            {"options": "[{[]}]"},
            ["+dataset.lists_as_text=[options]"],
            "not a list",
        ),
        (
            {"options": "{1, 2, [3]}"},
            ["+dataset.lists_as_text=[options]"],
            "not a list",
        ),
        ({"hint": "\ud800"}, ["dataset.transforms=[hint_first]"], "half a character"),
        ({"hint": ["a"]}, ["dataset.transforms=[hint_twice]"], "is not text"),
        ({"options": ["a", "{}"]}, ["dataset.transforms=[ai2d]"], "option is {}"),
        ({"abc": "zz"}, ["dataset.transforms=[ai2d]"], "option_is_abc='zz' is not a list"),
        ({"abc": 7}, ["dataset.transforms=[ai2d]"], "option_is_abc=7 is not a list"),
        ({"abc": [None, [1]]}, ["dataset.transforms=[ai2d]"], "option_is_abc="),
        ({"kind": [[1]]}, [], "[1] is not text"),
        ({"kind": "\ud800"}, [], "half a character"),
        ({"id": [1]}, [], "dataset.columns.sample_id=id: [1] is not text"),
        ({"id": "\udfff"}, [], "half a character"),
    ],
)
def test_one_bad_row_fails_alone(
    make_config: MakeConfig, tmp_path: Path, change: dict[str, Any], keys: list[str], says: str
) -> None:
    write_set(tmp_path)
    good = GOOD | {"options": "['a', 'b']" if "lists" in str(keys) else ["a", "b"], "kind": "k"}
    good |= {"hint": "look", "abc": [True, True], "right": 1}
    change = {"option_is_abc" if key == "abc" else key: value for key, value in change.items()}
    rows = [good | {"id": "a"}, good | {"id": "b"} | change]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    keys = [*keys, "dataset.columns.options=options", "dataset.columns.answer_index=right"]
    settings = [*private(tmp_path, "test.jsonl"), "dataset.columns.question_type=kind", *keys]
    plan = make_plan(make_config(*settings, "dataset.max_failed=1"))
    assert [sample.sample_id for sample in plan.samples] == ["a"]
    (failed,) = plan.failed
    assert failed.sample_id == (f"{plan.config.dataset.split}-1" if "id" in change else "b")
    assert says in failed.reason and "\n" not in failed.reason


@pytest.mark.parametrize("url", ["http://[", "http://[::1", "http://a b/", "file:///etc/passwd"])
def test_an_address_that_is_none_fails_alone(tmp_path: Path, url: str) -> None:
    (tmp_path / "there.png").touch()
    addresses = {tmp_path / "there.png": "http://127.0.0.1:9/", tmp_path / "a.png": url}
    ((path, reason),) = download_images(addresses).items()
    assert path.name == "a.png"
    assert reason.startswith(f"{url}: ") and "\n" not in reason


def bad_cells() -> dict[str, pa.Array]:
    """Columns whose second cell cannot be read."""
    offsets = pa.py_buffer(np.array([0, 1, 2], np.int32).tobytes())
    return {
        "time stamp": pa.array([0, 2**60], pa.timestamp("ms")),
        "day": pa.array([0, 2**30], pa.date32()),
        "duration": pa.array([0, 2**62], pa.duration("s")),
        "text": pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"a\xff")]),
    }


@pytest.mark.parametrize("kind", bad_cells())
@pytest.mark.parametrize("column", ["question", "size", "id", "kind"])
def test_one_bad_cell_of_a_table_fails_alone(
    make_config: MakeConfig, tmp_path: Path, kind: str, column: str
) -> None:
    write_set(tmp_path)
    names = pa.array(["good.png", "good.png"])
    table = dict.fromkeys(("image", "question", "answers", "size", "kind"), names)
    table |= {"id": pa.array(["a", "b"])} | {column: bad_cells()[kind]}
    pq.write_table(pa.table(table), tmp_path / "test.parquet")
    settings = [*private(tmp_path, "test.parquet", "parquet"), "dataset.columns.question_type=kind"]
    plan = make_plan(make_config(*settings, "dataset.max_failed=1"))
    (failed,) = plan.failed
    assert f"{column}: the cell " in failed.reason
    assert len(plan.samples) == 1


def test_a_time_zone_that_does_not_exist_is_one_line(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    write_set(tmp_path)
    table = dict.fromkeys(("image", "answers", "size", "id"), pa.array(["good.png"]))
    table["question"] = pa.array([0], pa.timestamp("ms", "Nope/Zone"))
    pq.write_table(pa.table(table), tmp_path / "test.parquet")
    with pytest.raises(DataError, match=r"none of 1 .*tz=Nope/Zone") as caught:
        make_plan(make_config(*private(tmp_path, "test.parquet", "parquet")))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["parquet", "saved"])
@pytest.mark.parametrize("image", [{"bytes": 5, "path": "a"}, {"bytes": b"x", "path": ["a"]}])
def test_images_of_another_kind_are_one_line(
    make_config: MakeConfig, tmp_path: Path, form: str, image: dict[str, Any]
) -> None:
    rows = [{"question": "?", "answers": "x", "id": "a", "size": 1, "image": image}]
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set")
    else:
        Dataset.from_list(rows).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(DataError, match=r"set.*: cannot be read \(") as caught:
        make_plan(make_config(*private(tmp_path, "set", form)))
    assert "\n" not in str(caught.value)


@pytest.mark.fault(
    "bad data",
    "tables with text that is not UTF-8, endless cells",
    "one line",
)
def test_tables_of_broken_text_are_one_line(make_config: MakeConfig, tmp_path: Path) -> None:
    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
    )
    answers = pa.array(["yes"])
    table = {"question": broken, "answers": answers, "image": answers, "id": answers,
             "size": answers}  # fmt: skip
    pq.write_table(pa.table(table), tmp_path / "test.parquet")
    with pytest.raises(DataError, match="not UTF-8"):
        make_plan(make_config(*private(tmp_path, "test.parquet", "parquet")))
    folder = tmp_path / "folder"
    folder.mkdir()
    line = f'a.png,"{"x" * 200_000}",yes,1,1'
    (folder / "metadata.csv").write_text(f"file_name,question,answers,id,size\n{line}\n")
    with pytest.raises(DataError, match=r"metadata\.csv: .*field larger"):
        make_plan(make_config(*private(tmp_path, "folder", "imagefolder")))
