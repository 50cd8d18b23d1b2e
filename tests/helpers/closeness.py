"""When float32 results are the same: processors, and paths through one model, round differently."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

#: Share of their spread by which pixels may differ: the same few products, summed in another order.
#: Up to 6e-7 on an AMD EPYC, also with torch and MKL held to other instruction sets.
OF_PIXELS = 1e-6
#: The same of means over a crop, which even rounding out: up to 5e-8 of the spread of its pixels.
OF_MEAN_PIXELS = 1e-7


def assert_close_to_spread(
    found: ArrayLike, expected: ArrayLike, share: float = 5e-6, *, spread: float | None = None
) -> None:
    """No value is off by more than a share of the spread (largest - smallest) of those expected.

    Rounding grows with the values that are summed, so that one absolute bound is far too wide for
    some results and too narrow for others. The largest values, where it is greatest, decide the
    spread; the standard deviation knows little of them. The default share is for what a whole model
    computes: an AMD EPYC is off from the golden references by up to 1.7e-6, on one thread or two,
    and by 2.7e-6 with torch held to AVX2; 1e-6 for 1e-5 inside the layer norms makes 6e-6 of it.

    `spread`: where those expected do not show it, as means of what spreads or all of one value.
    """
    found, expected = (np.asarray(values, np.float64) for values in (found, expected))
    assert found.shape == expected.shape
    spread = np.ptp(expected) if spread is None else spread
    assert spread > 0, "nothing to be close by: compare exactly, or give the spread"
    off = np.abs(found - expected).max() / spread
    assert off <= share, f"off by {off:.1e} of the spread, which is {spread:.3g}; may be {share:g}"
