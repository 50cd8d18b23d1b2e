"""Text in and out of a checkpoint's tokenizer, and the prompt around a question.

Only the `tokenizers` library is needed, so that prompt lengths can be checked before torch or
transformers are imported.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from vtexp.errors import CheckpointError

IMAGE_TOKENS = ("<im_start>", "<im_end>", "<im_patch>", "<im_col>")


def build_prompt(question: str, style: str) -> str:
    """The text after the image tokens, as at Molmo's evaluation: ` User: style: Q Assistant:`."""
    return f" User: {style}: {question} Assistant:"


@dataclass(frozen=True)
class PromptTokenizer:
    """A checkpoint's tokenizer with the ids that the prompt needs, all read from its files.

    `bos_id` stands before the image tokens (the end-of-text id where a tokenizer has no BOS, as
    in the published checkpoints); `image_ids` are start, end, patch and column.
    """

    tokenizer: Tokenizer
    bos_id: int
    eos_id: int
    image_ids: tuple[int, int, int, int]

    @classmethod
    def from_folder(cls, folder: Path) -> PromptTokenizer:
        """Read tokenizer.json and tokenizer_config.json. Raises CheckpointError if they lack."""
        path, config_path = folder / "tokenizer.json", folder / "tokenizer_config.json"
        for needed in (path, config_path):
            if not needed.is_file():
                raise CheckpointError(f"{needed}: no such file; a checkpoint needs it")
        try:
            tokenizer = Tokenizer.from_file(str(path))
            config = json.loads(config_path.read_text())
        except Exception as error:  # the library raises nothing narrower
            raise CheckpointError(f"{path}: the tokenizer cannot be read ({error})") from error
        # Special tokens written in a question stay text: they must never become image tokens.
        tokenizer.encode_special_tokens = True

        def token_id(token: str | dict | None) -> int:
            text = token["content"] if isinstance(token, dict) else token
            found = tokenizer.token_to_id(text) if text else None
            if found is None:
                raise CheckpointError(f"{path}: has no token {text!r}, which the prompt needs")
            return found

        eos = config.get("eos_token")
        return cls(
            tokenizer,
            bos_id=token_id(config.get("bos_token") or eos),
            eos_id=token_id(eos),
            image_ids=tuple(token_id(t) for t in IMAGE_TOKENS),  # type: ignore[arg-type]
        )

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; no special tokens are added or recognised."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids up to the end of text, without surrounding white space."""
        ids = list(ids)
        if self.eos_id in ids:
            ids = ids[: ids.index(self.eos_id)]
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()
