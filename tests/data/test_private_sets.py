"""Data sets by YAML alone: every form, the examples of the docs, and what is refused."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Features, List, Value
from datasets import Image as ImageFeature
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from tests.helpers.facts import says
from vtexp.config.checks import from_hydra
from vtexp.config.compose import dataset_configs
from vtexp.config.schema import Config, register_schemas
from vtexp.data.load import load_samples
from vtexp.data.sample import ImageFile, LoadedSamples, StoredImage
from vtexp.data.sources.columns import list_in_text, nested_items, value_of
from vtexp.errors import ConfigError, DataError
from vtexp.runs.plan import make_plan

MakeConfig = Callable[..., Config]
ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "datasets.md").read_text()
#: The complete examples of the docs, by name.
EXAMPLES = dict(re.findall(r"```yaml\n# conf/dataset/(\w+)\.yaml\n(.*?)```", DOCS, re.DOTALL))


def encoded(seed: int = 0) -> bytes:
    """A PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VTEXP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def load_example(name: str, tmp_path: Path, *overrides: str) -> LoadedSamples:
    """Compose and load an example as a user would: a file beside the others of conf/dataset."""
    conf = tmp_path / "conf"
    if not conf.is_dir():
        shutil.copytree(ROOT / "conf", conf)
    (conf / "dataset" / f"{name}.yaml").write_text(EXAMPLES[name])
    register_schemas()
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf)):
        config = from_hydra(compose("config", [f"dataset={name}", *overrides]))
    return load_samples(config.dataset)


def receipts(folder: Path) -> None:
    rows = [{"id": f"r{i}", "question": "how much?", "answer": i, "kind": "sum", "shop": "x",
             "image": {"bytes": encoded(i), "path": None}} for i in range(3)]  # fmt: skip
    for part in range(2):
        pq.write_table(pa.Table.from_pylist(rows[part::2]), folder / f"test-{part}.parquet")


def signs(folder: Path) -> None:
    (folder / "photos").mkdir()
    rows = []
    for i in range(3):
        (folder / "photos" / f"{i:04d}.png").write_bytes(encoded(i))
        rows.append({"query": "what?", "number": i, "answers": [{"text": "stop"}, {"text": "go"}]})
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


def plates(folder: Path) -> None:
    (folder / "test").mkdir()
    lines = ["file_name,question,answer"]
    for i in range(3):
        (folder / "test" / f"{i}.png").write_bytes(encoded(i))
        lines.append(f'{i}.png,"what, here?",00{i}')
    (folder / "test" / "metadata.csv").write_text("\n".join(lines))


def animals(folder: Path) -> None:
    for label in ("cat", "dog"):
        (folder / label).mkdir()
        for i in range(2):
            (folder / label / f"{i}.png").write_bytes(encoded(i))


def my_vqa(folder: Path) -> None:
    (folder / "photos").mkdir()
    (folder / "photos" / "5.jpg").write_bytes(encoded())
    questions = [{"image_id": 5, "question": "why?", "question_id": 50}]
    annotations = [{"question_id": 50, "question_type": "why", "answer_type": "other",
                    "answers": [{"answer": "so"}]}]  # fmt: skip
    (folder / "questions_mine.json").write_text(json.dumps({"questions": questions}))
    (folder / "annotations_mine.json").write_text(json.dumps({"annotations": annotations}))


FEATURES = Features({"image": ImageFeature(), "question": Value("string"),
                     "choices": List(Value("string")), "label": Value("int64")})  # fmt: skip


def chosen(count: int) -> Dataset:
    rows = [{"image": {"bytes": encoded(i), "path": None}, "question": "which?",
             "choices": ["a", "b", "c"], "label": i % 3} for i in range(count)]  # fmt: skip
    return Dataset.from_list(rows, features=FEATURES)


def saved(folder: Path) -> None:
    chosen(4).save_to_disk(str(folder), num_shards=2)


#: Makes the folder of an example; what its first sample is like.
FORMS: dict[str, tuple[Callable[[Path], None], int, dict[str, Any]]] = {
    "receipts": (receipts, 3, {"sample_id": "r0", "references": ("0",), "question_type": "sum",
                               "attributes": {"shop": "x"}}),
    "signs": (signs, 3, {"sample_id": "test-0", "references": ("stop", "go"),
                         "question": "what?", "image_id": "0000.png"}),
    "plates": (plates, 3, {"sample_id": "test-0", "references": ("000",),
                           "question": "what, here?"}),
    "animals": (animals, 4, {"sample_id": "all-0", "references": ("cat",),
                             "question": "Which animal is this?", "image_id": "cat/0.png"}),
    "my_vqa": (my_vqa, 1, {"sample_id": "50", "references": ("so",), "question_type": "why"}),
    "saved": (saved, 4, {"sample_id": "test-0", "references": ("A",),
                         "options": ("a", "b", "c"), "attributes": {"answer_index": 0}}),
}  # fmt: skip


def test_every_example_of_the_docs_is_tried() -> None:
    assert set(EXAMPLES) == set(FORMS)


@pytest.mark.parametrize("name", FORMS)
def test_examples_of_the_docs_work(tmp_path: Path, name: str) -> None:
    make, count, expected = FORMS[name]
    folder = tmp_path / "data" / name
    folder.mkdir(parents=True)
    make(folder)
    found = load_example(name, tmp_path)
    assert not found.failed and len(found.samples) == count
    (sample,) = (s for s in found.samples if s.sample_id == expected["sample_id"])
    assert {key: getattr(sample, key) for key in expected} == expected
    for sample in found.samples:
        assert sample.image_size() == (20, 30) and sample.pixels().shape == (20, 30, 3)


def test_table_of_the_docs_says_what_the_files_say() -> None:
    lines = dict(re.findall(r"^\| `(\w+)` \|(.*)\|$", DOCS, re.MULTILINE))
    configs = dataset_configs()
    assert configs.keys() == {path.stem for path in (ROOT / "conf" / "dataset").glob("*.yaml")}
    for name, dataset in configs.items():
        source, split, _, metric, style, tokens, licence = map(str.strip, lines[name].split("|"))
        assert (metric, style, licence) == (dataset.metric, dataset.style, dataset.licence)
        assert int(tokens) == dataset.max_new_tokens
        others = [name for name in dataset.source.splits if name != dataset.split]
        assert split == dataset.split + (f" ({', '.join(others)})" if others else "")
        assert (dataset.source.hub is None) or source.startswith(f"hub, {dataset.source.hub}")


# --- forms in detail ------------------------------------------------------------------------------


def private(form: str, folder: Path, **keys: object) -> list[str]:
    """Overrides that make of easy_vqa's config one of a private set."""
    found = {"source.form": form, "source.folder": folder, "limit": "null", **keys}
    return ["dataset=easy_vqa", *(override(key, value) for key, value in found.items())]


def override(key: str, value: object) -> str:
    """As on the command line: + for what is new, quotes around braces that are text."""
    plus = "+" if key.startswith(("+", "where", "columns.attributes")) else ""
    quote = "'" if "{" in str(value) and not plus else ""
    return f"{plus}dataset.{key.removeprefix('+')}={quote}{value}{quote}"


def load(make_config: MakeConfig, form: str, folder: Path, **keys: object) -> LoadedSamples:
    return load_samples(make_config(*private(form, folder, **keys)).dataset)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("\n".join(map(json.dumps, rows)))


def test_answers_stay_as_they_are_written(make_config: MakeConfig, tmp_path: Path) -> None:
    """Readers of tables make numbers and time stamps of such texts."""
    (tmp_path / "a.png").write_bytes(encoded())
    answers = ["2020-01-01", "007", "1.50", "1e3", "true", "null", "", " x "]
    write_lines(tmp_path / "test.jsonl", [{"image": "a.png", "question": "?", "answers": answers}])
    (sample,) = load(make_config, "json", tmp_path, **{"source.files": "test.jsonl"}).samples
    assert sample.references == tuple(answers)
    write_lines(tmp_path / "test.jsonl", [{"image": "a.png", "question": "?", "answers": 3.0}])
    (sample,) = load(make_config, "json", tmp_path, **{"source.files": "test.jsonl"}).samples
    assert sample.references == ("3",)


def test_splits_of_a_saved_dictionary(make_config: MakeConfig, tmp_path: Path) -> None:
    parts = DatasetDict({"test": chosen(3), "train": chosen(5).shuffle(seed=1).select(range(2))})
    parts.save_to_disk(str(tmp_path / "saved"))
    keys = {"source.files": "saved", "columns.answers": "choices"}
    for split, count in (("test", 3), ("train", 2)):
        found = load(make_config, "saved", tmp_path, split=split, **keys)
        assert len(found.samples) == count
        assert all(isinstance(s.image, StoredImage) for s in found.samples)
    keys["source.splits"] = "[dev]"
    with pytest.raises(DataError, match=r"split dev\b.*test, train"):
        load(make_config, "saved", tmp_path, split="dev", **keys)


def test_parquet_that_names_its_images(make_config: MakeConfig, tmp_path: Path) -> None:
    """As `to_parquet` writes images that have files: a path beside no bytes."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(encoded(1))
    rows = [{"image": {"bytes": None, "path": "a.png"}, "question": "?", "answers": "x"},
            {"image": {"bytes": encoded(2), "path": "b.png"}, "question": "?", "answers": "x"},
            {"image": None, "question": "?", "answers": "x"}]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet")
    keys = {"source.files": "test.parquet", "source.images": "photos"}
    found = load(make_config, "parquet", tmp_path, **keys)
    images = {sample.sample_id: sample.image for sample in found.samples}
    assert images["test-0"] == ImageFile(tmp_path / "photos" / "a.png")
    assert images["test-1"].open_bytes().read() == encoded(2)
    (failed,) = found.failed
    assert failed.sample_id == "test-2" and "no image" in failed.reason
    only = load(make_config, "parquet", tmp_path, **keys, where="{image: present}")
    assert len(only.samples) == 2 and not only.failed


def test_plain_binary_columns_are_images_too(make_config: MakeConfig, tmp_path: Path) -> None:
    rows = [{"image": encoded(i), "question": "?", "answers": ["x"]} for i in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet")
    found = load(make_config, "parquet", tmp_path, **{"source.files": "test.parquet"})
    assert {s.image.open_bytes().read() for s in found.samples} == {encoded(i) for i in range(3)}


def test_rows_of_one_content_have_one_image(make_config: MakeConfig, tmp_path: Path) -> None:
    """Then it is decoded once for all of their questions."""
    rows = [{"image": encoded(i % 2), "question": "?", "answers": ["x"]} for i in range(6)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet")
    found = load(make_config, "parquet", tmp_path, **{"source.files": "test.parquet"})
    assert len({s.image for s in found.samples}) == len({s.image_id for s in found.samples}) == 2


def test_each_row_is_asked_about_its_own_image(make_config: MakeConfig, tmp_path: Path) -> None:
    """Also where the column that the config calls an image's id is the same for several."""
    Image.new("RGB", (30, 20)).save(tmp_path / "wide.png")
    Image.new("RGB", (20, 30)).save(tmp_path / "high.png")
    row = {"question": "?", "answers": ["x"], "document": 1}
    write_lines(
        tmp_path / "test.jsonl", [row | {"image": f"{name}.png"} for name in ("wide", "high")]
    )
    keys = {"source.files": "test.jsonl", "columns.image_id": "document"}
    plan = make_plan(make_config(*private("json", tmp_path, **keys)))
    wide = [sample.image == ImageFile(tmp_path / "wide.png") for sample in plan.samples]
    assert [size.width > size.height for size in plan.image_sizes] == wide


def test_cells_that_hold_no_image_fail(make_config: MakeConfig, tmp_path: Path) -> None:
    rows = [{"image": encoded(), "question": "?", "answers": ["x"]},
            {"image": b"no image", "question": "?", "answers": ["x"]}]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet")
    config = make_config(*private("parquet", tmp_path, max_failed=1,
                                  **{"source.files": "test.parquet"}))  # fmt: skip
    (failed,) = make_plan(config).failed
    assert failed.sample_id == "test-1"
    assert says(failed.reason, "test.parquet", "row 1", "no known format")


# --- bad rows and files ---------------------------------------------------------------------------


def test_rows_that_cannot_be_asked_say_why(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded())
    good = {"image": "a.png", "question": "?", "answers": ["x"], "options": ["a", "b"], "right": 0}
    bad = {
        "no answer": {"answers": []},
        "has no answer": {"answers": [None]},
        "has no question": {"question": None},
        "has no image": {"image": None},
        "answer 2 of 2 options": {"right": 2},
        "neither a number": {"right": "both"},
        "is not text; ": {"answers": [{"text": "x"}]},
        "{'q': 1} is not text": {"question": {"q": 1}},
    }
    write_lines(tmp_path / "test.jsonl", [good, *({**good, **change} for change in bad.values())])
    keys = {"source.files": "test.jsonl", "columns.options": "options"}
    whole = load(make_config, "json", tmp_path, **keys)
    index = load(make_config, "json", tmp_path, **keys, **{"columns.answer_index": "right"})
    reasons = {f.sample_id: f.reason for f in [*whole.failed, *index.failed]}
    for number, reason in enumerate(bad, 1):
        assert reason in reasons[f"test-{number}"]
    assert {s.sample_id for s in whole.samples} == {"test-0", "test-5", "test-6"}


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "sub/../../secret.png",
                                  "link.png", "folder/secret.png", "a\0b"])  # fmt: skip
@pytest.mark.parametrize("form", ["json", "imagefolder", "parquet"])
@pytest.mark.fault(
    "hostile input",
    "images named by .., absolute paths or links out of the folder",
    "the run ends with one line, before anything is read",
)
def test_images_outside_the_folder_end_the_run(
    make_config: MakeConfig, tmp_path: Path, form: str, name: str
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(encoded())
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "folder").symlink_to(tmp_path)
    row = {"question": "?", "answers": ["x"]}
    if form == "parquet":
        cell = {"image": {"bytes": None, "path": name}}
        pq.write_table(pa.Table.from_pylist([row | cell]), folder / "test.parquet")
    else:
        column = "file_name" if form == "imagefolder" else "image"
        write_lines(folder / "metadata.jsonl", [row | {column: name}])
    files = {"json": "metadata.jsonl", "imagefolder": ".", "parquet": "test.parquet"}[form]
    with pytest.raises(DataError, match=r"out of .*data folder|no path") as caught:
        load(make_config, form, folder, max_failed=9, **{"source.files": files})
    assert "\n" not in str(caught.value)


def test_folders_given_by_the_user_may_be_links(make_config: MakeConfig, tmp_path: Path) -> None:
    """Only names in data files are distrusted."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.png").write_bytes(encoded())
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "photos").symlink_to(tmp_path / "elsewhere")
    row = {"image": "a.png", "question": "?", "answers": ["x"]}
    write_lines(folder / "test.jsonl", [row])
    for images in ("photos", str(tmp_path / "elsewhere")):
        keys = {"source.files": "test.jsonl", "source.images": images}
        assert len(load(make_config, "json", folder, **keys).samples) == 1


def link_json(folder: Path, elsewhere: Path) -> str:
    write_lines(elsewhere / "test.jsonl", [{"image": "a.png", "question": "?", "answers": "x"}])
    (folder / "test.jsonl").symlink_to(elsewhere / "test.jsonl")
    return "test.jsonl"


def link_parquet(folder: Path, elsewhere: Path) -> str:
    rows = [{"image": "a.png", "question": "?", "answers": "x"}]
    pq.write_table(pa.Table.from_pylist(rows), elsewhere / "test.parquet")
    (folder / "sub").symlink_to(elsewhere)
    return "sub/*.parquet"


def link_metadata(folder: Path, elsewhere: Path) -> str:
    write_lines(elsewhere / "metadata.jsonl", [{"file_name": "a.png", "question": "?"}])
    (folder / "metadata.jsonl").symlink_to(elsewhere / "metadata.jsonl")
    return "."


def link_saved(pattern: str) -> Callable[[Path, Path], str]:
    def link(folder: Path, elsewhere: Path) -> str:
        DatasetDict({"test": chosen(2)}).save_to_disk(str(folder / "saved"))
        (inner,) = folder.glob(pattern)
        shutil.move(inner, elsewhere / "moved")
        inner.symlink_to(elsewhere / "moved")
        return "saved"

    return link


LINKS: dict[str, tuple[str, Callable[[Path, Path], str]]] = {
    "json": ("json", link_json),
    "parquet": ("parquet", link_parquet),
    "imagefolder": ("imagefolder", link_metadata),
    "saved table": ("saved", link_saved("saved/test/*.arrow")),
    "saved state": ("saved", link_saved("saved/test/state.json")),
    "saved split": ("saved", link_saved("saved/test")),
    "saved splits": ("saved", link_saved("saved/dataset_dict.json")),
    "saved set": ("saved", link_saved("saved")),
}


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize("given", ["folder", "link"])
@pytest.mark.fault(
    "hostile input",
    "data files that are links out of the folder",
    "the run ends with one line, before anything is read",
)
def test_data_files_outside_the_folder_end_the_run(
    make_config: MakeConfig, tmp_path: Path, kind: str, given: str
) -> None:
    folder, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    form, link = LINKS[kind]
    files = link(folder, elsewhere)
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(DataError, match=r"out of .*data folder") as caught:
        load(make_config, form, folder if given == "folder" else tmp_path / "link",
             **{"source.files": files, "columns.answers": "question"})  # fmt: skip
    assert "\n" not in str(caught.value)


def test_links_within_the_folder_are_followed(make_config: MakeConfig, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "blobs").mkdir(parents=True)
    saved(folder / "saved")
    for number, file in enumerate([*(folder / "saved").iterdir()]):
        shutil.move(file, folder / "blobs" / str(number))
        file.symlink_to(Path("..", "blobs", str(number)))
    (tmp_path / "link").symlink_to(folder)
    keys = {"source.files": "saved", "columns.answers": "choices"}
    assert len(load(make_config, "saved", tmp_path / "link", **keys).samples) == 4


def test_pipes_are_not_waited_for(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded())
    os.mkfifo(tmp_path / "pipe")
    rows = [{"image": name, "question": "?", "answers": "x"} for name in ("a.png", "pipe")]
    write_lines(tmp_path / "test.jsonl", rows)
    keys = {"source.files": "test.jsonl", "max_failed": 1}
    (failed,) = make_plan(make_config(*private("json", tmp_path, **keys))).failed
    assert failed.sample_id == "test-1"
    assert says(failed.reason, f"{tmp_path}/pipe", "regular file")
    with pytest.raises(DataError, match="pipe: neither"):
        load(make_config, "json", tmp_path, **{"source.files": "pipe"})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *[("state.json", content) for content in ("[]", "null", "{}", "{", "\xff")],
        ("state.json", '{"_data_files": 5}'),
        ("state.json", '{"_data_files": [5]}'),
        ("state.json", '{"_data_files": [{"filename": 5}]}'),
        ("state.json", '{"_data_files": [{"filename": "gone.arrow"}]}'),
        ("state.json", '{"_data_files": [{"filename": "pipe"}]}'),
        ("state.json", '{"_data_files": [{"filename": "/etc/passwd"}]}'),
        ("state.json", '{"_data_files": [], "_indices_data_files": [{"filename": "i.arrow"}]}'),
        ("dataset_dict.json", "[]"),
        ("dataset_dict.json", '{"splits": null}'),
    ],
)
def test_damaged_saved_sets_say_what_is_wrong(
    make_config: MakeConfig, tmp_path: Path, name: str, content: str
) -> None:
    folder = tmp_path / "saved"
    saved(folder)
    (folder / "state.json").unlink()
    (folder / name).write_text(content, encoding="latin-1")
    os.mkfifo(folder / "pipe")
    with pytest.raises(DataError, match="saved") as caught:
        load(make_config, "saved", tmp_path, **{"source.files": "saved"})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[]", "null", '{"features": 5}', '{"features": {"q": [5]}}'])
def test_a_damaged_description_of_a_saved_set_is_one_line(
    make_config: MakeConfig, tmp_path: Path, content: str
) -> None:
    saved(tmp_path / "saved")
    (tmp_path / "saved" / "dataset_info.json").write_text(content)
    with pytest.raises(DataError, match="/saved: cannot") as caught:
        load(make_config, "saved", tmp_path, **{"source.files": "saved"})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "/test.json: cannot"),
        ('{"rows": []}', r"no list .*\brows; dataset\.source\.records"),
        ("[1, 2]", "no list of records"),
        ("[]", "test has no rows"),
    ],
)
def test_damaged_json_says_what_is_wrong(
    make_config: MakeConfig, tmp_path: Path, content: str, says: str
) -> None:
    (tmp_path / "test.json").write_text(content)
    with pytest.raises((DataError, ConfigError), match=says) as caught:
        make_plan(make_config(*private("json", tmp_path, **{"source.files": "test.json"})))
    assert "\n" not in str(caught.value)


def test_damaged_tables_say_what_is_wrong(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "test.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(DataError, match=r"/test\.parquet: cannot"):
        load(make_config, "parquet", tmp_path, **{"source.files": "test.parquet"})
    (tmp_path / "saved").mkdir()
    with pytest.raises(DataError, match="/saved: cannot"):
        load(make_config, "saved", tmp_path, **{"source.files": "saved"})


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"source.files": "nothing*.json"}, r"no nothing\*\.json; .*a\.png, test\.jsonl"),
        ({"source.files": "/absolute"}, "dataset.source.files=/absolute: "),
        ({"columns.answers": "reply"}, "dataset.columns.answers=reply: .*image, question"),
        ({"columns.image": "{number:03d}.png"}, "dataset.columns.image=number: "),
        ({"columns.attributes": "{a: b.c}"}, r"dataset.columns.attributes.a=b\.c: "),
        ({"unnest": "qas"}, "dataset.unnest=qas: "),
        ({"unnest": "question"}, r"dataset.unnest=question: '\?' .*records"),
        ({"where": "{easy: true}"}, "dataset.where.easy=easy: "),
        ({"transforms": "[mmmmu]"}, "dataset.transforms: mmmmu: .*hint_first"),
        ({"source.images": "photos"}, "dataset.source.images=photos: "),
        ({"source.hub": "a/b"}, "give dataset.source.hub or dataset.source.folder, not both"),
        ({"split": "dev"}, "dataset.split=dev: .*train, test"),
        ({"columns.sample_id": "question"}, r"sample_id=question: \? appears twice"),
        ({"join.files": "x", "join.column": "a", "join.key": "b"}, "has no x"),
        ({"join.files": "x"}, "dataset.join: .*files, column, key"),
        ({"+source.fiels": "x"}, "dataset.source.fiels: no such key; .*form, "),
    ],
)
def test_keys_that_do_not_fit_say_so(
    make_config: MakeConfig, tmp_path: Path, keys: dict[str, str], says: str
) -> None:
    (tmp_path / "a.png").write_bytes(encoded())
    row = {"image": "a.png", "question": "?", "answers": ["x"]}
    write_lines(tmp_path / "test.jsonl", [row, row])
    keys = {"source.files": "test.jsonl", **keys}
    with pytest.raises((ConfigError, DataError), match=says) as caught:
        load(make_config, "json", tmp_path, **keys)
    assert "\n" not in str(caught.value)


# --- memory ---------------------------------------------------------------------------------------


def test_samples_hold_no_images(make_config: MakeConfig, tmp_path: Path) -> None:
    """3 000 questions about images of 300 MiB in all: loading takes a tenth of that at most."""
    rng = np.random.default_rng(0)
    schema = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
                        ("question", pa.string()), ("answers", pa.list_(pa.string()))])  # fmt: skip
    with pq.ParquetWriter(tmp_path / "test.parquet", schema, compression="none") as writer:
        for _ in range(30):
            rows = [{"image": {"bytes": rng.bytes(100 * 2**10), "path": None}, "question": "what?",
                     "answers": ["a", "b"]} for _ in range(100)]  # fmt: skip
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    config = make_config(*private("parquet", tmp_path, **{"source.files": "test.parquet"}))
    load_samples(make_config(*private("parquet", tmp_path, limit=5,
                                      **{"source.files": "test.parquet"})).dataset)  # fmt: skip
    before = anonymous_mib()
    found = load_samples(config.dataset)
    assert len(found.samples) == 3000
    assert anonymous_mib() - before < 30
    for sample in found.samples:
        assert isinstance(sample.image, StoredImage)
        assert not any(isinstance(getattr(sample.image, slot), bytes)
                       for slot in StoredImage.__slots__)  # fmt: skip
        assert len(sample.image.open_bytes().read()) == 100 * 2**10
    assert anonymous_mib() - before < 30


def anonymous_mib() -> float:
    """Memory of this process that is no file, in MiB."""
    match = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if match is None:  # no Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return int(match[1]) / 1024


# --- columns --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("a", 1), ("b.c", "x"), ("b.d", None), ("none", None), ("none.c", None),
        ("list.t", ["p", "q"]), ("with.dot", 5), ("=fixed {text}", None), ("=as it is", "as it is"),
        ("n{a:03d}_{b.c}.png", "n001_x.png"), ("{B:lower}!", "loud!"), ("{f}", "3"),
    ],
)  # fmt: skip
def test_expressions(expression: str, expected: object) -> None:
    row = {"a": 1, "b": {"c": "x"}, "list": [{"t": "p"}, {"t": "q"}], "with.dot": 5, "B": "LOUD",
           "f": 3.0}  # fmt: skip
    if expected is None and "{" in expression:
        with pytest.raises(DataError, match="text is empty"):
            value_of(row, expression)
    else:
        assert value_of(row, expression) == expected


def test_templates_evaluate_nothing() -> None:
    with pytest.raises(DataError, match="does not fit"):
        value_of({"a": 1}, "{a:nonsense}")
    with pytest.raises(DataError, match="is empty"):
        value_of({"a": 1}, "{a.__class__}")


def test_lists_and_nested_items() -> None:
    assert list_in_text("['a', \"b's\"]") == list_in_text('["a", "b\'s"]') == ["a", "b's"]
    assert list_in_text(["kept"]) == ["kept"] and list_in_text(None) is None
    for bad in ("a", "__import__('os')", "1", "[" * 10_000, "{1: 2}"):
        with pytest.raises(DataError, match="list"):
            list_in_text(bad)
    assert nested_items({"q": ["a", "b"], "r": [1, 2]}) == nested_items(
        [{"q": "a", "r": 1}, {"q": "b", "r": 2}]
    )
    assert nested_items(None) == []
    for bad in ("text", 3, {"q": ["a"], "r": []}):
        with pytest.raises(DataError, match="list of records"):
            nested_items(bad)
