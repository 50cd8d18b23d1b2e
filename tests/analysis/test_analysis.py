"""What a comparison finds: the answer and its reasons, groups, times, and what is not fair."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.helpers.facts import says
from tests.helpers.made_records import sample_row, write_samples
from tests.helpers.made_sweeps import make_run, steady_scores, unfinish
from vtexp.analysis.analyse import analyse
from vtexp.analysis.answer import points
from vtexp.analysis.configured import configured_margin
from vtexp.analysis.findings import Analysis, Series
from vtexp.analysis.rows import collect, timing_warnings
from vtexp.analysis.samples import MOST_GROUPS, RANGES, read_columns
from vtexp.errors import ConfigError, DataError
from vtexp.report.format import headline
from vtexp.runs.records import Device, GitState, ProcessTiming
from vtexp.utils import files

VALUES = ("336x336", "560x336", "560x560", "784x784")
TOKENS = (288, 384, 544, 928)


def made(
    sweep: Path, accuracies: list[float], images: int = 400, per_image: int = 2, **more: object
) -> Analysis:
    """A sweep of budgets with these accuracies, each prefilling in a 30th of its tokens, in ms."""
    scores, names = steady_scores(accuracies, images, per_image)
    for value, tokens, own in zip(VALUES, TOKENS, scores.T, strict=False):
        make_run(sweep, value, tokens, own.tolist(), images=names, prefill_ms=tokens / 30, **more)
    return analyse(collect(sweep), 1.0)


def only(analysis: Analysis) -> Series:
    """The one series."""
    (series,) = analysis.series
    return series


def test_a_smaller_budget_is_enough(tmp_path: Path) -> None:
    series = only(made(tmp_path, [0.5, 0.798, 0.8, 0.8], images=1000))
    answer = series.answer
    assert answer.verdict == "smaller"
    assert series.runs[1].run == answer.run
    assert answer.best == series.runs[2].run  # of equals the one with fewer tokens
    assert answer.tokens_saved == 544 - 384
    assert answer.speed_up is not None and answer.speed_up.n == 16
    assert answer.speed_up.low < answer.speed_up.ratio < answer.speed_up.high
    assert answer.speed_up.ratio == pytest.approx(544 / 384, rel=0.03)
    assert answer.needed and answer.sentence.startswith("image_size=560x336 (384 vision tokens)")
    assert says(answer.sentence, "image_size=560x336", "needed", "smallest")
    assert says(answer.sentence, "saves 160", "544", "29 %")
    bound = series.runs[1].at_most_worse
    assert bound is not None and says(
        answer.sentence, f"loses at most {math.ceil(1000 * bound) / 10:.1f} points"
    )
    assert says(answer.sentence, "image_size=336x336", "loses 30.0 points")
    assert not answer.caveats
    assert [run.sufficient for run in series.runs] == [False, True, True, True]


def test_the_largest_budget_is_needed(tmp_path: Path) -> None:
    series = only(made(tmp_path, [0.2, 0.3, 0.6, 0.8]))
    assert (series.answer.verdict, series.answer.run) == ("best", series.runs[3].run)
    assert series.answer.needed and says(series.answer.sentence, "image_size=784x784", "needed")
    assert says(series.answer.sentence, "image_size=560x560", "loses 20.0 points")
    assert "loses at most" not in series.answer.sentence  # the best one itself
    assert says(series.answer.caveats[0], "image_size=784x784", "largest", "higher")
    assert series.answer.tokens_saved == 0
    step = series.runs[3].versus_smaller
    assert step is not None
    assert step.low is not None and step.high is not None
    assert step.low < step.difference < step.high and step.p_holm <= 0.05 and step.p_at_floor
    assert (step.wins, step.losses) == (160, 0)
    assert step.p_mcnemar == pytest.approx(2 * 0.5**160)
    assert series.runs[2].at_least_worse is not None and series.runs[2].at_least_worse > 0.1


def test_few_questions_cannot_tell(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for value, tokens in zip(VALUES, TOKENS, strict=True):
        make_run(tmp_path, value, tokens, (rng.random(60) < 0.7).astype(float).tolist())
    series = only(analyse(collect(tmp_path), 1.0))
    answer = series.answer
    assert (answer.verdict, answer.run) == ("cannot_tell", None)
    assert says(answer.sentence, "60 questions", "cannot tell", "1 point")
    assert series.power is not None and series.power.questions_for_margin is not None
    (questions,) = re.findall(r"about ([\d ]+) questions", answer.sentence)
    needed = int(questions.replace(" ", ""))
    assert needed == pytest.approx(series.power.questions_for_margin, rel=0.05)
    assert needed > 60 and says(answer.sentence, "With a margin", "enough")


def test_a_larger_budget_than_the_most_accurate_may_be_the_one_known(tmp_path: Path) -> None:
    """The larger one's few losses are surer than the other's many."""
    wrong = [range(24), [*range(12), *range(100, 113)], range(100, 125)]
    for value, tokens, own in zip(VALUES, TOKENS, wrong, strict=False):
        make_run(tmp_path, value, tokens, [float(i not in own) for i in range(600)])
    series = only(analyse(collect(tmp_path), 2.0))
    assert [run.sufficient for run in series.runs] == [False, True, False]
    assert (series.answer.verdict, series.answer.run) == ("larger", series.runs[1].run)
    assert series.answer.best == series.runs[0].run and series.guess is None
    assert series.answer.tokens_saved == TOKENS[0] - TOKENS[1]
    assert says(series.answer.sentence, "image_size=336x336", "highest", "may lose")
    assert headline(series, 2.0).startswith("image_size=560x336 is enough; image_size=336x336")


def test_a_smaller_budget_that_may_do_is_not_called_too_small(tmp_path: Path) -> None:
    """The next smaller one is far worse, the smallest is not: nothing is needed yet."""
    answer = only(made(tmp_path, [0.79, 0.4, 0.81])).answer
    assert not answer.needed and "needed" not in answer.sentence
    assert answer.verdict == "best"
    assert says(answer.sentence, "image_size=336x336", "not known", "2.0 points lower")
    assert says(answer.sentence, "image_size=560x336", "loses 41.0 points")


def test_a_budget_without_a_result_below_the_answer_forbids_needed(tmp_path: Path) -> None:
    scores, names = steady_scores([0.2, 0.5, 0.8], 400, 1)
    folders = [
        make_run(tmp_path, value, tokens, own.tolist(), images=names)
        for value, tokens, own in zip(VALUES, TOKENS, scores.T, strict=False)
    ]
    assert only(analyse(collect(tmp_path))).answer.needed
    unfinish(folders[1], "out of memory")
    answer = only(analyse(collect(tmp_path))).answer
    assert answer.run == folders[2].name and not answer.needed
    assert says(answer.sentence, "image_size=560x560", "smallest")
    assert says(answer.sentence, "image_size=560x336", "no result", "may be enough")


def test_larger_budgets_that_score_less_are_named(tmp_path: Path) -> None:
    series = only(made(tmp_path, [0.4, 0.8, 0.6]))
    assert series.answer.run == series.runs[1].run
    assert series.answer.worse_larger == (series.runs[2].run,)
    assert "significantly less accurate" in "; ".join(series.answer.caveats)


def test_alike_and_hopeless_budgets_are_said_to_be_so(tmp_path: Path) -> None:
    """Ten questions, no image changes: the error seen is 0, what is known is not much."""
    alike = only(made(tmp_path / "alike", [0.5, 0.5, 0.5], images=10, per_image=1))
    assert alike.answer.verdict == "cannot_tell"
    assert says(alike.answer.sentence, "image_size=336x336", "2 others", "highest")
    assert "about 0 " not in alike.answer.sentence
    assert alike.power is not None and alike.power.margin > 0.2
    assert alike.power.questions_for_margin is not None and alike.power.questions_for_margin > 200
    zero = only(made(tmp_path / "zero", [0.0, 0.0])).answer
    assert (zero.verdict, zero.run) == ("cannot_tell", None)
    assert says(zero.sentence, "scored 0") and "336x336" not in zero.sentence
    right = only(made(tmp_path / "right", [1.0, 1.0])).answer
    assert says(right.caveats[0], "every answer", "right") and not right.needed
    assert says(right.caveats[1], "image_size=336x336", "smallest")


def test_what_is_known_is_said_where_a_margin_is_too_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scores, names = steady_scores([0.285, 0.42, 0.815, 0.80], 200, 1)
    for value, tokens, own in zip(VALUES, TOKENS, scores.T, strict=True):
        make_run(tmp_path, value, tokens, rng.permutation(own).tolist(), images=names)
    series = only(analyse(collect(tmp_path), 1.0))
    sentence = series.answer.sentence
    assert series.answer.verdict == "cannot_tell"
    lost = series.runs[0].at_least_worse
    assert lost is not None
    assert says(sentence, "Not enough", "image_size=336x336", f"at least {points(lost)}")
    (wider,) = (float(number) for number in re.findall(r"margin of ([\d.]+)", sentence))
    again = only(analyse(collect(tmp_path), wider))
    enough = [run.knob_value for run in again.runs if run.sufficient]
    assert says(sentence, f"{wider:g}", enough[0])


def test_a_wider_margin_lets_more_budgets_through(tmp_path: Path) -> None:
    made(tmp_path, [0.5, 0.75, 0.8])
    answers = [only(analyse(collect(tmp_path), margin)).answer for margin in (1, 10, 60)]
    tokens = [answer.vision_tokens for answer in answers]
    assert tokens == [544, 384, 288]


def test_reasons_why_there_is_no_answer(tmp_path: Path) -> None:
    one = only(made(tmp_path / "one", [0.5]))
    assert (one.answer.verdict, one.answer.run) == ("one_value", None)
    assert one.power is None and one.runs[0].versus_best is None

    for value, tokens in zip(VALUES[:2], TOKENS[:2], strict=True):
        random = {"weights": "random", "accuracy": None}
        make_run(tmp_path / "random", value, tokens, [None] * 20, result=random, prefill_ms=tokens)
    answer = only(analyse(collect(tmp_path / "random"))).answer
    assert answer.verdict == "no_accuracy"
    assert re.search(r"=336x336.*=560x336.*\b1\.3\d times", answer.sentence)

    make_run(tmp_path / "unlike", *(VALUES[0], TOKENS[0]), [1.0, 0.0, 1.0])
    other = ["question-0", "question-1", "question-9"]
    make_run(tmp_path / "unlike", *(VALUES[1], TOKENS[1]), [1.0, 0.0, 1.0], questions=other)
    found = analyse(collect(tmp_path / "unlike"))
    assert only(found).answer.verdict == "different_samples"
    assert found.caveats[0].startswith("d: ")
    assert says(found.caveats[0], "different questions", "3 and 3", "2 shared")
    shared = only(analyse(collect(tmp_path / "unlike"), shared=True))
    assert shared.num_samples == 2 and shared.runs[1].versus_smaller is not None


@pytest.mark.parametrize("sizes", [[2], [1, 1, 1], [500] + 30 * [1]])
def test_too_few_or_too_uneven_images_carry_no_answer(tmp_path: Path, sizes: list[int]) -> None:
    images = [f"image-{i}" for i, size in enumerate(sizes) for _ in range(size)]
    for value, tokens, score in zip(VALUES, TOKENS, (0.0, 1.0), strict=False):
        make_run(tmp_path, value, tokens, [score] * len(images), images=images)
    series = only(analyse(collect(tmp_path)))
    assert (series.answer.verdict, series.answer.run) == ("cannot_tell", None)
    assert says(series.answer.sentence, "cannot carry") and series.power is None
    for run in series.runs:
        assert run.accuracy is not None and run.accuracy_low is None and run.at_most_worse is None
    step = series.runs[1].versus_smaller
    assert len(sizes) == 1 or (step is not None and step.difference == 1 and step.low is None)


def test_no_shared_question_is_one_line(tmp_path: Path) -> None:
    make_run(tmp_path, VALUES[0], TOKENS[0], [1.0, 0.0])
    make_run(tmp_path, VALUES[1], TOKENS[1], [1.0, 0.0], questions=["a", "b"])
    with pytest.raises(DataError, match=r"^d: .*no question"):
        analyse(collect(tmp_path), shared=True)


def test_a_budget_with_the_same_inputs_is_no_candidate(tmp_path: Path) -> None:
    scores, names = steady_scores([0.5, 0.5, 0.8], 200, 1)
    same = {"inputs_fingerprint": "same"}
    for value, tokens, own in zip(("1", "4", "12"), (288, 289, 900), scores.T, strict=True):
        result = same if tokens < 300 else {}
        make_run(tmp_path, value, tokens, own.tolist(), images=names, knob="max_crops",
                 result=result)  # fmt: skip
    series = only(analyse(collect(tmp_path)))
    twin = series.runs[1]
    assert twin.same_inputs_as == "max_crops=1"
    assert twin.sufficient is None and twin.versus_best is None
    assert series.runs[2].versus_smaller is not None
    assert series.runs[2].versus_smaller.baseline == series.runs[0].run


def test_failed_missing_and_doubtful_runs_are_told(tmp_path: Path) -> None:
    scores, names = steady_scores([0.2, 0.4, 0.6, 0.8], 100, 1)
    folders = [
        make_run(tmp_path, value, tokens, own.tolist(), images=names,
                 result={"timing_warnings": ("the clock fell",)} if tokens == 928 else {})
        for value, tokens, own in zip(VALUES, TOKENS, scores.T, strict=True)
    ]  # fmt: skip
    unfinish(folders[1], "out of memory")
    unfinish(folders[2], None)
    found = analyse(collect(tmp_path))
    failed, missing = found.errors
    assert says(failed, "image_size=560x336", "failed", "out of memory")
    assert says(missing, "image_size=560x560", "no result")
    assert [run.knob_value for run in only(found).runs] == ["336x336", "784x784"]
    caveats = "; ".join(only(found).answer.caveats)
    assert says(caveats, "doubtful", "image_size=784x784")
    assert says(caveats, "image_size=560x336", "image_size=560x560", "no result")


@pytest.mark.parametrize("steady", [0, 1])
def test_of_many_doubtful_runs_the_first_are_named(tmp_path: Path, steady: int) -> None:
    values = [f"{i}x336" for i in range(336, 356)]
    scores, names = steady_scores([0.5] * len(values), 30, 1)
    for tokens, (value, own) in enumerate(zip(values, scores.T, strict=True), start=300):
        fell = () if steady and value == values[-1] else ("the clock fell",)
        make_run(tmp_path, value, tokens, own.tolist(), images=names,
                 result={"timing_warnings": fell})  # fmt: skip
    runs = collect(tmp_path)
    told = f"347x336, and {len(values) - 13} more" if steady else "all "
    assert told in "; ".join(only(analyse(runs)).answer.caveats)
    (doubt,) = timing_warnings(runs)
    assert told in doubt and doubt.endswith("): the clock fell")


def test_groups_of_questions(tmp_path: Path) -> None:
    """Only large print is read by the small budget; the ids of labels are no groups."""
    count = 240
    sizes = [10 + i % 30 for i in range(count)]
    notes = [str(i) for i in range(count)]
    more = {"print_px": sizes, "side": ["left", "right"] * 120, "note": notes}
    small = [float(size >= 25) for size in sizes]
    make_run(tmp_path, "336x336", 288, small, attributes=more)
    make_run(tmp_path, "784x784", 928, [1.0] * count, attributes=more)
    series = only(analyse(collect(tmp_path)))
    by_name = {grouping.name: grouping.groups for grouping in series.groupings}
    assert set(by_name) == {"print_px", "side"}
    prints = by_name["print_px"]
    assert [group.value for group in prints][:2] == ["10 to 14", "15 to 19"]
    assert len(prints) == RANGES and sum(group.num_samples for group in prints) == count
    for group in prints[:3]:
        cell = group.cells[0]
        assert (cell.accuracy, cell.difference) == (0.0, -1.0)
        assert cell.p_holm is not None and cell.p_holm < 0.05
    for group in prints[3:]:
        assert group.cells[0].difference == 0.0
        assert group.cells[0].p_holm == 1.0
    assert all(group.cells[1].difference is None for group in prints)  # the best itself


@given(values=st.lists(st.integers(0, 60) | st.text(max_size=2), min_size=1, max_size=80))
@example(values=[*range(20), "0"])
@settings(max_examples=50)
def test_any_attribute_can_be_read(values: list[int | str], tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("rows") / "samples.jsonl"
    rows = [
        sample_row(sample_id=str(i), attributes={"what": value}) for i, value in enumerate(values)
    ]
    write_samples(path, rows)
    found = read_columns(path).groups.get("what")
    numbers = all(isinstance(value, int) for value in values)
    distinct = len({value if numbers else str(value) for value in values})
    if distinct < 2 or (not numbers and distinct > MOST_GROUPS):
        assert found is None
        return
    assert found is not None and len(found.codes) == len(values)
    assert 2 <= len(found.names) <= MOST_GROUPS
    if not numbers:
        assert [found.names[code] for code in found.codes] == [str(value) for value in values]


def test_damaged_samples_are_one_line(tmp_path: Path) -> None:
    folder = make_run(tmp_path, VALUES[0], TOKENS[0], [1.0, 0.0])
    files.write_text(folder / files.SAMPLES, '{"sample_id": "a"}\n')
    with pytest.raises(DataError, match=r"samples\.jsonl: not the"):
        analyse(collect(tmp_path))


def test_series_on_the_same_questions_are_compared_budget_by_budget(tmp_path: Path) -> None:
    scores, names = steady_scores([0.4, 0.6], 200, 1)
    for model, own in zip(("m", "n"), scores.T, strict=True):
        make_run(tmp_path, VALUES[0], TOKENS[0], own.tolist(), images=names,
                 result={"model": model})  # fmt: skip
    found = analyse(collect(tmp_path))
    assert [series.name for series in found.series] == ["m", "n"]
    (difference,) = found.between
    assert difference.difference == pytest.approx(0.2)
    assert difference.low < 0.2 < difference.high


def test_what_is_not_fair_is_said(tmp_path: Path) -> None:
    scores = [1.0, 0.0] * 20
    make_run(tmp_path, VALUES[0], TOKENS[0], scores)
    assert analyse(collect(tmp_path)).caveats == ()
    make_run(
        tmp_path, VALUES[1], TOKENS[1], scores, result={"force_full_tokens": True},
        surroundings={
            "torch_threads": 4, "device": Device(type="cpu", name="another"),
            "packages": {"torch": "2.14.0"}, "git": GitState(commit="1" * 40, changed=True),
        },
    )  # fmt: skip
    text = "\n".join(analyse(collect(tmp_path)).caveats)
    for facts in (
        ("force_full_tokens: False (1 run), True (1 run)", "budgets"),
        ("device: a CPU (1 run), another (1 run)", "prefill times"),
        ("torch_threads: 2 (1 run), 4 (1 run)", "prefill times"),
        ("vtexp commit", "000000000000 (1 run)", "111111111111 with changes (00000000)"),
        ("torch: 2.13.0 (1 run), 2.14.0 (1 run)", "accuracies and times"),
    ):
        assert says(text, *facts)


def test_margin_is_that_of_the_config_unless_there_are_several(tmp_path: Path) -> None:
    make_run(tmp_path / "a", VALUES[0], TOKENS[0], [1.0, 0.0])
    assert configured_margin([tmp_path / "a"]) == 1.0
    make_run(tmp_path / "b", VALUES[0], TOKENS[0], [1.0, 0.0], settings={"report.margin": 2.0})
    assert configured_margin([tmp_path / "b"]) == 2.0
    with pytest.raises(ConfigError, match=r"report\.margin: .*1, 2;.* --margin"):
        configured_margin([tmp_path / "a", tmp_path / "b"])


def test_the_margin_of_one_sweep_is_the_one_asked_for_last(tmp_path: Path) -> None:
    first = make_run(tmp_path, VALUES[0], TOKENS[0], [1.0, 0.0])
    make_run(tmp_path, VALUES[1], TOKENS[1], [1.0, 0.0], settings={"report.margin": 2.0})
    os.utime(first / files.CONFIG, (1, 1))
    assert configured_margin([tmp_path]) == 2.0


def test_what_a_run_lacks_costs_only_what_needs_it(tmp_path: Path) -> None:
    scores, names = steady_scores([0.5, 0.8, 0.8], 200, 1)
    folders = [
        make_run(tmp_path, value, tokens, own.tolist(), images=names, prefill_ms=tokens / 30)
        for value, tokens, own in zip(VALUES, TOKENS, scores.T, strict=False)
    ]
    (folders[0] / files.LATENCY).unlink()
    series = only(analyse(collect(tmp_path)))
    assert [run.speed_up is None for run in series.runs] == [True, True, False]
    assert series.runs[0].versus_best is not None
    assert series.answer.best == series.runs[1].run
    (folders[0] / files.SAMPLES).unlink()
    series = only(analyse(collect(tmp_path)))
    assert series.runs[0].versus_best is None and series.runs[0].accuracy == 0.5
    assert series.runs[2].versus_best is not None
    assert says(series.answer.caveats[-1], "image_size=336x336", "no samples.jsonl")
    for folder in folders[1:]:
        (folder / files.SAMPLES).unlink()
    answer = only(analyse(collect(tmp_path))).answer
    assert says(answer.sentence, "No answer", "samples.jsonl")


@pytest.mark.parametrize("together", [True, False])
def test_speed_ups_between_different_processes_are_said_to_be(
    tmp_path: Path, together: bool
) -> None:
    """Runs that one process timed in turns share the prefills of its reference point."""
    scores, names = steady_scores([0.79, 0.8], 200, 1)
    for number, own in enumerate(scores.T):
        reference = [{"at_s": 0.0, "prefill_ms": 5.0 if together else 5.0 + number}]
        device = Device(type="cpu", name="a CPU")
        timed = ProcessTiming(
            rank=0, process=0, host="h", device=device, timing={"reference": reference}
        )
        make_run(
            tmp_path, VALUES[number], TOKENS[number], own.tolist(), images=names,
            prefill_ms=10.0 * (1 + number), surroundings={"processes": (timed,)},
        )  # fmt: skip
    (series,) = analyse(collect(tmp_path), 10.0).series
    ratio = series.runs[1].speed_up or series.runs[0].speed_up
    assert ratio is not None and ratio.side_by_side == together
    said = any(
        says(line, "different processes", "measure.repeats") for line in series.answer.caveats
    )
    assert said != together
    assert says(series.answer.sentence, "process each") != together
