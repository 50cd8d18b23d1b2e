"""What a report is made of: overlays, plots, figures, commands; what it says of missing data."""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.helpers.answered_sweeps import answered_sweep
from tests.helpers.facts import says
from vtexp.analysis.analyse import analyse
from vtexp.analysis.rows import collect
from vtexp.budget.geometry import MOLMO, Size
from vtexp.budget.knobs import CropSetting
from vtexp.config.compose import CONF, compose_config
from vtexp.config.schema import to_plain
from vtexp.errors import DataError
from vtexp.models.checkpoints import find_checkpoint
from vtexp.models.views import views_of
from vtexp.report import browser, reproduce, thumbnails
from vtexp.report.answers import in_turn, read_answers
from vtexp.report.columns import report_rows
from vtexp.report.figures import drawings, write_figures
from vtexp.report.html import write_page
from vtexp.report.html_table import report_table
from vtexp.report.plots import Plot, PlotSeries, crops_plot
from vtexp.report.thumbnails import overlay_of, take_thumbnails
from vtexp.runs.ledger import JOBS, read_submitted
from vtexp.runs.records import read_environment, read_samples, write
from vtexp.utils import files

SIZES = "knob.sizes=336x336,560x560"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweeps") / "answered"
    answered_sweep(folder, SIZES, "dataset.limit=12")
    return folder


@pytest.mark.parametrize("fit", ["stretch", "letterbox", "crop"])
@pytest.mark.parametrize("size", [Size(300, 700), Size(640, 480), Size(90, 100)])
def test_boxes_lie_where_the_crops_were_cut(size: Size, fit: str) -> None:
    """Red tells the column of a pixel and green its row: what stands in a crop's middle."""
    rows, cols = np.mgrid[0 : size.height, 0 : size.width]
    shares = np.stack([(cols + 0.5) / size.width, (rows + 0.5) / size.height, 0 * rows], axis=-1)
    setting = CropSetting(4, 4, Size(560, 560), fit)
    overlay = overlay_of(size, setting, MOLMO)
    checkpoint = find_checkpoint("embedded:molmo_tiny")
    views = views_of((255 * shares).round().astype(np.uint8), setting, MOLMO, checkpoint)
    assert len(overlay.crops) == len(views.pixels) - 1 == 4
    for (top, left, height, width), pixels in zip(overlay.crops, views.pixels[1:], strict=True):
        quarter = MOLMO.crop_px // 4
        for share_y, y in ((0.25, quarter), (0.75, 3 * quarter)):
            for share_x, x in ((0.25, quarter), (0.75, 3 * quarter)):
                seen_x, seen_y = pixels[y, x, 0] / 255, pixels[y, x, 1] / 255
                where_x, where_y = left + share_x * width, top + share_y * height
                if 0.02 < where_x < 0.98 and 0.02 < where_y < 0.98:  # not in the padding
                    assert (seen_x, seen_y) == pytest.approx((where_x, where_y), abs=0.02)


@given(st.lists(st.lists(st.text(max_size=2), max_size=5), max_size=5))
def test_sequences_are_taken_in_turn(queues: list[list[str]]) -> None:
    found = list(in_turn(queues))
    assert sorted(found) == sorted(text for queue in queues for text in queue)
    assert found[: sum(map(bool, queues))] == [queue[0] for queue in queues if queue]


def test_disagreements_are_the_samples_with_unlike_scores(sweep: Path) -> None:
    (asked,) = read_answers(collect(sweep))
    by_run = [
        {row.sample_id: row.score for row in read_samples(path)}
        for path in sweep.glob(f"*/{files.SAMPLES}")
    ]
    unlike = {key for key, score in by_run[0].items() if by_run[1][key] != score}
    found = asked.disagreements()
    assert set(found) == unlike and len(found) == len(unlike) > 0


def test_command_gives_the_config_that_the_runs_had(sweep: Path) -> None:
    folders = [run.folder for run in collect(sweep)]
    (one,) = reproduce.configs(folders)
    assert one.command is not None and one.command.startswith("python launch.py ")
    config = to_plain(compose_config(shlex.split(one.command)[2:]))
    assert config["knob"]["sizes"] == ["336x336", "560x560"]
    assert config["dataset"]["limit"] == 12
    assert "sweep.name" not in one.command


def test_command_is_found_within_a_run_of_hydra(sweep: Path) -> None:
    folders = [run.folder for run in collect(sweep)]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        running = GlobalHydra.instance().hydra
        (one,) = reproduce.configs(folders)
        assert one.command is not None
        assert running is not None and GlobalHydra.instance().hydra is running


def test_no_command_where_none_gives_the_config(sweep: Path, tmp_path: Path) -> None:
    folder = next(sweep.glob(f"*/{files.CONFIG}")).parent
    text = (folder / files.CONFIG).read_text()
    assert "name: small_print" in text
    own = tmp_path / "run"
    # A data set of the user's own, of which conf/ knows nothing.
    files.write_text(own / files.CONFIG, text.replace("name: small_print", "name: my_own"))
    (one,) = reproduce.configs([own])
    assert one.command is None and "my_own" in one.config


def test_no_secret_is_in_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = tmp_path / "secret"
    lines = "hardware.slurm.setup=['export HF_TOKEN=in_a_shell_line']"
    plan = answered_sweep(sweep, SIZES, "dataset.limit=4", lines, "tracking.tags=[its_planted]")
    monkeypatch.setenv("MY_TOKEN", "its_planted")
    folder = plan.runs[0].folder
    here = replace(read_environment(folder), platform="its_planted")
    write(folder / files.ENVIRONMENT, here)
    runs = collect(sweep)
    analysis = analyse(runs)
    write_page(sweep, report_rows(runs, analysis), analysis)
    page = (sweep / "report.html").read_text()
    assert "in_a_shell_line" not in page and "its_planted" not in page
    (one,) = reproduce.configs([run.folder for run in runs])
    assert one.command is not None and "***" in one.command and "***" in one.config


def test_the_report_says_so_where_images_are_gone(sweep: Path) -> None:
    (asked,) = read_answers(collect(sweep))
    found = asked.disagreements()
    assert len(take_thumbnails(asked, found).by_image) > 0
    changed = {key: replace(one, question="other") for key, one in asked.questions.items()}
    pictures = take_thumbnails(replace(asked, questions=changed), found)
    assert pictures.by_image == {}
    assert says(pictures.warnings[0], "not the same")
    assert len(asked.questions) > len(pictures.warnings) <= 4  # the first, and how many more


def test_a_report_draws_no_pages(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (asked,) = read_answers(collect(sweep))
    monkeypatch.setenv("VTEXP_CACHE_DIR", str(tmp_path / "empty"))
    pictures = take_thumbnails(asked, asked.disagreements())
    assert pictures.by_image == {} and says(pictures.warnings[0], "no images", "pages")
    assert not (tmp_path / "empty").exists()


def test_the_report_is_made_without_the_model_that_was_run(tmp_path: Path) -> None:
    sweep = tmp_path / "gone"
    plan = answered_sweep(sweep, SIZES, "dataset.limit=8")
    for run in plan.runs:
        path = run.folder / files.CONFIG
        files.write_text(path, path.read_text().replace("embedded:molmo_tiny", "/gone/<b>"))
    runs = collect(sweep)
    analysis = analyse(runs)
    write_page(sweep, report_rows(runs, analysis), analysis)
    page = (sweep / "report.html").read_text()
    assert "model.path=/gone/&lt;b&gt;: no such" in page and "no images" in page
    assert "<b>" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_samples_beyond_the_room_are_left_out(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = collect(sweep)
    (asked,) = read_answers(runs)
    monkeypatch.setattr(browser, "MOST_CHARACTERS", 0)
    by_folder = {str(run.folder): run for run in runs}
    data, _ = browser.browser_data(asked, by_folder, {}, room=0)
    assert len(data["samples"]) == 1 < data["disagreeing"]
    assert data["images"] == {}
    json.dumps(data)


def test_columns_that_nothing_fills_are_named(sweep: Path) -> None:
    runs = collect(sweep)
    table = report_table(report_rows(runs, analyse(runs)))
    names = [column.name for column in table.columns]
    assert "MFU, %" in names and "energy, J" not in names
    (left_out,) = [line for line in table.left_out if line.startswith("one prefill: ")]
    assert "energy, J" in left_out and "MFU" not in left_out
    assert table.lead + sum(span for _, span in table.headings) == len(names)
    assert all(len(row.cells) == len(names) for row in table.rows)
    (times,) = [head for head in dict(table.headings) if "batch 1" in head]
    assert times.endswith(", ms")  # the unit of all stands once


def test_shares_of_crops_add_up(sweep: Path) -> None:
    runs = collect(sweep)
    (asked,) = read_answers(runs)
    plot = crops_plot({"": runs}, asked.by_run)
    assert plot is not None
    assert [series.label for series in plot.series] == ["1 crop", "4 crops"]
    shares = np.array([series.y for series in plot.series], dtype=float)
    assert np.nansum(shares, axis=0) == pytest.approx([100, 100])


def test_figures_hold_their_texts_as_text_and_are_the_same_each_time(tmp_path: Path) -> None:
    series = PlotSeries(
        label="a $x$ <b> \u2028", x=[1.0, 2.0], y=[10.0, 20.0], marked=[True, False]
    )
    plot = Plot(
        name="p", title="t", caption="c", x_label="tokens", y_label="accuracy, %",
        kind="lines", series=[series, replace(series, label="\u65e5\u672c")],
    )  # fmt: skip
    (_, png), (_, svg), (_, pdf) = drawings(plot)
    assert dict(drawings(plot)) == {"png": png, "svg": svg, "pdf": pdf}
    write_figures(tmp_path, [replace(plot, name="accuracy")], "t")
    assert (tmp_path / "comparison.png").is_file()
    write_figures(tmp_path, [], "t")  # all runs were made again, and failed
    assert not [*tmp_path.glob("*.png"), *(tmp_path / "figures").iterdir()]
    texts = [node.text for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("text")]
    assert {"a $x$ <b>", "tokens", "accuracy, %"} <= {(text or "").strip() for text in texts}
    with Image.open(io.BytesIO(png)) as image:
        assert image.width == pytest.approx(3.5 * 300, abs=1)  # a column of a paper


@pytest.mark.parametrize(
    "note", [{}, {"jobs": 5}, {"jobs": [{}]}, {"jobs": [{"runs": [], "launcher": "x"}]}, []]
)
def test_a_damaged_note_of_jobs_is_one_line(tmp_path: Path, note: object) -> None:
    path = tmp_path / JOBS / "note.json"
    path.parent.mkdir()
    path.write_text(json.dumps(note))
    with pytest.raises(DataError, match=r"note\.json: "):
        read_submitted(tmp_path)


@pytest.mark.parametrize(("height", "width"), [(3000, 2000), (8000, 500), (300, 400)])
def test_images_keep_their_shape_and_no_more_pixels_than_there_is_room_for(
    height: int, width: int
) -> None:
    """Long ones keep their print as well as others: the area counts."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    sample = SimpleNamespace(pixels=lambda: pixels)
    picture = thumbnails._picture(sample, {})  # type: ignore[arg-type]
    encoded = base64.b64decode(picture.uri.partition(",")[2])
    shown = Image.open(io.BytesIO(encoded))
    assert (picture.size.height, picture.size.width) == (height, width)
    expected = min(height * width, thumbnails.MOST_PIXELS)
    assert shown.height * shown.width == pytest.approx(expected, rel=0.01)
    assert shown.height / shown.width == pytest.approx(height / width, rel=0.01)
