"""A job: its runs answer the same decoded images, and broken ones fail in all of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.sweeps import run_without_report
from vtexp.analysis.fairness import require_same_samples
from vtexp.analysis.rows import collect
from vtexp.config.schema import Config
from vtexp.data import decoding
from vtexp.data.sample import fingerprint
from vtexp.errors import RunFailedError, VtexpError
from vtexp.models import runner
from vtexp.runs import job
from vtexp.runs.plan import make_plan
from vtexp.runs.records import SampleRow, read_environment, read_samples
from vtexp.runs.run import Measurement
from vtexp.utils import files

MakeConfig = Callable[..., Config]
IMAGES = 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images of about 500 KiB with two questions each."""
    folder = tmp_path / "set" / "test"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = []
    for number in range(IMAGES):
        pixels = rng.integers(0, 255, (400 + 20 * number, 400, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        for question in ("is it red?", "is there a number in it?"):
            lines.append(
                f'{{"file_name": "{number}.png", "question": "{question}", "answers": ["yes"]}}'
            )
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def cut(image: Path) -> None:
    """Half of a file: the header is whole, the pixels are not."""
    data = image.read_bytes()
    image.write_bytes(data[: len(data) // 2])


def overrides(folder: Path, *more: str) -> list[str]:
    return ["dataset.source.form=imagefolder", f"dataset.source.folder={folder.parent}",
            "dataset.source.files=test", "dataset.limit=null", "knob.sizes=[336x336,560x336]",
            *more]  # fmt: skip


def answers(sweep: Path) -> dict[str, list[SampleRow]]:
    """Rows of each run by the start of its folder's name."""
    return {
        path.parent.name.split("_easy")[0]: list(read_samples(path))
        for path in sorted(sweep.glob(f"*/{files.SAMPLES}"))
    }


@pytest.mark.slow
def test_chunks_and_workers_change_no_answer(
    make_config: MakeConfig, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    real = decoding.image_pixels

    def counting(image):
        decoded.append(str(image))
        return real(image)

    monkeypatch.setattr(decoding, "image_pixels", counting)
    run_without_report(make_config(*overrides(folder, "sweep.name=one")))
    assert len(decoded) == IMAGES  # once for both runs and both questions
    one = answers(tmp_path / "one")
    plan = make_plan(make_config(*overrides(folder)))
    assert len(one) == 2
    for rows in one.values():
        assert [row.sample_id for row in rows] == [s.sample_id for s in plan.samples]

    small = partial(decoding.decoded_chunks, most_bytes=10**6)
    monkeypatch.setattr(job, "decoded_chunks", small)
    run_without_report(make_config(*overrides(folder, "sweep.name=many", "hardware.batch_size=1")))
    assert answers(tmp_path / "many") == one
    decoded.clear()
    run_without_report(
        make_config(*overrides(folder, "sweep.name=ahead", "hardware.decode_workers=1"))
    )
    assert answers(tmp_path / "ahead") == one
    assert not decoded  # elsewhere


@pytest.mark.slow
def test_a_broken_image_fails_its_samples_in_all_runs(
    make_config: MakeConfig, folder: Path, tmp_path: Path
) -> None:
    run_without_report(make_config(*overrides(folder, "sweep.name=whole")))
    cut(folder / "0.png")
    config = make_config(*overrides(folder, "dataset.max_failed=2"))
    run_without_report(config)
    runs = collect(tmp_path / "sweep")
    assert len(runs) == 2
    for run in runs:
        assert (run.found.num_failed, run.found.num_samples) == (2, 2 * IMAGES - 2)
        for failed in run.found.failed_samples:
            assert "0.png: the image" in failed.reason
    require_same_samples(runs)
    kept = [s for s in make_plan(config).samples if s.image_id != "0.png"]
    assert {run.found.samples_fingerprint for run in runs} == {fingerprint(kept)}
    whole = answers(tmp_path / "whole")
    for run, found in answers(tmp_path / "sweep").items():
        assert found == [row for row in whole[run] if row.image_id != "0.png"]


def test_more_broken_images_than_allowed_stop_the_job(
    make_config: MakeConfig, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut(folder / "2.png")
    config = make_config(*overrides(folder, "dataset.max_failed=1"))
    line = r"2 of 10 .*dataset\.max_failed=1; .*2\.png"
    with pytest.raises(RunFailedError, match=line):
        run_without_report(config)
    assert not answers(tmp_path / "sweep")
    assert len(list((tmp_path / "sweep").glob(f"*/{files.FAILURE}"))) == 2
    assert not list((tmp_path / "sweep").glob("*/*.partial"))
    assert "Traceback" not in capsys.readouterr().out


class Interrupted:
    """A sweep stopped within the second of several chunks, between its runs, a row half written."""

    def __init__(self, make: Callable[[], None], sweep: Path) -> None:
        real, answered = Measurement.answer, []

        def stopped(run, images, advance):
            if len(answered) == 3:
                raise KeyboardInterrupt
            answered.append(run.run.value.value)
            real(run, images, advance)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Measurement, "answer", stopped)
            with pytest.raises(KeyboardInterrupt):
                make()
        left = {path: path.read_bytes() for path in sweep.glob("*/ranks/0/answers.jsonl.partial")}
        assert len(left) == 2 and len({len(rows) for rows in left.values()}) == 2
        ahead = max(left, key=lambda path: len(left[path]))
        ahead.write_bytes(left[ahead][:-20])
        self.kept = sum(rows.count(b"\n") for rows in left.values()) - 1
        self.timed = {p: p.read_bytes() for p in sweep.glob(f"*/ranks/0/{files.LATENCY}")}
        assert len(self.timed) == 2


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that the model answers, as they come."""
    found: list[int] = []
    answer = runner.Runner.answer

    def counting(self, batch, *rest):
        found.append(len(batch))
        return answer(self, batch, *rest)

    monkeypatch.setattr(runner.Runner, "answer", counting)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("node", [None, "another"])
def test_an_interrupted_job_goes_on_with_what_is_missing(
    make_config: MakeConfig,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answered: list[int],
    node: str | None,
) -> None:
    """On another machine the answers are kept, too, but not the times."""
    run_without_report(make_config(*overrides(folder, "sweep.name=whole")))
    monkeypatch.setattr(job, "decoded_chunks", partial(decoding.decoded_chunks, most_bytes=10**6))
    config = make_config(*overrides(folder))
    left = Interrupted(lambda: run_without_report(config), tmp_path / "sweep")
    if node is not None:
        monkeypatch.setenv("SLURMD_NODENAME", node)
    answered.clear()
    run_without_report(config)
    assert sum(answered) == 2 * 2 * IMAGES - left.kept  # none twice
    for path, rows in left.timed.items():
        run = path.parents[2]
        assert ((run / files.LATENCY).read_bytes() == rows) == (node is None)
        host = read_environment(run).host
        assert (host == node) == (node is not None)
    assert answers(tmp_path / "sweep") == answers(tmp_path / "whole")
    assert not list((tmp_path / "sweep").glob("*/ranks"))


def test_records_of_two_processes_are_no_result(
    make_config: MakeConfig, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Measurement.finish_part

    def mixed(run, broken):
        rows = list(files.rows_of(run._folder / "answers.jsonl.partial"))
        run._answers.write(rows[:1])
        return real(run, broken)

    monkeypatch.setattr(Measurement, "finish_part", mixed)
    with pytest.raises(RunFailedError, match="another process"):
        run_without_report(make_config(*overrides(folder)))
    assert not answers(tmp_path / "sweep")


def test_a_run_whose_failure_cannot_be_written_leaves_the_others_alone(
    make_config: MakeConfig, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(*overrides(folder))
    first, second = make_plan(config).runs
    first.folder.mkdir(parents=True)
    (first.folder / files.RANKS).write_text("in the way")

    def refuse(run: Path, *_: object) -> None:
        raise VtexpError(f"{run}: cannot be written")

    monkeypatch.setattr(job, "record_failure", refuse)
    with pytest.raises(VtexpError, match="cannot be written"):
        run_without_report(config)
    assert (second.folder / files.RESULT).is_file()


def test_nothing_is_decoded_for_no_run(
    make_config: MakeConfig, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(make_config(*overrides(folder)))
    monkeypatch.setattr(decoding, "image_pixels", None)
    job.RunsUnderWay(plan, [], job.load_runner(plan)).make()


def test_images_that_cannot_be_decoded_are_not_timed(make_config: MakeConfig, folder: Path) -> None:
    plan = make_plan(make_config(*overrides(folder, "dataset.max_failed=2")))
    first = plan.samples[0].image_id
    cut(folder / first)
    group = job.RunsUnderWay(plan, plan.runs, job.load_runner(plan))
    others = [i for i, s in enumerate(plan.samples) if s.image_id != first]
    assert group._first_readable(3) == others[:3]
