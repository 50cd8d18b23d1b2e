"""Numbers of docs/gpu.md, and of what quotes it."""

from __future__ import annotations

from typing import Any

from tests.helpers.documented import n, page, percent, ratio, results, table
from tests.helpers.facts import says


def gpu_rows(model: str, execution: str, part: str) -> list[dict[str, Any]]:
    found = results("gpu_h200.json")["rows"]
    return [
        row for row in found
        if row["model"] == model and row["execution"] == execution and row["part"] == part
    ]  # fmt: skip


def test_prefill_of_molmo_7b_d_on_a_gpu() -> None:
    sweep = gpu_rows("molmo_7b_d", "CUDA graphs, compiled", "sweep_7b")
    names = ("image_decode_ms", "preprocess_ms", "vision_encoder_ms", "connector_ms",
             "llm_prefill_ms", "prefill_ms", "prefill_ms_p95", "ttft_ms")  # fmt: skip
    expected = [
        [
            *(f"{row[name]:.0f}" for name in ("crops", "vision_tokens", "prompt_tokens")),
            *(n(row[name]) for name in names),
            f"{percent(row['mfu'], 0)} %", f"{percent(row['gpu_busy_ratio'], 0)} %",
            n(row["energy_j"]),
        ]
        for row in sweep
    ]  # fmt: skip
    assert table("docs/gpu.md", "crops", "MFU", "J") == expected
    times = {row["crops"]: row["prefill_ms"] for row in sweep}
    text = page("docs/gpu.md")
    assert says(text, "12 crops", f"{n(times[12] / times[1])} times", "1 crop")
    last = sweep[-1]
    assert says(text, f"{n(last['preprocess_ms'] + last['transfer_ms'])} ms at 12 crops")
    whole_s = results("gpu_h200.json")["parts"]["sweep_7b"]["seconds_to_result"]
    assert says(text, "sweep", f"{whole_s:.0f} s")
    assert says(page("README.md"), f"{n(times[1], 0)} ms at 1", f"{n(times[12], 0)} ms at 12")
    assert says(page("CHANGELOG.md"), *(n(times[crops]) for crops in (1, 4, 12)), "ms")


def test_other_ways_of_prefill_on_a_gpu() -> None:
    text, part = page("docs/gpu.md"), "other_models"
    fast = gpu_rows("molmo_7b_d, float8", "CUDA graphs, compiled", part)
    sweep = gpu_rows("molmo_7b_d", "CUDA graphs, compiled", "sweep_7b")
    before = {row["crops"]: row["prefill_ms"] for row in sweep}
    gains = [n(before[row["crops"]] / row["prefill_ms"], 2) for row in fast]
    assert says(text, *(n(row["prefill_ms"]) for row in fast), "1, 4 and 12 crops", *gains)
    eager = gpu_rows("molmo_7b_d", "eager", part)
    slow = n(eager[1]["prefill_ms_p95"])
    assert says(text, *(n(row["prefill_ms"]) for row in eager), f"{slow} ms at 4")
    busy = [f"{percent(eager[i]['gpu_busy_ratio'], 0)} %" for i in (0, 2)]
    assert says(text, *busy, "1 crop", "12 crops")
    beside = results("gpu_h200.json")["parts"]["beside_reference"]["crops"]
    assert says(text, *(fact for row in beside for fact in ratio(row)))
    assert says(text, *(n(row["reference_ms"]) for row in beside))


NAMES = {"molmoe_1b": "MolmoE-1B", "molmo2_8b": "Molmo2-8B", "qwen2_5_vl_7b": "Qwen2.5-VL-7B",
         "internvl3_8b": "InternVL3-8B"}  # fmt: skip


def test_other_models_on_a_gpu() -> None:
    expected = [
        [
            title, "" if model.startswith("qwen") else str(row["crops"]), str(row["vision_tokens"]),
            *(n(row[name]) for name in ("vision_encoder_ms", "llm_prefill_ms", "prefill_ms")),
            "" if row["mfu"] is None else f"{percent(row['mfu'], 0)} %",
            f"{percent(row['gpu_busy_ratio'], 0)} %",
        ]
        for model, title in NAMES.items()
        for row in gpu_rows(model, "CUDA graphs", "other_models")
    ]  # fmt: skip
    assert table("docs/gpu.md", "model", "MFU") == expected
