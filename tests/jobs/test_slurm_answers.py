"""What SLURM's programs answer, and when they do not: by programs of the same names in PATH."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers.facts import says
from tests.helpers.made_sweeps import make_run, unfinish
from vtexp.config.choices import Launcher
from vtexp.config.schema import Config, HardwareConfig
from vtexp.errors import ConfigError, VtexpError
from vtexp.jobs import slurm
from vtexp.jobs.prepare import prepare_jobs
from vtexp.jobs.status import look
from vtexp.runs.ledger import Job, SubmittedJob, note_submitted

Fake = Callable[[str, str], None]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Makes programs: a name, and what it does as lines of a shell."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def make(name: str, lines: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{lines}\n")
        (tmp_path / name).chmod(0o755)

    return make


def job(job_id: str) -> SubmittedJob:
    """A job of this user."""
    return SubmittedJob(("run",), Launcher.slurm, job_id, user_id=os.getuid())


@pytest.mark.parametrize(
    "ping", ["echo 'Slurmctld(primary) at a is DOWN'", "exec sleep 60", "exit 1"]
)
def test_a_controller_that_is_gone_is_not_waited_for(fake: Fake, ping: str) -> None:
    fake("squeue", "exec sleep 60")
    fake("scontrol", ping)
    began = time.monotonic()
    state = slurm.states([job("7")])[job("7")]
    assert time.monotonic() - began < 10
    assert state.state == "unknown" and says(state.cause, "SLURM", "not answer")


def test_a_busy_controller_is_waited_for(fake: Fake) -> None:
    fake("squeue", "sleep 2; echo '7|RUNNING|None|node0'")
    fake("scontrol", "echo Slurmctld at a is DOWN; echo Slurmctld at b is UP")
    assert slurm.states([job("7")])[job("7")] == ("running", "", "node0")


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("7", ["7"]),
        ("7_3", ["7_3"]),
        ("7_[0-2]", ["7_0", "7_1", "7_2"]),
        ("7_[0-1,5%2]", ["7_0", "7_1", "7_5"]),
    ],
)
def test_ids_that_slurm_writes_as_one(text: str, ids: list[str]) -> None:
    assert slurm.task_ids(text) == ids


def test_an_array_that_was_cancelled_as_a_whole(fake: Fake) -> None:
    """squeue has it as one record, sacct with its tasks in brackets."""
    tasks = [job("7_0"), job("7_1")]
    fake("sacct", "echo '7_[0-1%2]|CANCELLED by 0|None assigned'")
    for listed in ("echo '7|CANCELLED|None|'", ":"):
        fake("squeue", listed)
        assert {state.cause for state in slurm.states(tasks).values()} == {"CANCELLED"}


def test_accounting_is_not_asked_of_runs_whose_end_is_known(fake: Fake, tmp_path: Path) -> None:
    fake("squeue", ":")
    fake("sacct", f"touch {tmp_path}/asked")
    assert slurm.states([job("7")], [job("7")])[job("7")].state == "ended"
    assert not (tmp_path / "asked").exists()
    slurm.states([job("7")])
    assert (tmp_path / "asked").exists()


def test_jobs_of_another_user(fake: Fake) -> None:
    """Known while SLURM shows them, unknown afterwards; a refused cancel says whose they are."""
    own, hers, gone = job("7"), replace(job("8"), user_id=1), replace(job("9"), user_id=1)
    fake(
        "squeue", 'case "$*" in *--me*) echo "7|RUNNING|None|a";; *) echo "8|PENDING|Held|";; esac'
    )
    found = slurm.states([own, hers, gone])
    assert found[own].state == "running" and found[hers] == ("queued", "Held", "")
    assert found[gone] == ("unknown", f"of user {pwd.getpwuid(1).pw_name}", "")
    fake("scancel", "exit 1")
    with pytest.raises(VtexpError, match=f"of user {pwd.getpwuid(1).pw_name}"):
        slurm.cancel([hers])


@pytest.mark.parametrize(
    ("said", "limit"),
    [
        ("AssocMaxSubmitJobLimit", "AssocMaxSubmitJobLimit"),
        ("AssocGrpSubmitJobsLimit", "AssocGrpSubmitJobsLimit"),
        ("QOSMaxSubmitJobPerUserLimit", "QOSMaxSubmitJobPerUserLimit"),
        ("Batch job submission failed: Invalid job array specification", "MaxArraySize"),
        ("Slurm temporarily unable to accept job, sleeping and retrying", "MaxJobCount"),
        ("Batch job submission failed: Job violates accounting/QOS policy", "accounting policy"),
        ("Batch job submission failed: Invalid partition name specified", None),
    ],
)
def test_limits_that_sbatch_names_or_means(
    fake: Fake, tmp_path: Path, said: str, limit: str | None
) -> None:
    fake("sbatch", f"echo 'sbatch: error: {said}' >&2; exit 1")
    fake("srun", ":")
    hardware = HardwareConfig(name="h", launcher=Launcher.slurm)
    with pytest.raises(VtexpError) as error:
        slurm.submit(tmp_path / "sweep", [Job((tmp_path / "sweep" / "run",), hardware)], hardware)
    assert getattr(error.value, "limit", None) == limit
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("reason", "never"),
    [
        *((name, True) for name in (
            "PartitionTimeLimit", "DependencyNeverSatisfied", "BadConstraints", "QOSTimeLimit",
            "AssocMaxCpuPerJobLimit", "AssocMaxWallDurationPerJobLimit", "QOSMaxGRESPerJob",
            "QOSMaxCpuPerNode", "QOSMinGRES", "MaxMemPerLimit", "InvalidQOS", "JobHoldMaxRequeue",
        )),
        *((name, False) for name in (
            "Priority", "Resources", "Dependency", "BeginTime", "JobHeldUser", "PartitionDown",
            "QOSMaxJobsPerUserLimit", "QOSMaxCpuPerUserLimit", "AssocGrpCpuLimit",
            "AssocMaxJobsLimit", "JobArrayTaskLimit", "Reservation", "Licenses",
            "ReqNodeNotAvail, UnavailableNodes:node1",
        )),
    ],
)  # fmt: skip
def test_reasons_that_never_clear(fake: Fake, tmp_path: Path, reason: str, never: bool) -> None:
    run = make_run(tmp_path / "sweep", "2", 288, [1.0], knob="max_crops")
    unfinish(run, None)
    own = SubmittedJob((run.name,), Launcher.slurm, "7", user_id=os.getuid())
    note_submitted(tmp_path / "sweep", [own])
    fake("squeue", f"echo '7|PENDING|{reason}|'")
    (status,) = look(tmp_path / "sweep")
    assert (status.state, status.cause, status.stuck) == ("queued", reason, never)


@pytest.mark.parametrize("name", ["50%j", "a%20b", "two\nlines"])
def test_a_folder_that_slurm_reads_otherwise_is_refused_at_once(
    name: str, tmp_path: Path, make_config: Callable[..., Config]
) -> None:
    """Its jobs would end without a log. Other launchers take it."""

    def prepared(launcher: Launcher) -> list[Job]:
        config = make_config("plan=true", f"hardware.launcher={launcher.value}")
        sweep = replace(config.sweep, folder=str(tmp_path / name))
        return prepare_jobs([[]], lambda _: replace(config, sweep=sweep), named=True)

    assert prepared(Launcher.local) == []
    with pytest.raises(ConfigError, match="SLURM"):
        prepared(Launcher.slurm)
    with pytest.raises(ConfigError, match="SLURM"):  # such as resume of a sweep that was moved
        slurm.submit(tmp_path / name / "sweep", [], HardwareConfig(name="h"))
