"""What may be said of the smallest sufficient budget, where some budgets have no result."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Decision:
    """Indices of budgets, from the smallest to the largest, as they were asked for.

    smallest: the smallest measured budget that is enough; None where none is known to be.
    not_enough: smaller ones that lose more than the margin. unknown: smaller ones of which the data
    cannot tell. missing: smaller ones without a result. needed: `smallest` is the smallest measured
    that is enough and every smaller one was measured and is not: only then may anyone say that less
    does not do. worse_larger: larger ones whose accuracy is significantly below that of `smallest`.
    Where `smallest` is None, the smaller ones are all.
    """

    smallest: int | None
    not_enough: tuple[int, ...]
    unknown: tuple[int, ...]
    missing: tuple[int, ...]
    needed: bool
    worse_larger: tuple[int, ...]


def decide(
    at_most_worse: np.ndarray,
    at_least_worse: np.ndarray,
    margin: float,
    highest_difference: np.ndarray | None = None,
) -> Decision:
    """Which budget is the smallest that is enough, and what is known of those below and above.

    at_most_worse, at_least_worse: (k,) as of `compare`, NaN for a budget without a result.
    highest_difference: (k, k) simultaneous upper ends of budget i minus budget j (`differences`).
    """
    measured = ~np.isnan(at_most_worse)
    enough = np.flatnonzero(measured & (at_most_worse <= margin))
    smallest = int(enough[0]) if len(enough) else None
    below = np.arange(len(measured)) < (len(measured) if smallest is None else smallest)
    lost = measured & below & (at_least_worse > margin)
    unknown = measured & below & ~lost
    missing = ~measured & below
    worse: tuple[int, ...] = ()
    if smallest is not None and highest_difference is not None:
        worse = _indices(~below & (highest_difference[:, smallest] < 0))
    return Decision(
        smallest=smallest,
        not_enough=_indices(lost),
        unknown=_indices(unknown),
        missing=_indices(missing),
        needed=bool(smallest and lost[:smallest].all()),
        worse_larger=worse,
    )


def _indices(chosen: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.flatnonzero(chosen))
