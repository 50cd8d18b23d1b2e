"""Nulls among options, options beyond seven, and columns of the wrong kind, in every form."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vtexp.config.schema import Config
from vtexp.data.load import load_samples
from vtexp.data.sample import ImageFile, LoadedSamples, Sample
from vtexp.data.sources.columns import list_in_text
from vtexp.errors import ConfigError, DataError
from vtexp.metrics import metric
from vtexp.models.families import FAMILIES
from vtexp.runs.plan import make_plan

MakeConfig = Callable[..., Config]
NAN = float("nan")
BIG = 2**20


@pytest.fixture(autouse=True)
def set_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VTEXP_CACHE_DIR", str(tmp_path / "cache"))
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")


def write(form: str, folder: Path, rows: list[dict[str, Any]]) -> tuple[str, str]:
    """A file of rows; gives the source's form and its files."""
    if form == "json":
        (folder / "t.json").write_text(json.dumps(rows))
    elif form == "jsonl":
        (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    elif form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), folder / "t.parquet")
    else:
        (folder / "test").mkdir()
        Image.open(folder / "a.png").save(folder / "test" / "a.png")
        text = io.StringIO()
        names = ["file_name", *(name for name in rows[0] if name != "image")]
        writer = csv.DictWriter(text, names)
        writer.writeheader()
        for row in rows:
            cells = {"file_name": row["image"]} | {n: row[n] for n in names[1:]}
            writer.writerow(cells)
        (folder / "test" / "metadata.csv").write_text(text.getvalue())
        return "imagefolder", "test"
    return ("parquet" if form == "parquet" else "json"), f"t.{form}"


def overrides(form: str, folder: Path, rows: list[dict[str, Any]], *more: str) -> list[str]:
    kind, files = write(form, folder, rows)
    as_text = ["dataset.lists_as_text=[options]"] if form == "csv" and "options" in rows[0] else []
    return [
        "dataset=easy_vqa",
        f"dataset.source.form={kind}",
        f"dataset.source.folder={folder}",
        f"dataset.source.files={files}",
        "dataset.limit=null",
        "dataset.stratify=false",
        *as_text,
        *more,
    ]


CHOICE = (
    "dataset.columns.options=options",
    "dataset.columns.answer_index=right",
    "dataset.columns.answers=null",
    "dataset.metric=multiple_choice",
)


def load(make_config: MakeConfig, settings: list[str]) -> LoadedSamples:
    return load_samples(make_config(*settings).dataset)


@pytest.mark.parametrize("form", ["json", "jsonl", "csv", "parquet"])
@pytest.mark.parametrize("null", [None, NAN])
def test_nulls_among_options_keep_their_place(
    make_config: MakeConfig, tmp_path: Path, form: str, null: float | None
) -> None:
    options: Any = ["red", null, "green", "blue"]
    if form == "parquet" and null is not None:
        options = [1.5, null, 2.5, 3.5]
    rows = [{"image": "a.png", "question": "?", "options": options, "right": i} for i in (2, 1, 3)]
    samples, failed = load(make_config, overrides(form, tmp_path, rows, *CHOICE))
    kept, last = sorted(samples, key=lambda sample: sample.sample_id)
    assert [bool(option) for option in kept.options] == [True, False, True, True]
    assert (kept.references, last.references) == (("C",), ("D",))
    assert len(failed) == 1 and "right option" in failed[0].reason and "empty" in failed[0].reason
    score = metric("multiple_choice").prepare([kept])
    assert score("C", kept) == score(kept.options[2], kept) == 1
    assert score("B", kept) == score("D", kept) == score(kept.options[3], kept) == 0
    for family in FAMILIES.values():
        text = family.form.wording.message(kept, "a_okvqa_mc")
        assert "C" in text and kept.options[2] in text
        assert not any(line.strip(" .:") == "B" for line in text.splitlines())


def test_gold_letters_on_empty_options_fail_with_their_reason(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    """As in MMMU, where the reference is the letter itself."""
    rows = [
        {"image": "a.png", "question": "?", "options": ["a", None, "c"], "answers": letter}
        for letter in ("C", "B")
    ]
    more = ["dataset.columns.options=options", "dataset.metric=mmmu", "dataset.max_failed=1"]
    plan = make_plan(make_config(*overrides("jsonl", tmp_path, rows, *more)))
    assert [sample.references for sample in plan.samples] == [("C",)]
    (failed,) = plan.failed
    assert "empty" in failed.reason and "B" in failed.reason


@pytest.mark.parametrize("count", [8, 10, 26])
def test_all_options_are_shown_and_scored(count: int) -> None:
    options = tuple(f"thing {i}" for i in range(count))
    letter = ascii_uppercase[count - 1]
    sample = Sample("s", "0", ImageFile(Path("x")), "Which?", (letter,), "k", options)
    for family in FAMILIES.values():
        lines = family.form.wording.message(sample, "a_okvqa_mc").splitlines()
        shown = [line for line in lines if line[1:3] in (". ", ": ")]
        assert [line[0] for line in shown] == list(ascii_uppercase[:count])
        assert [line[3:] for line in shown] == list(options)
    for name in ("multiple_choice", "multiple_choice_molmo", "multiple_choice_molmo2", "mmmu"):
        score = metric(name).prepare([sample])
        assert score(letter, sample) == 1 and score("A", sample) == 0


def test_a_csv_cell_that_is_empty_is_no_answer(make_config: MakeConfig, tmp_path: Path) -> None:
    rows = [{"image": "a.png", "question": "?", "answers": a} for a in ("x", "")]
    samples, failed = load(make_config, overrides("csv", tmp_path, rows))
    assert [s.references for s in samples] == [("x",)]
    (only,) = failed
    assert "no answer" in only.reason


@pytest.mark.parametrize("text", ["['a', None, 'c']", '["a", null, "c"]', "['a', nan, 'c']"])
def test_lists_in_text_may_hold_nulls(text: str) -> None:
    assert list_in_text(text) == ["a", None, "c"]


GOOD = {"image": "a.png", "question": "?", "answers": ["x"], "options": ["a", "b"], "right": 0}
#: A column, what is wrong with its cell, and what the message must hold besides.
WRONG: list[tuple[str, Any]] = [
    ("question", ["a", "b"]),
    ("question", {"text": "x"}),
    ("answers", [{"text": "x"}]),
    ("answers", {"text": ["x"]}),
    ("options", "a; b"),
    ("options", {"A": "a"}),
    ("options", [["a"], ["b"]]),
    ("options", 3),
    ("right", "both"),
    ("right", [0]),
    ("image", ["a.png"]),
    ("image", {"path": 5}),
    ("kind", {"a": 1}),
    ("size", {"a": 1}),
    ("photo", ["a"]),
    ("photo", "x" * BIG),
]


@pytest.mark.parametrize(("column", "cell"), WRONG)
def test_a_column_of_the_wrong_kind_is_named_with_file_and_row(
    make_config: MakeConfig, tmp_path: Path, column: str, cell: object
) -> None:
    good = GOOD | {"kind": "k", "size": 1, "photo": "a"}
    rows = [good, good, good | {column: cell}, good]
    settings = overrides(
        "jsonl",
        tmp_path,
        rows,
        "dataset.columns.options=options",
        "dataset.columns.answer_index=right",
        "dataset.columns.question_type=kind",
        "+dataset.columns.attributes.size=size",
        "dataset.columns.image_id=photo",
    )
    samples, failed = load(make_config, settings)
    assert (len(samples), len(failed)) == (3, 1)
    reason = failed[0].reason
    assert f"{tmp_path / 't.jsonl'}, row 2: column {column}: " in reason
    assert len(reason) < 500


def test_parquet_of_several_files_names_the_file(make_config: MakeConfig, tmp_path: Path) -> None:
    good = {"image": "a.png", "question": "?", "answers": "x"}
    bad = [good | {"answers": [["x"]]}] * 2
    pq.write_table(pa.Table.from_pylist(bad), tmp_path / "b.parquet")
    settings = overrides("parquet", tmp_path, bad)
    (tmp_path / "t.parquet").unlink()
    pq.write_table(pa.Table.from_pylist(bad), tmp_path / "c.parquet")
    settings = [s.replace("t.parquet", "'*.parquet'") for s in settings]
    samples, failed = load(make_config, settings)
    assert not samples
    rows = [f.reason.split(": column answers")[0] for f in failed]
    assert sorted(rows) == [f"{tmp_path / n}.parquet, row {i}" for n in "bc" for i in (0, 1)]


def test_binary_columns_are_no_text(make_config: MakeConfig, tmp_path: Path) -> None:
    rows = [{"image": "a.png", "question": "?", "answers": "x", "kind": [b"\0" * BIG]}] * 2
    settings = overrides("parquet", tmp_path, rows, "dataset.columns.question_type=kind")
    samples, failed = load(make_config, settings)
    assert not samples
    assert "row 0: column kind: " in failed[0].reason and "bytes" in failed[0].reason
    assert len(failed[0].reason) < 500


@pytest.mark.parametrize("column", ["question", "answers", "image", "id", "kind", "right"])
@pytest.mark.parametrize("kind", ["list", "base64", "bytes as list"])
def test_messages_hold_no_megabytes(
    make_config: MakeConfig, tmp_path: Path, column: str, kind: str
) -> None:
    text = base64.b64encode(bytes(BIG)).decode()
    cell = {"list": [{"a": text}] * 2, "base64": text, "bytes as list": [[0] * 300_000]}[kind]
    rows = [GOOD | {"kind": "k", "id": i} | {column: cell} for i in range(2)]
    settings = overrides(
        "jsonl",
        tmp_path,
        rows,
        "dataset.columns.options=options",
        "dataset.columns.answer_index=right",
        "dataset.columns.question_type=kind",
        "dataset.columns.sample_id=id",
    )
    with pytest.raises((DataError, ConfigError)) as caught:
        samples, failed = load(make_config, settings)
        assert all(len(one.reason) < 600 for one in failed)
        assert all(len(sample.sample_id) < 2000 for sample in samples)
        raise DataError(failed[0].reason if failed else "nothing is wrong with it")
    assert len(str(caught.value)) < 600


def test_duplicate_ids_are_named_in_short(make_config: MakeConfig, tmp_path: Path) -> None:
    rows = [GOOD | {"id": "x" * 900}] * 2
    settings = overrides("jsonl", tmp_path, rows, "dataset.columns.sample_id=id")
    with pytest.raises(ConfigError, match=r"appears twice .*t\.jsonl, row 1") as caught:
        load(make_config, settings)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("precision", ["two", ["1", "2"], "1.5"])
def test_a_broken_precision_fails_before_a_model_answers(
    make_config: MakeConfig, tmp_path: Path, precision: object
) -> None:
    good = {"image": "a.png", "question": "?", "answers": "1.5", "kind": "float", "decimals": "1"}
    rows = [good, good | {"decimals": precision}]
    settings = overrides(
        "jsonl",
        tmp_path,
        rows,
        "dataset.metric=math_vista_no_network",
        "+dataset.columns.attributes.answer_type=kind",
        "+dataset.columns.attributes.precision=decimals",
        "dataset.max_failed=1",
    )
    plan = make_plan(make_config(*settings))
    (sample,) = plan.samples
    assert metric("math_vista_no_network").prepare([sample])("1.46", sample) == 1
    assert "precision" in plan.failed[0].reason


def transparent_set(folder: Path) -> None:
    """Images with and without transparency, in header and pixels."""
    pixels = np.random.default_rng(1).integers(0, 255, (40, 60, 4), dtype=np.uint8)
    image = Image.fromarray(pixels, "RGBA")
    image.save(folder / "rgba.png")
    image.convert("LA").save(folder / "la.png")
    image.convert("RGB").save(folder / "rgb.png")
    image.convert("RGB").quantize(16).save(folder / "p.png", transparency=0)
    image.convert("RGB").save(folder / "trns.png", transparency=(1, 2, 3))
    image.save(folder / "rgba.webp", lossless=True)
    image.convert("RGB").save(folder / "rgb.jpg")


def test_the_plan_counts_images_with_transparency(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from vtexp.report.plan import show_plan

    transparent_set(tmp_path)
    names = ["rgba.png", "rgba.png", "la.png", "rgb.png", "p.png", "trns.png", "rgb.jpg"]
    rows = [{"image": n, "question": "?", "answers": "x"} for n in [*names, "rgba.webp"]]
    plan = make_plan(make_config(*overrides("jsonl", tmp_path, rows)))
    assert plan.transparent == 5
    show_plan(plan)
    assert "5 of 7 images have transparency" in " ".join(capsys.readouterr().out.split())


def test_qwen_pastes_on_white_and_molmo_drops_transparency(tmp_path: Path) -> None:
    transparent_set(tmp_path)
    given = np.array(Image.open(tmp_path / "rgba.png")).astype(float)
    colour, alpha = given[..., :3], given[..., 3:] / 255
    white = alpha * colour + (1 - alpha) * 255
    sample = Sample("s", "0", ImageFile(tmp_path / "rgba.png"), "?", ("x",), "k")
    assert np.abs(sample.on_white().pixels() - white).max() <= 1
    assert np.array_equal(sample.pixels(), colour)
    for name in ("la.png", "p.png", "rgb.jpg"):  # its loader pastes no other mode
        other = replace(sample, image=ImageFile(tmp_path / name))
        assert np.array_equal(other.on_white().pixels(), other.pixels())
    flags = {key: family.transparent_on_white for key, family in FAMILIES.items()}
    assert [key for key, white in flags.items() if white] == ["qwen2_5_vl"]
