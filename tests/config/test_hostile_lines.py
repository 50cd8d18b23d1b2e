"""Odd keys, values and paths of the command line: one short line that names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from vtexp.config.compose import compose_config, with_brackets
from vtexp.config.user_errors import one_line, reported
from vtexp.errors import ConfigError


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
