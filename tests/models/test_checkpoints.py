"""Where weights come from: folders, the hub's cache, or nowhere (random); and what is refused."""

from __future__ import annotations

import csv
import importlib
import json
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vtexp.config.schema import Config
from vtexp.errors import CheckpointError, ConfigError
from vtexp.jobs.here import run_job
from vtexp.models import fingerprints
from vtexp.models.checkpoints import ASSETS, find_checkpoint
from vtexp.models.config_checks import MAY_BE_NOTHING
from vtexp.models.fingerprints import checkpoint_fingerprint
from vtexp.models.loading import load_model
from vtexp.models.molmo.modeling import MolmoForCausalLM
from vtexp.utils import files, hub

MakeConfig = Callable[..., Config]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def fill(cache: Path, checkpoint: Path) -> Path:
    """Put a checkpoint into the cache as the hub's library lays it out."""
    repository = cache / "models--someone--small"
    snapshot = repository / "snapshots" / COMMIT
    shutil.copytree(checkpoint, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return snapshot


@pytest.mark.parametrize("revision", [None, COMMIT])
def test_cached_repository_needs_no_network(
    cache: Path, small_checkpoint: Path, revision: str | None
) -> None:
    snapshot = fill(cache, small_checkpoint)
    assert find_checkpoint("someone/small", revision, fetch=True).folder == snapshot


@pytest.mark.parametrize("fetch", [True, False])
@pytest.mark.fault(
    "outside world",
    "the hub refuses connections",
    "one line within 4 s, with the command that fetches",
)
def test_missing_repository_says_at_once_how_to_get_it(cache: Path, fetch: bool) -> None:
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=r"cache.*hf download someone/small"):
        find_checkpoint("someone/small", "v2", fetch=fetch)
    assert time.monotonic() - began < 4


@pytest.mark.fault(
    "outside world",
    "a network that drops every packet",
    "vtexp gives up after 3 s with one line",
)
def test_a_network_that_swallows_everything_is_given_up_soon(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "REACH_SECONDS", 0.3)

    def swallow(*_: object) -> None:
        time.sleep(2)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", swallow)
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=r"cannot be reached.*hf download"):
        find_checkpoint("someone/small", fetch=True)
    assert time.monotonic() - began < 1.5


@pytest.mark.parametrize("proxy", ["{}:{}", "http://{}:{}"])
def test_a_proxy_is_the_way_out(cache: Path, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HTTPS_PROXY", proxy.format(*server.getsockname()))
        assert hub.unreachable() == ""
    assert "127.0.0.1 cannot be reached" in hub.unreachable()
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:abc")
    assert "127.0.0.1 cannot be reached" in hub.unreachable()


@pytest.mark.parametrize("rest", ["@ ", "@", "[@host:1", "@:80", "@host.invalid:9"])
def test_no_password_of_a_proxy_is_told(
    cache: Path, monkeypatch: pytest.MonkeyPatch, rest: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:hunter2{rest}")
    assert (told := hub.unreachable()) and "hunter2" not in told


def test_no_name_of_a_repository_is_one_line(cache: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^model\.path=some--where/\.\."):
        find_checkpoint("some--where/..", fetch=True)


def test_half_cached_repository_names_the_missing_shard(
    cache: Path, small_checkpoint: Path
) -> None:
    snapshot = fill(cache, small_checkpoint)
    (snapshot / "model.safetensors").rename(snapshot / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(CheckpointError, match="lacks model-00002-of-00002"):
        find_checkpoint("someone/small", fetch=True)


@pytest.mark.fault(
    "hostile input",
    "a checkpoint with only pickles",
    "refused, unread",
)
def test_pickled_weights_are_refused(small_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(small_checkpoint, folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled weights"):
        find_checkpoint(str(folder))


@pytest.mark.parametrize("part", [None, "text_config"])
def test_quantized_weights_are_refused(
    small_checkpoint: Path, tmp_path: Path, part: str | None
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(small_checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    quantized = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    config |= quantized if part is None else {part: config.get(part, {}) | quantized}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="weights are quantized"):
        find_checkpoint(str(folder))


def test_attention_is_torchs_whatever_a_config_asks_for(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(small_checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attn_implementation": "eager"}))
    found = find_checkpoint(str(folder))
    model = load_model(found, MolmoForCausalLM, "cpu", "float32")
    assert model.config._attn_implementation == "sdpa"


def test_an_adapter_is_refused(small_checkpoint: Path, tmp_path: Path) -> None:
    """transformers would load it where peft is installed, and leave it out where it is not."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(small_checkpoint, folder)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "allenai/nothing"}')
    with pytest.raises(CheckpointError, match="has an adapter"):
        find_checkpoint(str(folder))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["molmo", "molmoe"])
def test_loading_takes_no_second_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Anonymous memory of a process that loads a float32 file as bfloat16."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    load_memory = importlib.import_module("load_memory")
    load_memory.write_checkpoint(kind, tmp_path)
    row = load_memory.measure(kind, "bfloat16", tmp_path)
    assert 1 <= row["peak_over_weights"] <= 1.1


@pytest.mark.parametrize(
    ("quota", "chosen", "threads"), [(2, {}, 2), (8, {}, 6), (None, {}, 6), (2, {"OMP": "6"}, 6)]
)
def test_a_model_computes_within_the_quota(
    small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch,
    quota: int | None, chosen: dict[str, str], threads: int,
) -> None:  # fmt: skip
    """Unless the user chose a number of threads; more than there were are never taken."""
    monkeypatch.setattr("vtexp.models.loading.cores_of_quota", lambda: quota)
    for library in ("OMP", "MKL"):
        monkeypatch.delenv(f"{library}_NUM_THREADS", raising=False)
    for library, number in chosen.items():
        monkeypatch.setenv(f"{library}_NUM_THREADS", number)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(6)
        load_model(find_checkpoint(str(small_checkpoint)), MolmoForCausalLM, "cpu", "float32")
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("path", ["allenai/Molmo-7B-D-0924", "allenai/MolmoE-1B-0924"])
def test_sizes_of_published_models_need_no_download(cache: Path, path: str) -> None:
    checkpoint = find_checkpoint(path, "a commit", random=True)
    assert checkpoint.folder is None
    first = checkpoint.config["vocab_size"]
    assert checkpoint.tokenizer.image_ids == (first, first + 1, first + 2, first + 3)


def test_random_weights_are_those_of_the_seed_and_size(small_checkpoint: Path) -> None:
    checkpoint = find_checkpoint(str(small_checkpoint), random=True)
    first, second = (load_model(checkpoint, MolmoForCausalLM, "cpu", "bfloat16") for _ in range(2))
    trained = find_checkpoint(str(small_checkpoint))
    pretrained = load_model(trained, MolmoForCausalLM, "cpu", "bfloat16")
    shapes = [{n: p.shape for n, p in m.named_parameters()} for m in (first, pretrained)]
    assert shapes[0] == shapes[1]
    for name, parameter in first.named_parameters():
        assert parameter.dtype == torch.bfloat16
        assert torch.equal(parameter, second.get_parameter(name))
        assert parameter.isfinite().all()


@pytest.mark.usefixtures("picture")
def test_random_weights_have_latency_but_no_accuracy(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_job(make_config("model.weights=random", "knob.sizes=[336x336,560x560]"))
    sweep = tmp_path / "sweep"
    results = [files.read_json(path) for path in sorted(sweep.glob("*/result.json"))]
    assert [r["accuracy"] for r in results] == [None, None]
    assert all(r["latency"]["prefill_ms"]["median"] > 0 for r in results)
    assert [r["measured_vision_tokens"] for r in results] == [288, 544]
    rows = list(csv.DictReader((sweep / "comparison.csv").open()))
    assert [(row["weights"], row["accuracy"]) for row in rows] == [("random", "")] * 2
    assert all("random weights" in row["warnings"] for row in rows)
    samples = files.read_jsonl(next(sweep.glob("*560x560*")) / "samples.jsonl")
    assert all(row["prediction"] is None and row["score"] is None for row in samples)
    shown = capsys.readouterr().out
    assert "random weights" in shown and "accuracy none" in shown
    assert (sweep / "comparison.png").stat().st_size > 10_000


def large(checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a checkpoint whose weights are too large to be read whole for a plan."""
    shutil.copytree(checkpoint, folder)
    monkeypatch.setattr(fingerprints, "WHOLE", 0)
    monkeypatch.setattr(fingerprints, "BLOCK", 64)
    return folder


def tensor_places(path: Path) -> dict[str, tuple[int, int]]:
    """First byte and the one behind the last of each tensor of a safetensors file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {
        name: (8 + length + t["data_offsets"][0], 8 + length + t["data_offsets"][1])
        for name, t in header.items()
    }


@pytest.mark.parametrize("whole", [True, False])
def test_a_changed_tensor_makes_another_model(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    """Anywhere in the file; and of small files each byte."""
    of = small_checkpoint if whole else ASSETS / "molmo_tiny"
    folder = large(of, tmp_path / "large", monkeypatch)
    if whole:
        monkeypatch.undo()
    path = folder / "model.safetensors"
    content = path.read_bytes()
    seen = {checkpoint_fingerprint(folder)}
    places = tensor_places(path)
    for begin, end in places.values():
        changed = bytearray(content)
        if whole:
            changed[begin + (end - begin) // 3] ^= 1
        else:
            changed[begin:end] = (np.frombuffer(content[begin:end], np.uint8) ^ 1).tobytes()
        path.write_bytes(changed)
        seen.add(checkpoint_fingerprint(folder))
    assert len(seen) == len(places) + 1
    path.write_bytes(content)
    assert checkpoint_fingerprint(folder) in seen


def test_a_tensor_of_another_type_or_file_makes_another_model(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = large(small_checkpoint, tmp_path / "large", monkeypatch)
    path = folder / "model.safetensors"
    content, seen = path.read_bytes(), [checkpoint_fingerprint(folder)]
    path.write_bytes(content.replace(b'"F32"', b'"I32"', 1))
    seen.append(checkpoint_fingerprint(folder))
    path.write_bytes(content)
    index = {"weight_map": {"model.norm.weight": path.name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    seen.append(checkpoint_fingerprint(folder))
    assert len(set(seen)) == 3


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 100_000,
        b'{"a": 5}',
        b'{"a": {"data_offsets": [0]}}',
        b'{"a": {"data_offsets": ["x", "y"]}}',
        b'{"a": {"data_offsets": [0.5, 8]}}',
        b'{"a": {"data_offsets": [-9, 8]}}',
        b'{"a": {"data_offsets": [0, 1000000000000]}}',
    ],
    ids=range(10),
)
@pytest.mark.fault("hostile input", "large weights with a broken header", "one line, in the plan")
def test_a_broken_header_is_one_line(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: bytes
) -> None:
    folder = large(small_checkpoint, tmp_path / "large", monkeypatch)
    path = folder / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    with pytest.raises(CheckpointError, match="readable safetensors file"):
        find_checkpoint(str(folder))
    path.write_bytes((2**62).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="its header"):
        find_checkpoint(str(folder))


def test_the_largest_model_takes_no_second(small_checkpoint: Path, tmp_path: Path) -> None:
    """As many and as large tensors as Molmo-72B has, in files without content."""
    folder = tmp_path / "large"
    shutil.copytree(small_checkpoint, folder)
    (folder / "model.safetensors").unlink()
    tensors, size = 15, 10**9
    header = json.dumps(
        {
            f"{i}": {"dtype": "U8", "shape": [size], "data_offsets": [i * size, (i + 1) * size]}
            for i in range(tensors)
        }
    ).encode()
    for shard in range(80):
        with (folder / f"{shard}.safetensors").open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            file.truncate(8 + len(header) + tensors * size)
    began = time.monotonic()
    checkpoint_fingerprint(folder)
    assert time.monotonic() - began < 1


def with_config(
    small_checkpoint: Path, folder: Path, change: Callable[[dict[str, Any]], object]
) -> Path:
    """A copy of a checkpoint with a changed config.json."""
    shutil.copytree(small_checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


NO_NUMBERS: list[Any] = ["x", [], {"a": 1}, True, 1.5, -1, 10**12]
NUMBERS = [
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "embedding_size",
    "additional_vocab_size",
    "intermediate_size",
    "max_position_embeddings",
    "vision_backbone.image_num_layers",
    "vision_backbone.image_num_heads",
    "vision_backbone.image_emb_dim",
    "vision_backbone.image_head_dim",
    "vision_backbone.image_mlp_dim",
]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.fault(
    "hostile input",
    "sizes that no model has, or that are not numbers",
    "one line, before anything is built",
)
def test_sizes_that_no_model_has_are_refused(
    small_checkpoint: Path, tmp_path: Path, name: str
) -> None:
    part, _, key = name.rpartition(".")
    nothing = [] if key in MAY_BE_NOTHING else [None, 0]
    for i, value in enumerate([*NO_NUMBERS, *nothing]):

        def change(config: dict[str, Any], value: Any = value) -> None:
            (config[part] if part else config)[key] = value

        folder = with_config(small_checkpoint, tmp_path / str(i), change)
        with pytest.raises(CheckpointError, match=f"{name} is no"):
            find_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": []}, "model_type is"),
        ({"rope_theta": None}, "rope_theta is not"),
        ({"layer_norm_eps": "x"}, "layer_norm_eps is not"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is not"),
        ({"connector": {"vit_layers": 5}}, "vit_layers is 5, of"),
        ({"connector": {"vit_layers": None}}, "vit_layers is None, of"),
        ({"connector": {"vit_layers": ["x"]}}, "vit_layers is"),
        ({"vit_layers": [100]}, "vit_layers is"),
        ({"text_config": {"max_position_embeddings": None}}, "embeddings .*whole number"),
    ],
)
def test_other_values_of_a_config_are_refused(
    small_checkpoint: Path, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    folder = with_config(small_checkpoint, tmp_path / "copy", lambda config: config.update(change))
    with pytest.raises(CheckpointError, match=says):
        find_checkpoint(str(folder))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("depth", [900, 100_000])
def test_files_without_end_are_one_line(
    small_checkpoint: Path, tmp_path: Path, name: str, opening: str, depth: int
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(small_checkpoint, folder)
    closing = "]" if opening == "[" else "1}"
    (folder / name).write_text(opening * depth + closing * (depth if depth < 1000 else 0))
    with pytest.raises(CheckpointError, match=r"cannot be read|no readable|a readable"):
        find_checkpoint(str(folder))


@pytest.mark.parametrize("weights", ["pretrained", "random"])
def test_a_model_that_cannot_be_built_is_one_line(
    small_checkpoint: Path, tmp_path: Path, weights: str
) -> None:
    folder = with_config(
        small_checkpoint,
        tmp_path / "copy",
        lambda config: config.update(additional_vocab_size=None),
    )
    checkpoint = find_checkpoint(str(folder), random=weights == "random")
    with pytest.raises(CheckpointError, match=r"cannot be loaded|does not describe"):
        load_model(checkpoint, MolmoForCausalLM, "cpu", "float32")


@pytest.mark.parametrize(
    "path",
    [
        *("embedded:../../../../etc", "embedded:..", "embedded:.", "embedded:", "embedded:/etc"),
        *("embedded:nope", "embedded:architectures", "embedded:molmo_tiny/", "embedded:a\0b"),
    ],
)
def test_embedded_models_are_those_of_the_package(path: str) -> None:
    with pytest.raises(ConfigError, match="there are: molmo_tiny"):
        find_checkpoint(path)


def test_a_path_has_a_name() -> None:
    with pytest.raises(ConfigError, match="path is empty"):
        find_checkpoint("")


def test_an_unknown_home_is_one_line() -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        find_checkpoint("~nobody-of-this-name/model")
