"""Text in and out of a checkpoint's tokenizer, and the prompt around an image and a question.

Only the `tokenizers` library is needed, so that prompt lengths can be checked before torch or
transformers are imported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from vtexp.data.base import Sample
from vtexp.errors import CheckpointError
from vtexp.wording import MOLMO_WORDING, Wording, with_style

IMAGE_TOKENS = ("<im_start>", "<im_end>", "<im_patch>", "<im_col>")
#: What stands for one id in a template: a special token, or {bos}.
_SINGLE = re.compile(r"(<[^<>\s]+>|\{bos\})")


def build_prompt(question: str, style: str) -> str:
    """The text after the image tokens, as at Molmo's evaluation: ` User: style: Q Assistant:`.

    An empty style or question is left out: ` User: coco_captioning: Assistant:`.
    """
    return f" User: {with_style(question, style)} Assistant:"


@dataclass(frozen=True)
class PromptForm:
    """How a family writes its prompts.

    `template`: text with {image}, {message}, and where wanted {bos}; anything in <> is a special
    token. `image_tokens`: names of the tokens that an image becomes, which the tokenizer must have.
    `wording`: how the message is made of a sample.
    """

    template: str
    image_tokens: tuple[str, ...]
    wording: Wording = MOLMO_WORDING

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        """Special tokens of the template."""
        found = _SINGLE.findall(self.template)
        return tuple(dict.fromkeys(token for token in found if token != "{bos}"))


#: Molmo v1, as at its evaluation.
MOLMO_FORM = PromptForm("{bos}{image}" + build_prompt("{message}", style=""), IMAGE_TOKENS)


class Prompt(NamedTuple):
    """Ids before and after those of the image."""

    before: list[int]
    after: list[int]


@dataclass(frozen=True)
class PromptTokenizer:
    """A checkpoint's tokenizer with the ids that the prompt needs, all read from its files.

    `bos_id` is the end-of-text id where a tokenizer has no BOS, as in the published Molmos;
    `image_ids` are those of the form's image tokens, in its order; `special_ids` those of its
    special tokens.
    """

    tokenizer: Tokenizer
    bos_id: int
    eos_id: int
    image_ids: tuple[int, ...]
    form: PromptForm = MOLMO_FORM
    special_ids: tuple[int, ...] = ()

    @classmethod
    def from_folder(cls, folder: Path, form: PromptForm = MOLMO_FORM) -> PromptTokenizer:
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
        found = cls(
            tokenizer,
            bos_id=token_id(config.get("bos_token") or eos),
            eos_id=token_id(eos),
            image_ids=tuple(token_id(t) for t in form.image_tokens),
            form=form,
            special_ids=tuple(token_id(t) for t in form.special_tokens),
        )
        found._make_special()
        return found

    def _make_special(self) -> None:
        """Special tokens that a tokenizer.json calls ordinary: text would become these, too."""
        added = self.tokenizer.get_added_tokens_decoder()
        ids = {self.bos_id, self.eos_id, *self.image_ids, *self.special_ids}
        ordinary = [added[i].content for i in sorted(ids) if i in added and not added[i].special]
        self.tokenizer.add_special_tokens(ordinary)

    def prompt(self, sample: Sample, style: str) -> Prompt:
        """The ids around those of the image, by the family's form; `style` is the data set's."""
        message = self.form.wording.message(sample, style)
        before, after = self.form.template.split("{image}")
        return Prompt(self._ids(before, message), self._ids(after, message))

    def _ids(self, part: str, message: str) -> list[int]:
        single = {"{bos}": self.bos_id}
        single |= dict(zip(self.form.special_tokens, self.special_ids, strict=True))
        ids: list[int] = []
        for piece in _SINGLE.split(part):
            if piece in single:
                ids.append(single[piece])
            else:
                ids += self.encode(piece.format(message=message))
        return ids

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; no special tokens are added or recognised."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids up to the end of text, without surrounding white space."""
        ids = list(ids)
        if self.eos_id in ids:
            ids = ids[: ids.index(self.eos_id)]
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()
