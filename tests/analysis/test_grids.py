"""Grids of knobs on made-up sweeps: the front against a search, interactions against their sum."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.made_sweeps import make_run
from vtexp.analysis.analyse import analyse
from vtexp.analysis.findings import Grid, GridPoint
from vtexp.analysis.grids import grid_sentences
from vtexp.analysis.rows import collect
from vtexp.report.grid_plots import front_heads, grid_plots

COUNT = 240
CROPS, TOP_K, BLOCKS = (1, 4, 12), (4, 8), (12, 16)
TOKENS = {1: 288, 4: 720, 12: 1872}


def make_grid(
    sweep: Path,
    right: Callable[[int, int, int], int],
    blocks: tuple[int, ...] = BLOCKS,
    ms: Callable[[int, int, int], float] = lambda crops, top_k, own: crops * top_k * own / 10.0,
) -> Grid:
    """A run of each combination, which answers the first `right` of 240 questions rightly."""
    for crops, top_k, own in product(CROPS, TOP_K, blocks):
        scores = [float(i < right(crops, top_k, own)) for i in range(COUNT)]
        make_run(
            sweep, str(crops), TOKENS[crops], scores, knob="max_crops",
            prefill_ms=ms(crops, top_k, own),
            result={"moe_top_k": top_k, "active_blocks": own,
                    "predicted_memory_gb": 10.0 + own / 10 + crops},
            settings={"model.moe_top_k": top_k, "model.active_blocks": own},
        )  # fmt: skip
    (grid,) = analyse(collect(sweep)).grids
    return grid


def additive(crops: int, top_k: int, blocks: int) -> int:
    return 100 + 5 * crops + 3 * top_k + blocks


def test_axes_run_from_cheap_to_expensive(tmp_path: Path) -> None:
    grid = make_grid(tmp_path, additive)
    assert [(axis.name, axis.values) for axis in grid.axes] == [
        ("crops", ("max_crops=1", "max_crops=4", "max_crops=12")),
        ("experts per token", ("4", "8")),
        ("blocks", ("12", "16")),
    ]
    assert len(grid.points) == 12 and grid.memory == "predicted"
    assert grid.points[0].values == ("max_crops=1", "4", "12")
    assert grid.points[-1].values == ("max_crops=12", "8", "16")


def test_the_front_is_what_a_search_finds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    right = {key: int(rng.integers(80, 200)) for key in product(CROPS, TOP_K, BLOCKS)}
    grid = make_grid(tmp_path, lambda *key: right[key])

    def costs(point: GridPoint) -> tuple[float, float, float]:
        assert point.accuracy is not None and point.prefill_ms and point.memory_gb
        return -point.accuracy, point.prefill_ms, point.memory_gb

    def beaten(point: GridPoint) -> bool:
        mine = costs(point)
        others = (costs(other) for other in grid.points)
        return any(
            all(a <= b for a, b in zip(own, mine, strict=True)) and own != mine for own in others
        )

    found = {point.values: point.on_front for point in grid.points}
    assert found == {point.values: not beaten(point) for point in grid.points}
    assert set(found.values()) == {True, False}


def test_knobs_that_add_up_do_not_interact(tmp_path: Path) -> None:
    grid = make_grid(tmp_path, additive)
    assert [own.knobs for own in grid.interactions] == [
        ("crops", "experts per token"),
        ("crops", "blocks"),
        ("experts per token", "blocks"),
    ]
    for own in grid.interactions:
        assert own.difference == pytest.approx(0, abs=1e-12)
        assert own.low is not None and own.high is not None and own.low < 0 < own.high
    first = grid.interactions[0]
    assert first.loss_at_highest == pytest.approx(55 / COUNT) == first.loss_at_lowest
    said = [line for line in grid_sentences(grid) if "interaction" in line]
    assert len(said) == 3 and "22.9 points at 8 experts per token" in said[0]


def test_an_interaction_is_the_sum_of_four_scores(tmp_path: Path) -> None:
    """Fewer experts cost 70 questions where the crops are few, and nothing where they are many."""

    def right(crops: int, top_k: int, blocks: int) -> int:
        return 200 - (30 if crops < 12 else 0) - (70 if crops < 12 and top_k < 8 else 0)

    grid = make_grid(tmp_path, right)
    own = grid.interactions[0]
    assert own.knobs == ("crops", "experts per token")
    assert own.loss_at_highest == pytest.approx(30 / COUNT)
    assert own.loss_at_lowest == pytest.approx(100 / COUNT)
    assert own.difference == pytest.approx(70 / COUNT)
    # The contrast is 1 for 70 questions and 0 for all others: the usual interval of a mean, which
    # the bounded one contains.
    contrast = np.zeros(COUNT)
    contrast[:70] = 1.0
    error = contrast.std(ddof=1) / np.sqrt(COUNT)
    assert own.low is not None and own.high is not None
    assert 0 < own.low <= 70 / COUNT - 1.96 * error
    assert own.high >= 70 / COUNT + 1.96 * error
    assert own.high - own.low < 2 * 4 * error
    assert own.p_holm < 0.01
    assert any("together lose more" in line for line in grid_sentences(grid))
    others = grid.interactions[1:]
    assert all(one.p_holm > 0.5 for one in others)


def test_a_missing_corner_has_no_interaction(tmp_path: Path) -> None:
    for crops, top_k in ((1, 4), (1, 8), (12, 8)):
        make_run(
            tmp_path, str(crops), TOKENS[crops], [1.0, 0.0] * 60, knob="max_crops",
            result={"moe_top_k": top_k, "active_blocks": 16},
            settings={"model.moe_top_k": top_k},
        )  # fmt: skip
    (grid,) = analyse(collect(tmp_path)).grids
    assert len(grid.points) == 3 and grid.interactions == ()
    assert all(point.on_front is None for point in grid.points)  # no memory is known


@pytest.mark.parametrize("top_k", [8, None])
def test_one_knob_is_no_grid(tmp_path: Path, top_k: int | None) -> None:
    """Also where a model has no experts."""
    for crops in CROPS:
        make_run(tmp_path, str(crops), TOKENS[crops], [1.0, 0.0] * 60, knob="max_crops",
                 result={"moe_top_k": top_k, "active_blocks": 16})  # fmt: skip
    assert analyse(collect(tmp_path)).grids == ()


def test_models_and_other_settings_are_grids_of_their_own(tmp_path: Path) -> None:
    for dtype, crops, top_k in product(("float32", "bfloat16"), (1, 12), TOP_K):
        make_run(
            tmp_path, str(crops), TOKENS[crops], [1.0, 0.0] * 60, knob="max_crops",
            result={"moe_top_k": top_k, "active_blocks": 16},
            settings={"model.moe_top_k": top_k, "hardware.dtype": dtype},
        )  # fmt: skip
    found = analyse(collect(tmp_path)).grids
    assert [len(grid.points) for grid in found] == [4, 4]
    assert {grid.name.rpartition("=")[2] for grid in found} == {"float32", "bfloat16"}


def test_knobs_can_lose_less_together_than_the_sum(tmp_path: Path) -> None:
    """Each alone loses 60 of 240 questions, both together 80: less than 120, more than 60."""

    def right(crops: int, top_k: int, blocks: int) -> int:
        return 200 - min(80, 60 * (crops < 12) + 60 * (top_k < 8))

    grid = make_grid(tmp_path, right)
    own = grid.interactions[0]
    assert own.difference == pytest.approx(-40 / COUNT) and own.high is not None and own.high < 0
    (line,) = (line for line in grid_sentences(grid) if "together" in line)
    assert "less than the sum" in line


def test_blocks_given_by_their_indices_are_grids_of_their_own(tmp_path: Path) -> None:
    """Two lists of as many blocks share no place."""
    for crops, blocks in product((1, 12), ([0, 1, 3], [0, 2, 3], None)):
        make_run(
            tmp_path, str(crops), TOKENS[crops], [1.0, 0.0] * 60, knob="max_crops",
            result={"active_blocks": 4 if blocks is None else 3,
                    "blocks": None if blocks is None else tuple(blocks)},
            settings={"model.active_blocks": blocks},
        )  # fmt: skip
    assert analyse(collect(tmp_path)).grids == ()


def test_caps_beside_kept_tokens_stay_apart(tmp_path: Path) -> None:
    for kept, cap, top_k in product((144, 288), (6, 12), TOP_K):
        make_run(
            tmp_path, str(kept), kept, [1.0, 0.0] * 60, knob="kept_tokens",
            result={"moe_top_k": top_k, "active_blocks": 16, "num_crops": cap},
            settings={"model.moe_top_k": top_k, "run.max_crops": cap},
        )  # fmt: skip
    found = analyse(collect(tmp_path)).grids
    assert [len(grid.points) for grid in found] == [4, 4]


def test_settings_that_share_no_value_are_no_grid(tmp_path: Path) -> None:
    for crops, blocks in ((1, 12), (12, 16)):
        make_run(tmp_path, str(crops), TOKENS[crops], [1.0, 0.0] * 60, knob="max_crops",
                 result={"active_blocks": blocks},
                 settings={"model.active_blocks": blocks})  # fmt: skip
    assert analyse(collect(tmp_path)).grids == ()


def test_results_of_older_versions_are_no_axis(tmp_path: Path) -> None:
    for crops, blocks in product((1, 12), (None, 16)):
        make_run(tmp_path, str(crops), TOKENS[crops], [1.0, 0.0] * 60, knob="max_crops",
                 result={"active_blocks": blocks})  # fmt: skip
    assert analyse(collect(tmp_path)).grids == ()


def test_a_grid_of_cider_is_called_so(tmp_path: Path) -> None:
    for crops, top_k in product((1, 12), TOP_K):
        make_run(
            tmp_path, str(crops), TOKENS[crops], [1.0, 0.0] * 60, knob="max_crops",
            result={"moe_top_k": top_k, "active_blocks": 16, "metric": "cider",
                    "predicted_memory_gb": 1.0},
            settings={"model.moe_top_k": top_k},
        )  # fmt: skip
    (grid,) = analyse(collect(tmp_path)).grids
    assert grid.metric == "cider"
    (plot,) = grid_plots([grid], analyse(collect(tmp_path)).analysed())
    assert "accuracy" not in f"{plot.title} {plot.y_label} {front_heads(grid)}".lower()
    assert "of cider" in grid_sentences(grid)[0]
