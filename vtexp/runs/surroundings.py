"""What a run ran on: versions, source commit, host and device."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import vtexp
from vtexp.runs.allocation import usable_cores, visible_gpus
from vtexp.runs.records import Device, Environment, GitState
from vtexp.utils import source
from vtexp.utils.cores import cpu_quota
from vtexp.utils.environment import host

if TYPE_CHECKING:
    import torch

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "pillow",
    "kornia-rs",
    "hydra-core",
    "omegaconf",
    "datasets",
    "wandb",
    "submitit",
)


def describe(device: torch.device) -> Environment:
    """This process's surroundings."""
    import torch

    return Environment(
        vtexp=vtexp.__version__,
        git=git_state(),
        source=source.fingerprint(),
        submitted_source=os.environ.get(source.SUBMITTED),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        host=host(),
        platform=platform.platform(),
        python=platform.python_version(),
        packages={name: _version(name) for name in PACKAGES},
        device=_device(device),
        cpu_count=os.cpu_count(),
        torch_threads=torch.get_num_threads(),
        load_average_1min=round(os.getloadavg()[0], 2),
        slurm_job_id=os.environ.get("SLURM_JOB_ID"),
        usable_cores=usable_cores(),
        cpu_quota=cpu_quota(),
        visible_gpus=visible_gpus(),
    )


def _device(device: torch.device) -> Device:
    if device.type != "cuda":
        return Device(type=device.type, name=_cpu_name())
    import torch

    properties = torch.cuda.get_device_properties(device)
    return Device(
        type="cuda",
        name=properties.name,
        memory_gib=round(properties.total_memory / 2**30, 1),
        cuda=torch.version.cuda,
    )


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_state() -> GitState | None:
    """Commit of the source tree this package runs from, and whether tracked files differ."""
    root = Path(vtexp.__file__).parents[1]
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return GitState(commit=git("rev-parse", "HEAD"), changed=bool(changed))
    except (OSError, subprocess.CalledProcessError):
        return None
