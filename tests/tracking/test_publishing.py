"""A whole sweep to W&B, received by a stand-in for its API: each run once, curves, a report."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.facts import says
from tests.helpers.made_records import change_result
from tests.helpers.made_sweeps import make_run
from tests.helpers.wandb_server import KEY, WandbServer
from vtexp.analysis.analyse import analyse, of_sweep
from vtexp.analysis.findings import Analysis, write_analysis
from vtexp.analysis.rows import collect
from vtexp.cli.main import main
from vtexp.config.schema import Config, TrackingConfig
from vtexp.jobs.here import run_job
from vtexp.runs.folder import record_failure
from vtexp.tracking import mirror, wandb_report, wandb_runs
from vtexp.utils import files

MakeConfig = Callable[..., Config]

#: Values that must be nowhere but in the header that authenticates.
PLANTED = {"HF_TOKEN": "hf_planted_in_the_environment", "WANDB_API_KEY": KEY}
IN_NETRC = "planted0in0netrc" * 3
HOSTILE = "<script>alert(1)</script> **bold** [a](javascript:b) $x$"


def find(tree: Any, key: str) -> Iterator[Any]:
    """Values of a key anywhere in nested JSON."""
    if isinstance(tree, dict):
        yield from (value for name, value in tree.items() if name == key)
    for inner in tree.values() if isinstance(tree, dict) else tree if type(tree) is list else ():
        yield from find(inner, key)


def answered(sweep: Path, sentence: str) -> Analysis:
    """The analysis of a sweep, but for what it says."""
    found = of_sweep(sweep)
    answer = replace(found.series[0].answer, sentence=sentence, caveats=(HOSTILE,))
    return replace(found, series=(replace(found.series[0], answer=answer),), caveats=("unlike",))


@pytest.mark.fault(
    "hostile input", "keys and tokens in the environment, runs sent to W&B", "none is sent"
)
@pytest.mark.slow
def test_a_sweep_is_online_once_and_without_secrets(
    make_config: MakeConfig,
    tmp_path: Path,
    wandb_server: WandbServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "netrc").write_text(f"machine huggingface.co login me password {IN_NETRC}\n")
    monkeypatch.chdir(tmp_path)
    sizes = "knob.sizes=[336x336,560x336]"
    run_job(make_config(sizes, "tracking=wandb", "tracking.timeout_s=60"))
    sweep = tmp_path / "sweep"
    assert f"W&B: {wandb_server.url}/" in capsys.readouterr().out

    curve = next(name for name in wandb_server.runs if name.startswith("comparison"))
    for own in collect(sweep):
        run_id = files.read_json(own.folder / "wandb.json")["id"]
        told, run = wandb_server.summary(run_id), wandb_server.runs[run_id]
        summary = json.loads(json.dumps(wandb_runs.summary(own.found)))  # lists, not tuples
        assert {key: told[key] for key in told if key != "samples"} == summary
        assert (run["displayName"], run["jobType"]) == (own.name, "image_size")
    assert {run["groupName"] for run in wandb_server.runs.values()} == {"sweep"}
    ids = {wandb_server.config(name)["sweep_id"] for name in wandb_server.runs}
    assert ids == {(sweep / "wandb" / "sweep_id").read_text()}
    assert all(run["complete"] for run in wandb_server.runs.values())
    tables = [name for name in wandb_server.uploads if name.endswith("samples.table.json")]
    assert len([name for name in tables if name.startswith("artifacts/")]) == 2
    assert len([name for name in wandb_server.uploads if name.endswith(".jpg")]) == 12

    with (sweep / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    points = [point for point in wandb_server.history(curve) if "accuracy" in point]
    assert len(points) == len(rows) == 2
    for point, cells in zip(points, rows, strict=True):
        numbers = {key: value for key, value in point.items() if key[0] != "_"}
        assert numbers == {key: float(cells[key]) for key in numbers}
        assert len(numbers) > 20
    (report,) = wandb_server.reports.values()
    assert set(find(json.loads(report["spec"]), "entityName")) >= {"someone"}

    before = dict(wandb_server.asked)
    assert main(["report", str(sweep)]) == 0
    assert main(["publish", str(sweep)]) == 0
    assert dict(wandb_server.asked) == before  # nothing was sent again

    change_result(sweep / rows[0]["run"], sequence_length=7.0)
    write_analysis(sweep, answered(sweep, "One crop will do."))  # of an earlier state
    assert main(["publish", str(sweep)]) == 0
    (series,) = of_sweep(sweep).series
    told = files.read_json(sweep / wandb_report.REPORT)["spec"]
    assert series.answer.sentence in set(find(told, "text"))
    assert len(wandb_server.runs) == 3 and len(wandb_server.reports) == 1
    assert wandb_server.asked["upsertView"] == 2
    assert wandb_server.summary(curve)["answer"] == series.answer.sentence
    assert "One crop will do." not in wandb_server.reports[report["id"]]["spec"]
    run_id = files.read_json(sweep / rows[0]["run"] / "wandb.json")["id"]
    assert wandb_server.summary(run_id)["sequence_length"] == 7.0
    assert len(wandb_server.history(run_id)) == 1

    written = [path.read_bytes() for path in sweep.rglob("*") if path.is_file()]
    said = "".join(capsys.readouterr()).encode()
    for secret in (*PLANTED.values(), IN_NETRC):
        found = [
            data for data in (*written, *wandb_server.received, said) if secret.encode() in data
        ]
        assert not found


@pytest.mark.slow
def test_runs_of_any_kind_are_published_once(
    made_runs: Path, make_config: MakeConfig, wandb_server: WandbServer, tmp_path: Path
) -> None:
    """Made without tracking, logged offline, and uploaded by hand with W&B's own command."""
    config = make_config("tracking=wandb", "tracking.mode=offline")
    by_hand, _ = sorted(path.parent for path in made_runs.glob("*/result.json"))
    mirror.mirror(config, by_hand)
    logged = wandb_runs.read_mirrored(by_hand / "wandb.json")
    assert logged is not None and not wandb_server.runs
    command = [sys.executable, "-m", "wandb", "sync", logged.folder]
    subprocess.run(command, check=True, capture_output=True)
    assert list(wandb_server.runs) == [logged.id]
    asked = wandb_server.asked["UpsertBucket"]
    for _ in range(2):
        assert main(["publish", str(made_runs)]) == 0
    assert len(wandb_server.runs) == 3  # two runs and their curve
    assert wandb_server.asked["UpsertBucket"] == 3 * asked  # nothing twice
    assert len(wandb_server.reports) == 1
    assert not list((tmp_path / "home").rglob("*wandb*"))


@pytest.mark.fault(
    "outside world", "W&B refuses a whole sweep", "one attempt, one line; publish gives one line"
)
@pytest.mark.slow
def test_a_refusing_server_leaves_a_sweep_whole(
    make_config: MakeConfig,
    tmp_path: Path,
    wandb_server: WandbServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wandb_server.trouble = "refuse"
    run_job(make_config("knob.sizes=[336x336,560x336]", "tracking=wandb", "tracking.timeout_s=60"))
    said = [line for line in capsys.readouterr().out.splitlines() if "W&B" in line]
    assert len(said) == 2  # why runs are kept, and how to publish all
    assert wandb_server.asked.total() == 0  # one request was refused, and no other made
    sweep = tmp_path / "sweep"
    assert files.read_json(sweep / wandb_report.REPORT)["url"] is None
    before = {path: path.read_bytes() for path in sweep.glob("*/*.json*")}
    assert main(["publish", str(sweep)]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("error: W&B: refuse;") and errors.count("\n") == 1
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
def test_without_a_key_the_report_is_written_for_later(
    made_runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", str(made_runs)]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("error: no W&B API key") and errors.count("\n") == 1
    stored = files.read_json(made_runs / wandb_report.REPORT)
    assert stored["publish"] == f"python -m vtexp publish {made_runs}"
    assert stored["url"] is None


@pytest.mark.slow
def test_several_sweeps_are_published_to_the_project_that_is_named(
    made_runs: Path, wandb_server: WandbServer, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(made_runs, other)
    change_result(next(other.glob("*/result.json")).parent, sequence_length=7.0)
    command = ["publish", str(made_runs), str(other), "--project", "ours", "--entity", "team"]
    assert main(command) == 0
    assert {run["project"] for run in wandb_server.runs.values()} == {"ours"}
    assert len(wandb_server.runs) == 2 * 3  # of each sweep two runs and their curve
    (report,) = wandb_server.reports.values()
    ids = {(sweep / "wandb" / "sweep_id").read_text() for sweep in (made_runs, other)}
    assert all(own in report["spec"] for own in ids)
    assert set(find(json.loads(report["spec"]), "entityName")) >= {"team"}


def test_the_environment_names_project_and_entity_where_the_config_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert wandb_runs.destination(TrackingConfig(name="wandb")) == (None, "vtexp")
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_ENTITY", "team")
    assert wandb_runs.destination(TrackingConfig(name="wandb")) == ("team", "theirs")
    own = TrackingConfig(name="wandb", project="mine", entity="me")
    assert wandb_runs.destination(own) == ("me", "mine")


def test_a_project_that_wandb_would_refuse_is_one_line(
    made_runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", str(made_runs), "--project", "a/b"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --project a/b: must be") and said.count("\n") == 1


def test_each_data_set_has_its_panels_in_a_report_of_several_sweeps(tmp_path: Path) -> None:
    for name in ("d", "other"):
        for value, tokens in (("336x336", 288), ("560x560", 544)):
            make_run(tmp_path / name, value, tokens, [1.0, 0.0] * 20, result={"dataset": name})
    sweeps = [tmp_path / "d", tmp_path / "other"]
    runs = collect(*sweeps)
    path = wandb_report.write_report(
        TrackingConfig(name="wandb"), sweeps, runs, analyse(runs), tmp_path
    )
    stored = files.read_json(path)
    assert wandb_report.specification(wandb_report.read_report(stored, "x")) == stored["spec"]
    grids = list(find(stored["spec"], "runSets"))
    assert len(grids) == 4  # curves and runs of each data set
    for grid, name in zip(grids, ("d", "d", "other", "other"), strict=True):
        told = json.dumps(grid)
        assert f'"value": "{name}"' in told
        assert all((sweep / "wandb" / "sweep_id").read_text() in told for sweep in sweeps)
    axes = [*find(stored["spec"], "accessor"), *find(stored["spec"], "xAxis")]
    assert "summary:theoretical_vision_tokens" in axes
    assert any("knob_number" in axis for axis in axes)


@pytest.mark.parametrize(("value", "number"), [("12", 12.0), ("560x336", 188160.0), ("a", None)])
def test_values_of_knobs_are_numbers_for_wandb(value: str, number: float | None) -> None:
    assert wandb_runs.knob_number(value) == number


def test_nothing_to_publish(made_runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in made_runs.glob("*/result.json"):
        path.unlink()
    assert main(["publish", str(made_runs)]) == 1
    assert says(capsys.readouterr().err, "no run", "result")


def test_the_specification_is_the_librarys_own(made_runs: Path) -> None:
    failed = next(made_runs.glob("*/result.json")).parent
    (failed / "result.json").unlink()
    record_failure(failed, ValueError(HOSTILE))
    runs = collect(made_runs)
    analysis = answered(made_runs, "Nobody can tell.")
    arguments = (TrackingConfig(name="wandb"), [made_runs], runs, analysis, made_runs)
    path = wandb_report.write_report(*arguments)
    written = path.read_bytes()
    stored = files.read_json(path)
    report = wandb_report.read_report(stored, "someone")
    assert wandb_report.specification(report) == stored["spec"]  # nothing that it does not know
    assert wandb_report.write_report(*arguments).read_bytes() == written  # nothing new

    panels = [
        panel
        for panels in find(stored["spec"], "panelBankSectionConfig")
        for panel in panels["panels"]
    ]
    assert {panel["viewType"] for panel in panels} == {
        "Run History Line Plot",
        "Scatter Plot",
        "Bar Chart",
        "Parallel Coordinates Plot",
        "Run Comparer",
        "Weave",
    }
    configs = [panel["config"] for panel in panels]
    named = [name for config in configs for name in config.get("metrics", [])]
    axes = [*find(configs, "xAxis"), *find(configs, "yAxis"), *find(configs, "accessor")]
    named += [axis.removeprefix("summary:") for axis in axes if not axis.startswith("config:")]
    (done,) = (run for run in runs if run.result is not None)
    assert len(set(named)) > 6
    assert set(named) <= done.values().keys()  # every panel shows something that is logged

    paragraphs = [text for text in find(stored["spec"], "text") if text]
    assert {"Nobody can tell.", "unlike"} <= set(paragraphs)
    assert sum(HOSTILE in text for text in paragraphs) == 2  # a caveat and an error, as they are
    kinds = {block["type"] for block in stored["spec"]["blocks"]}
    assert not kinds & {"markdown-block", "html", "latex", "link", "code-block"}
    assert json.dumps(stored["spec"]).count("<script>") == 2
