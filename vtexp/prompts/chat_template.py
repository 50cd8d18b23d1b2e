"""A checkpoint's own chat template, as the form of its prompts.

transformers' processors write prompts by the template in a checkpoint's folder. It is rendered once
here, with a mark where the question goes, in transformers' own sandbox.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vtexp.errors import CheckpointError
from vtexp.prompts.form import BOS, PromptForm, special_names

#: As transformers finds it: the processor's config, the older file of its own, the newer one.
FILES = ("processor_config.json", "chat_template.json", "chat_template.jinja")
#: Stands for the question while a template is rendered. Private use, so in no template.
_MARK = "\ue0f1\ue0f2message\ue0f3"
#: The mark with white space around it that no template writes itself (em spaces), to see it kept.
_SPACED_MARK = f"\u2003{_MARK}\u2003"
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")


def own_form(
    folder: Path, form: PromptForm, config: Mapping[str, Any], special_tokens: Collection[str]
) -> PromptForm:
    """The family's form with the folder's own chat template in it, where the folder has one.

    `config` is tokenizer_config.json, `special_tokens` are those of tokenizer.json. Raises
    CheckpointError for a template that cannot be followed: not one place for the image, or not one
    for the question.
    """
    if not form.placeholder:
        return form
    path, template = _own_template(folder)
    if not template:
        return form
    names = {name: text for name in _SPECIAL if (text := token_text(config.get(name))) is not None}
    text = _rendered(path, template, names)
    for what, mark in (("the image", form.placeholder), ("the question", _MARK)):
        if text.count(mark) != 1:
            found = text.count(mark)
            raise CheckpointError(
                f"{path}: its chat template writes {what} {found} times for one image and one "
                "question; it must do so once"
            )
    return _with_text(form, text, names, special_tokens)


def _with_text(
    form: PromptForm, text: str, names: Mapping[str, str], special_tokens: Collection[str]
) -> PromptForm:
    """The form whose template is a rendered text; a BOS in it is not added a second time."""
    kept = _SPACED_MARK in text
    text = re.sub(f"\u2003?{_MARK}\u2003?", _MARK, text)
    bos = names.get("bos_token")
    starts = bos is not None and text.startswith(bos)
    always = form.template.startswith(BOS)
    first = bos or (names.get("eos_token") if always else None)
    if first is not None and text.startswith(first):
        text = text[len(first) :]
        always = True
    template = text.replace("{", "{{").replace("}", "}}")
    template = template.replace(form.placeholder, form.image).replace(_MARK, "{message}")
    in_it = [token for token in special_tokens if token in template]
    return replace(
        form,
        template=BOS * always + template,
        special=tuple(dict.fromkeys((*special_names(form.image), *in_it))),
        strips=not kept,
        post_processed=form.post_processed and not starts,
    )


def _own_template(folder: Path) -> tuple[Path, str]:
    """The file with the folder's chat template, and the template; empty where there is none."""
    for path in (folder / name for name in FILES):
        if not path.is_file():
            continue
        try:
            content = path.read_text(encoding="utf-8")
            said = content if path.suffix == ".jinja" else json.loads(content).get("chat_template")
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error})") from error
        if isinstance(said, dict):
            said = said.get("default")
        if said is not None and not isinstance(said, str):
            raise CheckpointError(f"{path}: chat_template is not text")
        if said:
            return path, said
    return folder, ""


def _rendered(path: Path, template: str, names: Mapping[str, str]) -> str:
    """What a template writes of one image and the mark, in transformers' sandbox."""
    from transformers.utils.chat_template_utils import render_jinja_template

    content = [{"type": "image"}, {"type": "text", "text": _SPACED_MARK}]
    asked: Any = {"conversations": [[{"role": "user", "content": content}]], **names}
    try:
        rendered: Any = render_jinja_template(
            chat_template=template, add_generation_prompt=True, **asked
        )
    except Exception as error:  # whatever a template does; it is the checkpoint's code
        raise CheckpointError(
            f"{path}: its chat template cannot be followed ({type(error).__name__}: {error})"
        ) from error
    texts, _ = rendered
    return texts[0]


def token_text(token: object) -> str | None:
    """A special token of tokenizer_config.json, which may write it as an object."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None
