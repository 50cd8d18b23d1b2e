"""Text in and out of a checkpoint's tokenizer, and the prompt around an image and a question.

Only the `tokenizers` library is needed, so that prompt lengths can be checked before torch or
transformers are imported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from vtexp.data.sample import Sample
from vtexp.errors import CheckpointError
from vtexp.prompts.wording import MOLMO_WORDING, Wording, with_style

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
        """Read tokenizer.json and tokenizer_config.json. Raises CheckpointError if they lack.

        Prompts are read whole and alone: a tokenizer.json that cuts or fills them is not obeyed.
        """
        path, config_path = folder / "tokenizer.json", folder / "tokenizer_config.json"
        for needed in (path, config_path):
            if not needed.is_file():
                raise CheckpointError(f"{needed}: no such file; a checkpoint needs it")
        with _one_line(f"{path}: the tokenizer cannot be read"):
            tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        with _one_line(f"{config_path}: cannot be read"):
            config = json.loads(config_path.read_text())
        if not isinstance(config, dict):
            raise CheckpointError(f"{config_path}: cannot be read (no JSON object)")
        # Special tokens written in a question stay text: they must never become image tokens.
        tokenizer.encode_special_tokens = True

        def token_id(token: object) -> int:
            text = token.get("content") if isinstance(token, dict) else token
            found = tokenizer.token_to_id(text) if isinstance(text, str) else None
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
        ids = sorted(self._own_ids)
        ordinary = [added[i].content for i in ids if i in added and not added[i].special]
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
        """Token ids of a text; no special tokens are added or recognised.

        Raises CheckpointError where the tokenizer makes one of the prompt's own tokens of a text.
        """
        with _one_line("the model's tokenizer.json cannot encode a prompt"):
            ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        if not self._own_ids.isdisjoint(ids):
            found = min(self._own_ids.intersection(ids))
            name = self.tokenizer.id_to_token(found)
            raise CheckpointError(
                f"the model's tokenizer.json makes the token {name!r} (id {found}) of plain text; "
                "only the prompt's form may write it"
            )
        return ids

    @cached_property
    def _own_ids(self) -> frozenset[int]:
        """Ids that the form alone writes, never a text."""
        return frozenset((self.bos_id, self.eos_id, *self.image_ids, *self.special_ids))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids up to the end of text, without surrounding white space."""
        ids = list(ids)
        if self.eos_id in ids:
            ids = ids[: ids.index(self.eos_id)]
        with _one_line("the model's tokenizer.json cannot decode an answer"):
            return self.tokenizer.decode(ids, skip_special_tokens=True).strip()


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """What the tokenizers library raises, panics of its Rust code too, as a CheckpointError."""
    try:
        yield
    except BaseException as error:  # it raises nothing narrower; a panic is no Exception
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise CheckpointError(f"{what} ({error})") from error
        raise
