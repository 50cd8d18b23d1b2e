"""What 1 000 images cost: seconds of the device, energy and money, at batch 1 and in batches.

At batch 1 it is the mean prefill: what an interactive user waits for. In batches it is the measured
throughput of the answers, prefill and further tokens apart: what a service pays. That stands only
where the timed batches, the largest, have images like all. All are of the model alone: decoding and
preprocessing of images have their own columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vtexp.analysis.findings import AnalysedRun, Cost
from vtexp.analysis.rows import ComparedRun
from vtexp.errors import DataError
from vtexp.utils import files
from vtexp.utils.typed import is_number

IMAGES = 1000
#: By which share tokens of the timed batches may differ from the mean of all.
ALIKE = 0.02
_HOUR_S = 3600


def with_costs(runs: Sequence[AnalysedRun], compared: Sequence[ComparedRun]) -> list[AnalysedRun]:
    """The runs with their costs, where they have times; `compared` have the same names."""
    by_name = {run.name: run for run in compared}
    return [
        run if run.prefill_ms is None else replace(run, cost=cost_of_run(run, by_name[run.run]))
        for run in runs
    ]


def cost_of_run(run: AnalysedRun, compared: ComparedRun) -> Cost:
    """The cost of a run whose prefills were timed. Raises DataError where its config is damaged."""
    found, price = compared.found, price_per_hour(compared)
    # Milliseconds of one are seconds of a thousand.
    seconds = run.prefill_ms or 0.0
    energy = found.energy_j_per_prefill
    cost = Cost(
        seconds=seconds,
        seconds_low=run.prefill_low,
        seconds_high=run.prefill_high,
        energy_j=None if energy is None else IMAGES * energy,
        price=_priced(seconds, price),
    )
    batched = found.answer_times
    if batched is None or not _like_all(batched.vision_tokens, found.measured_vision_tokens):
        return cost
    own = IMAGES * batched.prefill_s / batched.samples
    return replace(
        cost,
        batch_size=batched.batch_size,
        batch_seconds=own,
        batch_decode_seconds=IMAGES * batched.decode_s / batched.samples,
        batch_price=_priced(own, price),
        images_per_s=IMAGES / own if own > 0 else None,
    )


def _like_all(timed: float, mean: float) -> bool:
    """Whether the images of the timed batches have as many tokens as all have on average.

    Batches are sorted by crops and the largest are timed: of mixed images these are other ones, and
    what they cost says nothing of the rest.
    """
    return abs(timed - mean) <= ALIKE * mean


def _priced(seconds: float, price_per_hour: float | None) -> float | None:
    return None if price_per_hour is None else seconds / _HOUR_S * price_per_hour


def price_per_hour(run: ComparedRun) -> float | None:
    """`hardware.price_per_hour` of a run's config; None where it is not set."""
    hardware = files.read_config(run.folder).get("hardware")
    price = hardware.get("price_per_hour") if isinstance(hardware, dict) else None
    if price is None:
        return None
    if not is_number(price) or not price >= 0:
        raise DataError(f"{run.folder / files.CONFIG}: hardware.price_per_hour is not a price")
    return float(price)
