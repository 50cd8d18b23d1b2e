"""A run's memory estimate beside what its device has. No torch here."""

from __future__ import annotations

import os
from collections.abc import Collection

from vtexp.budget.limits import Verdict
from vtexp.config.choices import Device, Launcher
from vtexp.config.schema import Config, HardwareConfig
from vtexp.cost.flops import Memory, ModelArithmetic
from vtexp.cost.prompts import PromptCounts

#: From this share of a device's memory on, an estimate is near the limit: it leaves out what the
#: device's own software takes and what is lost between tensors.
NEAR = 0.9


def device_memory_gb(hardware: HardwareConfig) -> float | None:
    """Memory for a model in GB (10^9 bytes): of the profile, or this machine's; None if unknown."""
    if hardware.memory_gb is not None:
        if not hardware.sharded:
            return hardware.memory_gb
        gpus = hardware.slurm.gpus if hardware.launcher == Launcher.slurm else 0
        return hardware.memory_gb * gpus or None
    if hardware.device == Device.cpu and hardware.launcher != Launcher.slurm:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return None


def estimate(
    arithmetic: ModelArithmetic, config: Config, prompts: Collection[PromptCounts], batch_size: int
) -> Memory:
    """Memory of a batch of prompts with the most of everything of any of these, and answers."""
    first = next(iter(prompts))
    lengths = [p.sequence_length if p.late_length is None else p.late_length for p in prompts]
    largest = PromptCounts(
        max(prompt.num_crops for prompt in prompts),
        max(prompt.vision_tokens for prompt in prompts),
        max(prompt.sequence_length for prompt in prompts),
        connected_tokens=max(prompt.connected for prompt in prompts),
        reduction=first.reduction,
        late_length=None if first.late_length is None else max(lengths),
    )
    dtype, new_tokens = config.hardware.dtype.of_weights, config.dataset.max_new_tokens
    return arithmetic.memory(largest, dtype, batch_size, new_tokens)


def refusal(one: Memory, config: Config) -> Verdict | None:
    """Refused where weights and cache of one prompt, which are exact, are more than a GPU has.

    Not on a CPU, which can swap. A GPU of 80 GB by its data sheet has up to 80 GiB: so much counts.
    """
    hardware, memory_gb = config.hardware, device_memory_gb(config.hardware)
    if memory_gb is None or hardware.device == Device.cpu:
        return None
    needed = one.weights + one.cache
    if needed <= memory_gb * 2**30:
        return None
    reason = f"weights and cache take {needed / 1e9:.1f} GB as {hardware.dtype.value}, of "
    return Verdict("refused", f"{reason}{memory_gb:g} GB (hardware.memory_gb)")


def warning(one: Memory, batch: Memory, batch_size: int, config: Config) -> str | None:
    """What is near or above the device's memory by the estimate, in words; None if nothing is."""
    memory_gb = device_memory_gb(config.hardware)
    if memory_gb is None:
        return None
    if one.total > NEAR * memory_gb * 1e9:
        return f"memory {_near(one, memory_gb)}: one prompt needs about {_of(one, memory_gb)}"
    if batch.total > NEAR * memory_gb * 1e9:
        adjusted = config.hardware.auto_adjust_batch_size
        then = "it is halved if memory runs out" if adjusted else "take a smaller one"
        needs = f"hardware.batch_size={batch_size} needs about {_of(batch, memory_gb)}"
        return f"memory {_near(batch, memory_gb)}: {needs}; {then}"
    return None


def _near(memory: Memory, memory_gb: float) -> str:
    return "beyond the limit" if memory.total > memory_gb * 1e9 else "near the limit"


def _of(memory: Memory, memory_gb: float) -> str:
    return f"{memory.total / 1e9:.1f} GB of {memory_gb:.3g}"
