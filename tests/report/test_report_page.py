"""report.html in headless Chromium, from a file and with no network."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.answered_sweeps import answered_sweep
from tests.helpers.made_records import change_result, write_samples
from tests.helpers.made_sweeps import make_run, unfinish
from vtexp.report.write import report
from vtexp.runs.records import read_samples
from vtexp.utils import files

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
REQUIRED = os.environ.get("VTEXP_REQUIRE_CHROMIUM") == "1"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None and not REQUIRED, reason="needs Chromium (apt-get install chromium)"
    ),
]
#: Any of these that ran would set `window.harmed`, or ask for something.
HOSTILE = (
    "<script>window.harmed=1</script>",
    "</script><script>window.harmed=1</script>",
    "<img src=x onerror=window.harmed=1>",
    "\"'><svg onload=window.harmed=1>",
    "\u2028window.harmed=1\u2029 <!-- <script>",
    "{{ 7 * 7 }} ${window.harmed=1} <b>bold</b> &lt;i&gt;",
    '<a href="javascript:window.harmed=1">x</a>',
)
SIZES = "knob.sizes=336x336,560x560,784x784"


def rename_images(sweep: Path) -> None:
    """Give images ids that all objects of JavaScript know: those of questions that are not in the
    data set, so that the page has no image of these ids.
    """
    names = ("constructor", "__proto__", "toString", "valueOf")
    for path in sweep.glob(f"*/{files.SAMPLES}"):
        rows = list(read_samples(path))
        for i in range(0, len(rows), 3):
            rows[i] = replace(rows[i], image_id=names[i // 3 % len(names)])
        write_samples(path, rows)


@pytest.fixture(scope="module")
def hostile_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a sweep with hostile texts, a failed run, a missing one and one of doubtful times."""
    sweep = tmp_path_factory.mktemp("report") / "hostile"
    sizes = SIZES + ",336x560,560x336"
    plan = answered_sweep(sweep, sizes, "dataset.limit=40", hostile=HOSTILE)
    rename_images(sweep)
    by_value = {run.value.value: run.folder for run in plan.runs}
    unfinish(by_value["336x560"], "out of memory: " + HOSTILE[1])
    unfinish(by_value["560x336"], None)
    change_result(by_value["784x784"], timing_warnings=("another process " + HOSTILE[2],))
    report([sweep], sweep)
    return sweep / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Without a sandbox, as containers run as root.
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


class Opened:
    """A page, and what it said and asked for while it was open."""

    def __init__(self, browser: Any, path: Path, **context: Any) -> None:
        self.page = browser.new_context(**context).new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_function("window.Plotly !== undefined")

    def draw_all(self) -> int:
        """Scroll through the page; how many plots are drawn then."""
        for plot in self.page.locator(".plot").all():
            plot.scroll_into_view_if_needed()
            plot.locator(".main-svg").first.wait_for()
        return self.page.locator(".plot:has(.main-svg)").count()

    def column(self, name: str) -> list[str]:
        """Texts of a column of the table of runs."""
        heads = self.page.locator("#runs-table thead tr").nth(1).locator("th").all_inner_texts()
        place = [head.split("\n")[0].strip() for head in heads].index(name)
        rows = self.page.locator("#runs-table tbody tr:not(.notes)").all()
        return [row.locator("th, td").nth(place).inner_text() for row in rows]

    def requests(self) -> list[str]:
        """What was asked for beside the file itself and what it holds."""
        return [url for url in self.asked[1:] if not url.startswith(("data:", "blob:"))]


@pytest.fixture(scope="module")
def opened(browser: Any, hostile_report: Path) -> Opened:
    return Opened(browser, hostile_report, offline=True, viewport={"width": 1280, "height": 900})


def test_the_answer_stands_at_the_top(opened: Opened, hostile_report: Path) -> None:
    analysis = json.loads((hostile_report.parent / "analysis.json").read_text())
    sentence = analysis["series"][0]["answer"]["sentence"]
    assert opened.page.locator("header .sentence").inner_text() == sentence
    weight = "(e) => Number(getComputedStyle(e).fontWeight)"
    assert opened.page.locator("header .headline").evaluate(weight) >= 600
    assert opened.page.locator("header .sentence").evaluate(weight) == 400  # plain below it


def test_plots_are_drawn_in_the_order_of_the_figures(opened: Opened, hostile_report: Path) -> None:
    names = opened.page.evaluate("data.plots.map((plot) => plot.name)")
    first = ["loss", "accuracy", "prefill", "stages", "pareto"]
    assert names[:5] == first and {"crops", "tokens"} < set(names)
    assert opened.draw_all() == len(names)
    figures = hostile_report.parent / "figures"
    assert {path.name for path in figures.iterdir()} == {
        f"{name}.{kind}" for name in names for kind in ("png", "svg", "pdf")
    }
    points = opened.page.locator("#plot-1 .scatterlayer .point").count()
    bars = opened.page.locator("#plot-3 .barlayer .point").count()
    stages = opened.page.evaluate("data.plots[3].series.length")
    assert (points, bars) == (3, 3 * stages) and stages >= 5  # finished runs; their stages


def test_a_click_sorts_the_table(opened: Opened) -> None:
    before = opened.column("accuracy, %")
    button = opened.page.get_by_role("button", name="accuracy, %", exact=True)
    header = opened.page.locator("#runs-table th", has=button)
    for direction in ("ascending", "descending"):
        button.click()
        assert header.get_attribute("aria-sort") == direction
        numbers = [float(text) for text in opened.column("accuracy, %") if text[:1].isdigit()]
        assert numbers == sorted(numbers, reverse=direction == "descending")
        rest = opened.column("accuracy, %")[3:]  # runs without a number come last
        assert sorted(rest) == ["failed", "missing"]
    assert sorted(opened.column("accuracy, %")) == sorted(before)
    assert opened.page.locator("#runs-table [aria-sort=descending]").count() == 1


def test_failed_missing_and_doubtful_runs_are_told(opened: Opened) -> None:
    states = opened.column("status")
    assert sum("failed" in state for state in states) == 1
    assert sum("missing" in state for state in states) == 1
    assert sum("doubtful" in state for state in states) == 1
    failed = opened.page.locator("tbody:has(tr.failed) .notes")
    failed.locator("summary").click()
    notes = failed.locator("ul")
    assert "out of memory: " + HOSTILE[1] in notes.inner_text()
    assert notes.bounding_box()["width"] > 800  # a line of its own, not a column


def test_the_pointer_says_names_alone(opened: Opened) -> None:
    opened.draw_all()
    for place in opened.page.locator(".plot .canvas").all():
        for trace in place.evaluate("(e) => e.data.map((t) => [t.hoverinfo, t.hovertemplate])"):
            assert trace[0] == "skip" or "<extra>" in trace[1]  # or it would say "trace 0"


def test_legends_cover_no_plot(opened: Opened) -> None:
    opened.draw_all()
    for figure in opened.page.locator(".plot:has(.legend button)").all():
        legend, canvas = (figure.locator(part).bounding_box() for part in (".legend", ".canvas"))
        assert legend["y"] + legend["height"] <= canvas["y"]
    button = opened.page.locator(".plot.bars .legend button").first
    button.click()
    hidden = "(e) => e.data.filter((t) => t.visible === false).length"
    place = opened.page.locator(".plot.bars .canvas").first
    assert place.evaluate(hidden) == 1
    button.click()
    assert place.evaluate(hidden) == 0


def test_an_image_is_enlarged_so_that_its_print_can_be_read(opened: Opened) -> None:
    page = opened.page
    page.locator(".card figure button").first.click()
    drawing = page.locator("#zoom svg")
    width = drawing.evaluate("(e) => e.getBoundingClientRect().width / e.viewBox.baseVal.width")
    assert width >= 1.5  # px of the screen for each of the image
    page.locator("#zoom [name=in]").click()
    larger = drawing.evaluate("(e) => e.getBoundingClientRect().width / e.viewBox.baseVal.width")
    assert larger == pytest.approx(1.5 * width, rel=0.01)
    page.locator("#zoom [name=crops]").uncheck()
    assert page.locator("#zoom .overlay").is_hidden()
    page.locator("#zoom [name=crops]").check()
    page.get_by_role("button", name="close").click()
    assert page.locator("#zoom").is_hidden()


def test_samples_are_filtered(opened: Opened) -> None:
    page = opened.page
    samples = page.evaluate("data.browsers[0].samples.length")
    cards = page.locator(".card")
    assert page.locator(".count").inner_text() == f"{samples} samples found"
    assert cards.count() == min(10, samples)
    page.locator(".more").click()
    assert cards.count() == min(20, samples)
    pattern = page.locator("select[name=pattern]")
    value = pattern.locator("option").nth(1).get_attribute("value")
    pattern.select_option(value)
    found = int(page.locator(".count").inner_text().split()[0])
    assert 0 < found < samples
    for card in cards.all():
        marks = card.locator("tbody .score").all_inner_texts()
        assert "".join("1" if "\u2713" in mark else "0" for mark in marks) == value
    pattern.select_option("")
    sample_id = cards.first.locator(".quiet").inner_text().split(" \u00b7 ")[0]
    page.locator("input[type=search]").fill(sample_id)
    assert page.locator(".count").inner_text() == "1 sample found"
    page.locator("input[type=search]").fill("no such text anywhere")
    assert page.locator(".count").inner_text() == "0 samples found"
    page.locator("input[type=search]").fill("")
    group = page.locator("select[name=group]")
    option = group.locator("optgroup[label='question type'] option").last
    kind, _, count = option.inner_text().rpartition(" (")
    group.select_option(option.get_attribute("value"))
    assert page.locator(".count").inner_text().split()[0] == count.rstrip(")")
    for about in page.locator(".card .quiet").all_inner_texts():
        if "question type" in about:
            assert kind in about
    group.select_option("")


def test_crops_of_the_chosen_run_are_drawn_over_the_image(opened: Opened) -> None:
    card = opened.page.locator(".card:has(svg)").first
    radios = card.locator("input[type=radio]")
    counts = []
    for radio in radios.all():
        radio.check()
        counts.append(card.locator("rect.crop").count())
    assert counts == [1, 4, 9]


@pytest.mark.fault(
    "hostile input", "scripts and markup in questions, answers, names", "shown as text; harmless"
)
def test_hostile_texts_are_shown_and_harmless(opened: Opened) -> None:
    opened.draw_all()
    page = opened.page
    page.locator("input[type=search]").fill(HOSTILE[2])
    assert HOSTILE[2] in page.locator(".card").first.inner_text()
    page.locator("input[type=search]").fill("")
    assert page.evaluate("window.harmed") is None
    page.locator("form [name=pictured]").uncheck()
    assert page.locator(".card").count() > 0
    search = page.locator("input[type=search]")
    search.fill("window.harmed")
    while page.locator(".more").is_visible():
        page.locator(".more").click()
    assert page.locator(".card.bare").count() > 0  # of images with the names of objects' members
    search.fill("")
    assert page.locator("#samples img, .card script, .card b, .plot b").count() == 0
    panels = " ".join(page.locator(".plot.panels .annotation").all_text_contents())
    assert "window.harmed" in panels  # groups are named by hostile texts too
    assert page.locator("script").count() == 4  # data, Plotly's source and run, the page's own


def test_nothing_is_fetched_and_nothing_goes_wrong(opened: Opened) -> None:
    opened.draw_all()
    assert opened.requests() == []
    assert opened.said == []
    # The policy holds, not only good manners: even the page's own code could not connect.
    refused = opened.page.evaluate("fetch('http://127.0.0.1:9').then(() => 'no', (e) => `${e}`)")
    assert refused.startswith("TypeError")
    assert any("Content Security Policy" in said for said in opened.said)
    opened.said.clear()


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_no_wider_than_the_screen(
    browser: Any, hostile_report: Path, width: int
) -> None:
    viewport = {"width": width, "height": 844}
    opened = Opened(browser, hostile_report, offline=True, viewport=viewport, color_scheme="dark")
    opened.draw_all()
    assert opened.page.evaluate("document.documentElement.scrollWidth") == width
    background = "getComputedStyle(document.body).backgroundColor"
    assert opened.page.evaluate(background) == "rgb(18, 22, 28)"
    edge = opened.page.locator("#runs-table thead th", has_text="speed-up").bounding_box()
    assert edge["x"] + edge["width"] <= width  # accuracy, prefill, speed-up without scrolling
    opened.page.emulate_media(media="print")
    assert opened.page.locator(".plot .main-svg").count() > 0
    assert opened.said == []


def test_long_names_break(browser: Any, tmp_path: Path) -> None:
    sweeps = [tmp_path / ("a_long_name_of_a_sweep_" * 5 + end) for end in ("one", "two")]
    for sweep in sweeps:
        long = {"model": "a_long_name_of_a_model_" * 5 + sweep.name[-3:], "dataset": "a_set_" * 20}
        for value, tokens in (("336x336", 288), ("560x560", 544)):
            make_run(sweep, value, tokens, [1.0, 0.0] * 20, result=long)
    report(sweeps, tmp_path / "both")
    viewport = {"width": 390, "height": 844}
    opened = Opened(browser, tmp_path / "both" / "report.html", offline=True, viewport=viewport)
    opened.draw_all()
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 390


def test_values_far_apart_are_within_the_axes(browser: Any, tmp_path: Path) -> None:
    """Plotly takes the ends of an axis of logarithms for exponents."""
    times = {"336x336": (288, 10.0), "560x560": (544, 90.0), "784x784": (928, 500.0)}
    for value, (tokens, prefill_ms) in times.items():
        make_run(tmp_path / "s", value, tokens, [1.0, 0.0] * 20, prefill_ms=prefill_ms)
    report([tmp_path / "s"], tmp_path / "s")
    opened = Opened(browser, tmp_path / "s" / "report.html", offline=True)
    opened.draw_all()
    layout = "document.querySelector('#plot-{} .canvas')._fullLayout.yaxis"
    names = opened.page.evaluate("data.plots.map((plot) => plot.name)")
    axis = layout.format(names.index("prefill"))
    assert opened.page.evaluate(f"{axis}.type") == "log"
    low, high = opened.page.evaluate(f"{axis}.range")
    assert 0 < low < 1 and 2.699 < high < 3  # 10 and 500 ms
    assert opened.said == []


def test_without_scripts_nothing_is_empty(browser: Any, hostile_report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(hostile_report.as_uri())
    for hidden in (".canvas", ".filters", ".more"):
        assert not page.locator(hidden).first.is_visible()
    said = page.locator("noscript p").all_inner_texts()
    assert said and all("JavaScript" in text for text in said)
    context.close()


def test_a_page_of_many_questions_opens(browser: Any, tmp_path: Path) -> None:
    sweep = tmp_path / "large"
    values = ",".join(str(crops) for crops in (1, 4, 9, 12))
    knob = ("knob=max_crops", f"knob.max_crops={values}")
    answered_sweep(sweep, *knob, "dataset.limit=null", share=0.1)
    report([sweep], sweep)
    path = sweep / "report.html"
    assert path.stat().st_size < 12e6  # 1 800 questions; 10 000: benchmarks/report_size.py
    began = time.monotonic()
    opened = Opened(browser, path, offline=True)
    opened.page.locator("#plot-0 .main-svg").first.wait_for()
    took = time.monotonic() - began
    print(f"{path.stat().st_size / 1e6:.1f} MB, first plot after {took:.1f} s")
    assert took < 15  # on a busy machine
    assert opened.said == []
