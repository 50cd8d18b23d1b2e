"""What 1 000 images cost, by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.helpers.made_records import change_result, latency_row
from tests.helpers.made_sweeps import make_run
from vtexp.analysis.analyse import analyse
from vtexp.analysis.findings import Cost
from vtexp.analysis.rows import collect
from vtexp.errors import DataError
from vtexp.report.columns import report_rows
from vtexp.runs.records import AnswerTimes, write_latency
from vtexp.utils import files


def priced(folder: Path, price: object) -> None:
    plain = files.read_config(folder)
    plain["hardware"]["price_per_hour"] = price
    files.write_text(folder / files.CONFIG, yaml.safe_dump(plain))


def made(sweep: Path) -> Path:
    """Prefills of 6, 6 and 48 ms in turn: 20 ms in the mean; 64 answers in batches of 16."""
    folder = make_run(sweep, "336x336", 288, [1.0, 0.0, 1.0])
    rows = [
        latency_row(ms, sample_id=f"question-{i}", repeat=repeat)
        for repeat in range(4)
        for i, ms in enumerate((6.0, 6.0, 48.0))
    ]
    write_latency(folder / files.LATENCY, rows)
    change_result(
        folder, energy_j_per_prefill=0.5,
        answer_times=AnswerTimes(
            batch_size=16, samples=64, preprocess_s=9.0, prefill_s=0.32, decode_s=0.64,
            vision_tokens=288.0,
        ),
    )  # fmt: skip
    return folder


def cost(sweep: Path) -> Cost:
    (series,) = analyse(collect(sweep)).series
    found = series.runs[0].cost
    assert found is not None
    return found


def test_seconds_energy_and_money_at_batch_1_and_in_batches(tmp_path: Path) -> None:
    folder = made(tmp_path)
    found = cost(tmp_path)
    assert found.seconds == pytest.approx(20.0)  # 1000 x 20 ms
    assert found.seconds_low is not None and found.seconds_high is not None
    assert found.seconds_low < 20 < found.seconds_high
    assert found.energy_j == pytest.approx(500)
    assert (found.batch_size, found.batch_seconds) == (16, pytest.approx(5.0))
    assert found.images_per_s == pytest.approx(200)
    assert found.batch_decode_seconds == pytest.approx(10.0)
    assert found.price is None and found.batch_price is None
    priced(folder, 0)
    assert cost(tmp_path).price == 0
    priced(folder, 3.6)  # a thousandth per second
    found = cost(tmp_path)
    assert (found.price, found.batch_price) == (pytest.approx(0.02), pytest.approx(0.005))
    (row,) = report_rows(collect(tmp_path), analyse(collect(tmp_path)))
    assert row.values["cost_price"] == found.price
    for wrong in ("cheap", -1, True):
        priced(folder, wrong)
        with pytest.raises(DataError, match="price_per_hour"):
            cost(tmp_path)


def test_batches_of_other_images_say_nothing_of_all(tmp_path: Path) -> None:
    folder = made(tmp_path)
    times = collect(tmp_path)[0].found.answer_times
    assert times is not None and cost(tmp_path).batch_seconds == pytest.approx(5.0)
    change_result(folder, answer_times=replace(times, vision_tokens=912.0))
    found = cost(tmp_path)
    assert found.batch_seconds is None and found.images_per_s is None and found.seconds == 20.0


def test_what_was_not_measured_has_no_cost(tmp_path: Path) -> None:
    folder = made(tmp_path)
    change_result(folder, energy_j_per_prefill=None, answer_times=None)
    found = cost(tmp_path)
    assert found.seconds == pytest.approx(20.0)
    assert found.energy_j is found.batch_size is found.images_per_s is found.batch_price is None
