"""Watching the machine while prefill is timed: other work on it, clocks, power, temperature."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

from vtexp.utils.cores import ROOT, own_cores, quotas, stopped_s, whole_cores
from vtexp.utils.text import percent

#: Seconds between two looks.
EVERY_S = 0.5
#: Share of the cores that others may keep busy, and of the time in which they may keep more.
BUSY, BUSY_SHARE = 0.2, 0.1
#: Share of the time for which a CPU quota may stop this process.
STOPPED = 0.05
#: Why a GPU's clock is lower than it could be: bits of NVML that make timings doubtful
#: (nvmlClocksEventReasons in nvml.h).
THROTTLED = {
    0x04: "its power limit",
    0x08: "a slowdown by its hardware",
    0x20: "its temperature (software)",
    0x40: "its temperature (hardware)",
    0x80: "the power supply's brake",
}
#: The power limit is no trouble by itself: a healthy GPU at full load works at it. It is where the
#: clock falls by more than this below the highest seen.
CLOCK_FALL = 0.03
#: Numbers of a GPU that are followed.
FOLLOWED = ("sm_clock_mhz", "memory_clock_mhz", "power_w", "temperature_c")
#: The kernel's folder of processors.
CPUS = "sys/devices/system/cpu"


class Gpu(NamedTuple):
    """NVML's handle of a whole GPU, and whether only an instance of it (MIG) is used."""

    handle: Any
    mig: bool = False


def nvml_errors() -> tuple[type[Exception], ...]:
    """What NVML raises where a device, or an old driver, cannot do what is asked."""
    import pynvml

    mismatch = getattr(pynvml, "NVMLLibraryMismatchError", pynvml.NVMLError)
    return (pynvml.NVMLError, mismatch)


def nvml_gpus(gpus: Sequence[Any]) -> list[Gpu]:
    """torch's GPUs as NVML knows them; none where it does not."""
    import torch

    if not gpus or torch.version.cuda is None:
        return []
    uuids = [str(torch.cuda.get_device_properties(gpu).uuid) for gpu in gpus]
    with suppress(ImportError):
        import pynvml

        with suppress(*nvml_errors()):
            pynvml.nvmlInit()
            return [_gpu(uuid) for uuid in uuids]
    return []


def _gpu(uuid: str) -> Gpu:
    """A GPU by torch's id of it, which is that of a MIG instance where there is one."""
    import pynvml

    try:
        return Gpu(pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"))
    except nvml_errors():
        instance = pynvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}")
        return Gpu(pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(instance), mig=True)


class Monitor:
    """Context around timings; afterwards `report` says what the machine did meanwhile."""

    def __init__(self, gpus: Sequence[Gpu], root: Path = ROOT) -> None:
        """`root`: where the kernel's folders /proc and /sys are."""
        self._gpus, self._root, self._cpus = gpus, root, root / CPUS
        self._samples: list[list[dict[str, Any]]] = []
        self._busy: list[float | None] = []
        self._ended = threading.Event()
        #: What was seen, JSON-ready.
        self.report: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._load, self._recent, self._began_s = OtherLoad(), OtherLoad(), time.monotonic()
        self._throttled, self._stopped_s = _throttle_counts(self._cpus), stopped_s(self._root)
        self._look()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._look()
        seconds = time.monotonic() - self._began_s
        self.report = {
            "seconds": round(seconds, 3),
            "other_cores_busy": self._load.cores(),
            "busy_share": self._busy_share(),
            "cores": len(own_cores()),
            "cpu_governor": _governor(self._cpus),
            "cpu_throttle_events": _throttle_counts(self._cpus) - self._throttled,
            **self._quota_report(seconds),
            "load_average_1min": round(os.getloadavg()[0], 2),
            "gpus": [self._gpu_report(i) for i in range(len(self._gpus))],
        }

    def _follow(self) -> None:
        while not self._ended.wait(EVERY_S):
            self._look()

    def _look(self) -> None:
        self._samples.append([gpu_state(gpu) for gpu in self._gpus])
        self._busy.append(self._recent.cores())
        self._recent = OtherLoad()

    def _busy_share(self) -> float:
        """Share of the looks between which others kept a fifth of the cores busy."""
        known = [cores for cores in self._busy[1:] if cores is not None]
        return sum(cores > BUSY * len(own_cores()) for cores in known) / max(1, len(known))

    def _quota_report(self, seconds: float) -> dict[str, Any]:
        """Share of this time in which a quota stopped its cores, and the quota that did most."""
        now_s = stopped_s(self._root)
        found: list[tuple[float, float | None]] = [(0.0, None)]
        for group, quota in quotas(self._root).items():
            grown_s = now_s.get(group, 0.0) - self._stopped_s.get(group, 0.0)
            found.append((min(1.0, grown_s / (seconds * whole_cores(quota))), quota))
        share, stopping = max(found, key=lambda own: own[0])
        return {"quota_stopped_share": share, "stopping_quota": stopping}

    def _gpu_report(self, index: int) -> dict[str, Any]:
        """First and last state, extremes of the numbers, and all that was ever amiss."""
        states = [sample[index] for sample in self._samples]
        extremes = {}
        for name in FOLLOWED:
            if values := [state[name] for state in states if state[name] is not None]:
                extremes[name] = {"min": min(values), "max": max(values)}
        return {
            "start": states[0],
            "end": states[-1],
            "extremes": extremes,
            "throttled_by": throttled_by(states),
            "other_processes": sorted({pid for s in states for pid in s["other_processes"]}),
        }


def throttled_by(states: Sequence[dict[str, Any]]) -> list[str]:
    """What held a GPU's clock down in any of these states of it."""
    highest = max((s["sm_clock_mhz"] or 0 for s in states), default=0)

    def fell(state: dict[str, Any]) -> bool:
        return (state["sm_clock_mhz"] or 0) < (1 - CLOCK_FALL) * highest or not highest

    power_limit = THROTTLED[0x04]
    return sorted(
        {why for s in states for why in s["throttled_by"] if why != power_limit or fell(s)}
    )


def gpu_state(gpu: Gpu) -> dict[str, Any]:
    """A GPU now, by NVML: clocks, power, temperature, what slows it, who else is on it.

    None for what the device does not tell.
    """
    import pynvml as nvml

    def ask(name: str, *arguments: Any) -> Any:
        try:
            return getattr(nvml, name)(*arguments)
        except errors:
            return None

    handle, errors = gpu.handle, nvml_errors()
    power_mw = ask("nvmlDeviceGetPowerUsage", handle)
    reasons = ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle) or 0
    processes = ask("nvmlDeviceGetComputeRunningProcesses", handle) or []
    return {
        "sm_clock_mhz": ask("nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_SM),
        "memory_clock_mhz": ask("nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_MEM),
        "power_w": None if power_mw is None else power_mw / 1000,
        "temperature_c": ask("nvmlDeviceGetTemperature", handle, nvml.NVML_TEMPERATURE_GPU),
        "clock_event_reasons": reasons,
        "throttled_by": [why for bit, why in THROTTLED.items() if reasons & bit],
        "other_processes": [] if gpu.mig else _others(processes),
        "mig": gpu.mig,
        "driver": ask("nvmlSystemGetDriverVersion"),
    }


def _others(processes: Sequence[Any]) -> list[int]:
    """Processes on a GPU but this one and its parent, which timed before it.

    In a container ids differ: there one of them, the one with the lowest id, is taken for this.
    """
    ids = sorted(process.pid for process in processes)
    if os.getpid() in ids:
        return [pid for pid in ids if pid not in (os.getpid(), os.getppid())]
    return ids[1:]


def disturbances(report: dict[str, Any]) -> list[str]:
    """What of a monitor's report makes timings doubtful, in words."""
    found = []
    busy, cores = report["other_cores_busy"], report["cores"]
    if busy is not None and busy > BUSY * cores:
        found.append(
            f"other processes kept {busy:.1f} of {cores} cores busy while prefill was timed"
        )
    elif report["busy_share"] > BUSY_SHARE:
        found.append(
            f"other processes were busy for {percent(report['busy_share'])} of the time in which "
            "prefill was timed"
        )
    if (stopped := report["quota_stopped_share"]) > STOPPED:
        quota = report["stopping_quota"]
        found.append(
            f"the CPU quota of {quota:g} core{'' if quota == 1 else 's'} stopped this process for "
            f"{percent(stopped)} of the time in which prefill was timed"
        )
    if report["cpu_throttle_events"]:
        found.append("the processor was slowed down by its temperature while prefill was timed")
    for gpu in report["gpus"]:
        found += [f"the GPU's clock was held down by {why}" for why in gpu["throttled_by"]]
        if others := gpu["other_processes"]:
            found.append(f"{len(others)} other processes were on the GPU while prefill was timed")
        if gpu["start"]["mig"]:
            found.append("the GPU is cut into instances (MIG), whose memory traffic is shared")
    return found


def _governor(cpus: Path) -> str | None:
    """How the kernel chooses this process's clock; None where it does not say."""
    own = min(own_cores())
    with suppress(OSError):
        return (cpus / f"cpu{own}/cpufreq/scaling_governor").read_text().strip()
    return None


def _throttle_counts(cpus: Path) -> int:
    """How often the cores have been slowed down by heat since the machine started; 0 if unknown."""
    total = 0
    for path in cpus.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"):
        with suppress(OSError, ValueError):
            total += int(path.read_text())
    return total


class OtherLoad:
    """Cores that others keep busy, of those that this process may use, since the start.

    Others are processes of this machine and, where it is a virtual one, what its host took away.
    """

    def __init__(self) -> None:
        self._start = self._now()

    def cores(self) -> float | None:
        """Mean number of cores since the start; None where /proc/stat cannot be read."""
        now = self._now()
        if self._start is None or now is None:
            return None
        wall_s, busy_s, own_s = (b - a for a, b in zip(self._start, now, strict=True))
        return max(0.0, (busy_s - own_s) / wall_s) if wall_s > 0 else None

    @staticmethod
    def _now() -> tuple[float, float, float] | None:
        """Seconds of wall clock, of those cores busy, and of this process's own.

        psutil lists the cores without their numbers, which are needed where some are offline.
        """
        try:
            lines = Path("/proc/stat").read_text().splitlines()
        except OSError:
            return None
        names = {f"cpu{core}" for core in own_cores()}
        busy = 0
        for line in lines:
            name, *fields = line.split()
            if name in names:
                user, nice, system, _, _, irq, softirq, stolen, *_ = map(int, fields)
                busy += user + nice + system + irq + softirq + stolen
        return time.monotonic(), busy / os.sysconf("SC_CLK_TCK"), time.process_time()
