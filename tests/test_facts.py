"""The tests' own reading of sentences: facts of one sentence, as whole words and numbers."""

from __future__ import annotations

import pytest

from tests.helpers.facts import says

TEXT = "knob.sizes=336x336 loses 30.0 points (29%). 784x784 is largest; see a.json: no result"


@pytest.mark.parametrize(
    ("facts", "held"),
    [
        (("336x336", "30.0", "29%"), True),
        (("knob.sizes=336x336", "30.0 points"), True),
        (("336x336", "largest"), False),  # of another sentence
        (("largest", "no result"), False),  # of another item
        (("a.json", "no result"), True),
        (("0.0",), False),
        (("30",), False),
        (("36x336",), False),
        (("point",), False),
    ],
)
def test_facts_stand_whole_in_one_sentence(facts: tuple[str, ...], held: bool) -> None:
    assert says(TEXT, *facts) == held
