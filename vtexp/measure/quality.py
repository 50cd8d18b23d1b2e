"""What makes the timings of a run doubtful."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np

from vtexp.measure.limits import LEAST_BUSY
from vtexp.measure.monitor import disturbances
from vtexp.measure.summary import median_by_rank
from vtexp.measure.timings import LatencyRow
from vtexp.stages import STAGE_NAMES
from vtexp.stats.trend import kendall_z, relative_change
from vtexp.utils.text import percent

#: Medians of ranks may differ by this much without a warning.
RANK_SPREAD = 0.1
#: A reference point that changes by so much, and so surely, has drifted.
DRIFT, Z_DRIFT = 0.05, 2.576
#: And a third of them that differs by so much, of so many at least, shows a slow spell.
SPELL, LEAST_FOR_SPELLS = 0.1, 12
#: Stages may add up to this much more than the wall clock around them: resolution of clocks.
CLOCKS_DIFFER = 0.01


def unlike_all(rows: Sequence[LatencyRow], all_vision_tokens: float) -> list[str]:
    """Whether the timed samples are unlike all samples, whose mean vision tokens are given."""
    timed = fmean(row.vision_tokens for row in rows)
    if abs(timed - all_vision_tokens) <= 0.02 * all_vision_tokens:
        return []
    return [
        f"the timed questions have {timed:.0f} vision tokens on average, all questions "
        f"{all_vision_tokens:.0f}: prefill is that of the timed ones (prefill_vision_tokens)"
    ]


def of_the_host(rows: Sequence[LatencyRow], abouts: Sequence[dict[str, Any]]) -> list[str]:
    """Where times are the host's, not the model's: eager passes that were to be graphs, idle GPU.

    The latter begins with `host_bound`.
    """
    found = []
    for about in abouts:
        eager = sum(not row.cuda_graph for row in rows)
        if about.get("graph_failure") and eager:
            found.append(
                f"{eager} of {len(rows)} prefills ran without a CUDA graph: "
                f"{about['graph_failure']}"
            )
        busy = about.get("gpu_busy_ratio")
        if busy is not None and busy < LEAST_BUSY:
            found.append(
                f"host_bound: the GPU worked in {percent(busy)} of the prefill's time; the rest is "
                "launching kernels, so times and speed-ups are of this software, not of the model"
            )
    return list(dict.fromkeys(found))


def timing_warnings(
    rows: Sequence[LatencyRow], abouts: Sequence[dict[str, Any]], max_half_width: float
) -> list[str]:
    """What makes timings doubtful, in words; empty where nothing does.

    `abouts` say of each process how it timed: see `Timing.about`, with what the monitor saw under
    `monitor`, the reference's rows under `reference` and why it failed, or None, under
    `reference_failure`.
    """
    found = [*_spread(rows), *_ranks_differ(rows), *_clocks(rows)]
    for about in abouts:
        found += drift([row["prefill_ms"] for row in about["reference"]])
        if about["reference_failure"]:
            found.append(
                "the reference point could not be repeated to the end, so drift may be unseen: "
                f"{about['reference_failure']}"
            )
        found += disturbances(about["monitor"])
        if not about["warm"]:
            found.append(
                f"prefill still became faster after {about['warm_up_rounds']} rounds of warm-up"
            )
        if about["half_width"] is None:
            found.append("too few timings to say how well the median prefill is known")
        elif about["stopped_by"] == "max_seconds":
            found.append(
                f"the median prefill is known to ±{percent(about['half_width'], 1)} only, not to "
                f"±{percent(max_half_width, 1)} (measure.max_seconds was reached)"
            )
    return list(dict.fromkeys(found))


def drift(reference_ms: Sequence[float]) -> list[str]:
    """Whether a repeated prefill became slower or faster: by 5 % or more, sure to 99 %."""
    change = relative_change(reference_ms)
    if abs(change) >= DRIFT and abs(kendall_z([reference_ms])) >= Z_DRIFT:
        became = "slower" if change > 0 else "faster"
        return [f"the same prefill, repeated meanwhile, became {percent(abs(change))} {became}"]
    return _slow_spell(reference_ms)


def _slow_spell(reference_ms: Sequence[float]) -> list[str]:
    """Whether a third of the repeated prefills differs from the others: Kruskal and Wallis 1952."""
    if len(reference_ms) < LEAST_FOR_SPELLS:
        return []
    thirds = np.array_split(np.asarray(reference_ms), 3)
    medians = [float(np.median(third)) for third in thirds]
    apart = max(medians) / min(medians) - 1
    if apart < SPELL:
        return []
    from scipy.stats import kruskal  # takes a second to import

    if kruskal(*thirds).pvalue > 0.01:
        return []
    return [f"the same prefill, repeated meanwhile, took {percent(apart)} longer for a while"]


def _spread(rows: Sequence[LatencyRow]) -> list[str]:
    """Whether repeats of the same sample are far apart."""
    by_sample: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        by_sample[row.sample_id].append(row.prefill_ms)
    quartiles = [np.percentile(times, [25, 50, 75]) for times in by_sample.values()]
    spread = float(np.median([(p75 - p25) / median for p25, median, p75 in quartiles]))
    if spread <= 0.25:
        return []
    return [
        "the middle half of a question's prefill times spreads over "
        f"{percent(spread)} of its median"
    ]


def _ranks_differ(rows: Sequence[LatencyRow]) -> list[str]:
    by_rank = median_by_rank(rows)
    if max(by_rank) <= (1 + RANK_SPREAD) * min(by_rank):
        return []
    return [f"median prefill differs between ranks: {min(by_rank):.4g} to {max(by_rank):.4g} ms"]


def _clocks(rows: Sequence[LatencyRow]) -> list[str]:
    """Whether the clocks contradict each other, or the device answered before it was done."""
    found = []
    over = sum(
        sum(getattr(row, part) or 0.0 for part in STAGE_NAMES) > (1 + CLOCKS_DIFFER) * row.ttft_ms
        for row in rows
    )
    if over:
        found.append(
            f"in {over} of {len(rows)} timings the stages add up to more than the time from the "
            "image to the first token: the clocks contradict each other"
        )
    first = float(np.median([row.first_token_ms for row in rows]))
    prefill = float(np.median([row.prefill_ms for row in rows]))
    if first > 0.5 * prefill:
        found.append(
            f"reading the first token took {first:.3g} ms, prefill {prefill:.3g} ms: the device "
            "had probably not finished when the prefill was taken to have ended"
        )
    return found
