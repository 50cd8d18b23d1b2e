"""Arguments of the API as the rest of the package has them: configs and knob values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from vtexp.budget.geometry import Size
from vtexp.budget.knobs import KnobValue
from vtexp.config.choices import Fit
from vtexp.config.compose import compose_config
from vtexp.config.schema import Config
from vtexp.config.user_errors import USER_ERRORS, one_line
from vtexp.errors import ConfigError, VtexpError

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
) -> KnobValue:
    """The knob value that a budget means. Raises ConfigError unless exactly one is given."""
    given = {"max_crops": max_crops, "image_size": image_size, "vision_tokens": vision_tokens}
    chosen = [name for name, value in given.items() if value is not None]
    if len(chosen) != 1:
        told = " and ".join(chosen) or "none"
        raise ConfigError(f"give one of {', '.join(given)}, not {told}")
    if fit not in Fit.__members__:
        raise ConfigError(f"fit={fit}: take one of {', '.join(Fit.__members__)}")
    (name,) = chosen
    if name == "image_size":
        assert image_size is not None
        return KnobValue(name, str(size_of("image_size", image_size)), fit, force_full_tokens)
    return KnobValue(name, str(given[name]), None, force_full_tokens)


def size_of(name: str, size: SizeLike) -> Size:
    """A size from (height, width) or text. Raises ConfigError for anything else."""
    if isinstance(size, str):
        return Size.parse(size)
    try:
        height, width = size
        return Size.parse(f"{height}x{width}")
    except (TypeError, ValueError):
        raise ConfigError(f"{name}={size!r}: give (height, width) in px, or '560x336'") from None


def configured(overrides: Sequence[str], config_dir: str | Path | None = None) -> Config:
    """The config that `vtexp launch` would make of these overrides.

    Raises ConfigError in one line for whatever cannot be composed.
    """
    folder = None if config_dir is None else Path(config_dir)
    try:
        return compose_config(overrides, folder)
    except VtexpError:
        raise
    except (*USER_ERRORS, ValueError, TypeError) as error:
        raise ConfigError(one_line(error)) from error


def of_model(model: str, path: str | Path | None) -> list[str]:
    """Overrides that choose a model, from a folder or repository if `path` is given."""
    chosen = [f"model={model}"]
    if path is not None:
        quoted = str(path).replace("\\", "\\\\").replace("'", "\\'")
        chosen.append(f"model.path='{quoted}'")
    return chosen
