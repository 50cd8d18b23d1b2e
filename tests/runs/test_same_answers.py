"""The default model answers alike, however its runs are cut up, batched and interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.sweeps import HARDLY_TIMED, Sweep, run_without_report
from tests.jobs.test_faults import Answers, answers
from vtexp.config.compose import compose_config
from vtexp.runs import run

pytestmark = pytest.mark.slow

SIZES = ("336x336", "560x560")


def overrides(sweep: Path, *more: str) -> list[str]:
    """The default sweep, but for fewer questions and sizes."""
    return [
        "dataset.limit=24",
        *HARDLY_TIMED,
        f"sweep.folder={sweep.parent}",
        f"sweep.name={sweep.name}",
        f"knob.sizes=[{','.join(SIZES)}]",
        *more,
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, drawn_pages: Path) -> Answers:
    """Answers of both runs in one job."""
    sweep = tmp_path_factory.mktemp("whole") / "sweep"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VTEXP_CACHE_DIR", str(drawn_pages))
        run_without_report(compose_config(overrides(sweep)))
    found = answers(sweep)
    scores = [sum(score for *_, score in rows) for rows in found.values()]
    assert len(found) == 2 and scores[0] != scores[1]  # it does read, and the sizes differ
    return found


@pytest.mark.fault("same answer", "the same config again, other batches", "the same predictions")
@pytest.mark.parametrize(
    "change",
    [
        "hardware.batch_size=16",
        "hardware.batch_size=5 hardware.auto_adjust_batch_size=false",
    ],
)
def test_batches_change_no_prediction(tmp_path: Path, whole: Answers, change: str) -> None:
    run_without_report(compose_config(overrides(tmp_path / "sweep", *change.split())))
    # Ids of runs, and so their folders, differ with the batch size.
    assert list(answers(tmp_path / "sweep").values()) == list(whole.values())


@pytest.mark.fault("same answer", "one job for all values, or one for each", "the same predictions")
def test_packing_changes_no_prediction(tmp_path: Path, whole: Answers) -> None:
    for size in SIZES:
        run_without_report(compose_config(overrides(tmp_path / "sweep", f"knob.sizes=[{size}]")))
    assert answers(tmp_path / "sweep") == whole


@pytest.mark.fault("same answer", "a run interrupted and resumed", "the same predictions")
def test_resuming_changes_no_prediction(
    tmp_path: Path, whole: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, batches = run.BatchSize.run, []

    def stopped(self: object, *rest: object) -> object:
        for batch in real(self, *rest):  # type: ignore[arg-type]
            batches.append(batch)
            yield batch
            if len(batches) == 3:
                raise KeyboardInterrupt

    config = compose_config(overrides(tmp_path / "sweep"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run.BatchSize, "run", stopped)
        run_without_report(config)
    run_without_report(config)
    assert answers(tmp_path / "sweep") == whole


@pytest.mark.slow
@pytest.mark.fault("same answer", "one process for a run, or two", "the same predictions")
def test_ranks_change_no_prediction(tmp_path: Path, whole: Answers, drawn_pages: Path) -> None:
    sweep = tmp_path / "sweep"
    launched = Sweep(sweep, Path("embedded:molmo_tiny"), "dataset=small_print",
                     *overrides(sweep, "hardware.launcher=local", "hardware.gpus_per_run=2",
                                "sweep.values_per_job=2"))  # fmt: skip
    done = launched.launch()
    assert done.returncode == 0, done.stderr
    assert list(answers(sweep).values()) == list(whole.values())
