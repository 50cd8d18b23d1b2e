"""Cores that a quota leaves to a process: in trees of files as kernels show them, and for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from vtexp.utils.cores import cores_of_quota, cpu_quota, stopped_s

HOST = "12:pids:/x\n4:cpu,cpuacct:/docker/1f\n1:name=systemd:/docker/1f\n0::/other\n"


def tree(root: Path, membership: str, **files: str) -> Path:
    """A machine's files: /proc/self/cgroup, and those of control groups by their path."""
    shown = {f"sys/fs/cgroup/{path}": text for path, text in files.items()}
    for path, text in (shown | {"proc/self/cgroup": membership}).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


@pytest.mark.parametrize(
    ("membership", "files", "quota", "cores"),
    [
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2.5, 2),  # a container of its own namespace
        ("0::/\n", {"cpu.max": "max 100000\n"}, None, None),
        ("0::/\n", {"cpu.max": "1000 100000\n"}, 0.01, 1),
        ("0::/\n", {}, None, None),  # a machine without groups
        (  # the tightest of all above
            "0::/pods.slice/pod1.slice/c1.scope\n",
            {
                "pods.slice/cpu.max": "max 100000",
                "pods.slice/pod1.slice/cpu.max": "150000 50000",
                "pods.slice/pod1.slice/c1.scope/cpu.max": "800000 100000",
            },
            3.0, 3,
        ),
        ("0::/a b:c/d\n", {"a b:c/d/cpu.max": "100000 100000"}, 1.0, 1),
        ("0::/../../elsewhere\n", {"cpu.max": "400000 100000"}, 4.0, 4),  # above the namespace
        ("0::/gone (deleted)\n", {"cpu.max": "400000 100000"}, 4.0, 4),
        (
            HOST,
            {"cpu/docker/1f/cpu.cfs_quota_us": "-1", "cpu/docker/1f/cpu.cfs_period_us": "100000"},
            None, None,
        ),
        (
            HOST,
            {
                "cpu/docker/cpu.cfs_quota_us": "600000", "cpu/docker/cpu.cfs_period_us": "100000",
                "cpu/docker/1f/cpu.cfs_quota_us": "-1", "cpu/docker/1f/cpu.cfs_period_us": "100000",
                "other/cpu.max": "100000 100000",
            },
            6.0, 6,
        ),
        (  # the host's name of a group whose files the container shows at the top
            HOST,
            {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "20000\n"},
            2.5, 2,
        ),
        ("0::/\n", {"cpu.max": "\n"}, None, None),
        ("0::/\n", {"cpu.max": "nonsense"}, None, None),
        ("0::/\n", {"cpu.max": "100000 0"}, None, None),
        ("nonsense", {"cpu.max": "max 100000"}, None, None),
    ],
)  # fmt: skip
def test_the_tightest_quota_holds(
    membership: str, files: dict[str, str], quota: float | None, cores: int | None, tmp_path: Path
) -> None:
    root = tree(tmp_path, membership, **files)
    assert cpu_quota(root) == quota
    assert cores_of_quota(root) == cores


def test_a_machine_without_control_groups(tmp_path: Path) -> None:
    """As macOS."""
    assert (cpu_quota(tmp_path), cores_of_quota(tmp_path)) == (None, None)
    assert stopped_s(tmp_path) == {}


def test_seconds_of_all_groups_above(tmp_path: Path) -> None:
    stat = "usage_usec 5\nnr_periods 70\nnr_throttled 7\nthrottled_usec {}\nnr_bursts 0\n"
    files = {"a/cpu.stat": stat.format(2_500_000), "a/b/cpu.stat": stat.format(0)}
    root = tree(tmp_path / "2", "0::/a/b\n", **files, **{"cpu.stat": "usage_usec 5\n"})
    top = root / "sys/fs/cgroup"
    assert stopped_s(root) == {top / "a": 2.5, top / "a/b": 0.0}
    stat = "nr_periods 8\nnr_throttled 8\nthrottled_time 1500000000\n"
    root = tree(tmp_path / "1", "3:cpuacct,cpu:/\n0::/\n", **{"cpu/cpu.stat": stat})
    assert stopped_s(root) == {root / "sys/fs/cgroup/cpu": 1.5}


@pytest.fixture
def little_time() -> Iterator[Path]:
    """The file by which a process joins a real control group of a 20th of a core."""
    first = Path("/sys/fs/cgroup/cpu")
    group = (first if first.is_dir() else first.parent) / f"vtexp-test-{os.getpid()}"
    try:
        group.mkdir()
        if first.is_dir():
            (group / "cpu.cfs_quota_us").write_text("5000")
        else:
            (group / "cpu.max").write_text("5000 100000")
        yield group / "cgroup.procs"
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    finally:
        with suppress(OSError):
            group.rmdir()


WORK = """
import json, os, sys, time
from vtexp.measure.monitor import Monitor, disturbances
from vtexp.utils.cores import cores_of_quota
open(sys.argv[1], "w").write(str(os.getpid()))
with Monitor([]) as monitor:
    end = time.monotonic() + float(sys.argv[2])
    while time.monotonic() < end:
        time.sleep(float(sys.argv[3]))
print(json.dumps([cores_of_quota(), disturbances(monitor.report)]))
"""


@pytest.mark.parametrize(("sleep_s", "stopped"), [(0, True), (0.2, False)])
def test_a_real_quota(little_time: Path, sleep_s: float, stopped: bool) -> None:
    command = [sys.executable, "-c", WORK, str(little_time), "1.5", str(sleep_s)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    cores, doubts = json.loads(done.stdout)
    assert cores == 1
    assert any("quota of 0.05 cores" in doubt for doubt in doubts) == stopped
