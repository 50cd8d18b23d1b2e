"""What a key that is true or false takes, whichever way a config is composed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf.errors import ValidationError
from omegaconf.nodes import BooleanNode


@contextmanager
def strict_booleans() -> Iterator[None]:
    """OmegaConf takes every whole number but 0 for true; meanwhile only 0 and 1 are booleans.

    Others raise its ValidationError, which names the key.
    """
    own = BooleanNode._validate_and_convert_impl

    def strict(node: BooleanNode, value: Any) -> bool:
        if isinstance(value, int) and value not in (0, 1):
            raise ValidationError("Value '$VALUE' is not a valid bool (type $VALUE_TYPE)")
        return own(node, value)

    setattr(BooleanNode, own.__name__, strict)
    try:
        yield
    finally:
        setattr(BooleanNode, own.__name__, own)
