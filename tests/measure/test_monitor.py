"""What the machine did while prefills were timed: load, heat, quotas, GPUs, energy."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vtexp.measure.energy import EnergyMeter, energy_counter
from vtexp.measure.monitor import Gpu, Monitor, OtherLoad, disturbances, throttled_by
from vtexp.utils.cores import own_cores


def test_other_processes_are_noticed() -> None:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        load = OtherLoad()
        time.sleep(1.0)
        cores = load.cores()
    finally:
        busy.kill()
        busy.wait()
    if cores is None:
        pytest.skip("/proc/stat cannot be read: the load cannot be told")
    assert cores > 0.3
    report = {"other_cores_busy": cores, "busy_share": 1.0, "cores": 1}
    report |= {"cpu_throttle_events": 0, "quota_stopped_share": 0.0, "gpus": []}
    (doubt,) = disturbances(report)
    assert "other processes kept" in doubt


class Nvml(SimpleNamespace):
    """NVML of one GPU, as the module pynvml shows it; the memory clock cannot be asked for."""

    NVMLError = type("NVMLError", (Exception,), {})
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self) -> None:
        super().__init__(reasons=1, clock=1980, processes=[], millijoules=0.0)

    def nvmlDeviceGetClockInfo(self, gpu: Any, kind: int) -> int:
        if kind == self.NVML_CLOCK_MEM:
            raise self.NVMLError
        return self.clock

    def nvmlDeviceGetPowerUsage(self, gpu: Any) -> int:
        return 350_000

    def nvmlDeviceGetTemperature(self, gpu: Any, kind: int) -> int:
        return 60

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, gpu: Any) -> int:
        return self.reasons

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: Any) -> list[Any]:
        return [SimpleNamespace(pid=pid) for pid in self.processes]

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.95"

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: Any) -> float:
        return self.millijoules


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    found = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", found)
    return found


def test_others_that_are_busy_in_a_quarter_of_the_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = itertools.cycle([float(len(own_cores())), 0.0, 0.0, 0.0])
    monkeypatch.setattr("vtexp.measure.monitor.EVERY_S", 0.005)
    monkeypatch.setattr("vtexp.measure.monitor.OtherLoad.cores", lambda _: next(loads))
    with Monitor([]) as monitor:
        time.sleep(0.25)
    assert monitor.report["busy_share"] == pytest.approx(0.25, abs=0.12)


def test_what_a_gpu_does_not_tell_is_left_open(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise nvml.NVMLError

    for name in ("PowerUsage", "ComputeRunningProcesses", "CurrentClocksThrottleReasons"):
        monkeypatch.setattr(nvml, f"nvmlDeviceGet{name}", refused)
    with Monitor([Gpu("gpu")]) as monitor:
        pass
    (gpu,) = monitor.report["gpus"]
    assert gpu["start"]["power_w"] is None and "power_w" not in gpu["extremes"]
    assert gpu["throttled_by"] == gpu["other_processes"] == []


def test_injected_throttling_is_flagged(nvml: Nvml) -> None:
    with Monitor([Gpu("gpu")]) as quiet:
        pass
    assert [d for d in disturbances(quiet.report) if "GPU" in d] == []
    assert quiet.report["gpus"][0]["start"]["memory_clock_mhz"] is None
    with Monitor([Gpu("gpu")]) as monitor:
        nvml.reasons, nvml.clock, nvml.processes = 0x40 | 0x04, 900, [1, 2]
        time.sleep(0.6)  # one look in between
        nvml.reasons, nvml.clock, nvml.processes = 1, 1980, []
    (gpu,) = monitor.report["gpus"]
    assert gpu["extremes"]["sm_clock_mhz"] == {"min": 900, "max": 1980}
    assert gpu["extremes"]["power_w"] == {"min": 350, "max": 350}
    found = " ".join(disturbances(monitor.report))
    for reason in ("its power limit", "its temperature (hardware)", "1 other processes"):
        assert reason in found


@pytest.mark.parametrize(("clock", "held"), [(1980, False), (1930, False), (1900, True)])
def test_the_power_limit_is_told_where_the_clock_fell(clock: int, held: bool) -> None:
    full = {"sm_clock_mhz": 1980, "throttled_by": []}
    limited = {"sm_clock_mhz": clock, "throttled_by": ["its power limit"]}
    idle = {"sm_clock_mhz": 345, "throttled_by": []}
    assert throttled_by([idle, full, limited]) == (["its power limit"] if held else [])
    hot = {"sm_clock_mhz": 1980, "throttled_by": ["its temperature (hardware)"]}
    assert throttled_by([hot]) == ["its temperature (hardware)"]


def test_a_processor_that_was_slowed_down_by_heat_is_flagged(tmp_path: Path) -> None:
    counter = tmp_path / "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    counter.parent.mkdir(parents=True)
    counter.write_text("7\n")
    with Monitor([], root=tmp_path) as monitor:
        counter.write_text("9\n")
    assert monitor.report["cpu_throttle_events"] == 2
    assert any("its temperature" in doubt for doubt in disturbances(monitor.report))


@pytest.mark.parametrize(
    ("stopped_s", "doubtful"), [(0.0, False), (0.015, False), (0.3, True), (60.0, True)]
)
def test_a_quota_that_stopped_the_process_is_flagged(
    stopped_s: float, doubtful: bool, tmp_path: Path
) -> None:
    """The group was not stopped by its own quota; that above it was, before the timing, too."""
    outer, own = tmp_path / "sys/fs/cgroup/pod", tmp_path / "sys/fs/cgroup/pod/c1"
    own.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/pod/c1\n")
    (outer / "cpu.max").write_text("350000 100000\n")
    (own / "cpu.max").write_text("100000 100000\n")
    (own / "cpu.stat").write_text("throttled_usec 0\n")
    (outer / "cpu.stat").write_text("throttled_usec 7000000\n")
    with Monitor([], root=tmp_path) as monitor:
        time.sleep(0.2)
        (outer / "cpu.stat").write_text(f"throttled_usec {7_000_000 + 1_000_000 * stopped_s:.0f}\n")
    share = stopped_s / (3 * monitor.report["seconds"])  # three whole cores
    assert monitor.report["quota_stopped_share"] == pytest.approx(min(1.0, share), rel=0.02)
    found = [doubt for doubt in disturbances(monitor.report) if "quota" in doubt]
    assert len(found) == doubtful
    assert all("3.5 cores" in doubt for doubt in found)


def test_energy_is_the_counters_and_absent_without_one(
    tmp_path: Path, nvml: Nvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vtexp.measure.energy.IDLE_S", 0.1)
    monkeypatch.setattr("vtexp.measure.energy.SETTLE_S", 0.0)
    assert energy_counter([], powercap=tmp_path) is None
    package = tmp_path / "intel-rapl:0"
    (tmp_path / "intel-rapl:0:0").mkdir()  # a part of the package, counted in it
    board = tmp_path / "intel-rapl:1"
    for zone, name in ((package, "package-0"), (board, "psys")):  # the board has the package in it
        zone.mkdir()
        (zone / "name").write_text(name + "\n")
    (package / "max_energy_range_uj").write_text("999999\n")
    (package / "energy_uj").write_text("900000\n")
    counter = energy_counter([], powercap=tmp_path)
    assert counter is not None
    (package / "energy_uj").write_text("100000\n")  # it has started again at 0
    assert counter() == pytest.approx(0.2)

    counter = energy_counter([Gpu("gpu")])
    assert counter is not None

    def once() -> None:
        nvml.millijoules += 2500.0
        time.sleep(0.01)

    found = EnergyMeter(counter).measure([once], lambda: None, seconds=0.2)
    assert found["energy_j_per_prefill"] == pytest.approx(2.5)
    assert found["idle_power_w"] == pytest.approx(0.0)
    assert found["energy_passes"] >= 5
    # The counter of a GPU is that of all its instances; one that fails tells nothing.
    assert energy_counter([Gpu("gpu", mig=True)]) is None

    def broken() -> float:
        raise nvml.NVMLError

    assert EnergyMeter(broken).measure([once], lambda: None, seconds=0.2) == {}


def test_an_instance_of_a_gpu_is_flagged(nvml: Nvml) -> None:
    nvml.processes = [1, 2]  # of other instances
    with Monitor([Gpu("gpu", mig=True)]) as monitor:
        pass
    found = [doubt for doubt in disturbances(monitor.report) if "GPU" in doubt]
    assert len(found) == 1 and "MIG" in found[0]
