"""What each key of a config takes, kept at its field: ranges of numbers, patterns of texts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import MISSING

from vtexp.errors import ConfigError

#: The largest seed that numpy takes.
MOST_SEED = 2**32 - 1
#: Where a field's metadata has its rule.
_RULE = "rule"


@dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`, both included. `unit`: what they count, such as `s`."""

    least: float
    most: float
    unit: str = ""

    def allows(self, value: Any) -> bool:
        """Whether a number is in the range; NaN never is."""
        return self.least <= value <= self.most

    def __str__(self) -> str:
        return f"{self.least} to {self.most} {self.unit}".rstrip()


@dataclass(frozen=True)
class Pattern:
    """Texts that match a regular expression as a whole. `meaning`: the same in words."""

    regex: str
    meaning: str

    def allows(self, value: Any) -> bool:
        """Whether a text matches."""
        return re.fullmatch(self.regex, value, re.DOTALL) is not None

    def __str__(self) -> str:
        return self.meaning


def number(default: Any, least: float, most: float, unit: str = "") -> Any:
    """A dataclass field that holds numbers of a range: one, a list or a dict of them, or None."""
    return _ruled(default, Range(least, most, unit))


def text(default: Any, regex: str, meaning: str) -> Any:
    """A dataclass field that holds texts of a pattern: one, or a list of them, or None."""
    return _ruled(default, Pattern(regex, meaning))


def name_field() -> Any:
    """A text that becomes part of a folder's name; it must be given."""
    allowed = "at most 64 letters, digits and . _ + - (a letter, digit or _ first)"
    return text(MISSING, r"\w[\w.+-]{0,63}", f"{allowed}: it becomes part of a folder's name")


def _ruled(default: Any, rule: Range | Pattern) -> Any:
    made = {"default_factory": default} if isinstance(default, type) else {"default": default}
    return field(metadata={_RULE: rule}, **made)


def rule_of(schema: Any, key: str) -> Range | Pattern | None:
    """The rule of a dotted key below a schema, such as `slurm.cpus`; None where it has none.

    A key within a list or dict has the rule of the whole.
    """
    name, _, rest = key.partition(".")
    own = next((f for f in fields(schema) if f.name == name), None)
    if own is None:
        return None
    kind = get_type_hints(schema)[name]
    return rule_of(kind, rest) if is_dataclass(kind) else own.metadata.get(_RULE)


def ranges(schema: Any, prefix: str) -> Iterator[tuple[str, Range]]:
    """Dotted keys of a schema that hold numbers, and of those within it, with their ranges."""
    hints = get_type_hints(schema)
    for own in fields(schema):
        key, rule = f"{prefix}.{own.name}", own.metadata.get(_RULE)
        if is_dataclass(kind := hints[own.name]):
            yield from ranges(kind, key)
        elif isinstance(rule, Range):
            yield key, rule


def require_allowed(part: Any, path: str = "") -> None:
    """Check each value of a typed config against its field's kind and rule.

    Hydra lets `${...}` put a part or a list where another kind belongs. Raises ConfigError, naming
    key, value and what is allowed.
    """
    hints = get_type_hints(type(part))
    for own in fields(part):
        value, key, rule = getattr(part, own.name), f"{path}{own.name}", own.metadata.get(_RULE)
        kind = hints[own.name]
        kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
        if not any(_is_of(value, kind) for kind in kinds):
            raise ConfigError(f"{key}: {value!s:.60} is not a valid value{_but(rule)}")
        if is_dataclass(value):
            require_allowed(value, f"{key}.")
        elif rule is not None:
            for item in _items(value):
                if not rule.allows(item):
                    raise ConfigError(f"{key}={item!s:.60}: must be {rule}")


def _but(rule: Range | Pattern | None) -> str:
    return "" if rule is None else f"; must be {rule}"


def _items(value: Any) -> list[Any]:
    """The numbers or texts in a field's value."""
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list):
        return value
    return [] if value is None else [value]


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of a field's kind, such as `list[str]`; of lists each item."""
    if get_origin(kind) in (list, dict):
        items = value.values() if isinstance(value, dict) else value
        item = get_args(kind)[-1]
        return isinstance(value, get_origin(kind)) and all(_is_of(own, item) for own in items)
    if kind in (int, float) and isinstance(value, bool):
        return False
    return kind is Any or isinstance(value, kind)
