"""One short hash that stands for a checkpoint in the ids of its runs. No torch here."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, BinaryIO

from vtexp.errors import CheckpointError

#: Weights of so many bytes in all are read whole.
WHOLE = 64 * 2**20
#: What is read at a time where they are not.
BLOCK = 4096
#: As the safetensors library has it.
LONGEST_HEADER = 100_000_000
TEXTS = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "processor_config.json",
    "chat_template.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "generation_config.json",
    "model.safetensors.index.json",
)


def weight_files(folder: Path) -> list[Path]:
    """The folder's safetensors files: regular ones only, as a pipe would be waited for."""
    return sorted(path for path in folder.glob("*.safetensors") if path.is_file())


def checkpoint_fingerprint(folder: Path) -> str:
    """Short hash of a checkpoint: its config, its tokenizer and its weights.

    Weights of up to 64 MiB are read whole. Of larger ones, as reading 30 GB for each plan would
    take minutes: the size and header of each file, so the name, type, shape and place of each
    tensor, and the blocks of 4 KiB with the start, the middle and the end of each. So a tensor that
    was trained, converted or zeroed is seen, a few numbers changed elsewhere in it are not. Raises
    CheckpointError for a header that cannot be read.
    """
    digest = hashlib.sha256()
    for path in (folder / name for name in TEXTS):
        if path.is_file():
            content = path.read_bytes()
            digest.update(f"{path.name} {len(content)} ".encode() + content)
    files = weight_files(folder)
    whole = sum(path.stat().st_size for path in files) <= WHOLE
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb", buffering=0) as file:
            if whole:
                digest.update(file.read())
                continue
            header = _header(path, file, size)
            digest.update(header)
            for block in _blocks(path, header, size):
                file.seek(block * BLOCK)
                digest.update(file.read(BLOCK))
    return digest.hexdigest()[:16]


def _header(path: Path, file: BinaryIO, size: int) -> bytes:
    """The bytes of a safetensors file's header, which its first eight give the length of."""
    length = int.from_bytes(file.read(8), "little")
    if not 0 < length <= min(LONGEST_HEADER, size - 8):
        raise _unreadable(path, f"its header would have {length} bytes")
    return file.read(length)


def _blocks(path: Path, header: bytes, size: int) -> list[int]:
    """Numbers of the blocks with the start, middle and end of each tensor of a header."""
    try:
        tensors: dict[str, Any] = json.loads(header)
        offsets = [t["data_offsets"] for name, t in tensors.items() if name != "__metadata__"]
        edges = [(begin, (begin + end) // 2, end - 1) for begin, end in offsets if begin != end]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _unreadable(path, f"its header lists no tensors: {type(error).__name__}") from error
    first = 8 + len(header)
    places = {first + place for edge in edges for place in edge}
    if not all(isinstance(place, int) and first <= place < size for place in places):
        raise _unreadable(path, "its header has tensors outside of it")
    return sorted({place // BLOCK for place in places})


def _unreadable(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path}: not a readable safetensors file ({reason})")
