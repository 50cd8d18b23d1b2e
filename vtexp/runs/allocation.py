"""The cores and GPUs that a job of SLURM has, beside those that were asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence

from vtexp.config.choices import Device, Launcher
from vtexp.config.schema import HardwareConfig
from vtexp.runs.records import Environment
from vtexp.utils.cores import core_count
from vtexp.utils.text import count_of

#: Options of `hardware.slurm.extra` that ask for cores or GPUs past `cpus` and `gpus`.
_OTHER_CORES = {"cpus_per_task", "cpus_per_gpu", "ntasks", "ntasks_per_node", "threads_per_core"}
_OTHER_GPUS = {"gres", "gpus", "gpus_per_node", "gpus_per_task", "gpus_per_socket", "tres_per_task"}
#: What CUDA_VISIBLE_DEVICES says of no GPU.
_NO_GPU = {"", "-1", "NoDevFiles"}


def usable_cores() -> int:
    """Cores that this process may use: those that it is bound to, or fewer by a quota or by SLURM.

    On a site without binding, the kernel would let it use all cores of the node.
    """
    bound = core_count()
    given, tasks = (os.environ.get(f"SLURM_{name}", "") for name in ("CPUS_ON_NODE", "NTASKS"))
    if not given.isdecimal():
        return bound
    share = int(given) // (int(tasks) if tasks.isdecimal() and int(tasks) else 1)
    return max(1, min(bound, share))


def named_gpus() -> list[str]:
    """The GPUs that CUDA_VISIBLE_DEVICES names to this process; empty where it is not set."""
    return [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]


def shares(gpus: Sequence[str], count: int) -> list[str]:
    """CUDA_VISIBLE_DEVICES of each of so many processes that share some GPUs evenly."""
    own = len(gpus) // count
    return [",".join(gpus[n * own : (n + 1) * own]) for n in range(count)]


def visible_gpus() -> int:
    """GPUs that CUDA shows to this process."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return sum(gpu.strip() not in _NO_GPU for gpu in named.split(","))
    import torch

    return torch.cuda.device_count()


def differences(hardware: HardwareConfig, here: Environment) -> list[str]:
    """How a SLURM job's cores and GPUs differ from those asked for, one line each.

    Extra cores do not matter, as threads are fixed, nor do GPUs to a job on the CPU.
    """
    if hardware.launcher != Launcher.slurm or not here.slurm_job_id or not here.submitted_source:
        return []
    asked = hardware.slurm
    extra = {name.replace("-", "_") for name in asked.extra}
    found = []
    if here.usable_cores is not None and not extra & _OTHER_CORES:
        if here.usable_cores < asked.cpus:
            found.append(
                f"the job could use {count_of(here.usable_cores, 'core')} of the {asked.cpus} that "
                "hardware.slurm.cpus asks for"
            )
        elif hardware.device == Device.cpu and here.torch_threads != asked.cpus:
            found.append(
                f"the job computed with {count_of(here.torch_threads, 'thread')}, not on the "
                f"{count_of(asked.cpus, 'core')} that hardware.slurm.cpus asks for: "
                "OMP_NUM_THREADS was set"
            )
    gpus = here.visible_gpus
    if gpus is not None and not extra & _OTHER_GPUS:
        more = hardware.device == Device.cuda and gpus > max(1, asked.gpus)
        if more or gpus < asked.gpus:
            found.append(
                f"the job saw {count_of(gpus, 'GPU')}, hardware.slurm.gpus asks for {asked.gpus}"
            )
    return found
