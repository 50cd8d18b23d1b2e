"""Which budgets a model's context holds, and which are unlike what it was trained on.

The shares of the context are those of the project's seed documents.
"""

from __future__ import annotations

from typing import NamedTuple

from vtexp.budget.geometry import MOLMO, Geometry, Size


class Verdict(NamedTuple):
    """What the limits say about a setting: `level` is recommended, feasible, tight or refused."""

    level: str
    reason: str


def prompt_limit(longest: int, new_tokens: int, geometry: Geometry = MOLMO) -> Verdict:
    """Verdict on the true length of a run's longest prompt, and of its answer, in tokens.

    A prompt that the context cannot hold is refused.
    """
    needed, context = longest + new_tokens, geometry.max_sequence_length
    about = f"the longest prompt and its answer need {longest} + {new_tokens} of {context} tokens"
    if needed > context:
        return Verdict("refused", f"{about}; take fewer crops")
    return Verdict("recommended", about)


def crop_limit(num_crops: int, geometry: Geometry = MOLMO) -> Verdict:
    """Verdict on a number of crops that all give all their tokens, of the seed documents.

    By the share of the context that their tokens take: at 4096, up to 20 crops (2880 tokens) are
    recommended, 21-25 (3600) feasible with small batches, 26-28 (4032) leave almost no room for
    text, more are refused. A longer context moves these in proportion. Without `force_full_tokens`,
    overlap is dropped and prompts are shorter, so that these limits do not apply.
    """
    tokens = num_crops * geometry.tokens_per_crop
    context = geometry.max_sequence_length
    about = f"{num_crops} crops in full need about {tokens} of {context} tokens"
    if tokens > context:
        fits = context // geometry.tokens_per_crop
        return Verdict("refused", f"{about}; at most {fits} crops fit this model's context")
    if tokens * 4096 > 3600 * context:
        return Verdict("tight", f"{about}: almost no room for text")
    if tokens * 4096 > 2880 * context:
        return Verdict("feasible", f"{about}: use small batches")
    return Verdict("recommended", about)


def own_limit_warning(asked: int, most: int, geometry: Geometry = MOLMO) -> str | None:
    """Warning about more crops than the model's own preprocessing makes, else None.

    `asked`: crops that the knob asks for; `most`: the most that any image here gets.
    """
    if geometry.max_pixels is not None:
        cap = geometry.max_pixels // geometry.window_px**2
        if most <= cap < asked:
            return f"the checkpoint's own max_pixels allows {cap} crops: no image gets {asked}"
    own = geometry.own_max_crops
    if own is None or asked <= own:
        return None
    here = f"no image here gets more than {most}" if most < asked else "images here get as many"
    return (
        f"{asked} crops are beyond the model's training, whose preprocessing makes at most {own}; "
        f"{here}"
    )


def aspect_ratio_warning(size: Size) -> str | None:
    """Warning about distortion for W/H below 0.33 or above 3, else None (0.5 to 2 is good)."""
    if 0.33 <= size.aspect_ratio <= 3.0:
        return None
    return f"{size} has aspect ratio {size.aspect_ratio:.2f}: below 0.33 or above 3 distorts images"
