"""Numbers of docs/reliability.md, docs/metrics.md and benchmarks/README.md."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.documented import n, page, percent, ratio, results
from tests.helpers.facts import says


def test_prefill_beside_the_public_code() -> None:
    text = page("benchmarks/README.md")
    for kind in ("", "_compiled", "_bfloat16", "_bfloat16_compiled"):
        found = results(f"prefill_cpu{kind}.json")["rows"]
        first = [n(row["ratio"]) for row in found[:3]]
        assert says(text, ", ".join(first), ratio(found[3])[0]), kind
    (found,) = (r for r in results("prefill_cpu.json")["rows"] if r["crops"] == 12)
    rate = (
        found["tflop"] / found["native_ms"] * 1000 / results("prefill_cpu.json")["product_tflops"]
    )
    assert rate == pytest.approx(0.75, abs=0.02) and says(text, "three quarters")


def test_preprocessing_beside_the_public_code() -> None:
    page_row, photo = (r for r in results("preprocess.json")["rows"] if r["max_crops"] == 12)
    text = page("benchmarks/README.md")
    for name in ("products_ratio", "exact_ratio"):
        assert says(text, n(page_row[name], 2), n(photo[name], 2))
    worst = max(row["products_largest_error"] for row in results("preprocess.json")["rows"])
    for name in ("benchmarks/README.md", "docs/measuring.md"):
        assert says(page(name), f"{worst:.1e}".replace("e-0", "e-"))


def test_molmo_beside_the_public_code() -> None:
    found, text = results("peers_molmo.json")["found"], page("benchmarks/README.md")
    assert not any(kind["different"] for kind in found.values())
    for kind, thing in (("sizes", "tilings"), ("models", "small models")):
        assert says(text, f"{n(found[kind]['cases'], 0)} {thing}"), kind
    for kind in ("images", "prompts"):
        assert says(text, f"{n(found[kind]['cases'], 0)} {kind}"), kind


def test_prompts_beside_transformers() -> None:
    peers = results("peers_prompts.json")["peers"]
    whole = [own for peer in peers.values() for own in peer.values()]
    asked, same = (
        sum(row[name] for row in whole) for name in ("prompts", "prompts_with_the_same_ids")
    )
    alike = sum(
        own["images_with_the_same_values"]
        for name, peer in peers.items() for own in peer.values()
        if "torchvision" not in name or name.startswith("Molmo2")
    )  # fmt: skip
    text = page("benchmarks/README.md")
    assert says(text, n(same, 0), n(asked, 0)) and says(text, f"other {asked - same}")
    assert says(text, f"{alike} images")


def test_what_a_sweep_costs_beyond_its_runs() -> None:
    found, text = results("sweep_overhead.json")["by_values_per_job"], page("benchmarks/README.md")
    single, packed = (
        {key: float(np.median([row[key] for row in own])) for key in own[0]}
        for own in found.values()
    )
    assert says(text, f"{n(single['total_s'])} s", f"{n(packed['total_s'])} s")
    for key in ("runs_s", "load_s"):
        assert says(text, f"{n(single[key], 0)} and {n(packed[key], 0)}")
    key = "overhead_per_run_s"
    assert says(text, f"{n(single[key], 2)} and {n(packed[key], 2)} s")


def test_errors_of_the_cost_model() -> None:
    found, text = results("cost_model.json"), page("benchmarks/README.md")
    errors = [np.abs([row["error"] for row in own]) for own in found["predicted"].values()]
    held_out, neighbours, largest = errors
    worst = [f"{percent(e.max())} % at worst" for e in (held_out, neighbours)]
    facts = (f"{percent(held_out.mean())} % on average", *worst, f"{percent(largest.max())} %")
    assert says(text, *facts)


def test_the_size_of_a_report() -> None:
    found, text = results("report_size.json"), page("benchmarks/README.md")
    times = (found[name] for name in ("written_s", "figures_s"))
    assert says(text, f"{n(found['file_mb'])} MB", *(f"{n(seconds)} s" for seconds in times))
    shown = (found["readable_after_s"], found["first_plot_after_s"])
    assert says(text, *(f"{n(seconds)} s" for seconds in shown))


def test_the_batch_and_the_answer() -> None:
    found, text = results("batches.json")["batches"], page("docs/reliability.md")
    assert not any(row["changed"] for row in found.values())
    questions = found["8"]["questions"]
    assert says(
        text, f"same {questions} answers", str(found["1, a quarter of the questions"]["questions"])
    )
    assert says(text, f"0 of {questions}", f"{percent(1 - 0.05 ** (1 / questions))} %")


def test_500_runs_and_200000_samples() -> None:
    runs, samples = results("many_runs.json"), results("many_samples.json")
    grown = n(runs["tenths_mib"][-1] - runs["tenths_mib"][0], 0)
    whole_s = n(runs["comparison_s"], 0)
    assert says(page("docs/reliability.md"), f"{grown} MiB", f"{whole_s} s", "last 50")
    text, tenths = page("benchmarks/README.md"), np.diff([0, *runs["tenths_s"]])
    assert says(text, f"{n(tenths.mean())} s", f"{n(tenths.min(), 0)} to {n(tenths.max(), 0)} s")
    assert says(text, f"{n(runs['look_after_s'], 2)} s", f"{whole_s} s")
    mib = (samples["plan_mib"], samples["tenths_mib"][0], samples["tenths_mib"][-1])
    assert says(text, *(n(value, 0) for value in mib))
    jobs = results("many_jobs.json")
    assert (jobs["results"], jobs["lost"], jobs["runs_made_twice_by_the_logs"]) == (500, 0, 0)
    assert says(text, f"{jobs['submissions']} submissions", str(jobs["most_jobs_in_queue"]))
    assert says(text, f"{n(jobs['launcher_killed_s'], 0)} s")
    assert says(text, f"{n(jobs['total_s'] / 60, 0)} min")


def test_clear_forms_of_multiple_choice() -> None:
    read = {k: f"{percent(v['right_of_clear'], 0)} %"
            for k, v in results("peers_metrics.json")["clear_forms"].items()}  # fmt: skip
    assert read.pop("multiple_choice") == "100 %"
    assert says(page("docs/metrics.md"), *read.values())
    low, high = min(read.values()), max(read.values())
    assert says(page("benchmarks/README.md"), f"{low.removesuffix(' %')} to {high}")
