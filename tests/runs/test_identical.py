"""Runs with the same inputs as another one are made once; the others point to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.answered_sweeps import _answer
from vtexp.analysis.analyse import of_sweep
from vtexp.analysis.rows import collect
from vtexp.config.schema import Config
from vtexp.cost.latency_fit import timed_run
from vtexp.errors import VtexpError
from vtexp.jobs.prepare import _jobs
from vtexp.runs import job
from vtexp.runs.folder import failure, finished, record_failure
from vtexp.runs.frozen import freeze
from vtexp.runs.identical import copy_results, originals
from vtexp.runs.plan import Plan, make_plan
from vtexp.runs.records import read_result
from vtexp.utils import files

MakeConfig = Callable[..., Config]
#: Images of the test's set are so small that one crop is all that they get by these caps.
CAPS = ("knob=max_crops", "knob.max_crops=[8,1,4]")


@pytest.fixture
def plan(make_config: MakeConfig) -> Plan:
    made = make_plan(make_config(*CAPS))
    assert len({run.inputs_fingerprint for run in made.runs}) == 1
    freeze(made)
    return made


def answered(plan: Plan, value: str) -> None:
    run = next(run for run in plan.runs if run.value.value == value)
    _answer(plan, run, np.arange(len(plan.samples)) % 2 == 0, [])


def test_the_smallest_is_made_and_the_others_get_its_numbers(plan: Plan) -> None:
    made = {run.value.value: run for run in plan.runs}
    twins = originals(plan.runs, plan.config)
    assert {f.name for f in twins} == {made["4"].folder.name, made["8"].folder.name}
    assert {run.label for run in twins.values()} == {"max_crops=1"}
    assert copy_results(plan.runs, plan.config) == []  # nothing is there yet
    answered(plan, "1")
    copied = copy_results(plan.runs, plan.config)
    assert {run.value.value for run in copied} == {"4", "8"}
    first = read_result(made["1"].folder)
    for value in ("4", "8"):
        found = read_result(made[value].folder)
        assert found.same_run_as == made["1"].folder.name
        assert (found.knob_value, found.num_crops) == (value, int(value))
        assert (found.run, found.run_id) == (made[value].folder.name, made[value].run_id)
        assert (found.accuracy, found.latency) == (first.accuracy, first.latency)
        for name in (files.SAMPLES, files.LATENCY):
            own, other = made[value].folder / name, made["1"].folder / name
            assert own.read_bytes() == other.read_bytes()
        assert timed_run(made[value].folder) is None
    assert timed_run(made["1"].folder) is not None
    rows = {run.asked.knob_value: run for run in collect(made["1"].folder.parent)}
    assert rows["8"].same_inputs_as == rows["4"].same_inputs_as == "max_crops=1"
    assert any("not run" in warning for warning in rows["4"].warnings())
    (series,) = of_sweep(made["1"].folder.parent).series
    assert series.answer.verdict == "one_value"


def test_a_result_of_its_own_is_kept_and_a_failure_is_shared(plan: Plan) -> None:
    made = {run.value.value: run for run in plan.runs}
    answered(plan, "8")
    record_failure(made["1"].folder, VtexpError("out of memory"))
    assert copy_results(plan.runs, plan.config) == []
    assert read_result(made["8"].folder).same_run_as is None
    failed = failure(made["4"].folder)
    assert failed is not None and "max_crops=1" in failed.error and "out of memory" in failed.error
    assert not finished(made["4"].folder)


def test_they_share_a_job_unless_all_are_to_be_made(plan: Plan, make_config: MakeConfig) -> None:
    (own,) = _jobs(plan)
    assert len(own.folders) == 3 and "max_crops-1_" in own.folders[0].name
    everything = make_plan(make_config(*CAPS, "sweep.identical_runs=true"))
    assert originals(everything.runs, everything.config) == {}
    assert [len(job.folders) for job in _jobs(everything)] == [1, 1, 1]
    mixed = make_plan(make_config("knob.sizes=[336x336,560x336,560x560]"))
    assert [len(job.folders) for job in _jobs(mixed)] == [1, 1, 1]


def test_a_job_makes_one_of_them(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    class Made:
        def __init__(self, plan: Plan, runs: list, *_: object, **__: object) -> None:
            self.runs, asked[:] = runs, [run.value.value for run in runs]

        def make(self) -> None:
            answered(plan, asked[0])

    monkeypatch.setattr(job, "RunsUnderWay", Made)
    monkeypatch.setattr(job, "load_runner", lambda _: None)
    told: list[str] = []
    job.make_runs(plan, on_result=lambda config, run, samples: told.append(run.name))
    assert asked == ["1"]
    assert all(finished(run.folder) for run in plan.runs) and len(told) == 2
    assert capsys.readouterr().out.count("not run again") == 2
