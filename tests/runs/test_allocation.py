"""What a job of SLURM has beside what was asked for."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
import torch

from vtexp.config.choices import Device, Launcher
from vtexp.config.schema import HardwareConfig, SlurmConfig
from vtexp.runs.allocation import differences, usable_cores, visible_gpus
from vtexp.runs.surroundings import describe


def said(
    *, cpus: int = 2, gpus: int = 0, extra: dict[str, Any] | None = None,
    device: Device = Device.cpu, **here: Any,
) -> list[str]:  # fmt: skip
    """What is said of a job that asked for so much and has `here`; as asked for by default."""
    slurm = SlurmConfig(cpus=cpus, gpus=gpus, extra=extra or {})
    hardware = HardwareConfig(name="h", device=device, launcher=Launcher.slurm, slurm=slurm)
    as_asked = {"usable_cores": cpus, "torch_threads": cpus, "visible_gpus": gpus}
    job = {"slurm_job_id": "7", "submitted_source": "0" * 16}
    return differences(hardware, replace(describe(torch.device("cpu")), **(as_asked | job | here)))


def test_a_job_that_has_what_it_asked_for() -> None:
    assert said() == []
    assert said(usable_cores=4) == []  # whole cores of two threads, or no binding
    assert said(visible_gpus=8) == []  # not bound, and not used
    assert said(device=Device.cuda, gpus=1, torch_threads=1) == []


@pytest.mark.parametrize(
    ("has", "words"),
    [
        ({"usable_cores": 1}, "1 core of the 2"),
        ({"torch_threads": 1}, "1 thread"),
        ({"gpus": 2, "visible_gpus": 1}, "1 GPU,"),
        ({"gpus": 1, "visible_gpus": 8, "device": Device.cuda}, "8 GPUs"),
    ],
)
def test_a_job_that_has_something_else(has: dict[str, Any], words: str) -> None:
    (line,) = said(**has)
    assert words in line


def test_nothing_is_said_of_what_nobody_asked_for() -> None:
    assert said(usable_cores=1, slurm_job_id=None) == []
    assert said(usable_cores=1, submitted_source=None) == []  # typed inside salloc, without -m
    assert said(visible_gpus=2, extra={"gpus-per-node": 2}, device=Device.cuda) == []
    assert said(usable_cores=None, visible_gpus=None) == []  # of an older version


def test_what_can_be_used_here(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = os.sched_getaffinity(0)
    monkeypatch.delenv("SLURM_CPUS_ON_NODE", raising=False)
    assert usable_cores() == len(bound)
    os.sched_setaffinity(0, {min(bound)})
    try:
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, bound)
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "2")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert usable_cores() == 1
    for named, count in {"0,1": 2, "": 0, "NoDevFiles": 0, "GPU-1f2e": 1}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        assert visible_gpus() == count
