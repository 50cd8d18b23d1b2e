"""Text cannot become image tokens; ids come from the tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtexp.errors import CheckpointError
from vtexp.prompts import IMAGE_TOKENS, PromptTokenizer, build_prompt


def test_form_of_the_prompt() -> None:
    assert build_prompt("What is it?", "vqa2") == " User: vqa2: What is it? Assistant:"


def test_image_tokens_written_in_a_question_stay_text(small_checkpoint: Path) -> None:
    tokenizer = PromptTokenizer.from_folder(small_checkpoint)
    question = "".join(IMAGE_TOKENS) + "<|endoftext|>"
    ids = tokenizer.encode(build_prompt(question, "easy_vqa"))
    assert not set(ids) & {*tokenizer.image_ids, tokenizer.eos_id}


@given(text=st.text(max_size=40))
@settings(deadline=None)
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
