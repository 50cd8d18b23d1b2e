"""`python -m vtexp datasets`: the list of sets and what is here, and the picture of a sample."""

from __future__ import annotations

import io
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import Dataset
from PIL import Image
from rich.console import Console

from tests.helpers.facts import says
from vtexp.budget.geometry import MOLMO, MOLMO2, Geometry, Size, Tiling, tiling_to_resolution
from vtexp.budget.knobs import CropSetting, KnobValue
from vtexp.cli import datasets
from vtexp.cli.main import main
from vtexp.config.choices import Form
from vtexp.config.compose import compose_config, dataset_configs
from vtexp.config.dataset_schema import ColumnsConfig, DatasetConfig, SourceConfig
from vtexp.data.builtin import easy_vqa, small_print
from vtexp.data.load import is_here, load_samples
from vtexp.data.sources.paths import cache_folder
from vtexp.errors import ConfigError
from vtexp.models.checkpoints import Checkpoint, find_checkpoint
from vtexp.models.views import UNREAD, Views, views_of
from vtexp.report.sample_picture import TEXT, overlaps, sample_picture, wrapped
from vtexp.runs.plan import make_plan

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "conf" / "dataset").glob("*.yaml"))
DOCS = (ROOT / "docs" / "datasets.md").read_text()


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(height: int = 20, width: int = 30, seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(height, width, seed)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def own_sets(tmp_path: Path) -> Path:
    """A folder for --config-dir with the set `signs`: three JSON rows and their images."""
    data = tmp_path / "data"
    (data / "photos").mkdir(parents=True)
    rows = []
    for i, (height, width) in enumerate([(900, 700), (1, 1), (300, 2400)]):
        (data / "photos" / f"{i}.png").write_bytes(encoded(height, width, i))
        rows.append({"id": f"s{i}", "question": f"what is {i}?", "answers": ["stop"] * (i + 1)})
    (data / "photos" / "1.png").write_bytes(encoded()[:200])  # cut off behind its header
    (data / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    conf = tmp_path / "my conf"  # with a space, which Hydra's grammar would split
    (conf / "dataset").mkdir(parents=True)
    (conf / "dataset" / "signs.yaml").write_text(
        f"""
defaults:
  - /schema/dataset@_here_
name: signs
licence: private
split: test
style: vqa2
source:
  form: json
  folder: {data}
  files: "{{split}}.jsonl"
  images: photos
  splits: [test]
columns:
  image: "{{id}}.png"
  sample_id: id
"""
    )
    for i in range(3):
        (data / "photos" / f"{i}.png").rename(data / "photos" / f"s{i}.png")
    return conf


# --- the list -------------------------------------------------------------------------------------


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, list[str]]:
    """Rows of the list by name, split where two columns meet."""
    assert main(["datasets", *arguments]) == 0
    head, _, *rows = capsys.readouterr().out.splitlines()
    ends = [match.end() for match in re.finditer(r"(\S+) +", head)]
    starts = [0, *ends]
    rows = [row for row in rows if not row.startswith("here: ")]
    # Numbers are aligned to the right: their column begins where the one before ends.
    cells = [
        [row[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)] for row in rows
    ]
    return {name: rest for name, *rest in cells}


def test_one_row_per_file_with_what_the_file_says(
    capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    rows = listed(capsys)
    assert list(rows) == [path.stem for path in FILES]
    for path in FILES:
        said = yaml.safe_load(path.read_text())
        split, questions, metric, licence, here = rows[path.stem]
        number = said.get("num_questions", {}).get(said["split"])
        assert questions == ("?" if number is None else f"{number:,}".replace(",", " "))
        assert (split, metric, licence) == (said["split"], said["metric"], said["licence"])
        assert here == ("yes" if path.stem in ("easy_vqa", "small_print") else "no")


def test_docs_have_the_same_numbers_and_licences() -> None:
    table = re.findall(r"^\| `(\w+)` \|[^|]*\| (\w+)[^|]*\| ([^|]*) \|.*\| ([^|]*) \|$", DOCS, re.M)
    assert sorted(name for name, *_ in table) == [path.stem for path in FILES]
    for name, split, questions, licence in table:
        said = yaml.safe_load((ROOT / "conf" / "dataset" / f"{name}.yaml").read_text())
        number = re.match(r"[\d ]+", questions)
        expected = {} if number is None else {split: int(number[0].replace(" ", ""))}
        assert said.get("num_questions", {}).items() >= expected.items()
        assert (split, licence) == (said["split"], said["licence"])


def test_counted_numbers_are_what_the_loaders_find() -> None:
    configs = dataset_configs()
    known = {name: configs[name].num_questions for name in ("easy_vqa", "small_print")}
    assert known["easy_vqa"] == {split: len(easy_vqa.load(split)) for split in easy_vqa.SPLITS}
    each = small_print.QUESTIONS_PER_PAGE  # no page has fewer
    assert known["small_print"] == {
        split: each * pages for split, pages in small_print.PAGES.items()
    }


def test_eighty_columns_cut_no_name(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    terminal = Console(
        file=io.StringIO(), force_terminal=True, width=80, color_system=None, soft_wrap=True
    )
    monkeypatch.setattr(datasets, "console", terminal)
    datasets.show_list(None)
    assert isinstance(terminal.file, io.StringIO)
    table, _, _ = terminal.file.getvalue().rpartition("here: ")
    assert max(map(len, table.splitlines())) <= 80
    words = set(table.split())
    for path in FILES:
        assert {path.stem, yaml.safe_load(path.read_text())["metric"]} <= words


def test_help_and_list_import_nothing_heavy() -> None:
    code = """
import sys
from vtexp.cli.main import main
try:
    main(["--help"])
except SystemExit as done:
    assert not done.code
print("hydra" in sys.modules)
main(["datasets"])
print([name for name in ("torch", "transformers", "datasets", "pyarrow") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.search(r"^ +datasets +\w", done.stdout, re.MULTILINE)
    assert "\nFalse\n" in done.stdout and done.stdout.endswith("\n[]\n")


# --- what is on this machine ----------------------------------------------------------------------


def in_cache(cache: Path, name: str, files: dict[str, list[dict[str, Any]]]) -> Path:
    """Put Parquet files of a set into the hub's cache as its library does; its blobs' folder."""
    source = compose_config([f"dataset={name}"]).dataset.source
    assert source.hub is not None and source.revision is not None
    repository = cache / f"datasets--{source.hub.replace('/', '--')}"
    (repository / "blobs").mkdir(parents=True, exist_ok=True)
    for number, (file, rows) in enumerate(files.items()):
        blob = repository / "blobs" / f"{name}{number}"
        pq.write_table(pa.Table.from_pylist(rows), blob)
        link = repository / "snapshots" / source.revision / file
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    return repository / "blobs"


CHART = {
    "image": {"bytes": encoded(), "path": None},
    "query": "How many?",
    "label": ["14"],
    "human_or_machine": 0,
}


def test_set_of_the_hub_is_here_once_all_its_parts_are(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VTEXP_CACHE_DIR", str(tmp_path / "images"))
    dataset = compose_config(["dataset=chart_qa"]).dataset
    assert not is_here(dataset)
    in_cache(cache, "chart_qa", {"data/val-00000-of-00002.parquet": [CHART]})
    assert not is_here(dataset)
    blobs = in_cache(cache, "chart_qa", {"data/val-00001-of-00002.parquet": [CHART] * 2})
    assert not is_here(compose_config(["dataset=chart_qa", "dataset.split=test"]).dataset)
    assert listed(capsys)["chart_qa"][-1] == "yes"
    next(blobs.iterdir()).unlink()  # its link stays
    assert not is_here(dataset)
    assert not (tmp_path / "images").exists()  # looking copies no images


def test_size_that_no_one_published_is_counted_once_it_is_here(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"image": CHART["image"], "question_id": str(i), "question": "?",
         "direct_answers": "['a']", "difficult_direct_answer": i % 3 == 0}
        for i in range(7)
    ]  # fmt: skip
    in_cache(cache, "a_okvqa_direct", {"data/validation-00000-of-00001-ab.parquet": rows})
    assert listed(capsys)["a_okvqa_direct"][1] == "4"


def test_set_in_a_folder_is_here_with_all_its_tables_and_its_images(tmp_path: Path) -> None:
    folder = tmp_path / "okvqa"
    dataset = compose_config(["dataset=okvqa_files", f"dataset.source.folder={folder}"]).dataset
    assert not is_here(dataset)
    for part in ("OpenEnded_mscoco_val2014_questions.json", "mscoco_val2014_annotations.json"):
        folder.mkdir(exist_ok=True)
        (folder / part).write_text("{}")
        assert not is_here(dataset)
    (folder / "val2014").mkdir()
    assert is_here(dataset)


def test_set_of_addresses_is_here_once_its_images_are(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VTEXP_CACHE_DIR", str(tmp_path / "images"))
    rows = [{"image_url": "http://127.0.0.1:9/a.jpg", "image_sha256": digit * 64, "count": 3,
             "label": "Cats"} for digit in "ab"]  # fmt: skip
    in_cache(cache, "pixmo_count", {"data/validation-00000-of-00001.parquet": rows})
    dataset = compose_config(["dataset=pixmo_count"]).dataset
    downloaded = cache_folder() / "downloaded" / "pixmo_count"
    downloaded.mkdir(parents=True)
    for digit in "ab":
        assert not is_here(dataset)
        (downloaded / (digit * 64)).write_bytes(encoded())
    assert is_here(dataset)


@pytest.mark.parametrize("form", ["imagefolder", "saved"])
def test_empty_folder_is_no_set(form: str, tmp_path: Path) -> None:
    source = SourceConfig(Form(form), folder=str(tmp_path), files=".", splits=["test"])
    dataset = DatasetConfig("own", source=source, columns=ColumnsConfig(answers="a"))
    assert not is_here(dataset)
    if form == "saved":
        Dataset.from_list([{"a": "b"}]).save_to_disk(str(tmp_path))
    else:
        (tmp_path / "metadata.csv").write_text("file_name,a\nx.png,b\n")
    assert is_here(dataset)


def test_sets_of_ones_own_are_listed_and_counted(
    own_sets: Path, capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    rows = listed(capsys, "--config-dir", str(own_sets))
    assert len(rows) == len(FILES) + 1
    assert rows["signs"] == ["test", "3", "exact_match", "private", "yes"]
    assert dataset_configs(own_sets)["signs"].name == "signs"


# --- what the model sees --------------------------------------------------------------------------


def checkpoint_of(path: str) -> Checkpoint:
    return find_checkpoint(path, random=True)


FAMILIES = {
    "v1": (MOLMO, checkpoint_of("embedded:molmo_tiny")),
    "molmo2": (MOLMO2, checkpoint_of("allenai/Molmo2-4B")),
}


def seen(family: str, image: np.ndarray, setting: CropSetting) -> Views:
    geometry, checkpoint = FAMILIES[family]
    return views_of(image, setting, geometry, checkpoint)


def sized(tiling: Tiling, geometry: Geometry, fit: str, *, full: bool = False) -> CropSetting:
    value = KnobValue("image_size", str(tiling_to_resolution(tiling, geometry)), fit, full)
    return value.crop_setting(geometry)


TILINGS = [Tiling(1, 1), Tiling(2, 1), Tiling(2, 3), Tiling(3, 4)]
#: Numbers of each family, as published: window and crop in px, tokens of a crop.
PUBLISHED = {"v1": (224, 336, 144), "molmo2": (266, 378, 196)}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tiling", TILINGS)
def test_crops_are_cut_from_the_canvas_where_they_are_drawn(family: str, tiling: Tiling) -> None:
    """An image of the canvas's size is not resized: its crops are pieces of it, byte for byte."""
    window, side, _ = PUBLISHED[family]
    image = noise(112 + window * tiling.rows, 112 + window * tiling.cols)
    views = seen(family, image, sized(tiling, FAMILIES[family][0], "stretch"))
    assert views.tiling == tiling and not views.padding.any()
    assert (views.on_canvas(views.pixels) == image).all()
    for crop in range(tiling.num_crops):
        top, left = (window * place for place in divmod(crop, tiling.cols))
        cut = image[top : top + side, left : left + side]
        assert (views.pixels[1 + crop] == cut).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tiling", TILINGS)
@pytest.mark.parametrize("full", [False, True])
def test_tokens_are_those_of_the_published_layout(family: str, tiling: Tiling, full: bool) -> None:
    window, _, each = PUBLISHED[family]
    geometry, _ = FAMILIES[family]
    views = seen(family, noise(300, 400), sized(tiling, geometry, "stretch", full=full))
    if full:
        expected = each * (tiling.num_crops + 1)
        assert (views.tokens != UNREAD).all()
    else:
        rows, cols = (math.ceil((window // 14 * n + 8) / 2) for n in tiling)
        expected = each + rows * cols
        # Each patch of the canvas is read once: no gap and nothing twice.
        times = np.zeros(((window * tiling.rows + 112) // 14, (window * tiling.cols + 112) // 14))
        step, side = window // 14, geometry.patches_per_side
        for crop in range(tiling.num_crops):
            top, left = (step * place for place in divmod(crop, tiling.cols))
            times[top : top + side, left : left + side] += views.tokens[1 + crop] != UNREAD
        assert (times == 1).all()
    assert views.num_tokens == expected
    assert sum(map(views.tokens_of, range(len(views.tokens)))) == expected


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(200, 800), (801, 333), (1, 1), (560, 560)])
def test_padding_is_what_a_letterbox_leaves(family: str, size: tuple[int, int]) -> None:
    tiling = Tiling(2, 2)
    geometry, _ = FAMILIES[family]
    canvas = tiling_to_resolution(tiling, geometry)
    views = seen(family, np.zeros((*size, 3), np.uint8), sized(tiling, geometry, "letterbox"))
    rows, cols = np.nonzero(~views.on_canvas(views.padding))
    scale = min(canvas.height / size[0], canvas.width / size[1])
    height, width = size[0] * scale, size[1] * scale
    found = (rows.min(), rows.max() + 1, cols.min(), cols.max() + 1)
    top, left = (canvas.height - height) / 2, (canvas.width - width) / 2
    assert found == pytest.approx((top, top + height, left, left + width), abs=2)
    assert len(rows) == (found[1] - found[0]) * (found[3] - found[2])


def test_overlap_is_every_window_border_and_a_margin_beyond() -> None:
    views = seen("v1", noise(200, 300), sized(Tiling(2, 3), MOLMO, "stretch"))
    y, x = np.mgrid[:560, :784]
    expected = ((y >= 224) & (y < 336)) | ((x >= 224) & (x < 336)) | ((x >= 448) & (x < 560))
    assert (overlaps(views) == expected).all()


def test_family_without_overlap_is_refused() -> None:
    _, checkpoint = FAMILIES["v1"]
    other = replace(checkpoint, config={"model_type": "internvl"})
    with pytest.raises(ConfigError, match="Molmo v1 and Molmo2"):
        views_of(noise(9, 9), CropSetting(1), MOLMO, other)


# --- the picture ----------------------------------------------------------------------------------


@pytest.mark.parametrize("tiling", [Tiling(1, 1), Tiling(2, 3), Tiling(4, 3)])
def test_every_crop_is_in_the_picture_pixel_by_pixel(tiling: Tiling) -> None:
    """In the middle of a crop, which no other shows, the pixels between two lines of the grid."""
    image = noise(700, 900)
    views = seen("v1", image, sized(tiling, MOLMO, "stretch"))
    png = sample_picture(image, views, "title", [("question", "what?")])
    lines = [row.tobytes() for row in np.array(Image.open(io.BytesIO(png)))]
    for crop in views.pixels[1:]:
        strip = crop[150, 143:165].tobytes()
        assert any(strip in line for line in lines)


@pytest.mark.parametrize(
    ("size", "crops"), [((1, 1), 1), ((1, 300), 25), ((20_000, 300), 12), ((300, 20_000), 28)]
)
def test_odd_images_and_many_crops_are_drawn(size: tuple[int, int], crops: int) -> None:
    image = np.full((*size, 3), 200, np.uint8)
    views = seen("v1", image, CropSetting(crops, crops, fit="stretch"))
    picture = Image.open(io.BytesIO(sample_picture(image, views, "t", [("question", "?")])))
    assert picture.width == 1500 and picture.height < 4000


def test_long_text_is_wrapped_and_cut() -> None:
    from vtexp.utils.fonts import font

    text = f"{'How much? ' * 100}\nand {'x' * 500} {'long ' * 400}"
    lines = wrapped(text, 600, 19)
    assert max(font(TEXT, 19).getlength(line) for line in lines) < 620
    assert len(lines) == 14 and lines[-1].endswith("…")
    assert wrapped("one\ntwo", 600, 19) == ["one", "two"]


def test_facts_are_those_of_the_plan() -> None:
    config = compose_config(["dataset=easy_vqa", "knob.sizes=600x400", "model.weights=random"])
    plan = make_plan(config, 3)
    (sample,), (run,) = plan.samples, plan.runs
    facts = dict(datasets._facts(config, sample, run))
    assert facts["question"] == sample.question
    assert facts["vision tokens"] == "432 theoretical, 384 actual"
    assert says(facts["budget"], "tiling 2x1", "2 crops", "global crop")
    assert "560x336" in facts["note"]


def test_index_is_the_place_in_a_run() -> None:
    every = compose_config(["dataset=easy_vqa", "dataset.limit=null"]).dataset
    samples = load_samples(replace(every, limit=9)).samples
    for index in (0, 3, 8):
        assert load_samples(every, index=index).samples == [samples[index]]


def test_only_the_shown_image_is_read(
    own_sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One image of the set is broken; the others can be looked at all the same."""
    monkeypatch.chdir(tmp_path)
    codes = [
        main(["datasets", "--config-dir", str(own_sets), "show", "signs", f"--index={i}",
              "--knob", "max_crops", "--knob.max_crops", "4"])
        for i in range(3)
    ]  # fmt: skip
    assert sorted(codes) == [0, 0, 1]
    names = {path.name for path in tmp_path.glob("*.png")}
    assert names == {f"signs-{i}-max_crops-4.png" for i in range(3) if codes[i] == 0}


def test_show_says_where_the_picture_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new folder" / "a.png"
    arguments = ["easy_vqa", "--index", "3", "--knob.sizes", "560x336", "--out", str(out)]
    assert main(["datasets", "show", *arguments]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert [path.name for path in out.parent.iterdir()] == ["a.png"]
    with Image.open(out) as picture:
        assert (picture.format, picture.width) == ("PNG", 1500)


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["textvqa"], 2, "no such set; did you mean text_vqa"),
        (["qqqqqq"], 2, "no such set; `python -m vtexp datasets` lists all"),
        (["text_vqa"], 1, "hf download lmms-lab/textvqa"),
        (["easy_vqa", "--index", "9673"], 2, "easy_vqa has 9673 questions"),
        (["easy_vqa", "--index", "-1"], 2, "counted from 0"),
        (["easy_vqa", "--index", "one"], 2, "invalid int value: 'one'"),
        (["easy_vqa", "--knob.sizes", "56ox336"], 2, "'56ox336' is not HxW"),
        (["easy_vqa", "--knob.sizez", "3"], 2, "knob.sizez: no such key"),
        (["easy_vqa", "--knob.sizes"], 2, "--knob.sizes: "),
        (["easy_vqa", "--dataset.split=validation"], 2, "easy_vqa has train, test"),
        (["easy_vqa", "--knob.sizes", "1904x1904"], 2, "take fewer crops"),
        (["easy_vqa", "--out", "a.jpg"], 2, "ends in .png"),
        (["easy_vqa", "--out", "/proc/none/a.png"], 1, "/proc/none/a.png: cannot"),
        (["easy_vqa", "--config-dir", "/none"], 2, "--config-dir /none: no such folder"),
        ([], 2, "one data set"),
    ],
)
def test_mistake_is_one_line(
    arguments: list[str],
    code: int,
    says: str,
    capsys: pytest.CaptureFixture[str],
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        found = main(["datasets", "show", *arguments])
    except SystemExit as stop:
        found = stop.code  # type: ignore[assignment]
    out, error = capsys.readouterr()
    (line,) = error.splitlines()
    assert (found, out) == (code, "")
    assert line.startswith("error: ") and says in line
    assert not list(tmp_path.glob("*.p*"))


@pytest.mark.parametrize("text", ["name: [x", "defaults:\n  - /schema/dataset@_here_\nnam: x"])
def test_broken_file_of_ones_own_is_named(
    text: str, own_sets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own_sets / "dataset" / "broken.yaml").write_text(text)
    assert main(["datasets", "--config-dir", str(own_sets)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "dataset/broken" in line


def test_picture_that_cannot_be_put_in_place_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    assert main(["datasets", "show", "easy_vqa", "--out", str(tmp_path / "a.png")]) == 1
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []


def test_list_takes_no_keys(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["datasets", "--knob.sizes", "560x336"])
    assert "knob.sizes=560x336" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--knob.sizes", "560x336", "NAME"], ("NAME", 0, None, None, ["knob.sizes=560x336"])),
        (["NAME", "--knob.sizes=560x336"], ("NAME", 0, None, None, ["knob.sizes=560x336"])),
        (["NAME", "knob.sizes=560x336"], ("NAME", 0, None, None, ["knob.sizes=560x336"])),
        (["plan=true", "--index", "3", "NAME"], ("NAME", 3, None, None, ["plan=true"])),
        (["--knob", "max_crops", "--index=3", "NAME"], ("NAME", 3, None, None, ["knob=max_crops"])),
        (["NAME", "--out", "a=b.png"], ("NAME", 0, Path("a=b.png"), None, [])),
    ],
)
def test_options_of_the_command_and_keys_of_the_config(
    arguments: list[str], expected: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[object, ...]] = []
    monkeypatch.setattr("vtexp.cli.datasets.show_sample", lambda *parts: given.append(parts))
    assert main(["datasets", "show", *arguments]) == 0
    assert given == [expected]


@pytest.mark.parametrize(
    "arguments", [["a", "b"], ["a", "--index", "3"], ["a", "--knob=max_crops"]]
)
def test_other_commands_take_one_sweep(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["status", *arguments])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "takes no" in line


def test_size_is_height_by_width() -> None:
    """A tall image lies under a tall tiling."""
    views = seen("v1", noise(900, 400), CropSetting(12))
    assert views.tiling.rows > views.tiling.cols
    assert Size(*views.on_canvas(views.pixels).shape[:2]) == tiling_to_resolution(views.tiling)
