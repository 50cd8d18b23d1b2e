"""Records of W&B that are damaged, or name a folder elsewhere."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import pytest

from tests.helpers.damage import change, run_of
from tests.helpers.made_records import change_result
from vtexp.analysis.analyse import of_sweep
from vtexp.analysis.rows import collect
from vtexp.config.schema import TrackingConfig
from vtexp.errors import DataError
from vtexp.tracking import wandb_report, wandb_runs


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B's own logging is a folder with a file; nothing is uploaded."""

    def log(tracking: TrackingConfig, sweep: Path, about: wandb_runs.About, fill: object) -> Path:
        folder = sweep / wandb_runs.WANDB / f"offline-run-{uuid.uuid4()}"
        folder.mkdir(parents=True)
        (folder / "run.wandb").touch()
        return folder

    monkeypatch.setattr(wandb_runs, "_log_offline", log)


@pytest.mark.fault(
    "hostile input",
    "a sweep whose wandb.json names a folder elsewhere, as of a copied sweep",
    "the folder is neither deleted nor uploaded; the run is logged again",
)
@pytest.mark.parametrize("where", ["original", "private", "sweep", "up", "link"])
@pytest.mark.usefixtures("offline")
def test_no_folder_elsewhere_is_taken_for_wandbs(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    run = run_of(sweep, "a")
    first = wandb_runs.log_run(TrackingConfig(), run)
    private = tmp_path / "private"
    private.mkdir()
    (private / "letter.txt").touch()
    copy = shutil.copytree(sweep, tmp_path / "copy")
    link = copy / wandb_runs.WANDB / "link"
    link.symlink_to(private)
    named = {
        "original": first.folder,
        "private": str(private),
        "sweep": str(copy),
        "up": str(copy / wandb_runs.WANDB / ".." / ".." / "private"),
        "link": str(link),
    }[where]
    run = copy / run.name
    change(run / wandb_runs.MIRRORED, folder=named)
    sent: list[str] = []
    monkeypatch.setattr(
        wandb_runs, "_sync", lambda sweep, folders, seconds: sent.extend(folders) or ("", {})
    )
    assert wandb_runs.upload(copy, [run / wandb_runs.MIRRORED], 1) is not None
    assert sent == []
    change_result(run, sequence_length=7.0)
    again = wandb_runs.log_run(TrackingConfig(), run)
    assert Path(again.folder).parent == copy / wandb_runs.WANDB
    assert (private / "letter.txt").is_file() and run.is_dir()
    assert (Path(first.folder) / "run.wandb").is_file()
    change_result(run, sequence_length=8.0)
    wandb_runs.log_run(TrackingConfig(), run)
    assert not Path(again.folder).exists()  # its own, replaced


@pytest.mark.parametrize(
    "text", ["[1]", "{}", '{"id": 5, "content": "a", "folder": 5}', "\0", "{"], ids=repr
)
@pytest.mark.usefixtures("offline")
def test_a_damaged_record_of_wandb_is_none(sweep: Path, text: str) -> None:
    run = run_of(sweep, "a")
    (run / wandb_runs.MIRRORED).write_text(text)
    assert wandb_runs.upload(sweep, [run / wandb_runs.MIRRORED], 1) is None
    assert Path(wandb_runs.log_run(TrackingConfig(), run).folder).is_dir()


@pytest.mark.parametrize("data", [b"", b"0123", b"\xff" * 8, b"../../aa"])
def test_a_damaged_id_of_a_sweep_is_one_line(sweep: Path, data: bytes) -> None:
    (sweep / wandb_runs.WANDB).mkdir()
    (sweep / wandb_runs.WANDB / "sweep_id").write_bytes(data)
    with pytest.raises(DataError, match=r"sweep_id: .*delete it"):
        wandb_runs.sweep_id(sweep)


@pytest.mark.parametrize("text", ["[1]", "{", "{}", '{"content": "a", "saved": true}'])
def test_a_damaged_report_of_wandb_is_one_line(sweep: Path, text: str) -> None:
    (sweep / wandb_report.REPORT).write_text(text)
    with pytest.raises(DataError, match=r"wandb_report\.json: .*delete it"):
        wandb_report.write_report(TrackingConfig(), [sweep], collect(sweep), of_sweep(sweep), sweep)
