"""Configs as Hydra's users write them: experiments, parameters in files, several knobs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from vtexp.config.compose import compose_config, with_brackets
from vtexp.config.hydra_parts import each_its_own, for_several_knobs, name_is_given, parameters
from vtexp.config.knob_schema import MaxCropsKnob
from vtexp.config.user_errors import one_line
from vtexp.errors import ConfigError

ROOT = Path(__file__).parents[2]
#: A callback of a user's own.
CALLBACK = "hydra.experimental.callback.Callback"


def launch(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Type a plan of two easy-VQA questions, as a user does."""
    quick = ["plan=true", "dataset=easy_vqa", "dataset.limit=2", "tracking=none"]
    command = [sys.executable, str(ROOT / "launch.py"), *quick, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def test_an_experiment_chooses_groups_and_keys_and_the_command_line_wins() -> None:
    config = compose_config(["experiment=small_print_budget", "dataset.limit=7"])
    assert type(config.knob) is MaxCropsKnob and config.tracking.name == "none"
    assert (config.sweep.name, config.dataset.limit) == ("small_print_budget", 7)


def test_the_shipped_experiment_compares_budgets_alone() -> None:
    """One job for each budget: a report of two splits, say, would be unfair."""
    raw = yaml.safe_load((ROOT / "conf" / "experiment" / "small_print_budget.yaml").read_text())
    assert "hydra" not in raw and raw["knob"] == {"max_crops": [1, 4, 9]}


def test_an_experiment_of_ones_own_sets_keys_of_the_top_level(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nforce_full_tokens: true\nsweep: {name: mine}\n"
    )
    config = compose_config(["experiment=mine"], tmp_path)
    assert config.force_full_tokens and config.sweep.name == "mine"


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("${now:%Y-%m-%d_%H-%M-%S}", False),
        ("${now:%Y-%m-%d}", True),
        ("mine", True),
        ("${model.name}_1", True),
    ],
)
def test_a_name_is_one_wherever_it_is_written(name: str, given: bool) -> None:
    assert name_is_given(OmegaConf.create({"sweep": {"name": name}})) is given


@pytest.mark.parametrize("name", ["null", "[a]"])
def test_a_wrong_value_in_a_file_names_key_and_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "experiment").mkdir()
    text = f"# @package _global_\nsweep: {{name: {name}}}\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    with pytest.raises(ConfigCompositionException) as error:
        compose_config(["experiment=mine"], tmp_path)
    line = one_line(error.value)
    assert line.startswith("sweep.name: ") and line.endswith("(in experiment/mine.yaml)")


def test_parameters_of_a_file_yield_to_the_command_line() -> None:
    params = OmegaConf.create({"model": "a,b", "knob.sizes": ["336x336", "560x336"], "plan": True})
    found = list(parameters(params, ["model=c", "dataset.limit=2"]))
    assert found == ["knob.sizes=[336x336,560x336]", "plan=true"]
    with pytest.raises(ConfigError, match=r"hydra\.sweeper\.params\.knob"):
        list(parameters(OmegaConf.create({"knob": {"sizes": "a"}}), []))


def test_each_knob_of_several_has_its_own_values() -> None:
    typed = ["-m", "knob=image_size,max_crops", "knob.max_crops=[1,4]", "knob.fit=crop"]
    assert for_several_knobs(typed) == [
        *typed[:2], "knob.max_crops=choice([1,4])", "knob.fit=choice(crop)",
    ]  # fmt: skip
    assert for_several_knobs(["knob=max_crops", "knob.max_crops=[1]"])[1] == "knob.max_crops=[1]"
    combinations = [
        ["knob=image_size", "knob.max_crops=[1]", "knob.fit=crop"],
        ["knob=max_crops", "knob.max_crops=[1]", "knob.fit=crop"],
    ]
    assert each_its_own(combinations, "image_size") == [
        ["knob=image_size", "knob.fit=crop"],
        ["knob=max_crops", "knob.max_crops=[1]"],
    ]
    # A key of no knob that is swept stays, so that its line says what is wrong.
    assert each_its_own([["knob.max_crops=[1]"]], "image_size") == [["knob.max_crops=[1]"]]


@pytest.mark.parametrize("value", ["glob(*)", "interval(1,2)"])
def test_values_that_are_no_list_name_their_key(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^knob\.sizes="):
        with_brackets(f"knob.sizes={value}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["-m", "dataset.limit=interval(1,2)"], "dataset.limit="),
        (["-m", "model.name=glob(*)"], "model.name="),
        (["model.path=${oc.env:VTEXP_NOPE}"], "model.path: "),
        (["-m", "sweep.name=${oc.env:VTEXP_NOPE}"], "sweep.name: "),
        (["-m", "hydra.sweep.dir=x"], "hydra.sweep.dir=x: "),
        (["hydra.run.dir=x"], "hydra.run.dir=x: "),
        (["-m", "hydra.verbose=true"], "hydra.verbose="),
        (["-m", "+hydra.job.env_set.A=1"], "hydra.job.env_set="),
        (["-m", "knob=image_size,max_crops", "knob.max_crops=1,999999"], "knob.max_crops=999999: "),
        (["-m", "knob=vision_tokens,image_size", "knob.max_crops=1"], "knob.max_crops: "),
    ],
)
def test_what_cannot_be_honoured_is_one_line(
    arguments: list[str], key: str, tmp_path: Path
) -> None:
    done = launch(*arguments, cwd=tmp_path)
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and len(lines) == 1, done.stderr
    assert lines[0].startswith(f"error: {key}"), lines


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["hydra.output_subdir=x"], "hydra.output_subdir=x"),
        (["hydra.run.dir=x"], "hydra.run.dir=x"),
        (["hydra/job_logging=default"], "hydra.job_logging.handlers.file"),
        (["-m", "hydra/sweeper=basic", "hydra.sweep.dir=x"], "hydra.sweep.dir=x"),
        (["-m", "hydra/sweeper=basic", "knob.sizes=x"], "knob.sizes"),
        (["-m", f"+hydra.callbacks.mine._target_={CALLBACK}"], "hydra.callbacks"),
    ],
)
def test_a_refused_command_leaves_nothing_behind(
    arguments: list[str], key: str, tmp_path: Path
) -> None:
    done = launch(*arguments, cwd=tmp_path)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith(f"error: {key}")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_plan_of_several_combinations_has_headings_and_a_total(tmp_path: Path) -> None:
    done = launch(
        "-m", "knob=image_size,max_crops", "knob.max_crops=1,4",
        "+hydra.sweeper.params.model=molmo_tiny", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1 of 2: knob=image_size\n" in done.stdout
    assert "2 of 2: knob=max_crops knob.max_crops=[1,4]\n" in done.stdout
    assert "4 jobs of 6 runs" in done.stdout  # two give inputs of others
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("typed", "instead"),
    [
        ("hydra/sweeper=optuna", "knob.max_crops=1,4,12"),
        ("hydra/launcher=joblib", "hardware.launcher="),
        ("hydra/launcher=submitit_slurm", "hardware.launcher="),
    ],
)
def test_a_launcher_or_sweeper_of_others_is_one_line(
    tmp_path: Path, typed: str, instead: str
) -> None:
    done = launch("-m", typed, cwd=tmp_path)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith(f"error: {typed}: ") and instead in line


def test_hydras_own_sweeper_runs_here_alone(tmp_path: Path) -> None:
    assert launch("-m", "hydra/sweeper=basic", cwd=tmp_path).returncode == 0
    assert not list(tmp_path.iterdir())  # such as Hydra's multirun.yaml
    done = launch("-m", "hydra/sweeper=basic", "hardware.launcher=slurm", cwd=tmp_path)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and "hydra/sweeper=basic" in line and "this process" in line
