"""Do intervals hold the truth, and is a budget called enough that is not? By simulation.

    python benchmarks/coverage.py [--times 2000] [--parts means enough]
                                  [--out benchmarks/results/coverage.json]

With --parts the other parts of the file stay as they were; `simulated` says of each when it was.

Made-up scores and times whose truth is known go through the functions of vtexp/stats. Wanted:
every interval holds the truth in 93 to 97.5 %, and no alarm is false in more than 5 %. `error` of a
row is the standard error of its share by the number of simulations. No bound may fall below that
of one unseen full-size change; where such a change is far larger than all that are seen, the bound
holds the truth more often than 97.5 %: no interval could do both. One core, some minutes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from results_file import write_results
from rich.box import SIMPLE_HEAD
from rich.table import Table
from scipy.special import ndtr, ndtri
from scipy.stats import norm

sys.path.insert(0, str(Path(__file__).parents[1]))

from vtexp.stats import compare
from vtexp.stats.bounded import ClusteredMeans, Images, clustered_means, interval, upper_bound
from vtexp.stats.comparison import differences, paired_scores
from vtexp.stats.permutation import holm, sign_flip_tests
from vtexp.stats.power import planned_margin, questions_needed
from vtexp.stats.terms import coefficients, least_relative_errors, prediction, uncertainty
from vtexp.stats.times import (
    SURE,
    Estimate,
    between_processes,
    by_process,
    chances_in_turn,
    mean_time,
    speed_up,
)
from vtexp.stats.trend import settled
from vtexp.utils import files
from vtexp.utils.console import console

Row = dict[str, Any]
#: Score by the place, from 0 to 1, of a question among all.
Quantiles = Callable[[np.ndarray], np.ndarray]

PLACES = (np.arange(200_000) + 0.5) / 200_000
#: Shares of the questions that equal budgets answer differently, of `margins`.
SHARES_CHANGED = (0, 0.01, 0.02, 0.05, 0.1)


def steps(values: list[float], shares: list[float]) -> Quantiles:
    """Scores of some values, each of a share of the questions, from the lowest on."""
    ends = np.cumsum(shares)[:-1]
    return lambda place: np.array(values)[np.searchsorted(ends, place)]


def spread(zero: float, full: float, lowest: float) -> Quantiles:
    """Shares of 0 and 1, all others evenly from `lowest` to 1, as ANLS gives."""

    def score(place: np.ndarray) -> np.ndarray:
        between = lowest + (1 - lowest) * (place - zero) / max(1 - zero - full, 1e-12)
        return np.where(place < zero, 0.0, np.where(place >= 1 - full, 1.0, between))

    return score


def skewed(zero: float, mean: float) -> Quantiles:
    """A share of 0, all others exponential, as CIDEr over its highest score of 10."""

    def score(place: np.ndarray) -> np.ndarray:
        left = np.clip((place - zero) / (1 - zero), 0.0, 1 - 1e-12)
        return np.minimum(-mean * np.log1p(-left), 1.0)

    return score


VQA = [0.0, 0.3, 0.6, 0.9, 1.0]
SCORES: dict[str, Quantiles] = {
    "0/1, half right": steps([0, 1], [0.5, 0.5]),
    "0/1, 90 % right": steps([0, 1], [0.1, 0.9]),
    "0/1, 97 % right": steps([0, 1], [0.03, 0.97]),
    "0/1, 1 % right": steps([0, 1], [0.99, 0.01]),
    "ANLS": spread(0.2, 0.6, 0.5),
    "ANLS, near the ceiling": spread(0.01, 0.95, 0.5),
    "ANLS, near the floor": spread(0.95, 0.03, 0.5),
    "VQA accuracy": steps(VQA, [0.3, 0.1, 0.05, 0.05, 0.5]),
    "VQA accuracy, near the ceiling": steps(VQA, [0.01, 0.01, 0.02, 0.02, 0.94]),
    "VQA accuracy, near the floor": steps(VQA, [0.94, 0.03, 0.02, 0.005, 0.005]),
    "CIDEr": skewed(0.1, 0.1),
    "CIDEr, near the floor": skewed(0.9, 0.05),
    "all 1 but 10 % jitter to 0.95, 1 % are 0": steps([0, 0.97, 1], [0.01, 0.1, 0.89]),
}
#: Images, questions of each, and how much the questions of an image go together (0 to 1).
BALANCED = [
    *((n, 1, 0.0) for n in (8, 10, 30, 60, 120, 400, 2000)),
    *((images, size, rho) for images, size in ((20, 10), (20, 100), (60, 5)) for rho in (0.1, 0.5)),
    *((400, 5, rho) for rho in (0.1, 0.5)),
    (8, 100, 0.3),
    (10, 200, 0.3),
]
UNEVEN = {
    "1 of 500 and 30 of 1": [500] + [1] * 30,
    "1 of 100 and 300 of 1": [100] + [1] * 300,
    "4 of 500": [500] * 4,
    "5 of 100 and 100 of 1": [100] * 5 + [1] * 100,
    "1 of 30 and 200 of 1": [30] + [1] * 200,
    "10 of 50 and 200 of 1": [50] * 10 + [1] * 200,
    "60, 1 to 17": np.maximum(1, np.exp(ndtri((np.arange(60) + 0.5) / 60)) * 2).astype(int),
}
#: What a smaller budget loses on a question, from -1 to 1.
LOSSES: dict[str, Quantiles] = {
    "0/1: 5 % lost, 4 % won": steps([-1, 0, 1], [0.04, 0.91, 0.05]),
    "0/1: 15 % lost, 14 % won": steps([-1, 0, 1], [0.14, 0.71, 0.15]),
    "0/1: 1.5 % lost, none won": steps([0, 1], [0.985, 0.015]),
    "10 % jitter, 1.2 % lost": steps([-0.025, 0, 0.025, 1], [0.05, 0.888, 0.05, 0.012]),
    "10 % jitter, 3 % lost": steps([-0.025, 0, 0.025, 1], [0.05, 0.87, 0.05, 0.03]),
    "VQA accuracy": steps(
        [-1, -0.6, -0.3, 0, 0.3, 0.6, 1], [0.01, 0.01, 0.02, 0.9, 0.02, 0.02, 0.02]
    ),
    "ANLS": lambda place: np.where(
        place < 0.03, -place / 0.03, np.clip((place - 0.94) / 0.06, 0, 1)
    ),
    "CIDEr": lambda place: np.clip(0.005 + 0.06 * ndtri(place), -1, 1),
}


def share(hits: np.ndarray | list[bool]) -> Row:
    """A share of simulations in percent, with its standard error."""
    p = float(np.mean(hits))
    return {
        "share": round(100 * p, 2),
        "error": round(100 * float(np.sqrt(max(p * (1 - p), 1e-4) / len(hits))), 2),
        "times": len(hits),
    }


def drawn(
    score: Quantiles, sizes: np.ndarray, rho: float, times: int, whole: float = 0.0
) -> Iterator[ClusteredMeans]:
    """Means of simulated data sets, in chunks; `whole`: share of images of which all becomes 1."""
    rng = np.random.default_rng(0)
    images, questions = Images(sizes), int(sizes.sum())
    codes, starts = np.repeat(np.arange(len(sizes)), sizes), np.r_[0, np.cumsum(sizes)[:-1]]
    chunk = max(1, 3_000_000 // questions)
    for start in range(0, times, chunk):
        count = min(chunk, times - start)
        latent = np.sqrt(1 - rho) * rng.standard_normal((count, questions))
        if rho:
            latent += np.sqrt(rho) * rng.standard_normal((count, len(sizes)))[:, codes]
        scores = score(ndtr(latent))
        if whole:
            scores = np.where((rng.random((count, len(sizes))) < whole)[:, codes], 1.0, scores)
        sums = np.add.reduceat(scores, starts, axis=1)
        yield clustered_means(sums, (scores**2).sum(axis=1), images)


def means(times: int) -> Iterator[Row]:
    """Intervals of accuracies, by images of equal and of uneven sizes."""
    designs = [(f"{g} of {size}", np.full(g, size), rho) for g, size, rho in BALANCED]
    designs += [
        (name, np.array(sizes), rho) for name, sizes in UNEVEN.items() for rho in (0.1, 0.5)
    ]
    for kind, score in SCORES.items():
        truth = float(score(PLACES).mean())
        for name, sizes, rho in designs:
            row = {"scores": kind, "images": name, "correlation": rho}
            if Images(sizes).too_few is not None:
                yield row | {"refused": True}
                continue
            fewer = times if sizes.sum() < 1000 else times // 2
            ends = [interval(found, (0.0, 1.0)) for found in drawn(score, sizes, rho, fewer)]
            low, high = (np.concatenate(parts) for parts in zip(*ends, strict=True))
            held = (low <= truth + 1e-9) & (truth - 1e-9 <= high)
            yield row | share(held) | {"width": round(100 * float((high - low).mean()), 3)}


def losses(times: int) -> Iterator[Row]:
    """Two budgets, a margin just below the true loss: how often is the smaller called enough?"""
    designs = [(n, 1, 0.0) for n in (8, 10, 30, 60, 100, 300, 1000, 2000)]
    designs += [(g, size, rho) for g, size in ((20, 10), (60, 25), (200, 5)) for rho in (0.0, 0.3)]
    for kind, score in LOSSES.items():
        for images, size, rho in designs:
            for whole in (0.0, 0.02, 0.05) if size > 1 else (0.0,):
                truth = float(score(PLACES).mean()) * (1 - whole) + whole
                found = drawn(score, np.full(images, size), rho, times, whole)
                parts = [
                    (upper_bound(own, 1.0, 0.05), *interval(own, (-1.0, 1.0))) for own in found
                ]
                bound, low, high = (np.concatenate(part) for part in zip(*parts, strict=True))
                held = (low <= truth + 1e-9) & (truth - 1e-9 <= high)
                yield {
                    "loss": kind + (f", {whole:.0%} of the images lost whole" if whole else ""),
                    "images": f"{images} of {size}",
                    "correlation": rho,
                    "wrongly_enough": share(bound < truth - 1e-9),
                    "interval": share(held),
                }


def correlated(
    rng: np.random.Generator, images: int, size: int, levels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """0/1 scores (n, k) that questions of an image and budgets of a question share, and images."""
    codes = np.arange(images).repeat(size)
    shared = rng.normal(size=(images, 1))[codes] + rng.normal(size=(len(codes), 1)) / 2
    own = rng.normal(size=(images, len(levels)))[codes] / 2
    latent = shared + own + levels + rng.normal(size=(len(codes), len(levels))) / 2
    return (latent > 0).astype(float), codes


def enough(times: int) -> Iterator[Row]:
    """Several budgets, the best unknown: bounds of all at once, and wrong words about any."""
    rng = np.random.default_rng(0)
    designs = [
        ("0/1", [0.0, 0.3], 200, 1),
        ("0/1", [0.0, 0.3], 20, 10),
        ("0/1", [-0.2] * 3 + [0.0], 200, 2),
        ("0/1", [0.0] * 6, 100, 3),
        ("0/1", [2.4, 2.6, 2.7], 300, 1),
        ("0/1", [-0.1] * 7 + [0.0], 500, 1),
        ("jitter", [0.012] * 3 + [0.0], 300, 1),
    ]
    for kind, levels, images, size in designs:
        wrong, worse, single, together = [], [], [], []
        for _ in range(times // 4):
            scores, codes, truth = _budgets(rng, kind, np.array(levels), images, size)
            gap = truth.max() - truth
            margin = max(float(gap.max()) - 1e-9, 0.0)
            found = compare(scores, codes, margin)
            wrong.append(bool((found.enough & (gap > margin)).any()))
            worse.append(bool((found.at_least_worse > gap + 1e-9).any()))
            single.append(np.mean((found.low <= truth) & (truth <= found.high)))
            all_pairs = differences(paired_scores(scores, codes), simultaneous=True)
            true = truth[:, None] - truth
            held = (all_pairs.low <= true + 1e-9) & (true - 1e-9 <= all_pairs.high)
            together.append(bool(held.all()))
        yield {
            "scores": kind,
            "budgets": len(levels),
            "images": f"{images} of {size}",
            "wrongly_enough": share(wrong),
            "wrongly_worse": share(worse),
            "interval": share(single),
            "all_differences": share(together),
        }


def _budgets(
    rng: np.random.Generator, kind: str, levels: np.ndarray, images: int, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, images, and true means: of `correlated`, or all 1 but for jitter and rare losses."""
    if kind == "0/1":
        return *correlated(rng, images, size, levels), norm.cdf(levels / np.sqrt(1.75))
    shape = (images * size, len(levels))
    scores = 1 - 0.05 * rng.random(shape) * (rng.random(shape) < 0.1)
    scores[rng.random(shape) < levels] = 0.0
    return scores, np.arange(images).repeat(size), (1 - levels) * (1 - 0.0025)


def power(times: int) -> Iterator[Row]:
    """How often the advised number of questions shows that an equal budget is enough."""
    rng = np.random.default_rng(0)
    for budgets in (2, 4, 8, 12):
        levels, hits, advised = np.zeros(budgets) + 0.8, [], []
        for _ in range(max(1, times // 100)):
            pilot = paired_scores(*correlated(rng, 400, 1, levels))
            needed = questions_needed(pilot, 0.03)
            advised.append(needed)
            hits += [
                bool(compare(*correlated(rng, needed, 1, levels), 0.03).enough[0])
                for _ in range(10)
            ]
        yield {"budgets": budgets, "questions": int(np.median(advised)), "power": share(hits)}


def margins(times: int) -> Iterator[Row]:
    """The margin, in points, that a plan carries with 80 % power, by how many answers change."""
    for questions in (100, 200, 400, 500, 1000, 2000):
        for budgets in (2, 4, 8):
            images = Images(np.ones(questions, dtype=int))
            row = {f"{c:.0%}": planned_margin(images, budgets, c) for c in SHARES_CHANGED}
            yield {"questions": questions, "budgets": budgets} | {
                name: round(100 * margin, 2) for name, margin in row.items()
            }


def _times(rng: np.random.Generator, kind: str, questions: int, rounds: int) -> list[np.ndarray]:
    """Times of two budgets, the second 1.5 times as fast in the mean."""
    question = rng.lognormal(0, 0.3, (questions, 1))
    shared = rng.lognormal(0, 0.3, (1, rounds))
    many = np.where(rng.random((questions, 1)) < 0.5, 0.5, 1.5)
    both = []
    for level in (1.5, 1.0):
        noise = rng.lognormal(0, 0.05, (questions, rounds))
        noise *= {
            "quiet": lambda: 1.0,
            "rounds disturbed, 20 %": lambda: rng.lognormal(0, 0.2, (1, rounds)),
            "rounds disturbed for both": lambda: shared,
            "a fifth of the rounds 1.2 to 2 times as long": lambda: np.where(
                rng.random((1, rounds)) < 0.2, rng.uniform(1.2, 2, (1, rounds)), 1.0
            ),
            "1 in 20 prefills 3 times as long": lambda: np.where(
                rng.random((questions, rounds)) < 0.05, 3.0, 1.0
            ),
            "images of 1 and of 12 crops": lambda level=level: many if level > 1 else 1.0,
        }[kind]()
        both.append(level * question * noise)
    return both


NOISES = (
    "quiet",
    "rounds disturbed, 20 %",
    "rounds disturbed for both",
    "a fifth of the rounds 1.2 to 2 times as long",
    "1 in 20 prefills 3 times as long",
    "images of 1 and of 12 crops",
)


def speed_ups(times: int) -> Iterator[Row]:
    """Intervals of speed-ups at the default 16 questions and 4 rounds, and at others."""
    for kind in NOISES:
        for questions, rounds in ((16, 4), (16, 8), (16, 16), (64, 4)):
            rng = np.random.default_rng(0)
            held = []
            for _ in range(times):
                found = speed_up(*_times(rng, kind, questions, rounds))
                held.append(found.low <= 1.5 <= found.high)
            yield {"noise": kind, "questions": questions, "rounds": rounds} | share(held)
    rng = np.random.default_rng(0)
    truth = float(np.exp(0.3**2 / 2 + 0.05**2 / 2))
    held = []
    for _ in range(times):
        found = mean_time(_times(rng, "quiet", 64, 8)[1])
        held.append(found.low <= truth <= found.high)
    yield {"noise": "mean time, quiet", "questions": 64, "rounds": 8} | share(held)


def processes(times: int) -> Iterator[Row]:
    """Intervals between processes whose medians differ by 5 to 25 %; one process's own beside."""
    for spread_of in (0.05, 0.25):
        for count in (2, 3, 4, 8):
            rng = np.random.default_rng(0)
            mean, new, positive = [], [], []
            for _ in range(times):
                values = 40 * rng.lognormal(0, spread_of, count + 1)
                found = between_processes(values[:-1])
                mean.append(found.low <= 40 <= found.high)
                new.append(found.next_low <= values[-1] <= found.next_high)
                positive.append(found.low > 0)
            yield {
                "spread": spread_of,
                "processes": count,
                "mean": share(mean),
                "next_process": share(new),
                "above_zero": share(positive),
            }


def _process_times(
    rng: np.random.Generator, levels: np.ndarray, question: np.ndarray
) -> list[np.ndarray]:
    """Times of processes of these levels, each in 6 rounds of these questions, 3 % of noise."""
    noise = rng.lognormal(-(0.03**2) / 2, 0.03, (len(levels), len(question), 6))
    return list(levels[:, None, None] * question[:, None] * noise)


def by_processes(times: int) -> Iterator[Row]:
    """Mean time and speed-up with processes in the place of rounds; one process's own beside."""
    for spread_of in (0.02, 0.1):
        for mixed in (0.0, 0.3):
            for count in (2, 3, 4, 8):
                rng = np.random.default_rng(0)
                mean, ratio, alone = [], [], []
                for _ in range(times):
                    question = rng.lognormal(-(mixed**2) / 2, mixed, 16)
                    levels = rng.lognormal(-(spread_of**2) / 2, spread_of, (2, count))
                    slow = _process_times(rng, levels[0], 10 * question)
                    fast = _process_times(rng, levels[1], 5 * question)
                    cost = mean_time(by_process(slow))
                    quick = speed_up(by_process(slow), by_process(fast))
                    mean.append(cost.low <= 10 <= cost.high)
                    ratio.append(quick.low <= 2 <= quick.high)
                    one = speed_up(slow[0], fast[0])
                    alone.append(one.low <= 2 <= one.high)
                yield {
                    "spread": spread_of,
                    "images_apart": mixed,
                    "processes": count,
                    "mean": share(mean),
                    "speed_up": share(ratio),
                    "speed_up_of_one": share(alone),
                }


def _measured(rng: np.random.Generator, true: np.ndarray, processes: int) -> list[Estimate]:
    """Mean times of budgets: 16 images, in 4 rounds or in so many processes of 6 rounds.

    Rounds of one process are off by 5 %, processes by 3 % for all budgets and 2 % for each.
    """
    question, found = np.ones(16), []
    levels = rng.lognormal(0, 0.03, processes)
    for own in true:
        if processes > 1:
            off = levels * rng.lognormal(0, 0.02, processes)
            found.append(mean_time(by_process(_process_times(rng, own * off, question))))
        else:
            rounds = rng.lognormal(0, 0.05, (1, 4)) * rng.lognormal(0, 0.03, (16, 4))
            found.append(mean_time(own * rounds))
    return found


def limits(times: int) -> Iterator[Row]:
    """The chance of the most accurate budget within a limit, beside how often it is within.

    Budgets cost `step` times the next smaller one and are the more accurate. The limit is anywhere
    between the smallest and the largest, or 1 % below what one of them truly costs; where all cost
    the same, that is below all. `near`: how
    many intervals hold it. `not_sure`: the most accurate budget with a chance of 95 % is beyond it.
    """
    for budgets, step in ((4, 1.5), (4, 1.1), (12, 1.05), (12, 1.02), (12, 1.0)):
        for processes_of in (1, 4):
            for place in ("anywhere", "1 % below one"):
                if step == 1 and place == "anywhere":
                    continue
                rng = np.random.default_rng(0)
                true = 10 * step ** np.arange(budgets)
                said, held, broken, near = [], [], [], []
                for _ in range(times // 2):
                    at = true[rng.integers(1, budgets)] * 0.99
                    limit = 10 * step ** rng.uniform(0, budgets - 1) if place == "anywhere" else at
                    found = _measured(rng, true, processes_of)
                    within = [i for i, own in enumerate(found) if own.value <= limit]
                    chances = chances_in_turn([own.chance_at_most(limit) for own in found])
                    if within:
                        said.append(chances[within[-1]])
                        held.append(true[within[-1]] <= limit)
                        near.append(sum(own.low <= limit <= own.high for own in found))
                    sure = [i for i, chance in enumerate(chances) if chance >= SURE]
                    broken.append(bool(sure) and true[sure[-1]] > limit)
                yield {
                    "budgets": budgets,
                    "step": step,
                    "processes": processes_of,
                    "limit": place,
                    "near": round(float(np.mean(near)), 1),
                    "chance_said": round(100 * float(np.mean(said)), 1),
                    "within": share(held),
                    "not_sure": share(broken),
                }


def warm_up(times: int) -> Iterator[Row]:
    """When falling times count as settled: rounds, and how often while 10 % too slow or more."""
    falls: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "none": lambda r: np.ones(len(r)),
        "by half over 10 rounds": lambda r: 0.5 ** (np.minimum(r, 10) / 10),
        "first two rounds twice as long": lambda r: np.where(r < 2, 2.0, 1.0),
    }
    for name, fall in falls.items():
        for shapes in (1, 3, 6):
            for noise in (0.01, 0.05, 0.1):
                rng = np.random.default_rng(0)
                level = fall(np.arange(21.0))
                ended = []
                for _ in range(times // 10):
                    series = level * rng.lognormal(0, noise, (shapes, 21))
                    stops = (n for n in range(1, 21) if settled(series[:, :n].tolist()))
                    ended.append(next(stops, 20))
                yield {
                    "fall": name,
                    "shapes": shapes,
                    "noise": noise,
                    "rounds": int(np.median(ended)),
                    "too_slow": share([level[n] > 1.1 * level[-1] for n in ended]),
                }


def cost_terms(times: int) -> Iterator[Row]:
    """Intervals of a cost model's coefficients: 8 settings of 4 images, each setting off by 3 %."""
    rng = np.random.default_rng(0)
    crops = np.repeat([1, 2, 4, 6, 9, 12, 12, 4], 4).astype(float)
    tokens = np.repeat([300, 420, 700, 800, 1300, 1500, 2500, 1700], 4).astype(float)
    terms = np.column_stack([np.ones(32), crops, tokens])
    true, settings = np.array([5.0, 2.0, 0.01]), np.repeat(np.arange(8), 4)
    held, apart = [], []
    for _ in range(times):
        off = rng.lognormal(0, 0.03, 8)[settings] * rng.lognormal(0, 0.02, 32)
        found = coefficients(terms, (terms @ true) * off, settings)
        held.append((found.low <= true) & (true <= found.high))
        apart.append(not found.together)
    for name, own in zip(("intercept", "per crop", "per token"), np.array(held).T, strict=True):
        yield {"coefficient": name} | share(own)


def predictions(times: int) -> Iterator[Row]:
    """Intervals of a new setting's prefill by a cost model; settings are off by 3 %.

    `chance_said`: that it keeps a limit at most 30 % away, and how often those do that get 95 %.
    """
    true = np.array([5.0, 4.0, 0.02, 2e-6])

    def terms_of(crops: np.ndarray) -> np.ndarray:
        crops = np.repeat(crops, 4)
        tokens = 200 + 100 * crops + 20 * (np.arange(len(crops)) % 4)
        return np.column_stack([np.ones(len(crops)), crops, tokens, tokens**2])

    for count in (4, 5, 6, 8, 12):
        rng, settings = np.random.default_rng(0), np.repeat(np.arange(count), 4)
        held, said, kept = [], [], []
        for _ in range(times // 2):
            crops = np.sort(rng.choice(np.arange(1.0, 13), count, replace=False))
            terms = terms_of(crops)
            off = rng.lognormal(0, 0.03, count)[settings] * rng.lognormal(0, 0.02, len(settings))
            values, at = terms @ true * off, terms_of(rng.uniform(*crops[[0, -1]], 1)).mean(axis=0)
            known = uncertainty(terms, values, settings)
            truth, limit = at @ true * rng.lognormal(0, 0.03), at @ true * rng.uniform(0.7, 1.3)
            found = prediction(at, least_relative_errors(terms, values), known)
            if known.freedom:
                held.append(found.low <= truth <= found.high)
                said.append(found.chance_at_most(limit))
                kept.append(truth <= limit)
        sure = np.array(said) >= SURE
        yield {
            "settings": count,
            "interval": share(held),
            "chance_said": round(100 * float(np.mean(said)), 1),
            "within": share(kept),
            "within_of_sure": share(np.array(kept)[sure]),
        }


def floor(times: int) -> Iterator[Row]:
    """p-values of up to 210 pairs: the largest difference of all is at the floor, below 0.05."""
    rng = np.random.default_rng(0)
    for budgets in (2, 8, 21):
        scores = (rng.random((120, budgets)) < np.linspace(0.2, 0.95, budgets)).astype(float)
        paired = paired_scores(scores, range(120))
        found = holm(sign_flip_tests(paired.sums))
        pairs = budgets * (budgets - 1) // 2
        raw = sign_flip_tests(paired.sums).value[0, -1]
        yield {
            "budgets": budgets,
            "pairs": pairs,
            "smallest_corrected": round(min(1.0, float(raw) * pairs), 5),
            "at_floor": bool(found.at_floor[0, -1]),
        }


PARTS: dict[str, Callable[[int], Iterator[Row]]] = {
    "means": means,
    "losses": losses,
    "enough": enough,
    "power": power,
    "margins": margins,
    "speed_ups": speed_ups,
    "processes": processes,
    "by_processes": by_processes,
    "limits": limits,
    "warm_up": warm_up,
    "cost_terms": cost_terms,
    "predictions": predictions,
    "floor": floor,
}


def shown(part: str, rows: list[Row], seconds: float) -> Table:
    """A part's rows; a share with its error."""
    table = Table(box=SIMPLE_HEAD, title=f"{part} ({seconds:.0f} s)", pad_edge=False)
    heads = list(dict.fromkeys(name for row in rows for name in row))
    for head in heads:
        table.add_column(head)
    for row in rows:
        cells = (row.get(head, "") for head in heads)
        told = (
            f"{cell['share']} ±{cell['error']}" if isinstance(cell, dict) else str(cell)
            for cell in cells
        )
        table.add_row(*told)
    return table


def main() -> None:
    """Simulate each part, print its rows, and write all as JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=2000)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found, simulated = _kept(args.out, args.parts)
    for part in args.parts:
        began = time.monotonic()
        found[part] = list(PARTS[part](args.times))
        simulated[part] = f"{args.times} times on {datetime.now(UTC):%Y-%m-%d}"
        console.print(shown(part, found[part], time.monotonic() - began))
    parts = {part: found[part] for part in PARTS if part in found}
    write_results(args.out, {"simulated": simulated, "parts": parts})


def _kept(path: Path | None, parts: list[str]) -> tuple[dict[str, list[Row]], dict[str, str]]:
    """What a file has of other parts, and when it was simulated."""
    if path is None or not path.is_file():
        return {}, {}
    old = files.read_json(path)
    kept = {part: rows for part, rows in old["parts"].items() if part not in parts}
    return kept, {part: old["simulated"][part] for part in kept}


if __name__ == "__main__":
    main()
