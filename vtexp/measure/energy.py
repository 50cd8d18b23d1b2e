"""Energy of a prefill, from the device's own counter; omitted on devices without one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from vtexp.measure.monitor import Gpu, nvml_errors

#: Seconds without work over which idle power is taken. Counters move in steps.
IDLE_S = 2.0
#: Seconds before that, in which the device lowers its clocks.
SETTLE_S = 1.0
#: Joules since some start.
Counter = Callable[[], float]


def energy_counter(
    gpus: Sequence[Gpu], powercap: Path = Path("/sys/class/powercap")
) -> Counter | None:
    """The counter of these GPUs together, or of the processor packages without any.

    None where the device has none or does not let it be read (RAPL: root alone, mostly).
    """
    if gpus:
        return _gpu_counter(gpus)
    return _rapl_counter(powercap)


def _gpu_counter(gpus: Sequence[Gpu]) -> Counter | None:
    """None, too, for an instance of a GPU (MIG): the counter is that of all instances."""
    import pynvml

    if any(gpu.mig for gpu in gpus):
        return None

    def joules() -> float:
        return sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(g.handle) for g in gpus) / 1e3

    try:
        joules()
    except nvml_errors():
        return None
    return joules


def _rapl_counter(powercap: Path) -> Counter | None:
    """Zones whose name starts with `package`, on AMD too: psys, the whole board, has them in it."""
    zones = sorted(p for p in powercap.glob("intel-rapl:*") if p.name.count(":") == 1)
    try:
        packages = [z for z in zones if (z / "name").read_text().startswith("package")]
        ranges = [int((p / "max_energy_range_uj").read_text()) for p in packages]
        last = [int((p / "energy_uj").read_text()) for p in packages]
    except (OSError, ValueError):
        return None
    if not packages:
        return None
    total_uj = 0

    def joules() -> float:
        nonlocal total_uj
        for i, package in enumerate(packages):
            now = int((package / "energy_uj").read_text())
            total_uj += (now - last[i]) % (ranges[i] + 1)  # it starts again at 0
            last[i] = now
        return total_uj / 1e6

    return joules


class EnergyMeter:
    """Energy of prefills by a counter; what the device draws idle is measured once, at the start.

    Where the counter fails, nothing is measured.
    """

    def __init__(self, counter: Counter) -> None:
        """Create it while the device is idle: that takes SETTLE_S and IDLE_S."""
        self._counter = counter
        self._troubles: tuple[type[Exception], ...] = (OSError, ValueError, *nvml_errors())
        self._idle_w: float | None = None
        time.sleep(SETTLE_S)
        with suppress(*self._troubles):
            before, began = counter(), time.monotonic()
            time.sleep(IDLE_S)
            self._idle_w = (counter() - before) / (time.monotonic() - began)

    def measure(
        self, calls: Sequence[Callable[[], None]], wait: Callable[[], None], seconds: float
    ) -> dict[str, float]:
        """Joules per call, all of them in turn for `seconds`, the device waited for at both ends.

        `energy_j_per_prefill` is all that the device drew, `idle_power_w` what it draws without
        work.
        """
        if self._idle_w is None:
            return {}
        calls[0]()
        wait()
        try:
            passes, before, began = 0, self._counter(), time.monotonic()
            while time.monotonic() - began < seconds:
                for call in calls:
                    call()
                    wait()
                passes += len(calls)
            joules, spent_s = self._counter() - before, time.monotonic() - began
        except self._troubles:
            return {}
        return {
            "energy_j_per_prefill": joules / passes,
            "idle_power_w": self._idle_w,
            "energy_passes": passes,
            "energy_seconds": spent_s,
        }
