"""Made-up times whose truth is known: what vtexp/stats says of them. Run by coverage.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from simulated_scores import Row, share

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
