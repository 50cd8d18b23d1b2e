"""W&B as a mirror: a real offline directory read back; failures cost nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from vtexp import records, tracking
from vtexp.config import Config, WandbMode
from vtexp.job import run_job

MakeConfig = Callable[..., Config]


def test_no_tracking_writes_nothing(make_config: MakeConfig, tmp_path: Path) -> None:
    run_job(make_config("knob.sizes=[336x336]", "tracking=none"))
    assert not list(tmp_path.rglob("*wandb*"))


def test_samples_need_not_have_the_same_attributes(tmp_path: Path) -> None:
    rows = [{"id": "a", "options": ["x", "y"]}, {"id": "b", "options": [], "precision": 2}]
    records.write_jsonl(tmp_path / records.SAMPLES, rows)
    wandb = SimpleNamespace(Table=lambda columns, data: [columns, *data])
    table = [["id", "options", "precision"], ["a", "x; y", None], ["b", "", 2]]
    assert tracking._table(wandb, tmp_path) == table


def find(tree: object, key: str) -> list[object]:
    """Values of a key anywhere in nested JSON, or of {"key": ..., "value": ...} pairs."""
    if isinstance(tree, list):
        return [value for item in tree for value in find(item, key)]
    if not isinstance(tree, dict):
        return []
    found = [tree[key]] if key in tree else []
    return found + [value for item in tree.values() for value in find(item, key)]


@pytest.mark.slow
def test_offline_run_holds_config_counts_and_samples(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config("knob.sizes=[560x336,336x336]", "tracking=wandb", "tracking.tags=[mine]")
    run_job(config)
    files = sorted((tmp_path / "sweep" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    assert {p.name for p in tmp_path.iterdir()} <= {"sweep", "home"}
    assert not list((tmp_path / "home").rglob("*"))  # nothing staged in the home directory

    command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--summary", "--json"]
    run = next((tmp_path / "sweep").glob("*560x336*"))
    run_id = json.loads((run / "wandb.json").read_text())["id"]
    (file,) = (path for path in files if path.stem == f"run-{run_id}")
    shown = subprocess.run([*command, str(file)], capture_output=True, text=True, check=True)
    record = json.loads(shown.stdout)
    text = json.dumps(record)
    for part in ('"sweep"', "mine", "560x336", "vtexp"):
        assert part in text
    summary = find(record, "measured_vision_tokens")
    assert summary == [384.0]
    result = json.loads((run / "result.json").read_text())
    assert find(record, "latency/prefill_ms/median") == [result["latency"]["prefill_ms"]["median"]]
    tables = list(file.parent.rglob("*.table.json"))
    assert len(tables) == 1
    table = json.loads(tables[0].read_text())
    assert len(table["data"]) == 6
    assert {"question", "prediction", "score", "measured_tiling"} <= set(table["columns"])


def test_auto_is_online_only_with_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not tracking.wants_online(WandbMode.auto)
    assert tracking.wants_online(WandbMode.online)
    assert not tracking.wants_online(WandbMode.offline)
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password " + "0" * 40)
    assert tracking.wants_online(WandbMode.auto)
    (tmp_path / "netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert tracking.wants_online(WandbMode.auto)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert not tracking.wants_online(WandbMode.auto)


@pytest.mark.slow
def test_a_key_without_network_falls_back_in_time(
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tracking, "_offline_because", None)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing listens there
    began = time.monotonic()
    config = make_config("knob.sizes=[336x336,560x336]", "tracking=wandb", "tracking.timeout_s=3")
    run_job(config)
    assert time.monotonic() - began < 60
    assert capsys.readouterr().out.count("W&B cannot be reached") == 1
    assert len(list((tmp_path / "sweep" / "wandb").glob("offline-run-*/*.wandb"))) == 2


def test_a_broken_mirror_does_not_fail_the_run(
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # not installed
    run_job(make_config("knob.sizes=[336x336]", "tracking=wandb"))
    assert "was not logged" in capsys.readouterr().out
    assert len(list((tmp_path / "sweep").glob("*/result.json"))) == 1


def test_online_without_a_key_does_not_ask(
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tracking, "_offline_because", None)
    modes: list[str] = []
    monkeypatch.setattr(tracking, "_log", lambda *args: modes.append(args[-1]))
    config = make_config("knob.sizes=[336x336,560x336]", "tracking=wandb", "tracking.mode=online")
    run_job(config)
    assert modes == ["offline", "offline"]
    assert capsys.readouterr().out.count("no API key") == 1


def test_disabled_by_wandbs_own_variable(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    run_job(make_config("knob.sizes=[336x336]", "tracking=wandb"))
    assert not list(tmp_path.rglob("*wandb*"))


@pytest.mark.slow
def test_a_kept_run_is_mirrored_once(make_config: MakeConfig, tmp_path: Path) -> None:
    run_job(make_config("knob.sizes=[336x336]", "tracking=none"))
    for _ in range(2):
        run_job(make_config("knob.sizes=[336x336]", "tracking=wandb"))
    assert len(list((tmp_path / "sweep" / "wandb").glob("offline-run-*"))) == 1
