"""Imports by name, only when needed: commands, and runners, which import torch."""

from __future__ import annotations

import importlib
from typing import Any


def imported(name: str) -> Any:
    """`module:attribute`, imported now."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)
