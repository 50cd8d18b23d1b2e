"""Where a checkpoint's files are. No torch here: plans read config and tokenizer only."""

from __future__ import annotations

from pathlib import Path

from vtexp.errors import CheckpointError

EMBEDDED = "embedded:"
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
