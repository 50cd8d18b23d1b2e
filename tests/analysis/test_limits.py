"""The most accurate budget within limits on its cost, and the chance that it is within."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from tests.helpers.facts import says
from tests.helpers.made_records import change_result, latency_row
from tests.helpers.made_sweeps import make_run, steady_scores
from vtexp.analysis.analyse import analyse
from vtexp.analysis.configured import configured_limits
from vtexp.analysis.findings import UnderLimits
from vtexp.analysis.limits import memory_gb
from vtexp.analysis.rows import collect
from vtexp.cli.main import main
from vtexp.errors import ConfigError, DataError
from vtexp.runs.records import write_latency
from vtexp.utils import files
from vtexp.utils.text import chance_text

VALUES = ("336x336", "560x336", "560x560", "784x784")
TOKENS = (288, 384, 544, 928)


def made(sweep: Path, accuracies: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8)) -> list[Path]:
    """Budgets with these accuracies, about 100 images."""
    scores, images = steady_scores(accuracies, 100, 1)
    return [
        make_run(sweep, VALUES[i], TOKENS[i], scores[:, i].tolist(), images=images)
        for i in range(len(accuracies))
    ]


def timed(folder: Path, means: list[list[float]], ttft: float = 5.0) -> None:
    """Give a run prefills: `means` of the processes' questions, each in 4 rounds without noise."""
    rows = [
        latency_row(ms, sample_id=f"question-{i}", repeat=r, process=p, ttft_ms=ms + ttft)
        for p, questions in enumerate(means)
        for i, ms in enumerate(questions)
        for r in range(4)
    ]
    write_latency(folder / files.LATENCY, rows)


def under(sweep: Path, **limits: float) -> UnderLimits:
    (series,) = analyse(collect(sweep), 5.0, limits=limits).series
    assert series.under_limits is not None
    return series.under_limits


def test_the_most_accurate_budget_within_a_limit(tmp_path: Path) -> None:
    folders = made(tmp_path)
    for number, folder in enumerate(folders, 1):
        timed(folder, [[10.0 * number + i / 10 for i in range(8)]])
    found = under(tmp_path, max_prefill_ms=35.0)
    assert found.run == folders[2].name and found.surer is None
    (cost,) = found.costs
    assert cost.value == pytest.approx(30.35) and (cost.beyond, cost.timed) == (0, 8)
    assert cost.low is not None and cost.high is not None and cost.low < 30.35 < cost.high < 35
    assert cost.chance is not None and cost.chance > 0.999
    assert says(found.sentence, "max_prefill_ms=35", "image_size=560x560", "544", "70.0 %")
    assert says(found.sentence, "most accurate") and says(found.sentence, "10.0 points more")
    assert says(found.sentence, "within one process") and says(found.sentence, "over 99 %")
    assert says(found.sentence, "0 of 8", "35 ms")
    low, high = (
        ends(10 * end) / 10 for ends, end in ((math.floor, cost.low), (math.ceil, cost.high))
    )
    assert says(found.sentence, "mean prefill", f"{low:.1f} to {high:.1f}")  # never too narrow


def test_an_image_takes_longer_by_its_own_mean(tmp_path: Path) -> None:
    """One of four rounds took ten times as long: mean 32.5 ms, median 10 ms."""
    _, folder = made(tmp_path, (0.6, 0.7))
    rows = [
        latency_row(100.0 if (r, i) == (3, 0) else 10.0, sample_id=f"question-{i}", repeat=r)
        for r in range(4)
        for i in range(8)
    ]
    write_latency(folder / files.LATENCY, rows)
    found = under(tmp_path, max_prefill_ms=30.0)
    (cost,) = found.costs
    assert found.run == folder.name and (cost.beyond, cost.timed) == (1, 8)
    assert cost.value == pytest.approx((7 * 10 + 32.5) / 8)


def test_the_chance_is_students_between_processes(tmp_path: Path) -> None:
    """Processes of 28, 30 and 33 ms that time every question alike: 3 numbers are all there is."""
    folders = made(tmp_path, (0.6, 0.7))
    timed(folders[0], [[10.0] * 4] * 3)
    values = np.array([28.0, 30.0, 33.0])
    timed(folders[1], [[ms] * 4 for ms in values])
    found = under(tmp_path, max_prefill_ms=31.0)
    (cost,) = found.costs
    assert found.run == folders[1].name and cost.processes == 3
    error = values.std(ddof=1) / np.sqrt(3) / values.mean()
    expected = stats.t.cdf(np.log(31 / values.mean()) / error, 2)
    assert cost.chance == pytest.approx(expected, abs=0.001)
    assert says(found.sentence, "3 processes")
    assert found.surer == folders[0].name and says(found.sentence, "image_size=336x336", "chance")


def test_several_limits_all_count(tmp_path: Path) -> None:
    folders = made(tmp_path)
    for number, folder in enumerate(folders, 1):
        timed(folder, [[10.0 * number] * 8], ttft=40.0 - 10 * number)
        change_result(
            folder, memory_peak_mib={"allocated": 1.0, "reserved": 1000.0 * number},
            energy_j_per_prefill=float(number),
        )  # fmt: skip
    assert under(tmp_path, max_prefill_ms=40.5, max_memory_gb=2.5).run == folders[1].name
    found = under(tmp_path, max_prefill_ms=35, max_energy_j=1.5)
    assert found.run == folders[0].name and says(found.sentence, "energy", "1.00 J")
    assert memory_gb(collect(tmp_path)[1]) == pytest.approx(2.097, abs=0.001)
    none = under(tmp_path, max_ttft_ms=39.0)
    assert none.run is None and says(none.sentence, "max_ttft_ms=39", "no measured budget")
    assert says(none.sentence, "image_size=", "time to first", "40.0 ms")


def test_images_that_take_longer_are_counted(tmp_path: Path) -> None:
    """The mean of 1 and 12 crops is within, a fourth of the images is not."""
    folders = made(tmp_path, (0.6, 0.7))
    timed(folders[0], [[10.0] * 8])
    timed(folders[1], [[10.0] * 6 + [50.0] * 2])
    found = under(tmp_path, max_prefill_ms=25.0)
    (cost,) = found.costs
    assert found.run == folders[1].name
    assert (cost.value, cost.beyond, cost.timed) == (20.0, 2, 8)
    assert cost.chance is not None and 0.6 < cost.chance < 0.9
    assert found.surer == folders[0].name


def test_budgets_are_tried_from_the_smallest_on_until_one_is_not_sure(tmp_path: Path) -> None:
    folders = made(tmp_path)
    noisy = [[9.0] * 4, [11.0] * 4, [10.0] * 4]
    for folder, means in zip(
        folders, ([[9.0] * 4] * 3, noisy, [[9.0] * 4] * 3, noisy), strict=True
    ):
        timed(folder, means)
    found = under(tmp_path, max_prefill_ms=10.5)
    assert (found.run, found.surer) == (folders[3].name, folders[0].name)


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    made(tmp_path)
    found = under(tmp_path, max_energy_j=1.0)
    assert found.run is None and says(found.sentence, "max_energy_j=1", "not measured")
    (series,) = analyse(collect(tmp_path)).series
    assert series.under_limits is None


def test_limits_come_from_configs_or_the_command_line(tmp_path: Path, capfd, monkeypatch) -> None:
    folders = made(tmp_path / "a")
    for folder in folders:
        plain = files.read_config(folder)
        plain["report"]["max_prefill_ms"] = 12.0
        files.write_text(folder / files.CONFIG, yaml.safe_dump(plain))
    assert configured_limits([tmp_path / "a"]) == {"max_prefill_ms": 12.0}
    made(tmp_path / "b")
    assert configured_limits([tmp_path / "a", tmp_path / "b"]) == {"max_prefill_ms": 12.0}
    monkeypatch.chdir(tmp_path)
    assert main(["report", "b", "--limit", "max_prefill_ms=11"]) == 0
    assert "Within max_prefill_ms=11:" in " ".join(capfd.readouterr().out.split())
    for wrong in ("max_prefill_ms=0", "max_prefill_ms=x", "speed=3", "max_energy_j"):
        assert main(["report", "b", "--limit", wrong]) == 2
        assert capfd.readouterr().err.count("\n") == 1
    plain["report"]["max_prefill_ms"] = "12"
    files.write_text(folders[-1] / files.CONFIG, yaml.safe_dump(plain))
    with pytest.raises(DataError, match="max_prefill_ms"):
        configured_limits([tmp_path / "a"])
    plain["report"]["max_prefill_ms"] = 13.0
    files.write_text(folders[-1] / files.CONFIG, yaml.safe_dump(plain))
    for folder in (tmp_path / "b").iterdir():
        if folder.is_dir() and (folder / files.CONFIG).is_file():
            other = files.read_config(folder)
            other["report"]["max_prefill_ms"] = 14.0
            files.write_text(folder / files.CONFIG, yaml.safe_dump(other))
    with pytest.raises(ConfigError, match=r"max_prefill_ms: .*13, 14"):
        configured_limits([tmp_path / "a", tmp_path / "b"])


def test_two_limits_are_kept_together_only_if_their_doubts_add_up_to_little(
    tmp_path: Path,
) -> None:
    folders = made(tmp_path)
    for number, folder in enumerate(folders, 1):
        timed(folder, [[10.0 * number], [10.5 * number], [9.5 * number]])
    one = under(tmp_path, max_prefill_ms=41.4)
    both = under(tmp_path, max_prefill_ms=41.4, max_ttft_ms=46.4)
    (chance,) = (cost.chance for cost in one.costs)
    assert one.run == both.run == folders[3].name
    assert chance is not None and 0.5 < chance < 1
    doubts = sum(1 - (cost.chance or 0) for cost in both.costs)
    assert (both.surer is None) == (doubts <= 0.05)


def test_budgets_without_the_measurement_are_counted(tmp_path: Path) -> None:
    folders = made(tmp_path)
    for number, folder in enumerate(folders[:3], 1):
        change_result(folder, energy_j_per_prefill=float(number))
    assert "1 of 4 budgets" in under(tmp_path, max_energy_j=10.0).sentence


def test_limits_that_are_kept_but_not_together(tmp_path: Path) -> None:
    folders = made(tmp_path, (0.5, 0.6))
    for folder, ms, energy in zip(folders, (10.0, 20.0), (9.0, 2.0), strict=True):
        timed(folder, [[ms, ms + 1]])
        change_result(folder, energy_j_per_prefill=energy)
    found = under(tmp_path, max_prefill_ms=15.0, max_energy_j=5.0)
    assert found.run is None and says(found.sentence, "limit", "no budget", "all")


@pytest.mark.parametrize("apart", [0.05, 5.0])
def test_no_chance_is_higher_than_that_of_a_smaller_budget(tmp_path: Path, apart: float) -> None:
    """Their intervals are about 10 % wide: at 0.05 ms apart all hold the limit, at 5 ms one."""
    rng = np.random.default_rng(0)
    for number, folder in enumerate(made(tmp_path)):
        timed(folder, [(40 + apart * number) * rng.lognormal(0, 0.01, 8) for _ in range(3)])
    found = under(tmp_path, max_prefill_ms=40.1 + 2 * apart)
    (cost,) = found.costs
    assert cost.chance is not None and cost.chance_alone is not None
    assert (cost.chance < cost.chance_alone) == (apart < 1)
    own = chance_text(cost.chance_alone)
    assert says(found.sentence, own, "smaller budget", chance_text(cost.chance)) == (apart < 1)
