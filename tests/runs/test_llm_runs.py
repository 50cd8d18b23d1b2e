"""Runs with fewer experts and blocks: planned, recorded and told apart, or refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cost.test_arithmetic import save_small
from tests.helpers.sweeps import run_without_report
from tests.models.test_families import SMALL, save_tokenizer
from vtexp.analysis.rows import collect
from vtexp.config.schema import Config
from vtexp.cost.latency_fit import find_cost_model, timed_run, write_cost_model
from vtexp.errors import ConfigError
from vtexp.models.checkpoints import find_checkpoint
from vtexp.runs.block_order import BlockImportance, BlockOrder
from vtexp.runs.frozen import thaw
from vtexp.runs.plan import Plan, make_plan

MakeConfig = Callable[..., Config]
CROPS = ("knob=max_crops", "knob.max_crops=[2]")


@pytest.fixture(scope="session")
def molmoe(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with 4 blocks and 8 experts, of which 3 work."""
    folder = tmp_path_factory.mktemp("checkpoints") / "molmoe"
    save_small("molmoe", small_checkpoint, folder, num_hidden_layers=4)
    return folder


@pytest.fixture
def planned(make_config: MakeConfig, molmoe: Path) -> Callable[..., Plan]:
    """Plans of that checkpoint."""

    def plan(*overrides: str) -> Plan:
        return make_plan(make_config(f"model.path={molmoe}", *overrides))

    return plan


def order_file(folder: Path, checkpoint: Path, **other: Any) -> Path:
    """What `vtexp importance` writes of a checkpoint with 4 blocks: block 1 matters least."""
    made = {
        "model": "molmo", "fingerprint": find_checkpoint(str(checkpoint)).fingerprint,
        "layers": 4, "dataset": "easy_vqa", "split": "test", "questions": 9, "images": 9,
        "accuracy": 0.5, "order": (1, 2),
        "blocks": tuple(BlockImportance(block=b, loss=0.1, low=None, high=None) for b in (1, 2)),
    }  # fmt: skip
    path = folder / "order.json"
    BlockOrder(**(made | other)).write(path)  # type: ignore[arg-type]
    return path


@pytest.mark.slow
def test_the_knobs_run_and_are_recorded(
    make_config: MakeConfig, molmoe: Path, tmp_path: Path
) -> None:
    for knob, values in (("moe_top_k", "top_k=[8,1,3]"), ("transformer_blocks", "blocks=[4,2]")):
        asked = (f"model.path={molmoe}", f"knob={knob}", f"knob.{values}", "knob.max_crops=[2]")
        run_without_report(make_config(*asked))
    by_knob = {
        knob: [run.found for run in collect(tmp_path / "sweep") if run.asked.knob == knob]
        for knob in ("moe_top_k", "transformer_blocks")
    }
    experts, blocks = by_knob["moe_top_k"], by_knob["transformer_blocks"]
    # In the order of what they cost, as their tokens are equal.
    assert [(r.knob_value, r.moe_top_k) for r in experts] == [("1", 1), ("3", 3), ("8", 8)]
    assert {r.active_blocks for r in experts} == {4} and {r.blocks for r in experts} == {None}
    assert [(r.active_blocks, r.blocks, r.moe_top_k) for r in blocks] == [
        (2, (0, 3), 3),
        (4, None, 3),
    ]
    flops = [r.flops["llm_prefill"] for r in experts if r.flops is not None]
    assert len(flops) == 3 and flops == sorted(flops)
    assert any("1, 2" in warning and "importance" in warning for warning in blocks[0].warnings)
    assert not any("importance" in warning for r in (*experts, blocks[1]) for warning in r.warnings)
    for run in collect(tmp_path / "sweep"):
        assert thaw([run.folder]).knob_values[0].value == run.asked.knob_value


@pytest.mark.slow
def test_grids_are_told_apart(make_config: MakeConfig, molmoe: Path, tmp_path: Path) -> None:
    for top_k in ("1", "3"):
        for blocks in ("[0,1,3]", "4"):
            own = (f"model.moe_top_k={top_k}", f"model.active_blocks={blocks}")
            run_without_report(make_config(f"model.path={molmoe}", *CROPS, *own))
    runs = collect(tmp_path / "sweep")
    assert len({run.name for run in runs}) == len({run.settings for run in runs}) == 4
    assert all(run.same_inputs_as is None for run in runs)
    assert {(r.asked.moe_top_k, r.asked.active_blocks) for r in runs} == {
        (1, 3),
        (1, 4),
        (3, 3),
        (3, 4),
    }
    (fewest,) = (run for run in runs if "top1-blocks3" in run.name)
    assert fewest.asked.blocks == (0, 1, 3) and fewest.values()["blocks"] == "0 1 3"
    assert "moe_top_k=1" in fewest.settings and "active_blocks=[0,1,3]" in fewest.settings


def test_published_numbers_are_the_run_of_today(planned: Callable[..., Plan]) -> None:
    (plain,) = planned(*CROPS).runs
    same = [
        ("model.moe_top_k=3",),
        ("model.moe_top_k=3", "model.moe_first_block_as_published=true"),
        ("model.active_blocks=4",),
        ("model.active_blocks=[3,1,2,0]",),
    ]
    for own in same:
        (run,) = planned(*CROPS, *own).runs
        assert run.setting == plain.setting and run.run_id == plain.run_id, own
        assert run.folder == plain.folder and run.inputs_fingerprint == plain.inputs_fingerprint


def test_what_changes_answers_changes_ids(planned: Callable[..., Plan]) -> None:
    asked = [
        (), ("model.moe_top_k=1",), ("model.moe_top_k=2",), ("model.active_blocks=3",),
        ("model.moe_top_k=1", "model.moe_first_block_as_published=true"),
        ("model.active_blocks=[0,2,3]",), ("model.active_blocks=[0,1,3]", "model.moe_top_k=1"),
    ]  # fmt: skip
    runs = [planned(*CROPS, *own).runs[0] for own in asked]
    assert len({run.run_id for run in runs}) == len(asked)
    assert len({run.inputs_fingerprint for run in runs}) == len(asked)
    # Without an order, a number takes out the middle: block 2 of 0 to 3 goes first.
    (listed,) = planned(*CROPS, "model.active_blocks=[0,1,3]").runs
    assert listed.run_id == runs[3].run_id


def test_blocks_leave_in_the_order_of_the_file(
    planned: Callable[..., Plan], molmoe: Path, tmp_path: Path
) -> None:
    path = order_file(tmp_path, molmoe)
    plan = planned("knob=transformer_blocks", "knob.blocks=[2,3,4]", f"model.block_order={path}")
    assert [run.asked(plan.config).blocks for run in plan.runs] == [(0, 3), (0, 2, 3), None]
    assert not any("importance" in warning for run in plan.runs for warning in run.warnings)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("model.moe_top_k=9",), "8 experts"),
        (("knob=moe_top_k", "knob.top_k=[9]"), "knob.top_k=9"),
        (("knob=moe_top_k", "model.moe_top_k=2"), "knob=moe_top_k varies it"),
        (("knob=moe_top_k", "knob.max_crops=[1,2]"), "one cap"),
        (("knob=moe_top_k", "reduction=pool"), "kept_tokens"),
        (("model.active_blocks=1",), "2 to 4 blocks"),
        (("model.active_blocks=5",), "2 to 4 blocks"),
        (("model.active_blocks=many",), "a number of blocks"),
        (("model.active_blocks=1.5",), "a number of blocks"),
        (("model.active_blocks=true",), "a number of blocks"),
        (("model.active_blocks=[0,4]",), "no block 4"),
        (("model.active_blocks=[0,0,3]",), "block 0 is given twice"),
        (("model.active_blocks=[0,1]",), "block 3 is missing"),
        (("model.active_blocks=[[0],3]",), "a number of blocks"),
        (("knob=transformer_blocks", "knob.blocks=[5]"), "knob.blocks=5"),
        (("knob=transformer_blocks", "model.active_blocks=3"), "varies it"),
        (("model.active_blocks=3", "model.block_order=nowhere.json"), "no such file"),
    ],
)
def test_what_cannot_be_is_one_line(
    planned: Callable[..., Plan], overrides: tuple[str, ...], says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        planned(*overrides)
    assert "\n" not in str(caught.value)


def test_models_without_experts_or_blocks_to_choose(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="has no experts"):
        make_plan(make_config("model.moe_top_k=2"))
    folder = tmp_path / "internvl"
    folder.mkdir()
    SMALL["internvl"](save_tokenizer("internvl", folder)).save_pretrained(folder)
    for own in ("model.moe_top_k=2", "model.active_blocks=2"):
        with pytest.raises(ConfigError, match=rf"^{own.partition('=')[0]}: .*Molmo v1"):
            make_plan(make_config(f"model.path={folder}", own))


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"fingerprint": "0" * 16}, "another model"),
        ({"layers": 5, "order": (1, 2, 3)}, "5 blocks"),
        ({"order": (1, 1)}, "each once"),
        ({"layers": 10**12, "order": ()}, "not an order"),
        ({"layers": -3, "order": ()}, "not an order"),
    ],
)
def test_an_order_of_another_model_is_refused(
    planned: Callable[..., Plan], molmoe: Path, tmp_path: Path, other: dict[str, Any], says: str
) -> None:
    path = order_file(tmp_path, molmoe, **other)
    for own in ((), ("plan=true",)):
        with pytest.raises(ConfigError, match=says) as caught:
            planned(*CROPS, "model.active_blocks=3", f"model.block_order={path}", *own)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1}', '{"format": 2}'])
def test_a_file_that_is_no_order_is_refused(
    planned: Callable[..., Plan], tmp_path: Path, content: str
) -> None:
    path = tmp_path / "order.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"order\.json"):
        planned(*CROPS, "model.active_blocks=3", f"model.block_order={path}")


@pytest.mark.slow
def test_cost_models_do_not_mix_settings(
    make_config: MakeConfig, molmoe: Path, tmp_path: Path
) -> None:
    fewer = ("model.moe_top_k=1", "model.active_blocks=3")
    asked = (f"model.path={molmoe}", "knob=image_size", "knob.sizes=[336x336,560x336,560x560]")
    for own in ((), fewer):
        run_without_report(make_config(*asked, *own))
    assert write_cost_model(tmp_path / "sweep") is not None
    plain, reduced = (make_plan(make_config(*asked, *own)) for own in ((), fewer))
    models = [find_cost_model(plan.config, plan.runs[0].setting.llm) for plan in (plain, reduced)]
    found = [model for model in models if model is not None]
    assert len(found) == 2 and found[0].coefficients != found[1].coefficients
    runs = [timed_run(run.folder) for run in (*plain.runs, *reduced.runs)]
    settings = [
        json.dumps(run.conditions["llm"]) for run in runs if run and "llm" in run.conditions
    ]
    assert len(settings) == 3 and len(set(settings)) == 1
    other = make_plan(make_config(*asked, "model.moe_top_k=2"))
    assert find_cost_model(other.config, other.runs[0].setting.llm) is None


def test_a_first_block_as_published_needs_another_number(planned: Callable[..., Plan]) -> None:
    with pytest.raises(ConfigError, match=r"model\.moe_top_k"):
        planned(*CROPS, "model.moe_first_block_as_published=true")


def test_a_name_that_no_file_can_have_is_refused_by_its_key(planned: Callable[..., Plan]) -> None:
    with pytest.raises(ConfigError, match=r"model\.block_order"):
        planned(*CROPS, "model.active_blocks=3", f"model.block_order={'x' * 300}")
