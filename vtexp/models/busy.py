"""How much of a prefill the GPU is at work: kernels of a profiled pass."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

#: Categories of a trace's events in which the device works.
AT_WORK = ("kernel", "gpu_memcpy", "gpu_memset")


def kernels_ms(once: Callable[[], None], wait: Callable[[], None]) -> float | None:
    """Milliseconds in which a GPU is at work in one call of `once`, by torch's profiler.

    The profiler slows Python down, not the kernels: compare with a time taken without it. None
    where it sees no kernel (another profiler holds the GPU) or its trace cannot be written.
    """
    once()
    wait()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        once()
        wait()
    with suppress(OSError), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        return busy_ms(json.loads(path.read_text())["traceEvents"]) or None
    return None


def busy_ms(events: Iterable[dict[str, Any]]) -> float:
    """Milliseconds that events of a Chrome trace keep the device at work, overlaps counted once.

    Events have `cat`, and in microseconds `ts` (their start) and `dur`.
    """
    spans = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e.get("cat") in AT_WORK)
    busy_us, reached = 0.0, float("-inf")
    for start, end in spans:
        busy_us += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return busy_us / 1000
