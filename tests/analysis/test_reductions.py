"""Reductions against the floors, on made-up sweeps whose differences are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.facts import says
from tests.helpers.made_records import summary
from tests.helpers.made_sweeps import make_run
from vtexp.analysis.analyse import analyse
from vtexp.analysis.reductions import against_floors, reduction_findings
from vtexp.analysis.rows import collect
from vtexp.analysis.samples import read_columns
from vtexp.runs.records import Device, ProcessTiming
from vtexp.stats import comparison
from vtexp.utils import files

COUNT = 200


def add(sweep: Path, method: str, tokens: int, right: int, **more: Any) -> None:
    """A run of a method that answers the first `right` of 200 questions rightly."""
    scores = [float(i < right) for i in range(COUNT)]
    make_run(
        sweep, str(tokens), tokens, scores, knob="kept_tokens",
        result={"reduction": method} | more.pop("result", {}),
        settings={"run.reduction": {"method": method}}, **more,
    )  # fmt: skip


def compared(sweep: Path) -> dict[tuple[str, str], Any]:
    runs = collect(sweep)
    read = {run.folder: read_columns(run.folder / files.SAMPLES) for run in runs}
    return {
        (str(own.run.asked.reduction), str(own.floor.asked.reduction)): own
        for own in against_floors(runs, read)
    }


def test_verdicts_follow_the_paired_interval(tmp_path: Path) -> None:
    add(tmp_path, "resize", 288, 100)
    add(tmp_path, "max_min", 288, 160)
    add(tmp_path, "cls_attention", 288, 40)
    add(tmp_path, "pool", 288, 101)
    found = compared(tmp_path)
    verdicts = {method: own.verdict for (method, _), own in found.items()}
    assert verdicts == {"max_min": "better", "cls_attention": "worse", "pool": "not shown"}
    own = found["max_min", "resize"]
    scores = np.array([[float(i < 160), float(i < 100)] for i in range(COUNT)])
    paired = comparison.paired_scores(scores, np.arange(COUNT))
    expected = comparison.differences(paired)
    assert own.difference == pytest.approx(0.3)
    assert (own.low, own.high) == pytest.approx((expected.low[0, 1], expected.high[0, 1]))
    assert own.p_holm <= 3 * 2**-20 or own.at_floor


def test_only_equal_tokens_are_compared(tmp_path: Path) -> None:
    add(tmp_path, "resize", 288, 100)
    add(tmp_path, "random", 144, 90)
    add(tmp_path, "max_min", 144, 100)
    add(tmp_path, "max_min", 280, 100)  # within 5 %
    found = compared(tmp_path)
    assert set(found) == {("max_min", "random"), ("max_min", "resize")}
    assert found["max_min", "resize"].run.vision_tokens == 280
    assert found["max_min", "random"].run.vision_tokens == 144
    said = reduction_findings(collect(tmp_path), {})
    assert any("144" in line and "288" in line and "no run with" in line for line in said)


def test_tokens_that_leave_within_the_model_are_told_apart(tmp_path: Path) -> None:
    add(tmp_path, "resize", 544, 100)
    early = {"reduction_layer": 2, "measured_early_vision_tokens": 912.0}
    for mean, late in ((528, 144.0), (600, 288.0)):
        counts = early | {"measured_late_vision_tokens": late}
        add(tmp_path, "early_layer", mean, 90, result=counts)
    runs = collect(tmp_path)
    (line,) = [own for own in reduction_findings(runs, {}) if "means over" in own]
    for part in ("first 2 blocks", "912", "144 (mean 528)", "288 (mean 600)"):
        assert part in line
    compared_runs = compared(tmp_path)
    assert compared_runs["early_layer", "resize"].run.vision_tokens == 528  # equal by the mean


def test_floors_of_other_blocks_are_no_floors(tmp_path: Path) -> None:
    """With as many blocks both score alike; more blocks answer more."""
    for blocks, right in (((0, 3), 60), (None, 150)):
        for method in ("resize", "max_min"):
            add(tmp_path, method, 288, right, result={"blocks": blocks})
    runs = collect(tmp_path)
    read = {run.folder: read_columns(run.folder / files.SAMPLES) for run in runs}
    found = against_floors(runs, read)
    assert [own.difference for own in found] == [0.0, 0.0]
    assert all(own.run.asked.blocks == own.floor.asked.blocks for own in found)


def test_a_line_for_each_method_and_floor(tmp_path: Path) -> None:
    for tokens, right in ((288, 20), (384, 60)):
        add(tmp_path, "resize", tokens, right)
        add(tmp_path, "max_min", tokens, 60)
        add(tmp_path, "stride", tokens, 5)
    said = analyse(collect(tmp_path)).reductions
    heads = [line.split(":")[1] for line in said]
    assert says(heads[0], "max_min", "better than resize", "288") and "+20.0 points" in said[0]
    assert says(heads[1], "stride", "not shown", "better", "resize") and said[1].count("worse") == 2
    assert says(heads[2], "max_min", "better than stride")
    assert not any("not shown" in head for head in (heads[0], heads[2]))


def test_a_slower_prefill_is_said(tmp_path: Path) -> None:
    for method, ms in (("resize", 10.0), ("max_min", 30.0), ("stride", 5.0), ("pool", 10.2)):
        times = {"prefill_ms": summary(ms, mean_low=0.9 * ms, mean_high=1.1 * ms)}
        add(tmp_path, method, 288, 100, prefill_ms=ms, result={"latency": times})
    said = [line for line in analyse(collect(tmp_path)).reductions if "slower" in line]
    assert len(said) == 1 and "max_min" in said[0] and "resize" in said[0]


@pytest.mark.parametrize(
    ("doubtful", "together", "doubt"),
    [
        (False, True, ""),
        (True, True, ", though timings are doubtful"),
        (False, False, ", though timings are of different processes"),
        (True, False, ", though timings are doubtful and of different processes"),
    ],
)
def test_doubts_about_a_slower_prefill_are_one_clause(
    tmp_path: Path, doubtful: bool, together: bool, doubt: str
) -> None:
    device = Device(type="cpu", name="a CPU")
    for number, method in enumerate(("resize", "max_min")):
        ms = 10.0 + 20.0 * number
        times = {"prefill_ms": summary(ms, mean_low=0.9 * ms, mean_high=1.1 * ms)}
        fell = ("the clock fell",) if doubtful and method == "resize" else ()
        reference = [{"at_s": 0.0, "prefill_ms": 5.0 if together else 5.0 + number}]
        timed = ProcessTiming(
            rank=0, process=0, host="h", device=device, timing={"reference": reference}
        )
        add(
            tmp_path, method, 288, 100, prefill_ms=ms, surroundings={"processes": (timed,)},
            result={"latency": times, "timing_warnings": fell},
        )  # fmt: skip
    (said,) = [line for line in analyse(collect(tmp_path)).reductions if "slower" in line]
    assert said.endswith(f"288 vision tokens{doubt}")


def test_nothing_is_said_without_reductions(tmp_path: Path) -> None:
    make_run(tmp_path, "336x336", 288, [1.0, 0.0] * 20)
    make_run(tmp_path, "560x336", 384, [1.0, 1.0] * 20)
    assert reduction_findings(collect(tmp_path), {}) == ()


def test_methods_are_series_of_their_own(tmp_path: Path) -> None:
    for method in ("resize", "max_min"):
        add(tmp_path, method, 288, 100)
        add(tmp_path, method, 144, 50)
    found = analyse(collect(tmp_path))
    assert [series.settings for series in found.series] == ["reduction=max_min", "reduction=resize"]
