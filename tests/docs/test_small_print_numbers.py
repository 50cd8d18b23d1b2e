"""Numbers of the default sweep, small_print and molmo_tiny in the documentation."""

from __future__ import annotations

import gzip
import json

import numpy as np

from tests.helpers.documented import (
    RESULTS,
    ROOT,
    arithmetic,
    ends,
    interval,
    n,
    page,
    percent,
    rows,
    table,
)
from tests.helpers.facts import says
from vtexp.stats.comparison import differences, paired_scores

CARD = "vtexp/assets/molmo_tiny/README.md"


def test_the_default_sweep() -> None:
    sweep = rows("default_sweep/comparison.csv")
    expected = [
        [
            row["knob_value"], row["tiling"], row["num_crops"],
            n(row["theoretical_vision_tokens"], 0).replace(" ", ""),
            n(row["measured_vision_tokens"], 0),
            interval(row, "accuracy", "-"), interval(row, "prefill_ms_mean", "-", n),
            n(row["vision_ms_mean"]), n(row["llm_prefill_ms_mean"]),
        ]
        for row in sweep
    ]  # fmt: skip
    assert table("README.md", "image_size", "prefill, ms (95 %)") == expected
    timed = [int(row["prefill_ms_n"]) for row in sweep]
    assert says(page("README.md"), f"{min(timed)} to {max(timed)} prefills")


def test_the_answer_of_the_default_sweep() -> None:
    with gzip.open(RESULTS / "default_sweep" / "predictions.json.gz") as file:
        kept = json.load(file)
    questions = list(kept["560x560"])
    scores = np.array([[kept[size][q]["score"] for size in kept] for q in questions])
    found = differences(
        paired_scores(scores, [q.rpartition("-")[0] for q in questions]), simultaneous=True
    )
    loss = n(100 * found.difference[3, 2])
    lost = ends(found.low[3, 2], found.high[3, 2])
    (row,) = (r for r in rows("default_sweep/comparison.csv") if r["knob_value"] == "560x560")
    pace = n(row["speed_up"], 2), ends(row["speed_up_low"], row["speed_up_high"], scale=n, digits=2)
    assert says(page("README.md"), "560x560", f"{loss} points", lost, *pace)


def test_easy_vqa() -> None:
    small, large = rows("held_out/comparison.csv")
    assert says(
        page("README.md"), "336x336", percent(small["accuracy"]), n(small["num_samples"], 0)
    )
    both = [interval(row, "accuracy") for row in (small, large)]
    assert says(page(CARD), f"{both[0]} at 336x336", f"{both[1]} at 784x784", small["num_images"])
    (whole,) = rows("easy_vqa_all/comparison.csv")
    kinds = {row["question_type"]: row for row in rows("easy_vqa_all/question_types.csv")}
    text, scored = page("benchmarks/README.md"), percent(whole["accuracy"])
    known = ends(whole["accuracy_low"], whole["accuracy_high"])
    assert says(text, n(whole["num_samples"], 0), f"{scored} %", known)
    assert says(text, *(percent(kinds[kind]["accuracy"]) for kind in ("yes/no", "color", "shape")))


def test_small_print_by_size_of_print() -> None:
    made = table("benchmarks/results/small_print/table.md", "print, px of the page")
    *shown, whole = table("docs/datasets.md", "print, px of the page")
    assert shown == made
    sweep = rows("small_print/comparison.csv")
    assert whole == ["all", n(sweep[0]["num_samples"], 0), *(percent(r["accuracy"]) for r in sweep)]


def test_the_card_of_molmo_tiny() -> None:
    made = [
        [f"`{knob}={row[0]}`", *row[2:]]
        for knob, folder in (("max_crops", "small_print"), ("image_size", "small_print_sizes"))
        for row in table(f"benchmarks/results/{folder}/table.md", knob, "measured tokens")
    ]
    head = "small_print, 1 200 questions on 300 pages"
    assert table(CARD, head, "accuracy, %") == made
    kinds = table("benchmarks/results/small_print/table.md", "kind of page")
    assert says(page(CARD), *(f"{kind[0]} {kind[5]}" for kind in kinds if kind[1]))
    (near, wrong) = kinds[-1][5].split(" of ")
    assert says(page(CARD), f"{wrong} wrong answers", near)
    log = json.loads((ROOT / CARD).with_name("training_log.json").read_text())
    assert says(page(CARD), f"{log[-1]['seconds'] / 60:.0f} minutes")
    parameters = arithmetic("molmo_tiny/config.json").parameters
    assert says(page(CARD), f"{n(parameters / 1e6, 2)} million parameters")
    assert says(page("docs/models.md"), f"{n(parameters / 1e6, 2)} million parameters")
