"""Disks, memory, handles, clocks and logs that fail: one line, what there is is kept, resumable."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

from tests.helpers import processes
from tests.helpers.slurm_cluster import wait_until
from tests.helpers.sweeps import HARDLY_TIMED, ROOT, Sweep
from vtexp.config import user_errors
from vtexp.config.schema import Config
from vtexp.data.sources.paths import cache_folder
from vtexp.errors import DataError
from vtexp.jobs.here import run_job
from vtexp.models.runner import Runner
from vtexp.runs import job
from vtexp.runs.frozen import freeze
from vtexp.runs.plan import make_plan
from vtexp.utils import files

pytestmark = pytest.mark.slow

MakeConfig = Callable[..., Config]
Answers = dict[str, list[tuple[str, str, float]]]
SIZES = "knob.sizes=[336x336,560x336]"


@pytest.fixture
def made(make_config: MakeConfig) -> Callable[..., int]:
    """Makes a sweep as the command line does; gives its exit code."""

    def make(*overrides: str) -> int:
        config = make_config(SIZES, *overrides)
        return user_errors.reported(lambda: run_job(config), show_traceback=False, interrupted="")

    return make


def answers(sweep: Path) -> Answers:
    """Sample, prediction and score of each answer, by the finished run."""
    found = {}
    for path in sorted(sweep.glob(f"*/{files.RESULT}")):
        rows = files.read_jsonl(path.with_name(files.SAMPLES))
        values = [(row["sample_id"], row["prediction"], row["score"]) for row in rows]
        found[path.parent.name] = values
    return found


@pytest.fixture
def whole(made_runs: Path) -> Answers:
    """Answers of a sweep that nothing disturbed; its folder is not there any more."""
    found = answers(made_runs)
    assert len(found) == 2
    shutil.rmtree(made_runs)
    return found


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The line that a user was told."""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


# --- disks ----------------------------------------------------------------------------------------


def mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True).returncode == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory of its own; `mount -o remount` gives it its size."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() or not mount("-t", "tmpfs", "-o", "size=100m", "tmpfs", str(folder)):
        pytest.skip("only root can mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("kib", [4, 48, 96])
@pytest.mark.fault(
    "resources",
    "the disk is full, from the first file on or later",
    "one line; resumed once repaired",
)
def test_a_full_disk_is_one_line_and_resumed(
    made: Callable[..., int],
    whole: Answers,
    disk: Path,
    capsys: pytest.CaptureFixture[str],
    kib: int,
) -> None:
    assert mount("-o", f"remount,size={kib}k", str(disk))
    capsys.readouterr()
    assert made(f"sweep.folder={disk}") == 1
    assert "No space left" in one_line(capsys)
    for path in disk.glob("sweep/*/*.json*"):
        assert path.read_bytes().endswith(b"\n")  # under its own name, each file is whole
    assert mount("-o", "remount,size=100m", str(disk))
    assert made(f"sweep.folder={disk}") == 0
    assert answers(disk / "sweep") == whole
    assert not list(disk.glob("sweep/**/*.partial"))


@pytest.mark.fault("resources", "the folder is read-only", "one line; resumed once repaired")
def test_a_folder_that_can_only_be_read(
    made: Callable[..., int], whole: Answers, disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mount("-o", "remount,ro", str(disk))
    capsys.readouterr()
    assert made(f"sweep.folder={disk}") == 1
    assert "Read-only file system" in one_line(capsys)
    assert mount("-o", "remount,rw", str(disk))
    assert made(f"sweep.folder={disk}") == 0
    assert answers(disk / "sweep") == whole


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
@pytest.mark.fault(
    "resources", "no memory for a batch, on the device or the host", "smaller batches, same answers"
)
def test_a_batch_that_does_not_fit_is_made_smaller(
    made: Callable[..., int],
    whole: Answers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    real = Runner.answer

    def answer(self: Runner, batch: list, *rest: int) -> list[list[int]]:
        if len(batch) > 2:
            raise error
        return real(self, batch, *rest)

    monkeypatch.setattr(Runner, "answer", answer)
    assert made() == 0
    assert answers(tmp_path / "sweep") == whole


@pytest.mark.parametrize("stage", ["answer", "timed_prefill"])
@pytest.mark.fault(
    "resources",
    "no memory for one sample, halfway through a run",
    "the run fails; resumed once repaired",
)
def test_one_sample_that_does_not_fit_fails_the_run(
    made: Callable[..., int],
    whole: Answers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stage: str,
) -> None:
    real, calls = getattr(Runner, stage), []

    def full(self: Runner, *rest: object) -> object:
        calls.append(stage)
        if len(calls) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(self, *rest)

    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(Runner, stage, full)
        assert made() == 1
    assert "of 2 runs failed" in (line := one_line(capsys)) and "out of memory" in line
    assert made() == 0
    assert answers(tmp_path / "sweep") == whole


@pytest.mark.fault(
    "resources",
    "a run fails halfway through its answers",
    "resumed: it asks only the other questions",
)
def test_a_failed_run_keeps_what_was_answered(
    made: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = Runner.answer, []
    assert made("sweep.name=whole", "hardware.batch_size=1") == 0
    whole = answers(tmp_path / "whole")

    def answer(self: Runner, batch: list, *rest: int) -> list[list[int]]:
        if len(asked) == 5:
            raise OSError(errno.EIO, "Input/output error")
        asked.append(len(batch))
        return real(self, batch, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Runner, "answer", answer)
        assert made("hardware.batch_size=1") == 1
    assert len(asked) == 5

    def count(self: Runner, batch: list, *rest: int) -> list[list[int]]:
        asked.append(len(batch))
        return real(self, batch, *rest)

    monkeypatch.setattr(Runner, "answer", count)
    assert made("hardware.batch_size=1") == 0
    assert len(asked) == sum(map(len, whole.values()))
    assert answers(tmp_path / "sweep") == whole


@pytest.mark.slow
@pytest.mark.parametrize("limit_mib", [900, 1200])
@pytest.mark.fault(
    "resources",
    "less address space than code and data need (ulimit -v)",
    "one line instead of a traceback, or a C++ library aborts; typed again, it completes",
)
def test_too_little_memory_for_all_there_is(tmp_path: Path, limit_mib: int) -> None:
    command = [
        sys.executable, str(ROOT / "launch.py"), "dataset=easy_vqa", "dataset.limit=4",
        "knob.sizes=336x336,784x784", *HARDLY_TIMED, f"sweep.folder={tmp_path}", "sweep.name=sweep",
    ]  # fmt: skip
    limit = limit_mib * 2**20

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limited)
    assert "Traceback" not in done.stderr
    assert done.returncode != 0
    if done.returncode > 0:  # no library of C++ has ended the process
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith("error: ")
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert len(list(tmp_path.glob("sweep/*/result.json"))) == 2


# --- handles and clocks ---------------------------------------------------------------------------


@pytest.mark.parametrize("free", [0, 1, 4])
@pytest.mark.fault("resources", "no file handle left", "one line; resumed once repaired")
def test_no_file_handle_left(
    make_config: MakeConfig,
    made: Callable[..., int],
    whole: Answers,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    free: int,
) -> None:
    capsys.readouterr()
    config = make_config(SIZES)
    job._loaded.clear()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with Path("/dev/null").open() as last:
        most = last.fileno() + 1 + free
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, limits[1]))
        code = user_errors.reported(lambda: run_job(config), show_traceback=False, interrupted="")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    if code:
        assert "open files" in one_line(capsys)
        assert made() == 0
    assert answers(tmp_path / "sweep") == whole


@pytest.mark.fault("resources", "the clock jumps by days, back and forth", "nothing")
def test_a_clock_that_jumps_changes_nothing(
    made: Callable[..., int], whole: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = time.time, []

    def jumping() -> float:
        calls.append(0)
        return real() + 86_400 * (-1) ** len(calls) * len(calls)

    monkeypatch.setattr(time, "time", jumping)
    assert made() == 0
    assert len(calls) > 5
    monkeypatch.undo()
    assert answers(tmp_path / "sweep") == whole


# --- logs -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.fault(
    "resources", "the log's disk is full, or its reader is gone", "the sweep goes on"
)
@pytest.mark.parametrize("gone", ["full", "full for errors too", "closed"])
def test_a_log_that_cannot_be_written_costs_the_log_alone(
    tmp_path: Path, small_checkpoint: Path, gone: str
) -> None:
    sweep = Sweep(tmp_path / "sweep", small_checkpoint, "dataset.limit=4", "knob.sizes=336x336")
    read, write = os.pipe()
    os.close(read)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            sweep.command(),
            stdout=write if gone == "closed" else full,
            stderr=subprocess.STDOUT if gone == "full for errors too" else subprocess.PIPE,
            text=True,
            env=sweep.environment,
        )
    os.close(write)
    assert done.returncode == 0, done.stderr
    assert ("standard output" in (done.stderr or "")) == (gone == "full")
    assert "Traceback" not in (done.stderr or "")
    assert len(sweep.answers()) == 1


@pytest.mark.slow
@pytest.mark.fault("resources", "the disk with the log of a local job is full", "the job goes on")
def test_a_job_whose_log_cannot_be_written(make_config: MakeConfig, tmp_path: Path) -> None:
    plan = make_plan(make_config(SIZES))
    freeze(plan)
    names = [run.folder.name for run in plan.runs]
    command = [sys.executable, "-m", "vtexp.jobs.worker", str(tmp_path / "sweep"), *names]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=full, cwd=ROOT)
    assert done.returncode == 0
    assert len(answers(tmp_path / "sweep")) == 2


CLOSED = """
import os, subprocess, sys
from vtexp.utils.output import output_may_close
with output_may_close(fails=True), open("result", "w") as file:
    print("words"), print("words", file=sys.stderr)
    for descriptor in (1, 2):
        os.write(descriptor, b"of a library")
    subprocess.run(["sh", "-c", "echo of a child; echo of a child >&2"], check=True)
    file.write("written")
"""


@pytest.mark.parametrize("how", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_words_never_go_into_files(how: str, tmp_path: Path) -> None:
    """Though a closed descriptor's number is that of the next file."""
    line = f"exec {sys.executable} -c '{CLOSED}' {how}"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run(["sh", "-c", line], cwd=tmp_path, env=environment).returncode == 0
    assert (tmp_path / "result").read_text() == "written"


@pytest.mark.parametrize("more", [[], ["-m"]])
@pytest.mark.fault(
    "resources", "the current folder has been deleted", "one line, unless it is not needed"
)
def test_a_folder_that_is_gone(tmp_path: Path, made_runs: Path, more: list[str]) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    typed = f"cd '{gone}' && rmdir '{gone}' && {sys.executable}"

    def done(arguments: str) -> subprocess.CompletedProcess[str]:
        gone.mkdir(exist_ok=True)
        command = ["sh", "-c", f"{typed} {arguments}"]
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    launched = done(f"{ROOT / 'launch.py'} {' '.join(more)} plan=true dataset=easy_vqa")
    (line,) = launched.stderr.splitlines()
    assert launched.returncode == 1 and "no longer there" in line
    assert done(f"-m vtexp status {made_runs}").returncode == 0


# --- the same twice -------------------------------------------------------------------------------

LONG = ("dataset.limit=16", "hardware.batch_size=1", "knob.sizes=[560x336,784x784]")


def together(
    commands: list[list[str]], environment: dict[str, str]
) -> list[tuple[int | None, str]]:
    """Start commands at once; exit code and standard error of each."""
    with TemporaryDirectory() as folder:
        said = [Path(folder) / f"errors{i}" for i in range(len(commands))]
        started = [
            processes.start(command, Path(folder) / "output", errors, environment=environment)
            for command, errors in zip(commands, said, strict=True)
        ]
        for process in started:
            process.join()
        codes = [process.exitcode for process in started]
        return [(code, errors.read_text()) for code, errors in zip(codes, said, strict=True)]


@pytest.mark.slow
@pytest.mark.fault(
    "kill anywhere",
    "the same sweep typed twice at once, with -m and without; resumed twice at once",
    "one process does the runs; others wait, or say in one line that the runs are under way",
)
def test_two_at_once_do_not_make_the_same_runs(tmp_path: Path, small_checkpoint: Path) -> None:
    here = Sweep(tmp_path / "here" / "sweep", small_checkpoint, *LONG)
    ended = together([here.arguments()[1:]] * 2, here.environment)
    assert sorted(code for code, _ in ended) == [0, 2], ended
    (line,) = next(text for code, text in ended if code == 2).splitlines()
    assert "under way" in line
    expected = here.answers()  # of one process, as the other one was refused
    assert [len({sample for sample, *_ in rows}) for rows in expected.values()] == [16, 16]

    twice = Sweep(tmp_path / "twice" / "sweep", small_checkpoint, *LONG)
    ended = together([twice.arguments()] * 2, twice.environment)
    assert [code for code, _ in ended] == [0, 0], ended
    assert twice.answers() == expected

    killed = Sweep(tmp_path / "killed" / "sweep", small_checkpoint, *LONG)
    process = killed.start()
    killed.wait_for_answers(3)
    process.kill()
    process.communicate()
    resume = ["-m", "vtexp", "resume", str(killed.folder)]
    ended = together([resume] * 2, killed.environment)
    assert {code for code, _ in ended} <= {0, 2} and 0 in [code for code, _ in ended], ended
    assert killed.answers() == expected and not killed.failures()


def test_a_process_that_times_ends_with_the_one_that_started_it() -> None:
    child = "import os, sys, time; from vtexp.runs.timing_process import end_with; "
    child += "end_with(int(sys.argv[1])); "
    child += "print(os.getpid(), flush=True); time.sleep(60)"
    parent = "import os, subprocess, sys; "
    parent += f"subprocess.run([sys.executable, '-c', {child!r}, str(os.getpid())])"
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    number = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not _alive(number), "the end of the child")


def _alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setenv("VTEXP_CACHE_DIR", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("VTEXP_CACHE_DIR")
    with pytest.raises(DataError, match="set VTEXP_CACHE_DIR"):
        cache_folder()
