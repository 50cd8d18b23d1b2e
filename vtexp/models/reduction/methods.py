"""The reduction methods by name. A new one is a file beside this one, and a line here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from vtexp.budget.reduction import Reduction
from vtexp.models.reduction.attended import cls_attention
from vtexp.models.reduction.conditional import conditional
from vtexp.models.reduction.floors import pool, random, stride
from vtexp.models.reduction.max_min import max_min
from vtexp.models.reduction.method import Method
from vtexp.utils.own_code import own_function

_METHODS: dict[str, Callable[[Reduction], Method]] = {
    "random": lambda asked: partial(random, seed=asked.seed),
    "stride": lambda _: stride,
    "pool": lambda _: pool,
    "max_min": lambda _: max_min,
    "cls_attention": lambda asked: partial(cls_attention, merge=asked.merge),
    "conditional": lambda _: conditional,
    "python": lambda asked: own_function("reduction.function", asked.function or ""),
}


def method_of(asked: Reduction) -> Method:
    """The method of a reduction. Raises ConfigError where the user's own cannot be imported."""
    return _METHODS[asked.method](asked)
