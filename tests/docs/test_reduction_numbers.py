"""Numbers of docs/reduction.md."""

from __future__ import annotations

import re

from tests.helpers.documented import (
    RESULTS,
    Row,
    arithmetic,
    interval,
    n,
    page,
    percent,
    results,
    rows,
    table,
)
from tests.helpers.facts import says
from vtexp.budget.geometry import Tiling
from vtexp.budget.reduction import Reduction
from vtexp.cost.prompts import PromptCounts


def test_accuracy_of_token_reductions() -> None:
    sweep = [row for row in rows("reduction_small_print/comparison.csv") if row["reduction"]]
    for method, *cells in table("docs/reduction.md", "accuracy, % at", "144"):
        own = {r["knob_value"]: r for r in sweep if f"`{r['reduction']}`" == method}
        scored = {kept: percent(row["accuracy"], 0) for kept, row in own.items()}
        if method == "`resize`":  # has no budget that small
            assert own["144"]["measured_vision_tokens"] == "288.0"
            scored["144"] = "-"
        assert cells == [scored[kept] for kept in ("144", "288", "544", "704")], method


def test_work_of_token_reductions() -> None:
    sweep, text = rows("reduction_small_print/comparison.csv"), page("docs/reduction.md")
    whole = next(row for row in sweep if row["knob"] == "max_crops")
    by = {(row["reduction"], row["knob_value"]): row for row in sweep}

    def gflop(row: Row) -> str:
        return n(float(row["flops_per_prefill"]) / 1e9)

    resized, kept = by["resize", "704"], by["max_min", "144"]
    tokens = n(whole["measured_vision_tokens"], 0)
    assert says(text, f"{tokens} tokens", f"{percent(whole['accuracy'], 0)} %")
    assert says(text, f"{gflop(whole)} GFLOP")
    for row in (resized, kept):
        assert says(text, gflop(row), f"{percent(row['accuracy'], 0)} %")
    assert min(float(r["accuracy"]) for r in rows("reduction_easy_vqa/comparison.csv")) >= 0.99


def test_differences_from_resizing() -> None:
    text, shown = (RESULTS / "reduction_small_print" / "findings.md").read_text(), 0
    verdicts = {}
    for method, line in re.findall(r": (\w+) is [^:]* than resize( at .*|: .*)", text):
        at = re.findall(
            r"(\S+) points \((\S+) to ([^,]+), p [^)]+\) at (\d+) vision tokens(, worse)?", line
        )
        better = re.findall(r"\d+", line.partition(": ")[0])
        verdicts[method] = better, [kept for *_, kept, worse in at if worse]
        for middle, low, high, kept, _ in at:
            if kept in better:
                ends = f"{low.lstrip('+')} to {high.lstrip('+')}"
                assert says(page("docs/reduction.md"), kept, method, middle, ends)
                shown += 1
    assert shown == 4
    assert verdicts == {  # as the page's words say
        "max_min": (["288", "544"], []),
        "cls_attention": (["288"], []),
        "conditional": (["288"], []),
        "random": ([], ["544", "704"]),
        "pool": ([], ["544"]),
        "stride": ([], ["288", "544", "704"]),
    }


def test_times_of_token_reductions() -> None:
    found = results("reduction_cpu.json")["prefills"]
    for method, *cells in table("docs/reduction.md", "speed-up at 544"):
        expected = []
        for kept in ("544", "144"):
            row = found[f"{method.strip('`')} {kept}"]
            pace = row["speed_up"]
            spent = "-" if method == "`resize`" else n(row["reduction_ms"])
            ends = f"{n(pace['low'], 2)}-{n(pace['high'], 2)}"
            expected += [spent, f"{n(pace['median'], 2)} ({ends})"]
        assert [cell.removesuffix(", 288 tokens") for cell in cells] == expected
    assert says(page("docs/reduction.md"), f"{n(found['none']['prefill_ms'], 0)} ms")


def test_token_reductions_on_1000_questions() -> None:
    sweep, text = rows("reduction_small_print_1000/comparison.csv"), page("docs/reduction.md")
    by = {(row["reduction"], row["knob_value"]): row for row in sweep}
    for name, tokens, scored, *_ in table("docs/reduction.md", "`reduction=`", "measured tokens"):
        method, _, kept = name.removesuffix(" kept").partition(", ")
        at = {"resize": "600" if tokens == "549" else "288"}.get(method.strip("`"), kept or "288")
        row = by[method.strip("`"), at]
        assert (tokens, scored) == (n(row["measured_vision_tokens"], 0), interval(row, "accuracy"))
    whole = by["", "9"]
    scored, ends = interval(whole, "accuracy").split(" ", 1)
    assert says(text, n(whole["measured_vision_tokens"], 0), f"{scored} % right {ends}")
    assert says(text, n(whole["num_samples"], 0), f"{whole['num_images']} images")


def found_differences() -> dict[tuple[str, str], str]:
    """`+46.3 (41.9 to 50.4)` of a method against another, by findings.md and both ways round."""
    text = (RESULTS / "reduction_small_print_1000" / "findings.md").read_text()
    one = re.compile(
        r"(\w+) is (?:no )?better than (\w+)[^:]*: (\S+) points \((\S+) to ([^,]+)"
        r"|reduction=(\w+) \| reduction=(\w+) \| \S+ \| (\S+) \| (\S+) to (\S+)"
    )
    found: dict[tuple[str, str], str] = {}
    for match in one.finditer(text):
        ours, theirs, *numbers = (group for group in match.groups() if group is not None)
        middle, low, high = map(float, numbers)
        found[ours, theirs] = f"{middle:+.1f} ({low:.1f} to {high:.1f})"
        found[theirs, ours] = f"{-middle:+.1f} ({-high:.1f} to {-low:.1f})"
    return found


def test_differences_of_token_reductions_on_1000_questions() -> None:
    made = found_differences()
    compared = 0
    for name, _, _, *cells in table("docs/reduction.md", "`reduction=`", "against `random`"):
        for floor, cell in zip(("resize", "random", "stride"), cells, strict=True):
            if cell[:1] in ("+", "-"):
                assert cell == made[name.split("`")[1], floor]
                compared += 1
    assert compared == 14
    better = (made["max_min", "cls_attention"], made["max_min", "conditional"])
    facts = (cell.replace("(", "points, ", 1).rstrip(")") for cell in better)
    first, second = (re.split(" points, ", fact) for fact in facts)
    assert says(page("docs/reduction.md"), "cls_attention", *first, *second)


def test_the_work_of_scoring_by_attention() -> None:
    text, asked = page("docs/reduction.md"), Reduction("cls_attention", kept=544)
    for model, tokens, tiling in (
        ("Qwen/Qwen2.5-VL-7B-Instruct", 1296, Tiling(36, 36)),
        ("allenai/Molmo2-8B", 1285, Tiling(3, 3)),
    ):
        counts = PromptCounts(tiling.num_crops, 544, 700, tiling, tokens, asked)
        flops = arithmetic(f"architectures/{model}.json").flops(counts)
        facts = [f"{n(flops['reduction'] / 1e9, 0)} GFLOP"]
        if tokens == 1296:
            facts += ["1296 tokens", f"{percent(flops['reduction'] / flops['vision_encoder'])} %"]
        assert says(text, *facts)
