"""Keys that are true or false take nothing else, however a config is composed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from vtexp.config import user_errors
from vtexp.config.checks import from_plain, with_keys
from vtexp.config.compose import compose_config
from vtexp.config.schema import GROUP_SCHEMAS, Config, to_plain


def _booleans(schema: Any, prefix: str) -> Iterator[str]:
    """Dotted keys whose type is or may be a bool, by the annotations alone."""
    for name, kind in get_type_hints(schema).items():
        if is_dataclass(kind):
            yield from _booleans(kind, f"{prefix}{name}.")
        elif kind is bool or bool in get_args(kind):
            yield f"{prefix}{name}"


BOOLEANS = [name for name, kind in get_type_hints(Config).items() if kind is bool]
for group, schema in GROUP_SCHEMAS.items():
    BOOLEANS += _booleans(schema, f"{group}.")


def refusal(compose: Any) -> str:
    with pytest.raises(user_errors.USER_ERRORS) as caught:
        compose()
    return user_errors.one_line(caught.value)


def test_there_are_booleans_at_the_top_and_in_groups() -> None:
    assert {"force_full_tokens", "plan", "hardware.compile", "dataset.stratify"} <= {*BOOLEANS}


def value_of(key: str, value: str) -> Any:
    """What a key typed with a value becomes."""
    part: Any = compose_config(["hardware=local_gpu", f"{key}={value}"])
    for name in key.split("."):
        part = getattr(part, name)
    return part


@pytest.mark.parametrize("key", BOOLEANS)
def test_a_number_but_0_and_1_is_refused(key: str) -> None:
    line = refusal(lambda: value_of(key, "2"))
    assert line.startswith(f"{key}: ") and "true or false" in line and "\n" not in line
    assert value_of(key, "0") is False and value_of(key, "1") is True


@pytest.mark.parametrize("value", ["-1", "'2'", "1.5", "maybe"])
def test_other_values_are_refused(value: str) -> None:
    line = refusal(lambda: value_of("force_full_tokens", value))
    assert line.startswith("force_full_tokens: ") and "true or false" in line


def test_words_are_taken() -> None:
    words = ("yes", "on", "true", "no", "off", "false")
    taken = [value_of("force_full_tokens", word) for word in words]
    assert taken == [True] * 3 + [False] * 3


def test_a_number_in_a_file_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\nforce_full_tokens: 2\n"
    )
    line = refusal(lambda: compose_config(["experiment=mine"], tmp_path))
    assert line.startswith("force_full_tokens: ") and "true or false" in line


def test_a_number_in_a_kept_config_is_refused_too() -> None:
    config = compose_config(["sweep.name=a"])
    plain = to_plain(config)
    plain["dataset"]["stratify"] = 3
    assert refusal(lambda: from_plain(plain)).startswith("dataset.stratify: ")
    line = refusal(lambda: with_keys(config, ["hardware.auto_adjust_batch_size=2"]))
    assert "auto_adjust_batch_size" in line
