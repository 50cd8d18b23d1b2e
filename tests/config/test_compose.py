"""Configs composed outside of `launch.py`: the same as Hydra's, though files are merged once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given, settings
from hypothesis import strategies as st

from vtexp.config import compose as own
from vtexp.config.booleans import strict_booleans
from vtexp.config.checks import from_hydra
from vtexp.config.compose import COMPOSE_ERRORS, CONF, compose_config
from vtexp.config.schema import Config, register_schemas
from vtexp.errors import VtexpError

#: Overrides that may stand together, in any order and more than once.
OVERRIDES = [
    "dataset=easy_vqa",
    "dataset=chart_qa",
    "model=molmo_7b_d",
    "hardware=h100",
    "knob=max_crops",
    "reduction=pool",
    "+experiment=small_print_budget",
    "experiment=small_print_budget",
    "experiment=null",
    "dataset@dataset=gqa",
    "dataset.limit=7",
    "dataset.limit=null",
    "++dataset.limit=9",
    "+dataset.num_questions.more=3",
    "~dataset.num_questions.test",
    "dataset={limit: 5}",
    "dataset.limit=a",
    "dataset.limits=3",
    "dataset=nope",
    "dataset.limit=1,2",
    "knob.sizes=[336x336]",
    "knob.max_crops=[1,4]",
    "hydra.job.name=mine",
    "hydra=null",
    "dataset=null",
    "base=hardware",
    "a b",
    "force_full_tokens=2",
    "force_full_tokens=true",
    "sweep.name='a b'",
    "model.name=${dataset.name}",
]


def hydras(overrides: Sequence[str]) -> Config:
    """The config as Hydra alone makes it."""
    register_schemas()
    GlobalHydra.instance().clear()
    with strict_booleans(), initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return from_hydra(compose("config", list(overrides)))


def outcome(make: Callable[[Sequence[str]], Config], chosen: Sequence[str]) -> object:
    """The config, or the error's kind and words.

    ValueError is what Hydra raises for a group that is given no name.
    """
    try:
        return make(["sweep.name=a", *chosen])
    except (VtexpError, *COMPOSE_ERRORS, ValueError) as error:
        return type(error), str(error)


def require_hydras(chosen: Sequence[str]) -> None:
    """Twice, as the second time the files are merged already."""
    found = [outcome(compose_config, chosen) for _ in range(2)]
    assert found == [outcome(hydras, chosen)] * 2


def test_the_config_is_hydras() -> None:
    chosen = ["dataset=easy_vqa", "hardware=h100", "force_full_tokens=true", "dataset.limit=7"]
    require_hydras(chosen)
    config = compose_config(chosen)
    assert (config.dataset.name, config.hardware.name) == ("easy_vqa", "h100")
    assert (config.dataset.limit, config.force_full_tokens) == (7, True)


@pytest.mark.slow
@settings(max_examples=40)
@given(chosen=st.lists(st.sampled_from(OVERRIDES), max_size=4))
def test_the_config_is_hydras_whatever_is_given(chosen: list[str]) -> None:
    require_hydras(chosen)


def test_a_changed_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = shutil.copytree(CONF, tmp_path / "conf")
    monkeypatch.setattr(own, "CONF", conf)
    assert compose_config(["dataset=easy_vqa"]).dataset.limit == 200
    path = conf / "dataset" / "easy_vqa.yaml"
    path.write_text(path.read_text().replace("limit: 200", "limit: 30"))
    assert compose_config(["dataset=easy_vqa"]).dataset.limit == 30


def test_what_a_caller_does_to_a_config_stays_with_it() -> None:
    first = compose_config(["dataset=easy_vqa"])
    first.dataset.source.splits.append("mine")
    assert compose_config(["dataset=easy_vqa"]).dataset.source.splits == ["train", "test"]
