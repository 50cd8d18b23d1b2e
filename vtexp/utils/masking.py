"""Texts that go to others (a web page, W&B), without the secrets of this process."""

from __future__ import annotations

import os
import re
from typing import Any

#: Environment variables whose values nobody must be told, and the shortest that are secrets.
_SECRET, _SHORTEST = re.compile("KEY|TOKEN|SECRET|PASSW", re.IGNORECASE), 8


def public(content: Any) -> Any:
    """Something of JSON, with `***` in its texts for the values of the keys and tokens here.

    These are the values of environment variables that are named like one.
    """
    secrets = {value for name, value in os.environ.items() if _SECRET.search(name)}
    longest_first = sorted(secrets, key=len, reverse=True)  # one can be a part of another
    return _masked(content, [value for value in longest_first if len(value) >= _SHORTEST])


def _masked(content: Any, secrets: list[str]) -> Any:
    if isinstance(content, str):
        for secret in secrets:
            content = content.replace(secret, "***")
        return content
    if isinstance(content, dict):
        return {_masked(key, secrets): _masked(value, secrets) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_masked(value, secrets) for value in content]
    return content
