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

from tests.test_bad_data import private
from vtexp import hub
from vtexp.config import Config
from vtexp.errors import CheckpointError, DataError
from vtexp.job import run_job
from vtexp.models.checkpoints import find_checkpoint
from vtexp.planning import make_plan

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
    with pytest.raises(CheckpointError, match="the folder has no "):
        find_checkpoint(str(folder))


@pytest.mark.fault(
    "hostile input", "pipes in place of a checkpoint's files", "not waited for: one line, or unread"
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
        with pytest.raises(CheckpointError, match="the folder has no"):
            find_checkpoint(str(folder))
    with pytest.raises(CheckpointError, match=r"the folder has no config\.json"):
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
        with pytest.raises(DataError, match=r"state\.json names files that are not in it"):
            make_plan(make_config(*private(folder, "saved", "saved")))
    assert not proof.exists()


SECRETS = {
    name: f"{name.lower()}-0123456789abcdef0123456789abcdef"
    for name in ("WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY",
                 "GITHUB_TOKEN", "OPENAI_API_KEY", "SSH_AUTH_SOCK")
}  # fmt: skip


@pytest.mark.fault(
    "hostile input", "keys and tokens in the environment", "in no file, log or message of a run"
)
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


@pytest.mark.parametrize(("mask", "file", "folder"), [(0o077, 0o600, 0o700), (0o027, 0o640, 0o750)])
@pytest.mark.fault(
    "hostile input", "a file system that others share", "files and folders are as the umask says"
)
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
