"""Made-up scores whose truth is known: what vtexp/stats says of them. Run by coverage.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import norm

from vtexp.stats import compare
from vtexp.stats.bounded import ClusteredMeans, Images, clustered_means, interval, upper_bound
from vtexp.stats.comparison import differences, paired_scores
from vtexp.stats.permutation import holm, sign_flip_tests
from vtexp.stats.power import planned_margin, questions_needed

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
