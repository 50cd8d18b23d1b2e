"""What to measure next, and that the commands do it."""

from __future__ import annotations

import html
import re
import shlex
from pathlib import Path

import pytest

from tests.helpers.answered_sweeps import answered_sweep
from tests.helpers.made_sweeps import make_run
from vtexp.analysis.analyse import analyse
from vtexp.analysis.answer import rounded_up
from vtexp.analysis.rows import collect
from vtexp.config.compose import compose_config
from vtexp.config.schema import Config
from vtexp.errors import VtexpError
from vtexp.report.columns import report_rows
from vtexp.report.html import write_page
from vtexp.report.next_steps import next_lines, next_steps
from vtexp.runs.folder import record_failure
from vtexp.runs.plan import make_plan, sweep_folder

#: The split of which the fewest pages are drawn.
SETS = ("dataset=small_print", "dataset.split=validation", "dataset.limit=60")


def lines_of(sweep: Path, margin: float) -> list[str]:
    runs = collect(sweep)
    return next_lines(runs, analyse(runs, margin))


def config_of(line: str) -> Config:
    """The config of the command at the end of a line."""
    words = shlex.split(line[line.index("python launch.py") :])
    return compose_config(words[2:])


@pytest.mark.parametrize(
    ("knob", "values", "expected"),
    [
        ("max_crops", "knob.max_crops=[1,9]", "max_crops=5"),
        ("vision_tokens", "knob.targets=[432,1440]", "vision_tokens=864"),
        ("image_size", "knob.sizes=[336x336,784x784]", "image_size="),
        (
            "kept_tokens",
            "knob.kept=[64,576] reduction=max_min knob.max_crops=9",
            "kept_tokens=320,",
        ),
        (
            "kept_tokens",
            "knob.kept=[64,576] reduction=early_layer reduction.layer=1 knob.max_crops=9",
            "kept_tokens=320,",
        ),
    ],
)
def test_the_value_between_in_the_same_sweep(
    tmp_path: Path, knob: str, values: str, expected: str
) -> None:
    sweep = tmp_path / "one"
    first = answered_sweep(sweep, *SETS, f"knob={knob}", *values.split(), share=0.2)
    (line,) = (line for line in lines_of(sweep, 5.0) if "between" in line)
    assert line.startswith("next: measure ") and expected in line
    config = config_of(line)
    assert sweep_folder(config) == sweep
    assert config.reduction == first.config.reduction
    plan = make_plan(config)
    (run,) = plan.runs
    tokens = [own.predicted_vision_tokens for own in first.runs]
    assert min(tokens) < run.predicted_vision_tokens < max(tokens)
    assert run.run_id not in {own.run_id for own in first.runs}
    assert [own.sample_id for own in plan.samples] == [own.sample_id for own in first.samples]


def test_a_value_that_failed_is_not_advised_again(tmp_path: Path) -> None:
    values = ("knob=max_crops", "knob.max_crops=[1,5,9]")
    plan = answered_sweep(tmp_path / "one", *SETS, *values, share=0.2)
    (failed,) = (run for run in plan.runs if run.value.value == "5")
    (failed.folder / "result.json").unlink()
    record_failure(failed.folder, VtexpError("out of memory"), failed.asked(plan.config))
    (line,) = (line for line in lines_of(tmp_path / "one", 5.0) if "between" in line)
    assert "measure max_crops=" in line and "measure max_crops=5," not in line


def test_the_reports_margin_is_that_of_the_command(tmp_path: Path) -> None:
    answered_sweep(tmp_path / "one", *SETS, "knob.sizes=[336x336,560x336]", share=0.9)
    for line in lines_of(tmp_path / "one", 3.0):
        assert config_of(line).report.margin == 3.0


def test_nothing_is_asked_again_where_all_was_asked(tmp_path: Path) -> None:
    all_of_it = ("dataset=small_print", "dataset.split=validation", "dataset.limit=1000")
    answered_sweep(tmp_path / "one", *all_of_it, "knob.sizes=[336x336,560x336]", share=0.9)
    assert not any("questions" in line for line in lines_of(tmp_path / "one", 0.1))


def test_no_more_questions_where_every_answer_is_wrong(tmp_path: Path) -> None:
    answered_sweep(tmp_path / "one", *SETS, "knob.sizes=[336x336,560x336]", share=-1.0)
    assert not any("questions" in line for line in lines_of(tmp_path / "one", 5.0))


def test_more_questions_in_a_new_sweep(tmp_path: Path) -> None:
    first = answered_sweep(tmp_path / "one", *SETS, "knob.sizes=[336x336,560x336]", share=0.9)
    (line,) = (line for line in lines_of(tmp_path / "one", 3.0) if "questions" in line)
    config = config_of(line)
    asked = config.dataset.limit
    assert asked is not None and asked > 60 and f"ask {asked} questions" in line
    assert sweep_folder(config) != tmp_path / "one"
    plan = make_plan(config)
    assert [run.value for run in plan.runs] == [run.value for run in first.runs]
    ids = {sample.sample_id for sample in plan.samples}
    assert {sample.sample_id for sample in first.samples} < ids


def test_each_knob_has_a_command_of_its_own(tmp_path: Path) -> None:
    """Sizes and caps of two sweeps are one series; no command takes a cap for a size."""
    for knob, values in (
        ("image_size", "sizes=[336x336,560x560]"),
        ("max_crops", "max_crops=[1,4]"),
    ):
        answered_sweep(tmp_path / knob, *SETS, f"knob={knob}", f"knob.{values}", share=0.9)
    runs = [*collect(tmp_path / "image_size"), *collect(tmp_path / "max_crops")]
    lines = [line for line in next_lines(runs, analyse(runs, 4.0)) if "questions" in line]
    configs = [config_of(line) for line in lines]
    assert {config.knob.name for config in configs} == {"image_size", "max_crops"}
    for line, config in zip(lines, configs, strict=True):
        assert f"questions with {config.knob.name}" in line
        assert len(make_plan(config).runs) == 2


def test_the_page_has_the_commands_to_copy(tmp_path: Path) -> None:
    sweep = tmp_path / "one"
    answered_sweep(sweep, *SETS, "knob.sizes=[336x336,560x336]", share=0.9)
    runs = collect(sweep)
    analysis = analyse(runs, 3.0)
    write_page(sweep, report_rows(runs, analysis), analysis)
    page = (sweep / "report.html").read_text()
    box = page[page.index('<section class="next"') :].partition("</section>")[0]
    shown = [html.unescape(own) for own in re.findall(r"<code>(.*?)</code>", box, re.DOTALL)]
    steps = next_steps(runs, analysis)
    assert shown == [step.command for step in steps] and steps


def test_no_more_questions_than_there_are(tmp_path: Path) -> None:
    answered_sweep(tmp_path / "one", *SETS, "knob.sizes=[336x336,560x336]", share=0.9)
    (line,) = (line for line in lines_of(tmp_path / "one", 0.1) if "questions" in line)
    assert "ask all 600 questions" in line and config_of(line).dataset.limit is None


def test_nothing_is_next_where_all_is_known_or_nothing_is(tmp_path: Path) -> None:
    answered_sweep(tmp_path / "known", *SETS, "knob=max_crops", "knob.max_crops=[1,2]", share=0.0)
    assert not any("between" in line for line in lines_of(tmp_path / "known", 5.0))
    make_run(tmp_path / "made", "336x336", 288, [1.0] * 20)  # a config that is none of vtexp's
    assert lines_of(tmp_path / "made", 5.0) == []


def test_numbers_are_rounded_up_to_two_digits() -> None:
    for count, expected in ((7, 7), (87, 87), (381, 390), (1201, 1300), (2000, 2000)):
        assert rounded_up(count) == expected
    assert re.fullmatch(r"\d+", str(rounded_up(123)))
