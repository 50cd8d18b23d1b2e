"""Every number of the config has a range, and one line refuses what lies outside of it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any, get_type_hints

import pytest

from vtexp.config import user_errors
from vtexp.config.checks import from_plain
from vtexp.config.compose import compose_config
from vtexp.config.knob_schema import KNOB_SCHEMAS
from vtexp.config.schema import GROUP_SCHEMAS, rule_of_key, to_plain


def _numbers(schema: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """Dotted keys whose type holds an int or a float, with that type, by the annotations alone."""
    for name, kind in get_type_hints(schema).items():
        if is_dataclass(kind):
            yield from _numbers(kind, f"{prefix}.{name}")
        elif "int" in (words := str(kind)) or "float" in words:
            yield f"{prefix}.{name}", words


NUMBERS = {
    **{k: v for group, schema in GROUP_SCHEMAS.items() for k, v in _numbers(schema, group)},
    **{k: v for schema, _ in KNOB_SCHEMAS.values() for k, v in _numbers(schema, "knob")},
}
ANYTHING = [float("nan"), float("inf"), 2**63, -1, True, "x"]


@functools.cache
def plain_config(knob: str) -> dict[str, Any]:
    reduction = "stride" if knob == "kept_tokens" else "none"
    return to_plain(compose_config([f"knob={knob}", f"reduction={reduction}", "sweep.name=a"]))


def with_value(key: str, kind: str, value: Any) -> dict[str, Any]:
    """A config with one number, in a list or dict where the key holds one."""
    name = key.removeprefix("knob.")
    having = (n for n, (schema, _) in KNOB_SCHEMAS.items() if name in get_type_hints(schema))
    knob = next(having, "image_size") if key.startswith("knob.") else "image_size"
    plain = copy.deepcopy(plain_config(knob))
    part = plain
    *path, name = key.split(".")
    for step in path:
        part = part[step]
    part[name] = [value] if "list" in kind else {"test": value} if "dict" in kind else value
    return plain


def refusal(plain: dict[str, Any]) -> str:
    """What is said of a config; empty where it is taken."""
    try:
        from_plain(plain)
    except user_errors.USER_ERRORS as error:
        return user_errors.one_line(error)
    return ""


@pytest.mark.parametrize("key", NUMBERS)
def test_a_number_outside_of_its_range_is_one_line(key: str) -> None:
    kind, rule = NUMBERS[key], rule_of_key(key)
    assert rule is not None, f"{key} has no range"
    least, most = rule.least, rule.most  # type: ignore[union-attr]
    assert least >= 0 and most < float("inf")
    for value in [*ANYTHING, least - 1, most + 1, *([0] if least else [])]:
        line = refusal(with_value(key, kind, value))
        assert line.startswith(key) and "\n" not in line, (value, line)
        assert f"{least} to {most}" in line, (value, line)
        written = {str(value), str(float(value)) if isinstance(value, int) else ""}
        assert any(text and text in line for text in written), (value, line)


@pytest.mark.parametrize("key", NUMBERS)
def test_the_ends_of_a_range_are_taken(key: str) -> None:
    """Where another key refuses them, the line names both."""
    rule = rule_of_key(key)
    for value in (rule.least, rule.most):  # type: ignore[union-attr]
        line = refusal(with_value(key, NUMBERS[key], value))
        assert "must be" not in line
        assert not line or line.count("=") > 1 or "need" in line, line
