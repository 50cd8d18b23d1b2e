"""W&B as a mirror: offline runs read back with W&B's own command; troubles cost nothing."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.helpers.facts import says
from tests.helpers.made_records import change_result
from tests.helpers.slurm_cluster import wait_until
from tests.helpers.sweeps import ROOT
from tests.helpers.wandb_server import WandbServer
from vtexp.analysis.rows import collect
from vtexp.config.choices import WandbMode
from vtexp.config.schema import Config
from vtexp.data.sample import ImageFile, Sample
from vtexp.errors import ConfigError
from vtexp.jobs.here import run_job
from vtexp.report.columns import COLUMNS
from vtexp.tracking import mirror, wandb_runs
from vtexp.utils import files
from vtexp.utils.text import public

MakeConfig = Callable[..., Config]
WANDB = str(Path(sys.executable).parent / "wandb")


def read_back(run: Path) -> dict[str, Any]:
    """A logged run folder as W&B's own command reads it."""
    logged = json.loads((run / wandb_runs.MIRRORED).read_text())
    (file,) = Path(logged["folder"]).glob("*.wandb")
    command = [WANDB, "leet", "inspect", "--summary", "--json", str(file)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(shown.stdout)


def leaves(tree: Any, name: str = "") -> dict[str, Any]:
    """Values of nested JSON by the names on the way to them, but `latency`."""
    if not isinstance(tree, dict):
        return {name: tree}
    found = {}
    for key, inner in tree.items():
        path = "_".join(part for part in (name, key) if part and part != "latency")
        found |= leaves(inner, path)
    return found


def without_empty(tree: dict[str, Any]) -> dict[str, Any]:
    """Nested JSON without the empty objects, which W&B leaves out."""
    kept = {key: without_empty(v) if isinstance(v, dict) else v for key, v in tree.items()}
    return {key: value for key, value in kept.items() if value != {}}


def own_offline_runs(sweep: Path) -> list[Path]:
    """Folders of logged runs, curves left out."""
    return [path for path in sweep.glob("wandb/offline-run-*") if "comparison" not in path.name]


def test_no_tracking_writes_nothing(make_config: MakeConfig, tmp_path: Path) -> None:
    run_job(make_config("knob.sizes=[336x336]", "tracking=none"))
    assert not list(tmp_path.rglob("*wandb*"))


def test_samples_need_not_have_the_same_attributes() -> None:
    rows = [{"id": "a", "options": ["x", "y"]}, {"id": 1, "options": [], "text": "x" * 10**5}]
    table = wandb_runs.table(rows)
    assert table.columns == ["id", "options", "text"]
    assert table.data == [["a", "x; y", None], ["1", "", "x" * wandb_runs.MOST_CHARACTERS]]


@pytest.mark.parametrize("override", ["tracking.project=a:b", "tracking.tags=['']"])
def test_what_wandb_would_refuse_is_refused_at_once(override: str, make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=override.partition("=")[0]):
        make_config("tracking=wandb", override)


def test_keys_and_tokens_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "MY_API_KEY", "DB_PASSWORD"):
        monkeypatch.setenv(name, f'planted "{name}"')
        content = {"a": [f'https://me:planted "{name}"@host', 1.5], "b": None}
        assert public(content) == {"a": ["https://me:***@host", 1.5], "b": None}
    monkeypatch.setenv("SHORT_KEY", "a")
    assert public({"a": "alpha"}) == {"a": "alpha"}
    # Of digits, and the beginning of another.
    monkeypatch.setenv("A_TOKEN", "12345678")
    monkeypatch.setenv("B_TOKEN", "123456789")
    assert public({"n": 12345678, "12345678": "123456789"}) == {"n": 12345678, "***": "***"}


@pytest.mark.slow
def test_nothing_is_asked_of_a_network_offline(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
asked = []
def heard(event, details):
    if event == "socket.getaddrinfo" or event == "socket.connect" and isinstance(details[1], tuple):
        asked.append(details)
sys.addaudithook(heard)
from vtexp.tracking import wandb_runs
from vtexp.config.schema import TrackingConfig
about = wandb_runs.About("a", "a", "a", [], {})
wandb_runs.log(TrackingConfig(), Path(sys.argv[1]), Path(sys.argv[1], "a.json"), about, 1,
               lambda run: run.log({"a": 1}))
sys.exit(f"asked for {asked}" if asked else 0)
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    free = {k: v for k, v in os.environ.items() if k != "WANDB_ERROR_REPORTING"}
    subprocess.run(command, check=True, env=free)


@pytest.mark.slow
def test_offline_runs_read_back_are_the_results(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config("knob.sizes=[560x336,336x336]", "tracking=wandb", "tracking.tags=[mine]")
    run_job(config)
    sweep = tmp_path / "sweep"
    assert {path.name for path in tmp_path.iterdir()} <= {"sweep", "home"}
    assert not list((tmp_path / "home").rglob("*wandb*"))  # nothing staged in the home directory
    ids = set()
    for own in collect(sweep):
        folder, row = own.folder, own.values()
        run = read_back(folder)
        result = json.loads((folder / "result.json").read_text())
        del result["format"]
        told = {key: value for key, value in run["summary"].items() if key[0] != "_"}
        assert told.pop("samples")["nrows"] == 6
        assert told == {key: v for key, v in leaves(result).items() if v is not None}
        # One spelling: every number of comparison.csv has the name of its column here.
        numbers = {c.key for c in COLUMNS if isinstance(row.get(c.key), int | float)}
        assert len(numbers) > 20
        assert {key: told[key] for key in numbers} == {key: row[key] for key in numbers}
        config_yaml = yaml.safe_load((folder / "config.yaml").read_text())
        del config_yaml["hardware"]["slurm"]
        told_config = {key: run["config"][key] for key in config_yaml}
        assert leaves(told_config) == leaves(without_empty(config_yaml))
        assert run["name"] == own.name and run["project"] == "vtexp"
        assert run["tags"] == ["molmo_tiny", "easy_vqa", "cpu", "mine"]
        ids.add(run["run_id"])
    assert len(ids) == 2


@pytest.mark.slow
def test_samples_are_logged_with_small_images(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_runs, "MOST_IMAGES", 4)
    run_job(make_config("knob.sizes=[336x336]", "tracking=none"))
    (folder,) = (path.parent for path in tmp_path.glob("sweep/*/result.json"))
    rows = files.read_jsonl(folder / "samples.jsonl")
    pixels = np.random.default_rng(0).integers(0, 255, (900, 1600, 3), dtype=np.uint8)
    samples = []
    for i, row in enumerate(rows):
        path = tmp_path / f"{i}.png"
        Image.fromarray(np.roll(pixels, i)).save(path)
        samples.append(Sample(row["sample_id"], str(i), ImageFile(path), "?", ("a",), "t"))
    (tmp_path / "1.png").write_bytes(b"broken since")
    config = make_config("tracking=wandb")
    wandb_runs.log_run(config.tracking, folder, samples)
    staged = [path.read_bytes() for path in folder.parent.glob("wandb/artifacts/staging/*")]
    (content,) = {data for data in staged if b'"columns"' in data}
    table = json.loads(content)
    assert table["columns"][0] == "image"
    told = [dict(zip(table["columns"], cells, strict=True)) for cells in table["data"]]
    assert [row["prediction"] for row in told] == [row["prediction"] for row in rows]
    assert [row["image"] is not None for row in told] == [True, False, True, True, False, False]
    images = [data for data in staged if data.startswith(b"\xff\xd8\xff")]
    assert len(images) == 3
    for data in images:
        assert Image.open(io.BytesIO(data)).size == (320, 180)
        assert len(data) < 64_000  # of noise, the worst there is


def test_auto_is_online_only_with_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not mirror.wants_online(WandbMode.auto)
    assert mirror.wants_online(WandbMode.online)
    assert not mirror.wants_online(WandbMode.offline)
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password " + "0" * 40)
    assert mirror.wants_online(WandbMode.auto)
    monkeypatch.setenv("WANDB_BASE_URL", "http://localhost:8080")
    assert not mirror.wants_online(WandbMode.auto)
    (tmp_path / "netrc").write_text("machine localhost:8080 login user password " + "0" * 40)
    assert mirror.wants_online(WandbMode.auto)
    (tmp_path / "netrc").write_bytes(b"machine localhost:8080 login user password \xff")
    assert not mirror.wants_online(WandbMode.auto)
    monkeypatch.setenv("WANDB_BASE_URL", "http://[")
    assert not mirror.wants_online(WandbMode.auto)
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert mirror.wants_online(WandbMode.auto)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert not mirror.wants_online(WandbMode.auto)


#: Seconds until an upload is given up, and what is said then.
TROUBLES = {
    "refuse": (30, "refuse"),
    "broken": (2, "no answer within 2 s"),
    "slow": (2, "no answer within 2 s"),
    "drop": (5, "no answer within 5 s"),
    "unreachable": (2, "no answer within 2 s"),
    "no files": (30, "file transfer"),
}


@pytest.mark.fault(
    "outside world",
    "W&B refuses, fails, is slow, drops halfway, is unreachable, takes no files",
    "one line; a delay of tracking.timeout_s at most; results unchanged; published later, once",
)
@pytest.mark.slow
@pytest.mark.parametrize("trouble", TROUBLES)
def test_troubles_cost_a_bounded_delay_and_nothing_else(
    trouble: str,
    made_runs: Path,
    make_config: MakeConfig,
    wandb_server: WandbServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if trouble == "unreachable":
        wandb_server.stop()
    # The run is created and its upload under way when the trouble begins.
    wandb_server.trouble, wandb_server.trouble_after = trouble, 4 if trouble == "drop" else 0
    wandb_server.delay_s = 2
    limit_s, reason = TROUBLES[trouble]
    results = sorted(made_runs.glob("*/result.json"))
    before = {path: path.read_bytes() for path in made_runs.glob("*/*.json*")}
    config = make_config("tracking=wandb", f"tracking.timeout_s={limit_s}")
    waited = []
    for path in results:
        wandb_runs.log_run(config.tracking, path.parent)  # what a run costs without a network
        began = time.monotonic()
        mirror.mirror(config, path.parent)
        waited.append(time.monotonic() - began)
    assert waited[0] < limit_s + 2
    assert waited[1] < 1  # once is enough
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert says(said, "W&B", "cannot be reached", f"({reason}") and "publish" in said
    assert {path: path.read_bytes() for path in before} == before
    logged = [wandb_runs.read_mirrored(path.parent / "wandb.json") for path in results]
    assert not any(run.uploaded for run in logged if run)
    wait_until(lambda: not _clients_of(wandb_server.url), "the end of what was started")
    if trouble in ("drop", "no files"):  # all of it comes later, once
        assert len(wandb_server.runs) == 1
        wandb_server.trouble = None
        paths = [path.parent / "wandb.json" for path in results]
        assert wandb_runs.upload(made_runs, paths, 60) is None
        assert len(wandb_server.runs) == 2
        for run in logged:
            assert run and wandb_server.summary(run.id)["num_samples"] == 6
            assert len(wandb_server.history(run.id)) == 1


def _clients_of(url: str) -> list[str]:
    """Processes of W&B that were told this address."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if url in (path / "environ").read_text() and path.name != str(os.getpid()):
                found.append((path / "cmdline").read_text())
        except OSError:
            pass
    return [name for name in found if "sync" in name]


@pytest.mark.fault(
    "outside world", "W&B's library is not installed", "one line says so; results are complete"
)
def test_a_broken_mirror_does_not_fail_the_run(
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("vtexp.utils.extras._installed", lambda module: True)
    monkeypatch.setitem(sys.modules, "wandb", None)  # but broken
    run_job(make_config("knob.sizes=[336x336]", "tracking=wandb"))
    assert "was not logged" in capsys.readouterr().out
    assert len(list((tmp_path / "sweep").glob("*/result.json"))) == 1


@pytest.mark.slow
def test_online_without_a_key_does_not_ask(
    make_config: MakeConfig,
    made_runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(mirror, "_offline_because", None)
    config = make_config("tracking=wandb", "tracking.mode=online")
    for path in made_runs.glob("*/result.json"):
        mirror.mirror(config, path.parent)
    assert capsys.readouterr().out.count("no API key") == 1
    assert len(own_offline_runs(made_runs)) == 2


def test_disabled_by_wandbs_own_variable(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    run_job(make_config("knob.sizes=[336x336]", "tracking=wandb"))
    assert not list(tmp_path.rglob("*wandb*"))


@pytest.mark.slow
def test_runs_within_a_run_of_wandbs_are_their_own(made_runs: Path) -> None:
    """As the agent of a W&B sweep starts them; in a process of its own, as W&B reads them once."""
    code = """
import sys
from pathlib import Path
from vtexp.config.schema import TrackingConfig
from vtexp.tracking.wandb_runs import log_run
for path in sorted(Path(sys.argv[1]).glob("*/result.json")):
    log_run(TrackingConfig(name="wandb", project="ours"), path.parent)
"""
    agents = {"RUN_ID": "theirs", "SWEEP_ID": "theirs2", "RESUME": "must", "NAME": "theirs3"}
    agents |= {"SWEEP_PARAM_PATH": "/nowhere", "PROJECT": "theirs4", "RUN_GROUP": "theirs5"}
    environment = os.environ | {f"WANDB_{name}": value for name, value in agents.items()}
    command = [sys.executable, "-c", code, str(made_runs)]
    subprocess.run(command, check=True, env=environment | {"PYTHONPATH": str(ROOT)})
    ids = {wandb_runs.read_mirrored(path).id for path in made_runs.glob("*/wandb.json")}
    files_of = sorted(made_runs.glob("wandb/offline-run-*/*.wandb"))
    assert {path.stem.removeprefix("run-") for path in files_of} == ids
    for path in files_of:
        command = [WANDB, "leet", "inspect", "--json", str(path)]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert "theirs" not in shown and '"ours"' in shown


@pytest.mark.slow
def test_a_run_is_logged_once_and_again_when_it_changed(
    make_config: MakeConfig, made_runs: Path
) -> None:
    config = make_config("tracking=wandb")
    folder = next(made_runs.glob("*/result.json")).parent
    logged = [wandb_runs.log_run(config.tracking, folder) for _ in range(2)]
    assert logged[0] == logged[1]
    made_runs.rename(made_runs.with_name("moved"))
    made_runs = made_runs.with_name("moved")
    folder = made_runs / folder.name
    again = wandb_runs.log_run(config.tracking, folder)
    assert Path(again.folder).is_relative_to(made_runs)
    change_result(folder, accuracy=0.125)
    changed = wandb_runs.log_run(config.tracking, folder)
    assert {run.id for run in (*logged, again, changed)} == {logged[0].id}
    assert len(own_offline_runs(made_runs)) == 2  # W&B could still want the moved one
    assert read_back(folder)["summary"]["accuracy"] == 0.125
