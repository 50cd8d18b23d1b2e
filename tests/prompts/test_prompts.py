"""Text cannot become image tokens; ids come from the tokenizer."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from vtexp.errors import CheckpointError
from vtexp.prompts.form import IMAGE_TOKENS, build_prompt
from vtexp.prompts.tokenizer import _BEHIND, PromptTokenizer


def test_form_of_the_prompt() -> None:
    assert build_prompt("What is it?", "vqa2") == " User: vqa2: What is it? Assistant:"


def test_image_tokens_written_in_a_question_stay_text(small_checkpoint: Path) -> None:
    tokenizer = PromptTokenizer.from_folder(small_checkpoint)
    question = "".join(IMAGE_TOKENS) + "<|endoftext|>"
    ids = tokenizer.encode(build_prompt(question, "easy_vqa"))
    assert not set(ids) & {*tokenizer.image_ids, tokenizer.eos_id}


@given(text=st.text(max_size=40))
@example(text=f"{_BEHIND} what is {_BEHIND}")
def test_any_text_comes_back(small_checkpoint: Path, text: str) -> None:
    tokenizer = PromptTokenizer.from_folder(small_checkpoint)
    assert tokenizer.decode([*tokenizer.encode(text), tokenizer.eos_id, 5]) == text.strip()


def test_tokenizer_without_image_tokens_is_refused(small_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    shutil.copytree(small_checkpoint, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [
        token for token in tokenizer["added_tokens"] if token["content"] != "<im_patch>"
    ]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match="<im_patch>"):
        PromptTokenizer.from_folder(folder)


Change = Callable[[dict[str, Any]], object]


def changed(folder: Path, copy: Path, change: Change) -> Path:
    """A copy of a checkpoint with a changed tokenizer.json."""
    shutil.copytree(folder, copy)
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    change(tokenizer)
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    return copy


CUTS = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
FILLS = {
    "strategy": {"Fixed": 64},
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "<im_patch>",
}


@pytest.mark.parametrize("block", [{"truncation": CUTS}, {"padding": FILLS}])
def test_prompts_are_neither_cut_nor_filled(
    small_checkpoint: Path, tmp_path: Path, block: dict[str, Any]
) -> None:
    """As save_pretrained writes a tokenizer that was used with these."""
    copy = changed(small_checkpoint, tmp_path / "copy", lambda tokenizer: tokenizer.update(block))
    text = build_prompt("is there a red circle?", "easy_vqa")
    expected = PromptTokenizer.from_folder(small_checkpoint).encode(text)
    assert len(expected) > 3
    assert PromptTokenizer.from_folder(copy).encode(text) == expected


def ids(tokenizer: dict[str, Any]) -> dict[str, int]:
    return {token["content"]: token["id"] for token in tokenizer["added_tokens"]}


def words(tokenizer: dict[str, Any], unknown: str) -> None:
    """Of whole words; the special tokens are among them."""
    vocabulary = ids(tokenizer) | {"[UNK]": 1}
    tokenizer["model"] = {"type": "WordLevel", "vocab": vocabulary, "unk_token": unknown}
    tokenizer["pre_tokenizer"] = {"type": "WhitespaceSplit"}


@pytest.mark.parametrize(
    ("change", "text", "token"),
    [
        (lambda t: t["model"]["vocab"].update(h=ids(t)["<im_patch>"]), "hi", "<im_patch>"),
        (lambda t: t["model"]["vocab"].update(h=ids(t)["<|endoftext|>"]), "hi", "<|endoftext|>"),
        (lambda t: words(t, "[UNK]"), "an <im_col> b", "<im_col>"),
        (lambda t: words(t, "<im_patch>"), "some words", "<im_patch>"),
    ],
    ids=["image", "end", "word", "unknown"],
)
@pytest.mark.fault(
    "hostile input", "a tokenizer that makes image tokens of text", "one line, before the model"
)
def test_text_never_becomes_a_token_of_the_prompt(
    small_checkpoint: Path, tmp_path: Path, change: Change, text: str, token: str
) -> None:
    folder = changed(small_checkpoint, tmp_path / "copy", change)
    tokenizer = PromptTokenizer.from_folder(folder)
    with pytest.raises(CheckpointError, match=re.escape(f"makes the token {token!r}")):
        tokenizer.encode(text)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "5",
        "[" * 100_000,
        '{"eos_token": 5}',
        '{"eos_token": {"a": 1}}',
        '{"eos_token": {"content": 5}}',
        '{"eos_token": "<|endoftext|>", "bos_token": ["x"]}',
    ],
    ids=range(7),
)
def test_other_tokenizer_configs_are_refused(
    small_checkpoint: Path, tmp_path: Path, content: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(small_checkpoint, copy)
    (copy / "tokenizer_config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"cannot be read|has no token"):
        PromptTokenizer.from_folder(copy)


UNIGRAM = {"type": "Unigram", "unk_id": None, "vocab": [["a", 0.0]]}
PIECES = {
    "type": "WordPiece",
    "unk_token": "no",
    "continuing_subword_prefix": "##",
    "max_input_chars_per_word": 100,
    "vocab": {"a": 0},
}
SLOW = {
    "type": "Split",
    "pattern": {"Regex": "(x+x+)+y"},
    "behavior": "Isolated",
    "invert": False,
}


@pytest.mark.parametrize("part", [{"model": UNIGRAM}, {"model": PIECES}, {"pre_tokenizer": SLOW}])
@pytest.mark.fault("hostile input", "a tokenizer whose library panics", "one line")
def test_a_tokenizer_that_breaks_is_one_line(
    small_checkpoint: Path, tmp_path: Path, part: dict[str, Any]
) -> None:
    folder = changed(small_checkpoint, tmp_path / "copy", lambda tokenizer: tokenizer.update(part))
    tokenizer = PromptTokenizer.from_folder(folder)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot encode"):
        tokenizer.encode("x" * 30)


def test_an_interrupt_is_no_error_of_the_tokenizer(
    small_checkpoint: Path,
) -> None:
    class Interrupted:
        def encode(self, *_: object, **__: object) -> None:
            raise KeyboardInterrupt

    tokenizer = PromptTokenizer.from_folder(small_checkpoint)
    interrupted = replace(tokenizer, tokenizer=cast("Tokenizer", Interrupted()))
    with pytest.raises(KeyboardInterrupt):
        interrupted.encode("a")
