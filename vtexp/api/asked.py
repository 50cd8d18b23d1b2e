"""Arguments of the API as the rest of the package has them: configs and knob values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from vtexp.budget.geometry import size_of
from vtexp.budget.knobs import MOST_TOKENS, KnobValue
from vtexp.config.choices import Fit
from vtexp.config.compose import compose_config, quoted
from vtexp.config.schema import Config
from vtexp.config.user_errors import USER_ERRORS, one_line
from vtexp.errors import ArgumentError, ConfigError, VtexpError
from vtexp.utils.arguments import flag, no_others, refuse, text, whole
from vtexp.utils.arguments import path as path_of
from vtexp.utils.text import printable

#: A size in px: (height, width), or text such as `560x336`.
SizeLike = tuple[int, int] | str


class Budget(TypedDict, total=False):
    """The budget of one image: exactly one of the first three.

    max_crops: a cap on the crops. image_size: a size in px to which the image is brought, by `fit`
    (stretch, the default, letterbox or crop). vision_tokens: a target of theoretical tokens.
    force_full_tokens: no token is dropped for overlap.
    """

    max_crops: int
    image_size: SizeLike
    vision_tokens: int
    fit: str
    force_full_tokens: bool


def knob_value(
    *,
    max_crops: int | None = None,
    image_size: SizeLike | None = None,
    vision_tokens: int | None = None,
    fit: str = "stretch",
    force_full_tokens: bool = False,
    **unknown: Any,
) -> KnobValue:
    """The knob value that a budget means. Raises ArgumentError for a wrong argument, ConfigError
    unless exactly one is given."""
    no_others(unknown, tuple(Budget.__annotations__), "a budget")
    given = {"max_crops": max_crops, "image_size": image_size, "vision_tokens": vision_tokens}
    chosen = [name for name, value in given.items() if value is not None]
    if len(chosen) != 1:
        told = " and ".join(chosen) or "none"
        raise ConfigError(f"give one of {', '.join(given)}, not {told}")
    if text("fit", fit) not in Fit.__members__:
        raise ArgumentError(f"fit={printable(fit):.80}: take one of {', '.join(Fit.__members__)}")
    full = flag("force_full_tokens", force_full_tokens)
    (name,) = chosen
    if name == "image_size":
        assert image_size is not None
        return KnobValue(name, str(size_of("image_size", image_size)), fit, full)
    return KnobValue(name, str(whole(name, given[name], most=MOST_TOKENS)), None, full)


def configured(overrides: Sequence[str], config_dir: str | Path | None = None) -> Config:
    """The config that `vtexp launch` would make of these overrides.

    Raises ConfigError in one line for whatever cannot be composed.
    """
    folder = None if config_dir is None else path_of("config_dir", config_dir)
    try:
        return compose_config(overrides, folder)
    except VtexpError:
        raise
    except (*USER_ERRORS, ValueError, TypeError) as error:
        raise ConfigError(one_line(error)) from error


def of_model(model: str, path: str | Path | None) -> list[str]:
    """Overrides that choose a model, from a folder or repository if `path` is given."""
    chosen = [choice("model", model)]
    if path is not None:
        chosen.append(f"model.path={quoted(str(path_of('path', path)))}")
    return chosen


def choice(key: str, name: str, argument: str = "") -> str:
    """An override that chooses one of a group. Raises ArgumentError for what is no plain name."""
    if not re.fullmatch(r"\w[\w./+-]{0,99}", text(argument or key, name)):
        refuse(argument or key, name, "needs a name that `vtexp launch --help` lists")
    return f"{key}={name}"
