"""How a family writes its prompts: the text around an image and a question."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from vtexp.prompts.wording import MOLMO_WORDING, Wording, with_style

IMAGE_TOKENS = ("<im_start>", "<im_end>", "<im_patch>", "<im_col>")
BOS = "{bos}"
_SPECIAL = re.compile(r"<[^<>\s]+>")


def build_prompt(question: str, style: str) -> str:
    """The text after the image tokens, as at Molmo's evaluation: ` User: style: Q Assistant:`.

    An empty style or question is left out: ` User: coco_captioning: Assistant:`.
    """
    return f" User: {with_style(question, style)} Assistant:"


@dataclass(frozen=True)
class PromptForm:
    """How a family writes its prompts.

    `template`: text with {image}, {message}, and where wanted {bos}; `special` are the tokens in it
    that are one id each, by default anything in <>. `image_tokens`: names of the tokens that an
    image becomes, which the tokenizer must have. `wording`: makes a sample's message.
    `post_processed`: whether the tokenizer's own post-processor adds its ids (a BOS, mostly) around
    the whole prompt. `strips`: whether white space around the message is lost. `placeholder`: what
    chat templates write for an image, and `image` what its processor makes of that; without one, a
    checkpoint's own chat template is not followed.
    """

    template: str
    image_tokens: tuple[str, ...]
    wording: Wording = MOLMO_WORDING
    post_processed: bool = True
    placeholder: str = ""
    image: str = "{image}"
    special: tuple[str, ...] | None = None
    strips: bool = False

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        """Special tokens of the template."""
        if self.special is not None:
            return self.special
        return tuple(dict.fromkeys(special_names(self.template)))

    @cached_property
    def pieces(self) -> tuple[list[str], list[str]]:
        """Texts, special tokens and {bos} of the template before the image, and after it."""
        longest_first = sorted((BOS, *self.special_tokens), key=len, reverse=True)
        single = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
        before, after = self.template.split("{image}")
        return single.split(before), single.split(after)

    @property
    def marks_image(self) -> bool:
        """Whether special tokens stand right before and right behind the image."""
        before, after = self.pieces
        return len(before) > 1 and len(after) > 1 and before[-1] == after[0] == ""


def special_names(text: str) -> list[str]:
    """What looks like a special token in a text, in order."""
    return _SPECIAL.findall(text)


#: Molmo v1, as at its evaluation. Its processor follows no chat template.
MOLMO_FORM = PromptForm(
    "{bos}{image}" + build_prompt("{message}", style=""), IMAGE_TOKENS, post_processed=False
)
