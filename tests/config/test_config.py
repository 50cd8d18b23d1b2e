"""Composition of configs, and what a user reads after a mistake."""

from __future__ import annotations

import argparse
import functools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException
from hypothesis import given
from hypothesis import strategies as st
from omegaconf.errors import OmegaConfBaseException

from vtexp.budget.knobs import KnobValue
from vtexp.config import user_errors
from vtexp.config.checks import from_plain
from vtexp.config.compose import compose_config, flags_first, with_brackets
from vtexp.config.dataset_schema import ColumnsConfig
from vtexp.config.hydra_parts import hydra_arguments
from vtexp.config.knob_schema import ImageSizeKnob, MaxCropsKnob, VisionTokensKnob
from vtexp.config.schema import Config, to_plain
from vtexp.errors import ConfigError

ROOT = Path(__file__).parents[2]
MakeConfig = Callable[..., Config]


def launch(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run launch.py as a user does, from any folder."""
    command = [sys.executable, str(ROOT / "launch.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def test_each_knob_has_its_schema(make_config: MakeConfig) -> None:
    for knob, schema in {
        "image_size": ImageSizeKnob,
        "vision_tokens": VisionTokensKnob,
        "max_crops": MaxCropsKnob,
    }.items():
        assert type(make_config(f"knob={knob}").knob) is schema


def test_values_of_the_default_sweep(make_config: MakeConfig) -> None:
    values = make_config("knob.sizes=[560x336,784x784]").knob_values
    assert values == [
        KnobValue("image_size", "560x336", "stretch"),
        KnobValue("image_size", "784x784", "stretch"),
    ]


def test_the_seeds_name_of_vision_tokens() -> None:
    new = compose_config(["knob=vision_tokens", "knob.targets=[432,720]", "sweep.name=a"])
    for knob in ("vision_tokens", "vision_tokens_list"):
        old = compose_config([f"knob={knob}", "knob.vision_tokens_list=432,720", "sweep.name=a"])
        assert to_plain(old) == to_plain(new)


@pytest.mark.parametrize("knob", ["image_size", "vision_tokens", "max_crops"])
def test_full_tokens_hold_for_every_value(make_config: MakeConfig, knob: str) -> None:
    config = make_config(f"knob={knob}", "force_full_tokens=true")
    assert all(value.force_full_tokens for value in config.knob_values)


def test_run_id_follows_what_changes_the_numbers(make_config: MakeConfig) -> None:
    one = make_config("knob.sizes=[336x336]")
    value = one.knob_values[0]
    first = one.run_id(value, "weights")
    same = make_config("knob.sizes=[784x784,336x336]", "sweep.name=b", "tracking.project=other")
    assert same.run_id(value, "weights") == first
    for change in (
        "dataset.limit=7",
        "dataset.split=train",
        "hardware.dtype=bfloat16",
        "measure.latency_repeats=3",
        "model.path=/other",
        "model.name=other",
    ):
        assert make_config(change).run_id(value, "weights") != first
    assert one.run_id(value, "other weights") != first
    for change in ("knob.fit=crop", "force_full_tokens=true", "knob.sizes=[560x336]"):
        changed = make_config("knob.sizes=[336x336]", change)
        assert changed.run_id(changed.knob_values[0], "weights") != first


def test_one_way_of_writing_a_value(make_config: MakeConfig) -> None:
    config = make_config("knob.sizes=[' 560 X 336']")
    assert [value.value for value in config.knob_values] == ["560x336"]
    with pytest.raises(ConfigError, match="560x336 is given twice"):
        _ = make_config("knob.sizes=['560x336','560X336']").knob_values


def test_plain_config_is_json_of_names(make_config: MakeConfig) -> None:
    assert to_plain(make_config())["hardware"]["dtype"] == "float32"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("+foo=1", "^foo: no such key; .*model"),
        ("knob.sizes=[]", "^knob.sizes: .*at least one"),
        ("knob.sizes=[336x336,336x336]", "336x336 is given twice"),
        ("hardware.batch_size=0", "hardware.batch_size=0: must be 1 to 65536 samples"),
        ("sweep.name=a/b", "^sweep.name=a/b: "),
        ("model.name=../up", r"^model.name=\.\./up: "),
        ("+dataset.limti=2", "dataset.limti: no such key; .*: name, split"),
        ("knob.name=max_crops", "knob=NAME"),
        ("hardware.sharded=true", "only over GPUs"),
    ],
)
def test_impossible_settings(make_config: MakeConfig, override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        _ = make_config(override).knob_values


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("knob=nope", "available: image_size, kept_tokens, max_crops,"),
        ("knob.sizez=3", "knob.sizez: no such key; "),
        ("hardware.slurm.extra.wckey=a", "add it as +hardware.slurm.extra.wckey="),
        ("dataset.limit=abc", "dataset.limit: value 'abc'"),
        ("hardware.dtype=float4", "hardware.dtype: invalid value 'float4', expected one of"),
    ],
)
def test_one_line_of_hydras_errors(make_config: MakeConfig, override: str, says: str) -> None:
    with pytest.raises((*user_errors.USER_ERRORS,)) as caught:
        make_config(override)
    line = user_errors.one_line(caught.value)
    assert says.casefold() in line.casefold()
    assert "\n" not in line


def test_missing_value_names_its_key(make_config: MakeConfig, tmp_path: Path) -> None:
    from hydra import compose, initialize_config_dir

    from vtexp.config.checks import from_hydra

    make_config()
    with (
        initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")),
        pytest.raises(OmegaConfBaseException) as caught,
    ):
        from_hydra(compose("config", ["model=molmo", "sweep.name=a"]))
    assert re.match(r"model\.path: .*\bmodel\.path=VALUE", user_errors.one_line(caught.value))


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("knob.sizes=560x336,784x784", "knob.sizes=[560x336,784x784]"),
        ("knob.sizes=560x336", "knob.sizes=[560x336]"),
        ("knob.sizes=[560x336]", "knob.sizes=[560x336]"),
        ("knob.max_crops=range(1,13,4)", "knob.max_crops=[1,5,9]"),
        ("knob.targets=432", "knob.targets=[432]"),
        ("knob.sizes=560×336", "knob.sizes=[560x336]"),
        ("knob.vision_tokens_list=432,720", "knob.targets=[432,720]"),
        ("knob.vision_tokens_list=[432]", "knob.targets=[432]"),
        ("dataset=a,b", "dataset=a,b"),
        ("--help", "--help"),
    ],
)
def test_lists_without_brackets(argument: str, expected: str) -> None:
    assert with_brackets(argument) == expected


@pytest.mark.parametrize("argument", ["=3", "knob.max_crops=range(1,13,0)"])
def test_malformed_arguments_are_config_errors(argument: str) -> None:
    with pytest.raises(ConfigError, match="^" + re.escape(argument)):
        with_brackets(argument)


def test_several_processes_need_somewhere_to_be_started(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"hardware\.launcher=local or slurm"):
        make_config("hardware.gpus_per_run=2")
    assert make_config("hardware.gpus_per_run=2", "hardware.launcher=local")


def test_flag_may_come_after_overrides() -> None:
    with hydra_arguments():
        assert flags_first(["a=1", "-m", "b=2"]) == ["-m", "a=1", "b=2"]
        for flag in (["--config-dir", "x"], ["--config-dir=x"]):
            assert flags_first(["a=1", *flag, "b=2", "-m"]) == [*flag, "-m", "a=1", "b=2"]


def test_arguments_are_read_where_python_checks_help_texts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As Python 3.14 does: Hydra's help of its shell completion is no text before it is printed."""

    def check(_: object, action: argparse.Action) -> None:
        if not isinstance(action.help, str | None):
            raise ValueError("badly formed help string")

    parents = argparse.ArgumentParser.__mro__[1:]
    (owner,) = (c for c in parents if c.__name__ == "_ActionsContainer")
    monkeypatch.setattr(owner, "_check_help", check, raising=False)
    added = owner.add_argument

    def add_argument(parser: Any, *names: str, **how: Any) -> argparse.Action:
        action = added(parser, *names, **how)
        parser._check_help(action)
        return action

    monkeypatch.setattr(owner, "add_argument", add_argument)
    monkeypatch.setattr(sys, "argv", ["launch.py", "a=1", "-m"])
    # What a launch changes for the rest of its process: put back for the tests that follow.
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(argparse.ArgumentParser, "error", argparse.ArgumentParser.error)
    parsers: list[object] = []  # Hydra makes one more when it starts
    assert user_errors.call(lambda: parsers.append(get_args_parser())) == 0
    assert parsers and sys.argv[1:] == ["-m", "a=1"]
    with pytest.raises(ValueError, match="badly formed"):
        get_args_parser()


def test_help_shows_examples(tmp_path: Path) -> None:
    done = launch("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "python launch.py -m knob=image_size" in done.stdout
    assert "knob: image_size, kept_tokens, max_crops, moe_top_k, transformer_blocks" in done.stdout


@pytest.mark.parametrize("mode", [[], ["-m"]])
def test_a_mistake_is_one_line_and_an_exit_code(mode: list[str], tmp_path: Path) -> None:
    done = launch(*mode, "knob.sizes=[56ox336]", cwd=tmp_path)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: knob.sizes: ") and "'56ox336'" in line and "560x336" in line
    assert done.stdout == ""


@pytest.mark.parametrize(
    "override",
    [
        *("hardware.memory_gb=nan", "hardware.memory_gb=-1", "hardware.peak_tflops=0"),
        *("hardware.peak_tflops=nan", "hardware.bandwidth_gb_per_s=0", "report.margin=inf"),
        *("measure.min_seconds=inf", "measure.max_seconds=nan", "hardware.peak_tflops=inf"),
        *("sweep.folder='/tmp/n\udcff'", "model.path='\udc80'"),
    ],
)
def test_values_that_no_run_could_use_are_refused(make_config: MakeConfig, override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config(override)
    assert str(caught.value).isprintable()


CONTAINERS = [
    "dataset.columns", "dataset.source", "dataset.splits", "dataset.columns.attributes",
    "dataset.lists_as_text", "dataset.num_questions", "dataset.where", "knob.sizes",
    "hardware.slurm", "hardware.slurm.setup", "hardware.slurm.extra", "tracking.tags", "tracking",
    "measure", "sweep", "dataset.styles", "dataset.transforms", "dataset.join",
]  # fmt: skip


@pytest.mark.slow  # 144 compositions
@pytest.mark.parametrize("key", CONTAINERS)
@pytest.mark.parametrize(
    "other", ["${knob}", "${model}", "${dataset.limit}", "${model.weights}", "${..name}",
              "${hardware.slurm.extra}", "${dataset.num_questions}", "${dataset.splits}"],
)  # fmt: skip
def test_no_interpolation_puts_a_part_where_another_belongs(key: str, other: str) -> None:
    """Composed, or refused as any wrong value is."""
    arguments = ["plan=true", "dataset.limit=1", "tracking=none", f"{key}={other}"]
    with suppress(ConfigError, OmegaConfBaseException, HydraException):
        config = compose_config(arguments)
        json.dumps(to_plain(config))
        assert type(config.dataset.columns) is ColumnsConfig
        assert all(isinstance(tag, str) for tag in config.tracking.tags)
        assert all(isinstance(size, str) for size in getattr(config.knob, "sizes", []))


def test_margin_of_the_report_changes_no_run(make_config: MakeConfig) -> None:
    one, two = make_config(), make_config("report.margin=2.5")
    assert two.report.margin == 2.5
    (value,) = one.knob_values[:1]
    assert one.run_id(value, "weights") == two.run_id(value, "weights")
    with pytest.raises(ConfigError, match=r"report\.margin=-1\.0: must be 0 to 1000 points"):
        make_config("report.margin=-1")


@functools.cache
def default_config() -> Config:
    return compose_config([])


PIECES = st.sampled_from(["$", "{", "}", "\\", "${oc.env:HOME}", "${sweep.name}", "a"])


@pytest.mark.slow
@given(st.lists(PIECES, max_size=8).map("".join))
def test_a_frozen_config_is_read_as_it_was_frozen(text: str) -> None:
    """Whatever it looks like: what is in another's sweep does not read the environment."""
    frozen = to_plain(default_config())
    frozen["model"]["path"] = text
    frozen["hardware"]["slurm"]["setup"] = [text]
    thawed = from_plain(json.loads(json.dumps(frozen)))
    assert thawed.model.path == text
    assert thawed.hardware.slurm.setup == [text]
