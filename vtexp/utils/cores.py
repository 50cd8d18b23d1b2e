"""The cores that this process may use: those it is bound to, and the quota of its control group.

Containers and SLURM show all cores of a machine and stop a process that uses more of their time
than its quota: docs.kernel.org, admin-guide/cgroup-v2 (cpu.max) and scheduler/sched-bwc (v1).
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

#: Where /proc and /sys are.
ROOT = Path("/")


def own_cores() -> set[int]:
    """The cores that this process is bound to."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))  # macOS


def cpu_quota(root: Path = ROOT) -> float | None:
    """Cores' worth of time that the tightest quota leaves this process; None without a quota."""
    return min(quotas(root).values(), default=None)


def cores_of_quota(root: Path = ROOT) -> int | None:
    """Whole cores of the tightest quota; None without a quota."""
    quota = cpu_quota(root)
    return None if quota is None else whole_cores(quota)


def whole_cores(quota: float) -> int:
    """Whole cores of a quota, at least 1: one thread more and all of them are stopped."""
    return max(1, int(quota))


def quotas(root: Path = ROOT) -> dict[Path, float]:
    """Cores' worth of time of this process's control group and those above it that have a quota."""
    found = {group: _quota(group) for group in _groups(root)}
    return {group: quota for group, quota in found.items() if quota is not None}


def core_count(root: Path = ROOT) -> int:
    """Cores that this process may use: those that it is bound to, or fewer by its quota."""
    bound = len(own_cores())
    return min(bound, cores_of_quota(root) or bound)


def stopped_s(root: Path = ROOT) -> dict[Path, float]:
    """Seconds for which a quota has stopped threads so far, of all cores, by its control group."""
    found = {}
    for group in _groups(root):
        words = _words(group / "cpu.stat")
        counts = dict(zip(words[::2], words[1::2], strict=False))
        for name, per_s in (("throttled_usec", 1e6), ("throttled_time", 1e9)):  # versions 2 and 1
            with suppress(KeyError, ValueError):
                found[group] = int(counts[name]) / per_s
    return found


def _groups(root: Path) -> list[Path]:
    """Folders of this process's control group of CPU time, and of all above it.

    A container may name its group as its host does, and show only the files from there on, as
    those at the top.
    """
    lines = _text(root / "proc/self/cgroup").splitlines()
    rows = (line.split(":", 2) for line in lines if line.count(":") > 1)
    paths = {name: path for _, names, path in rows for name in names.split(",")}
    top = root / "sys/fs/cgroup" / ("cpu" if "cpu" in paths else "")  # version 1 or 2
    own = top / paths.get("cpu", paths.get("", "")).lstrip("/")
    return [group for group in (own, *own.parents) if group.is_relative_to(top)]


def _quota(group: Path) -> float | None:
    """Cores' worth of time of one control group; None where it has no quota (`max`, or -1)."""
    words = _words(group / "cpu.max")
    if not words:
        words = _words(group / "cpu.cfs_quota_us") + _words(group / "cpu.cfs_period_us")
    if len(words) != 2 or not all(word.isdecimal() for word in words):
        return None
    quota_us, period_us = map(int, words)
    return quota_us / period_us if period_us else None


def _words(path: Path) -> list[str]:
    return _text(path).split()


def _text(path: Path) -> str:
    """Text of a file; empty where it cannot be read."""
    with suppress(OSError):
        return path.read_text(errors="replace")
    return ""
