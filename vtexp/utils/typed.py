"""Frozen dataclasses to JSON and back, each value of its field's type or refused by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeGuard, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
#: Makes a value of a type; raises Misfit where it cannot be one.
Reader = Callable[[Any], Any]
#: Larger numbers are damage: their sums and squares would overflow.
MOST_INT, MOST_FLOAT = 2**63, 1e300
_LEAVES = frozenset((str, int, float, bool, NoneType))


class Misfit(ValueError):
    """A value that is not of its field's type; `str` names the field, such as `latency.n`."""


def from_json(kind: type[T], plain: Any) -> T:
    """A dataclass from the values of JSON; keys that it does not have are left out.

    Raises Misfit, with the name of the first key that is missing or of another type.
    """
    made: T = _reader(kind)(plain)  # type: ignore[arg-type]
    return made


def to_json(value: Any) -> Any:
    """JSON of a dataclass: objects and lists in the order of its fields."""
    if type(value) in _LEAVES:  # most values, and nothing is asked of them
        return value
    if is_dataclass(value):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: to_json(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(inner) for inner in value]
    return value


def is_whole_number(value: object) -> TypeGuard[int]:
    """Whether a value of JSON is a whole number; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value of JSON is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def known(value: float) -> float | None:
    """A number, or None for NaN, which JSON does not have."""
    return None if math.isnan(value) else float(value)


def flat(plain: Mapping[str, Any], joint: str = "_", prefix: str = "") -> dict[str, Any]:
    """Leaves of nested mappings under their keys joined, such as `mfu_by_stage_connector`."""
    found: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, Mapping):
            found |= flat(value, joint, f"{prefix}{key}{joint}")
        else:
            found[f"{prefix}{key}"] = value
    return found


@cache
def _reader(kind: Any) -> Reader:
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return _record(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _choice(kind)
    if origin in (Union, UnionType):
        return _either([_reader(one) for one in arguments])
    if origin is tuple:
        return _sequence(_reader(arguments[0]))
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(_reader(arguments[1]))
    return _SCALARS[kind]


def _scalar(kind: type) -> Reader:
    def read(value: Any) -> Any:
        if type(value) is not kind:
            raise Misfit
        return value

    return read


def _int(value: Any) -> int:
    if type(value) is not int or abs(value) >= MOST_INT:
        raise Misfit
    return value


def _float(value: Any) -> float:
    if type(value) not in (float, int) or not abs(value) < MOST_FLOAT:
        raise Misfit
    return value  # a whole number stays one: what is written again is what was read


_SCALARS: dict[Any, Reader] = {
    Any: lambda value: value,
    str: _scalar(str),
    bool: _scalar(bool),
    NoneType: _scalar(NoneType),
    int: _int,
    float: _float,
}


def _choice(kind: type[Enum]) -> Reader:
    def read(value: Any) -> Any:
        if type(value) is not str:
            raise Misfit
        try:
            return kind(value)
        except ValueError:
            raise Misfit from None

    return read


def _either(readers: list[Reader]) -> Reader:
    def read(value: Any) -> Any:
        inner = ""
        for one in readers:
            try:
                return one(value)
            except Misfit as error:
                inner = inner or str(error)
        raise Misfit(inner)

    return read


def _sequence(of: Reader) -> Reader:
    def read(value: Any) -> Any:
        if type(value) is not list:
            raise Misfit
        return tuple(map(of, value))

    return read


def _mapping(of: Reader) -> Reader:
    def read(value: Any) -> Any:
        if type(value) is not dict:
            raise Misfit
        return _each((key, of, inner) for key, inner in value.items())

    return read


def _record(kind: Any) -> Reader:
    hints = get_type_hints(kind)
    readers = [(field.name, _reader(hints[field.name])) for field in fields(kind)]
    required = {
        field.name
        for field in fields(kind)
        if field.default is MISSING and field.default_factory is MISSING
    }

    def read(value: Any) -> Any:
        if type(value) is not dict:
            raise Misfit
        if missing := required - value.keys():
            raise Misfit(min(missing))
        given = ((name, reader, value[name]) for name, reader in readers if name in value)
        return kind(**_each(given))

    return read


def _each(parts: Iterable[tuple[str, Reader, Any]]) -> dict[str, Any]:
    """What readers make of values, by their keys; a Misfit names the key."""
    found, key = {}, ""
    try:
        for key, reader, value in parts:
            found[key] = reader(value)
    except Misfit as error:
        inner = str(error)
        raise Misfit(f"{key}.{inner}" if inner else key) from None
    return found
