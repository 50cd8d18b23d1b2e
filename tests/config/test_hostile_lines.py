"""Odd keys, values and paths of the command line: one short line that names them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from vtexp.config.compose import compose_config, with_brackets
from vtexp.config.user_errors import one_line, reported
from vtexp.errors import ConfigError, DataError
from vtexp.runs.frozen import thaw
from vtexp.utils import files


@pytest.mark.parametrize(
    "argument",
    ["knob.targets=٧٢٠", "knob.max_crops=٤", "knob.sizes=336x336;560x560", "knob.sizes=¹x¹"],
)
def test_what_hydras_parser_cannot_read_names_its_key(argument: str) -> None:
    with pytest.raises(ConfigError) as raised:
        with_brackets(argument)
    assert str(raised.value).startswith(f"{argument}: ")
    with pytest.raises(ConfigError):
        compose_config([argument])


def test_a_path_of_many_letters_is_a_short_line(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        Path("x" * 5000).read_bytes()

    assert reported(command, show_traceback=False, interrupted="") == 1
    said = capsys.readouterr().err
    assert len(said) < 250 and "too long" in said
    assert "somewhere" in one_line(FileNotFoundError(2, "No such file", "/somewhere"))


@pytest.mark.parametrize("seed", [-1, "-Infinity"])
def test_a_wrong_value_in_a_runs_config_names_its_file(made_runs: Path, seed: object) -> None:
    path = sorted(made_runs.glob(f"*/{files.CONFIG}"))[0]
    plain = yaml.safe_load(path.read_text())
    plain["dataset"]["seed"] = seed
    path.write_text(yaml.safe_dump(plain))
    with pytest.raises(DataError, match=r"dataset\.seed") as raised:
        thaw([path.parent])
    assert str(raised.value).startswith(f"{path}: ") and "\n" not in str(raised.value)
