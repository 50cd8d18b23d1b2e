"""Every data set of conf/dataset: rows in its published schema become the samples they should."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from PIL import Image

from tests.helpers.sweeps import run_without_report
from vtexp.config.dataset_schema import DatasetConfig
from vtexp.config.schema import Config
from vtexp.data.images import ImageFile
from vtexp.data.load import BUILT_IN, load_samples
from vtexp.data.sample import LoadedSamples, Sample
from vtexp.data.sources.loader import _asked, sample_of
from vtexp.errors import DataError
from vtexp.prompts import wording
from vtexp.runs.plan import make_plan
from vtexp.utils.files import read_json, read_jsonl

MakeConfig = Callable[..., Config]
ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "conf" / "dataset").glob("*.yaml"))


def encoded(seed: int = 0, size: tuple[int, int] = (20, 30)) -> bytes:
    """A PNG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def stored(seed: int = 0) -> dict[str, Any]:
    """An image as `datasets` stores it in Parquet."""
    return {"bytes": encoded(seed), "path": f"{seed}.png"}


@pytest.fixture(autouse=True)
def image_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cache of its own for copied images."""
    monkeypatch.setenv("VTEXP_CACHE_DIR", str(tmp_path / "cache"))


def fill(cache: Path, dataset: DatasetConfig, files: dict[str, list[dict[str, Any]]]) -> Path:
    """Put Parquet files of a data set into the cache as the hub's library lays them out."""
    source = dataset.source
    assert source.hub is not None
    repository = cache / f"datasets--{source.hub.replace('/', '--')}"
    commit = source.revision or "0123456789abcdef0123456789abcdef01234567"
    for name, rows in files.items():
        path = repository / "snapshots" / commit / name
        path.parent.mkdir(parents=True, exist_ok=True)
        blob = repository / "blobs" / str(abs(hash(name)))
        blob.parent.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), blob, row_group_size=2)
        path.symlink_to(blob)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    return repository / "snapshots" / commit


ANSWERS = [{"answer": "red", "answer_confidence": "yes", "answer_id": i} for i in range(10)]
#: Per set: its files with two rows or so in the published schema, and what becomes of the first.
PUBLISHED: dict[str, tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]] = {
    "vqa_v2": (
        {
            "data/validation-00000-of-00002.parquet": [
                {"question_type": "what color", "multiple_choice_answer": "red",
                 "answers": ANSWERS, "image_id": 42, "answer_type": "other",
                 "question_id": 42000, "question": "What color?", "image": stored(1)},
                {"question_type": "is the", "multiple_choice_answer": "yes",
                 "answers": ANSWERS, "image_id": 42, "answer_type": "yes/no",
                 "question_id": 42001, "question": "Is it?", "image": stored(1)},
            ],
            "data/validation-00001-of-00002.parquet": [
                {"question_type": "what color", "multiple_choice_answer": "red",
                 "answers": ANSWERS, "image_id": 7, "answer_type": "other",
                 "question_id": 7000, "question": "What?", "image": stored(2)},
            ],
        },
        {"sample_id": "42000", "image_id": "42", "question": "What color?",
         "references": ("red",) * 10, "question_type": "what color",
         "attributes": {"answer_type": "other"}},
    ),
    "text_vqa": (
        {"data/validation-00000-of-00001.parquet": [
            {"image_id": "003a8ae2ef43b901", "question_id": 34602, "question": "what brand?",
             "question_tokens": ["what", "brand"], "image": stored(), "image_width": 30,
             "image_height": 20, "flickr_300k_url": "https://c4.example/1.jpg",
             "answers": ["nokia"] * 9 + ["toshiba"], "set_name": "val", "ocr_tokens": ["MIA"]}]},
        {"sample_id": "34602", "image_id": "003a8ae2ef43b901",
         "references": ("nokia",) * 9 + ("toshiba",)},
    ),
    "okvqa": (
        {"data/val2014-00000-of-00001.parquet": [
            {"question_id": "2971475", "image": stored(), "question": "What sport?",
             "answers": ["race"] * 10, "question_type": "one", "answer_type": "other"}]},
        {"sample_id": "2971475", "references": ("race",) * 10, "question_type": "one",
         "attributes": {"answer_type": "other"}},
    ),
    "a_okvqa": (
        {"data/validation-00000-of-00001-aa11.parquet": [
            {"image": stored(), "question_id": "22jbM6", "question": "What is in the car?",
             "choices": ["fish", "clothing", "trailer", "wheel"], "correct_choice_idx": 2,
             "direct_answers": "['trailer', 'boat']", "difficult_direct_answer": False,
             "rationales": ["r"]}]},
        {"sample_id": "22jbM6", "options": ("fish", "clothing", "trailer", "wheel"),
         "references": ("C",), "attributes": {"answer_index": 2}},
    ),
    "a_okvqa_direct": (
        {"data/validation-00000-of-00001-aa11.parquet": [
            {"image": stored(i), "question_id": f"q{i}", "question": "What?",
             "choices": ["a", "b"], "correct_choice_idx": 0,
             "direct_answers": "['trailer', \"driver's\"]", "difficult_direct_answer": i == 1}
            for i in range(3)]},
        {"sample_id": "q0", "options": (), "references": ("trailer", "driver's")},
    ),
    "doc_vqa": (
        {"DocVQA/validation-00000-of-00001.parquet": [
            {"questionId": "49153", "question": "What is the 'actual' value?",
             "question_types": ["figure/diagram", "layout"], "image": stored(), "docId": 14465,
             "ucsf_document_id": "pybv0228", "answers": ["0.28"], "data_split": "val"}]},
        {"sample_id": "49153", "image_id": "14465", "references": ("0.28",),
         "question_type": "figure/diagram + layout"},
    ),
    "info_vqa": (
        {"InfographicVQA/validation-00000-of-00001.parquet": [
            {"questionId": "98313", "question": "Which platform?", "answers": ["pinterest"],
             "answer_type": ["single span"], "image": stored(), "image_url": "https://x/20471.jpeg",
             "operation/reasoning": [], "ocr": "{}", "data_split": "val"}]},
        {"sample_id": "98313", "image_id": "https://x/20471.jpeg", "question_type": "single span"},
    ),
    "chart_qa": (
        {"data/val-00000-of-00001-0f11.parquet": [
            {"image": stored(), "query": "How many?", "label": ["14"], "human_or_machine": 0}]},
        {"sample_id": "val-0", "question": "How many?", "references": ("14",),
         "question_type": "human_or_machine=0", "attributes": {"human_or_machine": 0}},
    ),
    "ai2d": (
        {"data/test-00000-of-00001.parquet": [
            {"question": "which is the caterpillar?", "options": ["a", "b", "c", "d"],
             "answer": "3", "image": stored()},
            {"question": "What eats?", "options": ["owl", "{}", "fox", "owl"], "answer": "2",
             "image": stored()}]},
        {"options": ("A", "B", "C", "D"), "references": ("D",), "style": "ai2_diagram_no_letter"},
    ),
    "ai2d_transparent": (
        {"data/test-00000-of-00001.parquet": [
            {"question": "What eats?", "options": ["owl", "{}", "fox", "owl"], "answer": "2",
             "image": stored()}]},
        {"options": ("owl", "fox"), "references": ("B",), "question_type": "no letters"},
    ),
    "science_qa_img": (
        {"data/validation-00000-of-00001-6c7328ff6c84284c.parquet": [
            {"image": stored(), "question": "Which?", "choices": ["a", "b"], "answer": 1,
             "hint": "Look.", "task": "closed choice", "grade": "grade4",
             "subject": "natural science", "topic": "physics", "solution": ""},
            {"image": None, "question": "No image", "choices": ["a", "b"], "answer": 1,
             "hint": "", "task": "closed choice", "grade": "grade4",
             "subject": "natural science", "topic": "physics", "solution": ""}]},
        {"question": "Look.\nLook.", "options": ("a", "b"), "references": ("B",),
         "question_type": "natural science"},
    ),
    "tally_qa": (
        {"data/test-00000-of-00001.parquet": [
            {"image": stored(), "qa": [
                {"question": "How many dogs?", "answer": "2", "is_simple": True},
                {"question": "How many brown dogs?", "answer": "1", "is_simple": False}]}]},
        {"sample_id": "test-0-0", "question": "How many dogs?", "references": ("2",),
         "question_type": "is_simple=True"},
    ),
    "mmmu": (
        {f"{subject}/validation-00000-of-00001.parquet": [
            {"id": f"validation_{subject}_1", "question": "<image 1> Which?",
             "options": "['$6', 'it\\'s $7']", "explanation": "", "image_1": stored(),
             "image_2": None, "img_type": "['Tables']", "answer": "B",
             "topic_difficulty": "Medium", "question_type": "multiple-choice",
             "subfield": "Managerial Accounting"}]
         for subject in ("Accounting", "Agriculture")},
        {"sample_id": "validation_Accounting_1", "options": ("$6", "it's $7"),
         "references": ("B",), "style": "a_okvqa_mc", "question_type": "multiple-choice"},
    ),
    "math_vista": (
        {"data/testmini-00000-of-00001-725687bf7a18d64b.parquet": [
            {"pid": "1", "question": "When?", "image": "images/1.jpg", "decoded_image": stored(),
             "choices": None, "unit": None, "precision": 1.0, "answer": "1.2",
             "question_type": "free_form", "answer_type": "float", "query": "Hint: ..."},
            {"pid": "2", "question": "Is?", "image": "images/2.jpg", "decoded_image": stored(1),
             "choices": ["Yes", "No"], "unit": "m", "precision": None, "answer": "No",
             "question_type": "multi_choice", "answer_type": "text", "query": "Hint: ..."}]},
        {"sample_id": "1", "image_id": "images/1.jpg", "references": ("1.2",), "style": "vqa2",
         "attributes": {"answer_type": "float", "precision": 1.0}},
    ),
    "real_world_qa": (
        {"data/test-00000-of-00002.parquet": [
            {"image": stored(), "answer": "1", "question": "How many?\nPlease answer directly with "
             "a single word or number."}],
         "data/test-00001-of-00002.parquet": [
            {"image": stored(1), "answer": "C", "question": "Which?\n\nA. x\nB. y\nPlease answer "
             "directly with only the letter of the correct option and nothing else."}]},
        {"question": "How many?", "references": ("1",), "style": "vqa2",
         "question_type": "short_answer"},
    ),
    "count_bench": (
        {"data/test-00000-of-00001.parquet": [
            {"image": stored(), "text": "ten dogs", "question": "How many dogs?", "number": 10}]},
        {"question": "How many dogs?", "references": ("10",), "question_type": "count=10"},
    ),
    "coco_caption": (
        {"data/val-00000-of-00001.parquet": [
            {"question_id": "COCO_val2014_000000203564.jpg", "image": stored(),
             "question": "Please carefully observe the image", "answer": ["A bicycle.", "A bike."],
             "id": 203564, "license": 4, "file_name": "COCO_val2014_000000203564.jpg"}]},
        {"sample_id": "COCO_val2014_000000203564.jpg", "question": "",
         "references": ("A bicycle.", "A bike.")},
    ),
    "gqa": (
        {"testdev_balanced_instructions/testdev-00000-of-00001.parquet": [
            {"id": "201307251", "imageId": "n161313", "question": "Is it overcast?",
             "answer": "no", "fullAnswer": "No, it is not.", "isBalanced": True,
             "types": {"structural": "verify", "semantic": "global", "detailed": "weather"}}],
         "testdev_balanced_images/testdev-00000-of-00001.parquet": [
            {"id": "n1", "image": stored(1)}, {"id": "n161313", "image": stored(2)}]},
        {"sample_id": "201307251", "image_id": "n161313", "references": ("no",),
         "question_type": "verify", "attributes": {"semantic": "global"}},
    ),
}  # fmt: skip
#: Sets that are not one table of the hub: tested below, each by itself.
OTHERS = {"easy_vqa", "small_print", "vqa_v2_files", "okvqa_files", "st_vqa", "pixmo_count"}


def test_no_set_is_forgotten() -> None:
    assert {*PUBLISHED, *OTHERS} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_set_composes(make_config: MakeConfig, name: str) -> None:
    dataset = make_config(f"dataset={name}").dataset
    assert dataset.name == name and dataset.split in dataset.source.splits
    assert dataset.source.form in BUILT_IN or (dataset.source.hub is None) != (
        dataset.source.folder is None
    )
    revision = dataset.source.revision
    assert revision is None or (len(revision) == 40 and int(revision, 16))
    assert dataset.licence != "unknown"


def load(make_config: MakeConfig, name: str, *overrides: str) -> LoadedSamples:
    """All samples of a set, in the order of their rows."""
    config = make_config(f"dataset={name}", "dataset.limit=null", *overrides)
    found = load_samples(config.dataset)
    order = {s.sample_id: s for s in found.samples}
    return LoadedSamples([order[key] for key in sorted(order)], found.failed)


def first(make_config: MakeConfig, name: str, sample_id: str | None) -> Sample:
    found = load(make_config, name)
    assert not found.failed
    return next(s for s in found.samples if sample_id in (None, s.sample_id))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_schema(make_config: MakeConfig, cache: Path, name: str) -> None:
    files, expected = PUBLISHED[name]
    fill(cache, make_config(f"dataset={name}").dataset, files)
    sample = first(make_config, name, expected.get("sample_id"))
    assert {key: getattr(sample, key) for key in expected} | {"attributes": None} == {
        **expected, "attributes": None
    }  # fmt: skip
    assert expected.get("attributes", {}).items() <= sample.attributes.items()
    assert sample.image_size() == (20, 30)
    assert sample.pixels().shape == (20, 30, 3)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_rows_can_be_planned_and_scored(
    make_config: MakeConfig, cache: Path, name: str
) -> None:
    """Each metric finds in the samples what it needs."""
    files, _ = PUBLISHED[name]
    if name == "coco_caption":  # its metric weighs words over images
        files = {path: [*rows, {**rows[0], "question_id": "b.jpg"}] for path, rows in files.items()}
    fill(cache, make_config(f"dataset={name}").dataset, files)
    plan = make_plan(make_config(f"dataset={name}", "dataset.limit=null"))
    assert plan.samples and not plan.failed


def test_a_run_counts_the_samples_that_failed(
    make_config: MakeConfig, cache: Path, tmp_path: Path
) -> None:
    files, _ = PUBLISHED["a_okvqa"]
    ((path, rows),) = files.items()
    broken = {**rows[0], "question_id": "broken", "image": {"bytes": b"no image", "path": None}}
    fill(cache, make_config("dataset=a_okvqa").dataset, {path: [*rows, broken]})
    overrides = ("dataset=a_okvqa", "dataset.limit=null", "knob.sizes=[336x336]")
    with pytest.raises(DataError, match=r"1 of 2 .*broken: .*row 1: "):
        run_without_report(make_config(*overrides))
    run_without_report(make_config(*overrides, "dataset.max_failed=1"))
    folder = next((tmp_path / "sweep").glob("image_size-*"))
    result = read_json(folder / "result.json")
    assert result["num_samples"] == result["num_failed"] == 1
    assert result["failed_samples"][0]["sample_id"] == "broken"
    (row,) = read_jsonl(folder / "samples.jsonl")
    assert row["options"] == ["fish", "clothing", "trailer", "wheel"] and row["references"] == ["C"]
    assert row["message"].startswith("a_okvqa_mc: What is in the car?\nA: fish\n")


def test_rows_that_are_not_asked_are_left_out(make_config: MakeConfig, cache: Path) -> None:
    for name, asked in (("science_qa_img", 1), ("a_okvqa_direct", 2), ("tally_qa", 2)):
        fill(cache, make_config(f"dataset={name}").dataset, PUBLISHED[name][0])
        assert len(load(make_config, name).samples) == asked
    hint_first = load(make_config, "science_qa_img", "dataset.transforms=[hint_first]")
    assert hint_first.samples[0].question == "Look.\nWhich?"


def test_images_are_copied_once_per_image_and_read_in_place(
    make_config: MakeConfig, cache: Path, tmp_path: Path
) -> None:
    """Three questions of VQA v2 about two images: two images are kept, memory-mapped."""
    fill(cache, make_config("dataset=vqa_v2").dataset, PUBLISHED["vqa_v2"][0])
    samples = load(make_config, "vqa_v2").samples
    (copied,) = (tmp_path / "cache").iterdir()
    table = pa.ipc.open_stream(copied.read_bytes()).read_all()
    assert sorted(table["bytes"].to_pylist()) == sorted([encoded(1), encoded(2)])
    assert samples[0].image == samples[1].image != samples[2].image
    assert str(samples[0].image).endswith("validation-00000-of-00002.parquet, row 0")
    assert samples[0].image.open_bytes().read() == encoded(1)
    at = copied.stat().st_mtime_ns
    assert load(make_config, "vqa_v2").samples == samples and copied.stat().st_mtime_ns == at


def test_same_image_in_two_rows_is_one_image(make_config: MakeConfig, cache: Path) -> None:
    """Where no column says which images are the same, their content does."""
    rows = [{"image": stored(i // 2), "query": "?", "label": ["1"], "human_or_machine": 1}
            for i in range(4)]  # fmt: skip
    fill(
        cache, make_config("dataset=chart_qa").dataset, {"data/val-00000-of-00001-a.parquet": rows}
    )
    ids = [sample.image_id for sample in load(make_config, "chart_qa").samples]
    assert ids[0] == ids[1] != ids[2] == ids[3]


# --- the hub --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fetch", [True, False])
def test_missing_set_says_at_once_how_to_get_it(
    make_config: MakeConfig, cache: Path, fetch: bool
) -> None:
    began = time.monotonic()
    command = (
        r"hf download lmms-lab/textvqa --repo-type dataset --revision 9c0699cd19768ac5ab97568f6b3cb"
        r"ac4c0062884 --include 'data/validation-\*\.parquet'"
    )
    with pytest.raises(DataError, match=f"cache.*{command}"):
        load_samples(make_config("dataset=text_vqa").dataset, fetch=fetch)
    assert time.monotonic() - began < 4


def test_half_cached_set_names_what_is_missing(make_config: MakeConfig, cache: Path) -> None:
    files = {"data/validation-00000-of-00002.parquet": PUBLISHED["vqa_v2"][0][
        "data/validation-00001-of-00002.parquet"]}  # fmt: skip
    fill(cache, make_config("dataset=vqa_v2").dataset, files)
    with pytest.raises(DataError, match="lacks 1 of the 2 parts of data/validation;"):
        load(make_config, "vqa_v2")


def test_parts_may_have_hashes_in_their_names(make_config: MakeConfig, cache: Path) -> None:
    rows = PUBLISHED["chart_qa"][0]["data/val-00000-of-00001-0f11.parquet"]
    names = ("data/val-00000-of-00002-ab12.parquet", "data/val-00001-of-00002-cd34.parquet")
    fill(cache, make_config("dataset=chart_qa").dataset, {name: rows for name in names})
    assert len(load(make_config, "chart_qa").samples) == 2


def test_cached_set_is_read_offline(
    make_config: MakeConfig, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fill(cache, make_config("dataset=gqa").dataset, PUBLISHED["gqa"][0])
    dataset = make_config("dataset=gqa").dataset
    assert len(load_samples(dataset, fetch=True).samples) == 1


def test_missing_set_with_the_hub_switched_off(
    make_config: MakeConfig, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"HF_HUB_OFFLINE.*hf download"):
        load_samples(make_config("dataset=mmmu").dataset, fetch=True)


# --- sets that are not one table ------------------------------------------------------------------


def test_vqa_v2_from_its_own_files(make_config: MakeConfig, tmp_path: Path) -> None:
    folder = tmp_path / "vqa"
    (folder / "val2014").mkdir(parents=True)
    (folder / "val2014" / "COCO_val2014_000000000042.jpg").write_bytes(encoded())
    questions = [{"image_id": 42, "question": "What?", "question_id": 42000},
                 {"image_id": 42, "question": "Why?", "question_id": 42001}]  # fmt: skip
    annotations = [{"question_type": "what", "multiple_choice_answer": "red", "answers": ANSWERS,
                    "image_id": 42, "answer_type": "other", "question_id": 42000}]  # fmt: skip
    for name, key, rows in (
        ("v2_OpenEnded_mscoco_val2014_questions.json", "questions", questions),
        ("v2_mscoco_val2014_annotations.json", "annotations", annotations),
    ):
        (folder / name).write_text(json.dumps({"info": {}, "license": {}, key: rows}))
    found = load(make_config, "vqa_v2_files", f"dataset.source.folder={folder}")
    (sample,) = found.samples
    assert sample.references == ("red",) * 10 and sample.question_type == "what"
    assert sample.image == ImageFile(folder / "val2014" / "COCO_val2014_000000000042.jpg")
    (failed,) = found.failed
    assert failed.sample_id == "42001" and failed.reason.endswith("no answer")
    (folder / "v2_mscoco_val2014_annotations.json").write_text(
        json.dumps({"annotations": [{**annotations[0], "question_id": "42000"}]})
    )
    with pytest.raises(DataError, match=r"no question_id .* as 42000 "):
        load(make_config, "vqa_v2_files", f"dataset.source.folder={folder}")


def test_okvqa_from_its_own_files(make_config: MakeConfig, tmp_path: Path) -> None:
    folder = tmp_path / "okvqa"
    (folder / "val2014").mkdir(parents=True)
    (folder / "val2014" / "COCO_val2014_000000000007.jpg").write_bytes(encoded())
    answers = [{"answer_id": 1, "raw_answer": "racing", "answer": "race"}]
    (folder / "OpenEnded_mscoco_val2014_questions.json").write_text(
        json.dumps({"questions": [{"image_id": 7, "question": "What?", "question_id": 70}]})
    )
    (folder / "mscoco_val2014_annotations.json").write_text(
        json.dumps({"annotations": [{"image_id": 7, "answer_type": "other", "question_type": "four",
                                     "question_id": 70, "answers": answers}]})
    )  # fmt: skip
    (sample,) = load(make_config, "okvqa_files", f"dataset.source.folder={folder}").samples
    assert sample.references == ("racing",)


def test_st_vqa_is_molmos_own_validation_split(make_config: MakeConfig, tmp_path: Path) -> None:
    """The order of numpy's old generator, as the reference shuffles its list."""
    images = tmp_path / "train"
    images.mkdir()
    rows = []
    for i in reversed(range(30)):
        (images / f"{i}.jpg").write_bytes(encoded(i))
        rows.append({"dataset": "coco-text", "file_path": f"train/{i}.jpg", "question_id": i,
                     "question": f"q{i}", "answers": ["a"], "set_name": "train"})  # fmt: skip
    (tmp_path / "train_task_3.json").write_text(json.dumps({"data": rows}))
    expected = list(range(30))
    np.random.RandomState(63069).shuffle(expected)
    samples = load(
        make_config, "st_vqa", f"dataset.source.folder={tmp_path}", "dataset.holdout.first=10"
    ).samples
    assert {sample.sample_id for sample in samples} == {str(i) for i in expected[:10]}
    for sample in samples:
        assert sample.image == ImageFile(images / f"{sample.sample_id}.jpg")


def test_folder_that_is_not_there_says_how_to_get_it(make_config: MakeConfig) -> None:
    with pytest.raises(DataError, match=r"no such folder.*https://rrc"):
        load(make_config, "st_vqa")


# --- prompts --------------------------------------------------------------------------------------

#: Tasks of the golden prompts: the set, and what is different in the rows that they were made of.
GOLDEN = {
    "coco_2014_vqa": ("vqa_v2", {"answers": "answers"}),
    "text_vqa": ("text_vqa", {}),
    "okvqa": ("okvqa_files", {}),
    "doc_qa": ("doc_vqa", {}),
    "info_qa": ("info_vqa", {"sample_id": None}),
    "chart_qa": ("chart_qa", {}),
    "a_okvqa_da": ("a_okvqa_direct", {"answers": "answers"}),
    "a_okvqa_mc": ("a_okvqa", {"options": "options", "answer_index": "answer_idx"}),
    "ai2_diagram_v2_mix_transparent": (
        "ai2d",
        {"options": "answer_texts", "answer_index": "correct_answer"},
    ),
    "science_qa_img": ("science_qa_img", {}),
    "mmmu_test": ("mmmu", {}),
    "math_vista_v2": ("math_vista", {}),
    "real_world_qa_no_instruction": ("real_world_qa", {}),
    "countbench_qa": ("count_bench", {"answers": "count", "question_type": None}),
    "pixmo_count_counting": ("pixmo_count", {}),
}


@pytest.mark.golden
@pytest.mark.parametrize("task", GOLDEN)
def test_golden_prompts_follow_from_samples(
    make_config: MakeConfig, golden_dir: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the rows that they were made of, over the columns and transforms of the YAML file."""
    monkeypatch.setattr(wording, "EVALUATION_SEED", 0)

    def prompt(sample: Sample) -> str:
        settled = wording.settle_style(sample, dataset.style)
        return f" User: {wording.MOLMO_WORDING.message(settled, dataset.style)} Assistant:"

    name, columns = GOLDEN[task]
    dataset = make_config(f"dataset={name}").dataset
    dataset = replace(dataset, columns=replace(dataset.columns, **columns))
    golden = json.loads((golden_dir / "prompts.json").read_text())
    settings = golden["task_settings"].get(task) or golden["task_settings"].get(f"{task}:test")
    for example in golden["examples"][task]:
        asked = _asked(dataset, example["raw"])
        if not example["has_image"]:
            assert asked.unusable  # there is nothing to measure without an image
            asked.unusable = None
        sample = sample_of(dataset, "s", "i", ImageFile(Path("none")), asked)
        if "prompt" in example:
            assert prompt(sample) == example["prompt"]
        for seed, expected in example.get("prompt_by_numpy_randomstate_seed", {}).items():
            assert prompt(replace(sample, sample_id=f"test-{seed}")) == expected
    if settings and task != "pixmo_count_counting":  # its 12 tokens would cut the points off
        assert dataset.max_new_tokens == settings["max_new_tokens"]
