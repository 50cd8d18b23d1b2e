"""The JSON file of a benchmark: what it found, with its command and the machine."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from vtexp.runs import surroundings
from vtexp.utils import files
from vtexp.utils.typed import to_json


def write_results(path: Path | None, found: dict[str, Any], device: str = "cpu") -> None:
    """Write `found` behind the command that was typed and what it ran on; nothing without a path.

    Raises VtexpError where it cannot be written.
    """
    if path is None:
        return
    script = Path(sys.argv[0])
    about = {
        "command": shlex.join(["python", f"{script.parent.name}/{script.name}", *sys.argv[1:]]),
        "environment": to_json(surroundings.describe(torch.device(device))),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, about | found)
