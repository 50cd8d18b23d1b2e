"""Checkpoints and data sets of strangers, secrets in the environment, folders that others share."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from PIL import Image

from tests.data.test_bad_data import private
from tests.helpers.made_sweeps import make_run
from vtexp.cli import sweep as sweep_commands
from vtexp.config.choices import Launcher
from vtexp.config.schema import Config
from vtexp.errors import CheckpointError, ConfigError, DataError
from vtexp.jobs.here import run_job
from vtexp.jobs.status import _progress, look, look_again
from vtexp.models.checkpoints import find_checkpoint
from vtexp.runs.folder import failure, finished, run_folders
from vtexp.runs.frozen import freeze, thaw
from vtexp.runs.ledger import JOBS, SubmittedJob, note_submitted
from vtexp.runs.plan import make_plan
from vtexp.utils import environment, files, hub

MakeConfig = Callable[..., Config]


class Evil:
    """What writes a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.proof),))


def test_the_proof_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Evil(tmp_path / "proof")))
    assert (tmp_path / "proof").is_dir()


@pytest.mark.fault(
    "hostile input", "a checkpoint with pickles, own code and auto_map", "none of it is run"
)
def test_nothing_of_a_checkpoint_is_run(
    make_config: MakeConfig, small_checkpoint: Path, tmp_path: Path
) -> None:
    folder, proof = tmp_path / "evil", tmp_path / "proof"
    shutil.copytree(small_checkpoint, folder)
    evil = pickle.dumps(Evil(proof))
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "adapter_model.bin"):
        (folder / name).write_bytes(evil)
    code = f"import os\nos.mkdir({str(proof)!r})\n"
    modules = ("modeling_evil", "configuration_evil", "tokenization_evil", "processing_evil")
    for module in (*modules, "__init__", "custom_generate"):
        (folder / f"{module}.py").write_text(code)
    auto = {
        "AutoConfig": "configuration_evil.Evil",
        "AutoModel": "modeling_evil.Evil",
        "AutoModelForCausalLM": "modeling_evil.Evil",
        "AutoTokenizer": ["tokenization_evil.Evil", "tokenization_evil.Evil"],
        "AutoProcessor": "processing_evil.Evil",
    }
    #: Kernels from the hub, which transformers asks for where a config.json names a repository.
    kernels = {
        f"{prefix}{part}_implementation{suffix}": "evil/kernels"
        for prefix in ("", "_")
        for part in ("attn", "experts")
        for suffix in ("", "_internal")
    }
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        content = json.loads((folder / name).read_text()) if (folder / name).is_file() else {}
        content |= {"auto_map": auto, "trust_remote_code": True, "custom_generate": "."}
        if name == "config.json":
            content |= kernels | {"transformers_weights": "adapter_model.bin"}
            for part in content.values():
                if isinstance(part, dict) and part is not auto:
                    part |= kernels
        (folder / name).write_text(json.dumps(content))
    run_job(make_config(f"model.path={folder}", "knob.sizes=[336x336]"))
    assert list((tmp_path / "sweep").glob("*/result.json"))
    assert not proof.exists()


@pytest.mark.fault(
    "hostile input",
    "a checkpoint whose index names files elsewhere, or no files",
    "refused, before anything is read",
)
@pytest.mark.parametrize("name", ["../weights.safetensors", "/weights.safetensors", "a/b", "pipe",
                                  "..", ".", "", 5, "a" * 300])  # fmt: skip
def test_weights_elsewhere_are_refused(small_checkpoint: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "evil"
    shutil.copytree(small_checkpoint, folder)
    (folder / "model.safetensors").rename(tmp_path / "weights.safetensors")
    os.mkfifo(folder / "pipe")
    index = {"metadata": {}, "weight_map": {"model.norm.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="folder has no "):
        find_checkpoint(str(folder))


@pytest.mark.fault(
    "hostile input",
    "pipes in place of a checkpoint's files",
    "vtexp does not wait for them: one line, or unread",
)
def test_pipes_are_not_waited_for(small_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pipes"
    shutil.copytree(small_checkpoint, folder)
    before = find_checkpoint(str(folder)).fingerprint
    os.mkfifo(folder / "zz.safetensors")
    os.mkfifo(folder / "processor_config.json")
    assert find_checkpoint(str(folder)).fingerprint == before
    for name in ("model.safetensors", "tokenizer_config.json", "tokenizer.json", "config.json"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(CheckpointError, match="folder has no"):
            find_checkpoint(str(folder))
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        find_checkpoint(str(folder), random=True)


def _image() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (60, 60), "red").save(buffer, "PNG")
    return buffer.getvalue()


ROW = {"question": "is it red?", "answers": ["yes"], "id": "a", "size": 1}


@pytest.mark.fault(
    "hostile input", "data sets with a loading script, pickled types and pickles", "none is run"
)
def test_nothing_of_a_data_set_is_run(make_config: MakeConfig, tmp_path: Path) -> None:
    folder, proof = tmp_path / "set", tmp_path / "proof"
    folder.mkdir()
    for name in ("set.py", "__init__.py", "dataset.py", "conftest.py"):
        (folder / name).write_text(f"import os\nos.mkdir({str(proof)!r})\n")
    for name in ("state.pkl", "test.npy"):
        (folder / name).write_bytes(pickle.dumps(Evil(proof)))
    pickled = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Evil(proof)),
    }
    table = pa.Table.from_pylist([ROW | {"image": {"bytes": _image(), "path": None}}])
    fields = [
        field.with_metadata(pickled) if field.name == "question" else field
        for field in table.schema
    ]
    table = table.cast(pa.schema(fields))
    pq.write_table(table, folder / "test.parquet")
    run_job(make_config(*private(folder, "test.parquet", "parquet"), "knob.sizes=[336x336]"))
    Dataset.from_list([ROW | {"image": {"bytes": _image(), "path": None}}]).save_to_disk(
        str(folder / "saved")
    )
    assert make_plan(make_config(*private(folder, "saved", "saved"))).samples
    state = folder / "saved" / "state.json"
    content = json.loads(state.read_text())
    shutil.move(next((folder / "saved").glob("*.arrow")), tmp_path / "elsewhere.arrow")
    for name in ("../../elsewhere.arrow", str(tmp_path / "elsewhere.arrow")):
        content["_data_files"] = [{"filename": name}]
        state.write_text(json.dumps(content))
        with pytest.raises(DataError, match=r"state\.json names files"):
            make_plan(make_config(*private(folder, "saved", "saved")))
    assert not proof.exists()


SECRETS = {
    name: f"{name.lower()}-0123456789abcdef0123456789abcdef"
    for name in ("WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY",
                 "GITHUB_TOKEN", "OPENAI_API_KEY", "SSH_AUTH_SOCK")
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.fault(
    "hostile input", "keys and tokens in the environment", "in no file, log or message of a run"
)
@pytest.mark.usefixtures("figures")
def test_no_secret_is_written(
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    proxy = "http://someone:proxy-password-0123456789@127.0.0.1:9"
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    run_job(make_config("knob.sizes=[336x336]"))
    with pytest.raises(CheckpointError):
        run_job(make_config("knob.sizes=[336x336]", "model.path=some/where", "sweep.name=b"))
    said = capfd.readouterr()
    texts = [said.out, said.err, hub.unreachable()]
    texts += [p.read_bytes().decode("latin-1") for p in tmp_path.rglob("*") if p.is_file()]
    assert len(texts) > 8
    for secret in (*SECRETS.values(), "proxy-password-0123456789"):
        assert not any(secret in text for text in texts)


@pytest.mark.slow
@pytest.mark.parametrize(("mask", "file", "folder"), [(0o077, 0o600, 0o700), (0o027, 0o640, 0o750)])
@pytest.mark.fault(
    "hostile input", "a file system that others share", "files and folders follow the umask"
)
@pytest.mark.usefixtures("figures")
def test_files_are_as_open_as_the_umask_says(
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mask: int,
    file: int,
    folder: int,
) -> None:
    monkeypatch.setenv("VTEXP_CACHE_DIR", str(tmp_path / "cache"))
    before = os.umask(mask)
    try:
        run_job(make_config("knob.sizes=[336x336]"))
    finally:
        os.umask(before)
    found = [tmp_path / "sweep", *(tmp_path / "sweep").rglob("*")]
    assert len(found) > 8
    for path in found:
        assert stat.S_IMODE(path.stat().st_mode) == (folder if path.is_dir() else file), path


def sweep_of_two(folder: Path) -> list[Path]:
    """Two finished runs on the same four questions."""
    scores = [1.0, 0.0, 1.0, 1.0]
    return [
        make_run(folder, value, tokens, scores) for value, tokens in (("336x336", 288), ("a", 400))
    ]


def aliases(levels: int) -> str:
    """A few lines that stand for 9 ** levels words."""
    lines = ["l0: &l0 [lol]"]
    for level in range(1, levels + 1):
        below = ", ".join([f"*l{level - 1}"] * 9)
        lines.append(f"l{level}: &l{level} [{below}]")
    return "\n".join(lines)


@pytest.mark.fault(
    "hostile input",
    "the config of a run with aliases, tags, dates, deep nesting or of 1 GB",
    "one line at once; nothing is built from it",
)
@pytest.mark.parametrize(
    "text",
    [aliases(8), "a: &a [*a]", "[" * 200_000, "- " * 200_000, "? " * 200_000, "{" * 200_000,
     "a: 2020-01-01", "1: a", "a: !!int ''", "a: !!timestamp x", "a: !!python/object:os.system x",
     "[]", "null", "a: b\n---\nc: d", "\x00", "#" * 1_000_001, "a: 1" + "0" * 5000],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_a_config_that_no_run_writes_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / files.CONFIG).write_text(text)
    with pytest.raises(DataError, match=r"config\.yaml: (cannot be read|not the config)"):
        files.read_config(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["a: b", "run: 5", "run: {value: 1}", "run: {value: 1}\nknob: a\nsweep: {}",
     "run: {value: 1}\nknob: {name: a}\nsweep: {}", "run: {value: 1}\nknob: {name: max_crops}"],
)  # fmt: skip
def test_a_config_of_no_run_is_not_thawed(tmp_path: Path, text: str) -> None:
    (tmp_path / files.CONFIG).write_text(text)
    with pytest.raises(DataError, match=r"config\.yaml: not the"):
        thaw([tmp_path])


@pytest.mark.parametrize("margin", ["[1]", ".nan", "-1", ".inf", "1" + "0" * 400, "x"])
def test_a_margin_that_is_no_number_is_one_line(tmp_path: Path, margin: str) -> None:
    for folder in sweep_of_two(tmp_path):
        config = (folder / files.CONFIG).read_text()
        (folder / files.CONFIG).write_text(config.replace("margin: 1.0", f"margin: {margin}"))
    with pytest.raises(DataError, match=r"config\.yaml: report\.margin\b.*number"):
        sweep_commands.report([str(tmp_path)])


def changed(path: Path, **values: object) -> str:
    """A JSON file with other values; None takes one away."""
    content = json.loads(path.read_text()) | values
    return json.dumps({key: value for key, value in content.items() if value is not None})


DEEP = "[" * 100_000
NO_OBJECTS = ("null", "[1]", '"x"', DEEP, "{", "")


@pytest.mark.fault(
    "hostile input",
    "JSON of a sweep that is cut off, has other types, is nested deeply, or lacks keys",
    "one line that names the file and says what to do",
)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        *((name, text) for name in (files.PLANNED, files.FAILURE, files.LATENCY)
          for text in (*NO_OBJECTS, "{}")),
        # Of an environment that is empty nothing is known, which is no damage.
        *((files.ENVIRONMENT, text) for text in (*NO_OBJECTS, '{"git": {"commit": 5}}')),
    ],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_damaged_json_of_a_run_is_one_line(tmp_path: Path, name: str, text: str) -> None:
    first, _ = sweep_of_two(tmp_path)
    if name in (files.PLANNED, files.FAILURE):
        (first / files.RESULT).unlink()
    if name == files.LATENCY:
        text += "\n"
    (first / name).write_text(text)
    with pytest.raises(DataError) as error:
        sweep_commands.report([str(tmp_path)])
    assert f"{name}: " in str(error.value)
    assert "python -m vtexp resume" in str(error.value)
    assert len(str(error.value)) < 500
    if name in (files.PLANNED, files.FAILURE):
        (damaged, _) = look(tmp_path)
        assert f"{name}: " in damaged.cause and "python -m vtexp resume" in damaged.cause


@pytest.mark.parametrize(
    "changes",
    [{"theoretical_vision_tokens": None}, {"accuracy": "high"}, {"tiling": 5}, {"latency": [1]},
     {"latency": {"prefill_ms": 3}}, {"latency": {"prefill_ms": {"median": "x"}}},
     {"memory_peak_mib": 5}, {"warnings": "none"}, {"warnings": [1]}, {"timing_warnings": {"a": 1}},
     {"num_samples": True}, {"num_samples": 1e308}, {"measured_vision_tokens": 10**400},
     {"format": 2}, {"format": []}, {"accuracy_by_question_type": {"a": 1}},
     {"accuracy_by_question_type": ["a"]}, {"force_full_tokens": "no"}, {"knob_value": {}},
     {"samples_fingerprint": [1]}, {"mfu": "fast"}, {"model": None}],
    ids=str,
)  # fmt: skip
def test_a_result_of_other_types_is_one_line(tmp_path: Path, changes: dict) -> None:
    path = sweep_of_two(tmp_path)[0] / files.RESULT
    path.write_text(changed(path, **changes))
    line = r"result\.json: not a result.*python -m vtexp resume"
    with pytest.raises(DataError, match=line):
        sweep_commands.report([str(tmp_path)])


@pytest.mark.fault(
    "hostile input",
    "samples.jsonl lacks a row, repeats one, or has one of another question",
    "one line that names the file; no statistics from it",
)
@pytest.mark.parametrize(
    "damage",
    [lambda rows: rows[:-1], lambda rows: [*rows, rows[0]], lambda rows: [*rows[:-1], rows[0]],
     lambda rows: [*rows[:-1], rows[-1].replace("question-3", "question-9")],
     lambda rows: [*rows[:-1], "[1]"], lambda rows: [*rows[:-1], '{"sample_id": "a"}'],
     lambda rows: [*rows[:-1], DEEP],
     lambda rows: [*rows[:-1], rows[-1].replace('"score": 1.0', '"score": NaN')]],
)  # fmt: skip
def test_samples_that_are_not_those_of_the_result_are_one_line(
    tmp_path: Path, damage: Callable[[list[str]], list[str]]
) -> None:
    path = sweep_of_two(tmp_path)[1] / files.SAMPLES
    path.write_text("\n".join(damage(path.read_text().splitlines())) + "\n")
    with pytest.raises(DataError, match=r"samples\.jsonl: .*python -m vtexp resume"):
        sweep_commands.report([str(tmp_path)])


@pytest.mark.fault(
    "hostile input",
    "result.json cut short, as by a disk that lost power",
    "the run counts as missing, the report covers the others; resumed",
)
@pytest.mark.parametrize("text", ["", "[", '{"status": "do', DEEP], ids=lambda text: text[:6])
def test_a_result_that_is_cut_short_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    first, second = sweep_of_two(tmp_path)
    (first / files.RESULT).write_text(text)
    assert [finished(folder) for folder in (first, second)] == [False, True]
    assert {status.folder: status.state for status in look(tmp_path)} == {
        first: "missing", second: "done"
    }  # fmt: skip
    sweep_commands.report([str(tmp_path)])
    printed = capsys.readouterr().out
    assert "2 runs: 1 done, 1 missing" in printed
    assert "result.json is damaged" in printed


def test_a_run_that_was_frozen_has_its_planned_row(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever file was written last, every reader agrees on what is a run."""
    plan = make_plan(make_config("knob.sizes=[336x336,560x336]"))
    real, left = files.write_bytes, 0

    def stop_after(path: Path, data: bytes) -> None:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        real(path, data)

    for written in range(4):
        left = written
        with monkeypatch.context() as patch:
            patch.setattr(files, "write_bytes", stop_after)
            with pytest.raises(KeyboardInterrupt):
                freeze(plan)
        sweep = tmp_path / "sweep"
        if sweep.is_dir() and (found := run_folders(sweep)):
            assert len(found) == written // 2
            sweep_commands.status(str(sweep))
            sweep_commands.report([str(sweep)])


def test_a_job_of_no_process_has_ended(tmp_path: Path) -> None:
    first, _ = sweep_of_two(tmp_path)
    (first / files.RESULT).unlink()
    job = SubmittedJob((first.name,), Launcher.local, "x", host=environment.host())
    note_submitted(tmp_path, [job])
    sweep_commands.status(str(tmp_path))
    assert failure(first)


def test_damaged_progress_is_none(tmp_path: Path) -> None:
    for rank, row in enumerate(({}, {"stage": "answers", "done": "x"}, {"stage": []})):
        files.write_json(tmp_path / files.RANKS / str(rank) / files.PROGRESS, row)
    assert _progress(tmp_path) is None


@pytest.mark.fault(
    "hostile input",
    "a sweep whose jobs name a private file as their log",
    "vtexp neither reads nor shows it",
)
@pytest.mark.parametrize("where", ["plain", "up", "link", "loop", "pipe"])
def test_no_file_elsewhere_is_taken_for_a_log(tmp_path: Path, where: str) -> None:
    sweep, private_file = tmp_path / "sweep", tmp_path / "private.txt"
    first, _ = sweep_of_two(sweep)
    (first / files.RESULT).unlink()
    private_file.write_text("password 1234\n")
    (sweep / JOBS).mkdir()
    log = private_file
    if where == "up":
        log = sweep / JOBS / ".." / ".." / "private.txt"
    elif where == "link":
        log = sweep / JOBS / "worker0.log"
        log.symlink_to(private_file)
    elif where == "loop":
        log = sweep / JOBS / "worker0.log"
        log.symlink_to(log)
    elif where == "pipe":
        log = sweep / JOBS / "worker0.log"
        os.mkfifo(log)
    job = SubmittedJob((first.name,), Launcher.local, "1", str(log), environment.host(), "long ago")
    note_submitted(sweep, [job])
    sweep_commands.status(str(sweep))
    look_again(sweep)
    if where == "plain":
        sweep_commands.report([str(sweep)])
    assert failure(first).log_tail == ()
    for path in sweep.rglob("*"):
        if path.is_file() and path != log:
            assert b"password 1234" not in path.read_bytes(), path


@pytest.mark.parametrize("name", ["a" * 300, "a/" * 3000], ids=len)
def test_a_name_that_no_folder_has_is_one_short_line(name: str) -> None:
    with pytest.raises(ConfigError, match=r"\(File name too") as error:
        sweep_commands.status(name)
    assert len(str(error.value)) < 150
