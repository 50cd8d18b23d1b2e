"""Printed commands: what bash and Hydra read of them is what was meant."""

from __future__ import annotations

import subprocess

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vtexp.report.reproduce import hydra_value
from vtexp.utils.text import command_line

#: All that a shell or Hydra might take for more than a letter, and letters of all kinds.
MARKS = st.text("'\"\\\\$`!*?[]{}()<>|&;#~=:,.%@+-/ \n\taZ09_é模", max_size=12)
TEXTS = MARKS | st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)))
PARSER = OverridesParser.create()


def read_by_bash(line: str) -> list[str]:
    script = f"printf '%s\\0' {line}"
    told = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout.decode()
    return told.split("\0")[:-1]


@settings(max_examples=150, deadline=None)
@example(['dataset.split="it\'s"', "a'b!", "$HOME", "`id`", "a\\\\'"])
@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_bash_reads_the_words_that_were_written(words: list[str]) -> None:
    assert read_by_bash(command_line(words)) == words


@settings(max_examples=400, deadline=None)
@example("null")
@example("TRUE")
@example("1-2")
@example("12x34")
@example('it\'s "so" \\\\')
@example("2026-11-27_09-33")
@example("\\\n")  # a line that ends in a backslash
@given(TEXTS.filter(lambda text: "${" not in text))
def test_hydra_reads_the_text_that_was_written(text: str) -> None:
    """References (`${...}`) aside: those stay references."""
    for value in (text, [text, 1, text]):
        read = PARSER.parse_override(f"dataset.split={hydra_value(value)}").value()
        if isinstance(value, list):
            assert [str(read[0]), read[1], str(read[2])] == value
        else:
            assert not isinstance(read, bool | int | float)
            assert str(read) == text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("train", "dataset.split=train"),
        ("train[:10%]", """'dataset.split="train[:10%]"'"""),
        ("/data/my images/m", """'dataset.split="/data/my images/m"'"""),
        ("it's", r'''"dataset.split=\"it's\""'''),
        (["336x336", "560x336"], "'dataset.split=[336x336,560x336]'"),
    ],
)
def test_commands_are_short(value: str, shown: str) -> None:
    word = f"dataset.split={hydra_value(value)}"
    assert command_line([word]) == shown
    assert read_by_bash(shown) == [word]
