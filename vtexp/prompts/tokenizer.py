"""Text in and out of a checkpoint's tokenizer, and the prompt around an image and a question.

Only the `tokenizers` library is needed, so that prompt lengths can be checked before torch is
imported. Prompt ids are those that transformers' processors make with the checkpoint's chat
template, or else with the published one of its family.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer, pre_tokenizers

from vtexp.data.sample import Sample
from vtexp.errors import CheckpointError
from vtexp.prompts.chat_template import own_form, token_text
from vtexp.prompts.form import BOS, MOLMO_FORM, PromptForm
from vtexp.utils.typed import is_whole_number

#: Stands before a piece of a prompt while it is encoded: pieces behind an image or a special token
#: are no starts of a text, to which some tokenizers add a space. Private use, so in no question.
_BEHIND = "\ue0f1\ue0f2vtexp\ue0f3"
_WITHIN_BEHIND = re.compile(f"(?<={_BEHIND[:1]})(?={_BEHIND[1:]})")


class Prompt(NamedTuple):
    """Ids before and after those of the image."""

    before: list[int]
    after: list[int]

    @property
    def text_tokens(self) -> int:
        """Tokens besides the image's."""
        return len(self.before) + len(self.after)


@dataclass(frozen=True)
class PromptTokenizer:
    """A checkpoint's tokenizer with the ids that the prompt needs, all read from its files.

    `bos_id` is the end-of-text id where a tokenizer has no BOS, as in the published Molmos;
    `eos_id` is the tokenizer's end of text; `stop_ids` are the ids that end an answer, where the
    checkpoint says others. `image_ids` are those of the form's image tokens, in its order;
    `special_ids` those of its special tokens. `first_ids` and `last_ids` are what the tokenizer's
    post-processor puts before and after a prompt.
    """

    tokenizer: Tokenizer
    bos_id: int
    eos_id: int
    image_ids: tuple[int, ...]
    form: PromptForm = MOLMO_FORM
    special_ids: tuple[int, ...] = ()
    stop_ids: tuple[int, ...] = ()
    first_ids: tuple[int, ...] = ()
    last_ids: tuple[int, ...] = ()

    @classmethod
    def from_folder(cls, folder: Path, form: PromptForm = MOLMO_FORM) -> PromptTokenizer:
        """Read tokenizer.json and tokenizer_config.json. Raises CheckpointError if they lack.

        Prompts are read whole and alone: a tokenizer.json that cuts or fills them is not obeyed.
        The ids that end an answer are those of generation_config.json, else of config.json, else
        the tokenizer's, as in transformers.
        """
        path, config_path = folder / "tokenizer.json", folder / "tokenizer_config.json"
        for needed in (path, config_path):
            if not needed.is_file():
                raise CheckpointError(f"{needed}: no such file; a checkpoint needs it")
        with _one_line(f"{path}: the tokenizer cannot be read"):
            tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        config = _json_object(config_path)
        _as_its_class(tokenizer, config)
        form = own_form(folder, form, config, _special_tokens(tokenizer))
        first_ids, last_ids = _added_ids(tokenizer) if form.post_processed else ((), ())
        # Special tokens written in a question stay text: they must never become image tokens.
        tokenizer.encode_special_tokens = True

        def token_id(token: object) -> int:
            text = token_text(token)
            found = None if text is None else tokenizer.token_to_id(text)
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
            stop_ids=_stop_ids(folder),
            first_ids=first_ids,
            last_ids=last_ids,
        )
        found._make_special()
        return found

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Ids that end an answer, each of them; the first fills finished answers of a batch."""
        return self.stop_ids or (self.eos_id,)

    def _make_special(self) -> None:
        """Special tokens that a tokenizer.json calls ordinary: text would become these, too."""
        added = self.tokenizer.get_added_tokens_decoder()
        ids = sorted(self._own_ids)
        ordinary = [added[i].content for i in ids if i in added and not added[i].special]
        self.tokenizer.add_special_tokens(ordinary)
        self.tokenizer.add_tokens([AddedToken(_BEHIND, special=False, normalized=False)])

    def prompt(self, sample: Sample, style: str) -> Prompt:
        """The ids around those of the image, by the family's form; `style` is the data set's."""
        message = self.form.wording.message(sample, style)
        message = message.strip() if self.form.strips else message
        before, after = self.form.pieces
        return Prompt(
            [*self.first_ids, *self._ids(before, message, starts=True)],
            [*self._ids(after, message, starts=False), *self.last_ids],
        )

    def _ids(self, pieces: list[str], message: str, *, starts: bool) -> list[int]:
        """Ids of a part of the template; `starts`: it is the start of the prompt's text."""
        single = {BOS: self.bos_id}
        single |= dict(zip(self.form.special_tokens, self.special_ids, strict=True))
        ids: list[int] = []
        for number, piece in enumerate(pieces):
            if piece in single:
                ids.append(single[piece])
            elif piece:
                ids += self.encode(piece.format(message=message), starts=starts and number == 0)
        return ids

    @cached_property
    def _behind_id(self) -> int | None:
        return self.tokenizer.token_to_id(_BEHIND)

    def encode(self, text: str, *, starts: bool = True) -> list[int]:
        """Token ids of a text; no special tokens are added or recognised.

        `starts`: it is the start of a prompt, not behind a special token. A text in which _BEHIND
        is written is cut within it, so that it stays text. Raises CheckpointError where the
        tokenizer makes one of the prompt's own tokens of a text.
        """
        first, *others = _WITHIN_BEHIND.split(text)
        if not starts and self._behind_id is not None:
            ids = self._encoded(_BEHIND + first)[1:]
        else:
            ids = self._encoded(first)
        for other in others:
            ids += self.encode(other, starts=False)
        return ids

    def _encoded(self, text: str) -> list[int]:
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
        ids = (*self.image_ids, *self.special_ids, *self.first_ids, *self.last_ids)
        return frozenset((self.bos_id, self.eos_id, *self.stop_ids, *ids))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids up to the end of text, without surrounding white space."""
        text = [i for i in until_end(ids, self.end_ids) if i != self._behind_id]
        with _one_line("the model's tokenizer.json cannot decode an answer"):
            return self.tokenizer.decode(text, skip_special_tokens=True).strip()


def until_end(ids: Sequence[int], end_ids: Sequence[int], *, with_end: bool = False) -> list[int]:
    """Generated ids before the first of `end_ids`, or up to and with it."""
    end = next((place for place, i in enumerate(ids) if i in end_ids), len(ids))
    return list(ids[: end + int(with_end)])


def _json_object(path: Path) -> dict[str, Any]:
    """A JSON file's object. Raises CheckpointError if it is not one."""
    with _one_line(f"{path}: cannot be read"):
        config = json.loads(path.read_text())
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: cannot be read (not a JSON object)")
    return config


def _stop_ids(folder: Path) -> tuple[int, ...]:
    """Ids that a checkpoint says end an answer; empty where it leaves that to the tokenizer."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        if not path.is_file():
            continue
        config = _json_object(path)
        text = config.get("text_config")
        for part in (config, text if isinstance(text, dict) else {}):
            said = part.get("eos_token_id")
            ids = said if isinstance(said, list) else [said]
            if said is None or not ids:
                continue
            if not all(is_whole_number(i) and i >= 0 for i in ids):
                raise CheckpointError(f"{path}: eos_token_id is {said!r}; it must be token ids")
            return tuple(ids)
    return ()


def _as_its_class(tokenizer: Tokenizer, config: dict[str, Any]) -> None:
    """Cut text as transformers' LlamaTokenizer does, where tokenizer_config.json names it.

    transformers takes vocabulary and post-processor of that class from tokenizer.json, but where
    spaces go from tokenizer_config.json; files whose tokens are bytes it reads as they are.
    """
    name = config.get("tokenizer_class")
    if not isinstance(name, str) or name.removesuffix("Fast") != "LlamaTokenizer":
        return
    if "ByteLevel" in repr(tokenizer.pre_tokenizer):
        return
    scheme = "always" if config.get("legacy", False) else "first"
    if config.get("add_prefix_space") is False:
        scheme = "never"
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)


def _special_tokens(tokenizer: Tokenizer) -> list[str]:
    added = tokenizer.get_added_tokens_decoder().values()
    return [token.content for token in added if token.special]


def _added_ids(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids that the tokenizer's post-processor puts before a text and after it."""
    with _one_line("the model's tokenizer.json cannot encode a prompt"):
        encoding = tokenizer.encode("a", add_special_tokens=True)
    added = encoding.special_tokens_mask
    first = added.index(0) if 0 in added else len(added)
    last = len(added) - added[::-1].index(0) if 0 in added else len(added)
    return tuple(encoding.ids[:first]), tuple(encoding.ids[last:])


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Turns what the tokenizers library raises, its Rust panics too, into a CheckpointError."""
    try:
        yield
    except BaseException as error:  # it raises nothing narrower; a panic is not an Exception
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise CheckpointError(f"{what} ({error})") from error
        raise
