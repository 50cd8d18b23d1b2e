"""Where a checkpoint's files are. No torch here: plans read config and tokenizer only."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from vtexp.errors import CheckpointError

EMBEDDED = "embedded:"
#: What the config.json of a dense Molmo v1 and of MolmoE must say.
DENSE_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
)
MOLMOE_SIZES = ("d_model", "n_layers", "n_heads", "vocab_size", "moe_num_experts", "moe_top_k")
_ASSETS = Path(__file__).parent.parent / "assets"


def checkpoint_folder(path: str) -> Path:
    """Folder of `model.path`: a local folder, or `embedded:NAME` inside the package.

    Raises CheckpointError, naming what is missing, if it is no checkpoint of safetensors.
    """
    if path.startswith(EMBEDDED):
        folder = _ASSETS / path.removeprefix(EMBEDDED)
    else:
        folder = Path(path).expanduser()
    if not folder.is_dir():
        raise CheckpointError(
            f"model.path={path}: no such folder; download a checkpoint first "
            "(hf download REPOSITORY --local-dir FOLDER) and give its folder"
        )
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise CheckpointError(f"model.path={path}: the folder has no {name}")
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"model.path={path}: the folder has no *.safetensors (pickled weights are not read)"
        )
    return folder


def read_model_config(folder: Path) -> dict[str, Any]:
    """config.json of a Molmo v1 checkpoint. Raises CheckpointError for any other model.

    Checked before anything is built: another model's config would silently mean a 7B Molmo.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    found = config.get("model_type") if isinstance(config, dict) else None
    if found != "molmo":
        raise CheckpointError(f"{path}: model_type is {found!r}; only Molmo v1 ('molmo') can run")
    sizes = DENSE_SIZES if config.get("moe_num_experts") is None else MOLMOE_SIZES
    wrong = [key for key in sizes if not isinstance(config.get(key), int)]
    if wrong:
        raise CheckpointError(f"{path}: not a Molmo v1: {wrong[0]} is no whole number")
    if config.get("clip_qkv") is not None or config.get("layer_norm_type", "rms") != "rms":
        raise CheckpointError(f"{path}: clip_qkv and norms other than rms are not supported")
    return config


def checkpoint_fingerprint(folder: Path) -> str:
    """Short hash of a checkpoint: config, tokenizer, and size, head and tail of the weights.

    Not the whole weights: reading 30 GB for each plan would take minutes.
    """
    digest = hashlib.sha256()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        digest.update((folder / name).read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(2**20))
            file.seek(max(0, size - 2**20))
            digest.update(file.read())
    return digest.hexdigest()[:16]
