"""Numbers of docs/measuring.md and docs/statistics.md."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.helpers.documented import ROOT, n, page, percent, results, table
from tests.helpers.facts import says


def test_repeatability() -> None:
    one, four = (results(f"repeatability{kind}.json") for kind in ("", "_processes"))
    overlap = [f"{one['overlapping'][c]} ({c}" for c in ("1", "4", "12")]
    apart = [percent(one["largest_difference"][c], 0) for c in ("1", "4", "12")]
    assert one["same_order"] == len(one["repeats"]) == 10
    for name in ("docs/measuring.md", "benchmarks/README.md"):
        assert says(page(name), f"{apart[0]}, {apart[1]} and {apart[2]} %")
        several = [str(four["overlapping"][c]) for c in ("1", "4", "12")]
        assert says(page(name), f"{several[0]}, {several[1]} and {several[2]} of {four['pairs']}")
    assert says(page("docs/measuring.md"), *overlap)


def shares(part: str, key: str | None = None, **of: Any) -> list[tuple[float, float]]:
    """Shares of simulations with their errors, ascending, of a part's rows with these values."""
    chosen = [
        row if key is None else row[key]
        for row in results("coverage.json")["parts"][part]
        if all(row.get(name) == value for name, value in of.items()) and "refused" not in row
    ]
    return sorted((row["share"], row["error"]) for row in chosen)


def of_images(images: Iterable[str]) -> list[tuple[float, float]]:
    return sorted(share for name in images for share in shares("means", images=name))


def with_error(share: tuple[float, float]) -> str:
    return f"{n(share[0])} ±{n(share[1])}"


def from_to(found: list[tuple[float, float]]) -> str:
    return f"{with_error(found[0])} to {with_error(found[-1])}"


def within(found: list[tuple[float, float]]) -> str:
    return f"{sum(93 <= share <= 97.5 for share, _ in found)} of {len(found)}"


def found_by_simulation() -> dict[str, list[str]]:
    """What a row of the table that starts so must hold."""
    many = of_images(["120 of 1", "400 of 1", "2000 of 1"])
    fives = of_images(["60 of 5", "400 of 5"])
    tiny = of_images(["20 of 10", "20 of 100", "10 of 200", "8 of 100"])
    lost, gaps = shares("losses", "wrongly_enough"), shares("losses", "interval")
    power = [n(share, 0) for share, _ in shares("power", "power")[::-1]]
    two_three, four_eight = (
        sorted(s for c in counts for key in ("mean", "speed_up")
               for s in shares("by_processes", key, processes=c))
        for counts in ((2, 3), (4, 8))
    )  # fmt: skip
    own = {s: shares("by_processes", "speed_up_of_one", spread=s) for s in (0.02, 0.1)}
    quiet = [shares("speed_ups", noise=noise, questions=16, rounds=4)[0] for noise in (
        "quiet", "rounds disturbed, 20 %", "images of 1 and of 12 crops",
        "a fifth of the rounds 1.2 to 2 times as long",
    )]  # fmt: skip
    between = [shares("processes", key) for key in ("mean", "next_process")]
    ahead = [shares("predictions", "interval", settings=k)[0] for k in (8, 12)]
    few = sorted(s for k in (4, 5, 6) for s in shares("predictions", "interval", settings=k))
    terms = shares("cost_terms")
    return {
        "a budget called enough": [f"{with_error(lost[-3])} or less in {len(lost) - 2}",
                                   n(lost[-2][0]), with_error(lost[-1])],
        "the same with 2 to 8 budgets": [with_error(shares("enough", "wrongly_enough")[-1])],
        "a budget called worse": [with_error(shares("enough", "wrongly_worse")[-1])],
        "interval of a mean holds": [from_to(many), f"{within(many)} kinds"],
        "the same, 30 and 60": [from_to(of_images(["30 of 1", "60 of 1"]))],
        "the same, 8 and 10": [from_to(of_images(["8 of 1", "10 of 1"]))],
        "the same, 60 and 400": [from_to(fives), within(fives)],
        "the same, 20 images": [f"{n(tiny[0][0])} to {n(tiny[-1][0], 0)}"],
        "interval of a difference": [f"{with_error(gaps[2])} or more in {len(gaps) - 2}",
                                     f"{n(gaps[0][0])} and {with_error(gaps[1])}"],
        "all differences among": [with_error(shares("enough", "all_differences")[0])],
        "power at": [f"{', '.join(power)}, each ±3"],
        "interval of a speed-up": [", ".join(map(with_error, quiet[:3]))],
        "the same, a fifth": [with_error(quiet[3])],
        "mean time and speed-up": [from_to(two_three)],
        "the same between 4 and 8": [from_to(four_eight)],
        "what one process's own": [f"{n(own[0.02][0][0], 0)} to {n(own[0.02][-1][0], 0)}"],
        "the same, by 10 %": [f"{n(own[0.1][0][0], 0)} to {n(own[0.1][-1][0], 0)}"],
        "interval between 2 to 8": [f"{n(own[0][0])} to {n(own[-1][0])}" for own in between],
        "still 10 % too slow": [with_error(shares("warm_up", "too_slow")[-1])],
        "interval of a coefficient": [from_to(terms)],
        "interval of what the cost": [", ".join(map(with_error, ahead))],
        "the same, 4 to 6 settings": [f"{n(few[0][0])} to {n(few[-1][0])}"],
        "a setting that a plan": [with_error(shares("predictions", "within_of_sure")[0])],
        "the budget named with 95 %": [with_error(shares("limits", "not_sure")[-1])],
    }  # fmt: skip


def test_what_the_simulations_found() -> None:
    shown = table("docs/statistics.md", "what", "wanted", "found")
    made = found_by_simulation()
    for start, facts in made.items():
        (row,) = (row for row in shown if row[0].startswith(start))
        assert all(says(row[2], fact) for fact in facts), (start, facts)
    assert len(shown) == len(made) + 4  # those of chances, below


def test_chances_within_a_limit() -> None:
    rows_of = results("coverage.json")["parts"]["limits"]

    def both(step: float, processes: int) -> str:
        key = ("anywhere", step, processes)
        (row,) = (r for r in rows_of if (r["limit"], r["step"], r["processes"]) == key)
        return f"{n(row['chance_said'], 0)} and {n(row['within']['share'], 0)}"

    shown = {row[0]: row[2] for row in table("docs/statistics.md", "what", "found")}
    for start, steps in (
        ("chance of the most", (1.5, 1.1)),
        ("the same, 12 budgets in steps of 5", (1.05,)),
        ("the same, 12 budgets in steps of 2", (1.02,)),
    ):
        (cell,) = (cell for what, cell in shown.items() if what.startswith(start))
        assert all(both(step, k) in cell for step in steps for k in (1, 4)), start
    below = [row for row in rows_of if row["limit"] != "anywhere"]
    said = sorted(row["chance_said"] for row in below)
    true = sorted(row["within"]["share"] for row in below)
    (cell,) = (cell for what, cell in shown.items() if what.startswith("the same, the limit 1 %"))
    assert cell == " and ".join(f"{n(v[0], 0)} to {n(v[-1], 0)}" for v in (said, true))


def test_margins_of_so_many_questions() -> None:
    made = {
        r["questions"]: r for r in results("coverage.json")["parts"]["margins"] if r["budgets"] == 4
    }
    for questions, *cells in table("docs/statistics.md", "questions", "no answer changes"):
        row = made[int(questions.replace(" ", ""))]
        assert cells == [n(row[share]) for share in ("0%", "1%", "2%", "5%")]
    comment = (ROOT / "conf" / "report" / "default.yaml").read_text()
    assert n(made[200]["0%"]) in comment and n(made[200]["2%"]) in comment
    assert made[400]["0%"] <= 1 < made[2000]["2%"]
