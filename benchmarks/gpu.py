"""Everything that only a GPU can show, in one go: at most 7 minutes on one H100 or H200.

    python benchmarks/gpu.py [--reference CHECKOUT] [--parts sweep_7b answers ...] [--seconds 420]
        [--out benchmarks/results/gpu_NAME.json]

Each part is a process of its own with its own time limit, the ones worth most first; what is done
is written after each, so that nothing is lost where the time ends; what a file of an earlier call
has of other parts stays in it. Weights are random, of the
published sizes, but molmo_tiny's. --reference is a checkout of github.com/allenai/molmo, beside
which Molmo-7B-D is timed; without it that part is left out. Where vtexp is not installed, as on a
machine without a network, name the checkout in PYTHONPATH. Beside the JSON file lies a Markdown
table of the same name. Without a GPU one line says so.

`rows` of the file: per model and number of crops, as `launch.py` measured it, `prefill_ms` and
its `prefill_ms_p95`, `preprocess_ms`, `ttft_ms`, `mfu`, `gpu_busy_ratio`, `energy_j` and, from
benchmarks/prefill.py, `reference_ms`; `execution` says how. `parts`: what else was found, with the
seconds that each took.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results_file import write_results

from vtexp.cost.flops import mfu
from vtexp.cost.prompts import PromptCounts
from vtexp.runs import surroundings
from vtexp.runs.records import Result, read_latency, read_result
from vtexp.utils import files
from vtexp.utils.text import percent
from vtexp.utils.typed import to_json

ROOT = Path(__file__).parents[1]
#: Sizes of 1, 2, 3, 4, 6, 9 and 12 crops, and three of them.
ALL_SIZES = "336x336,336x560,336x784,560x560,560x784,784x784,784x1008"
SOME_SIZES = "336x336,560x560,784x1008"
#: What random weights of Molmo-7B-D are swept with.
MOLMO_7B = ("model=molmo_7b_d", "model.weights=random")
#: Stages and sums of them that rows have, as medians.
TIMES = (
    *("image_decode_ms", "preprocess_ms", "transfer_ms", "vision_encoder_ms", "connector_ms"),
    *("llm_prefill_ms", "prefill_ms", "ttft_ms"),
)
#: Predictions of the default sweep on a CPU in float32: `--write-predictions outputs/NAME` of
#: `python launch.py sweep.name=NAME`.
PREDICTIONS = ROOT / "benchmarks" / "results" / "default_sweep" / "predictions.json.gz"


class Failed(Exception):
    """A part that found nothing, with its reason."""


def hardware() -> str:
    """The profile with this GPU's figures."""
    name = torch.cuda.get_device_name()
    return next((kind for kind in ("h200", "h100", "a100") if kind.upper() in name), "local_gpu")


def launch(folder: Path, *overrides: str, **variables: str) -> float:
    """Run `launch.py` into a folder; the seconds it took. Raises Failed with its last line."""
    command = [sys.executable, str(ROOT / "launch.py"), *overrides]
    command += ["tracking=none", f"sweep.folder={folder.parent}", f"sweep.name={folder.name}"]
    began = time.perf_counter()
    made = subprocess.run(
        command, cwd=ROOT, env=os.environ | variables, capture_output=True, text=True
    )
    if made.returncode:
        lines = (made.stdout + made.stderr).strip().splitlines()
        failed = [line for line in lines if "FAILED" in line or "rror" in line]
        raise Failed((failed or lines or ["no word"])[-1])
    return time.perf_counter() - began


def on_gpu(*overrides: str) -> tuple[str, ...]:
    """Overrides of a sweep in this process's place, on this GPU's profile."""
    return (f"hardware={hardware()}", "hardware.launcher=here", *overrides)


def told(warning: str) -> bool:
    """Whether a warning is about the times: that random weights have no accuracy is known."""
    return not warning.startswith("random weights")


def name_of(result: Result) -> str:
    """The model, and how much of it worked where that was the knob: else rows look alike."""
    if result.knob in ("moe_top_k", "transformer_blocks"):
        return f"{result.model}, {result.knob}={result.knob_value}"
    return result.model


def rows_of(folder: Path, **more: Any) -> list[dict[str, Any]]:
    """What a sweep measured, a row per run, in the order of vision tokens."""
    found = []
    for path in folder.glob("*/result.json"):
        result = read_result(path.parent)
        timed = list(read_latency(path.with_name("latency.jsonl")))
        prefills = [row.prefill_ms for row in timed]
        medians = {name: found.median for name, found in result.latency.items()}
        found.append(
            {
                "model": name_of(result),
                "crops": result.measured_num_crops,
                "vision_tokens": result.measured_vision_tokens,
                "prompt_tokens": result.sequence_length,
                "moe_top_k": result.moe_top_k,
                "active_blocks": result.active_blocks,
                "prefill_ms_p95": float(np.percentile(prefills, 95)),
                **{name: medians[name] for name in TIMES},
                "mfu": result.mfu,
                "gpu_busy_ratio": result.gpu_busy_ratio,
                "energy_j": result.energy_j_per_prefill,
                "memory_mib": result.memory_peak_mib.get("allocated"),
                "graph_memory_mib": result.graph_memory_mib,
                "reference_ms": None,
                "execution": result.execution,
                "prefills": len(timed),
                "warnings": [*result.timing_warnings, *filter(told, result.warnings)],
                **more,
            }
        )
    return sorted(found, key=lambda row: row["vision_tokens"])


# --- parts: each returns what it found, some with rows ---


def sweep_7b(folder: Path, _: argparse.Namespace) -> dict[str, Any]:
    """Molmo-7B-D at seven sizes, as a user types it: time to a result and the table."""
    seconds = launch(folder / "a", *on_gpu(*MOLMO_7B, f"knob.sizes=[{ALL_SIZES}]"))
    return {"seconds_to_result": seconds, "rows": rows_of(folder / "a")}


def beside_reference(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The same prefill beside the public reference code, in turns."""
    if args.reference is None:
        raise Failed("no --reference")
    how = f"--reference {args.reference} --size 7b_d --compile --graphs --crops 1 4 12 --repeats 15"
    found = script(folder, "prefill.py", f"{how} --dtype bfloat16")
    return {"crops": found["rows"]}


def preprocess(folder: Path, _: argparse.Namespace) -> dict[str, Any]:
    """What follows the decoding of a JPEG of 1200x900, on the host and on the device."""
    found = script(folder, "preprocess.py", "--crops 1 4 12")
    return {"pictures": found["rows"], "other_families": found["other_families"]}


def script(folder: Path, name: str, arguments: str) -> dict[str, Any]:
    """What another benchmark writes of this GPU. Raises Failed with its last line."""
    out = folder / "found.json"
    how = shlex.split(f"{arguments} --device cuda")
    command = [sys.executable, f"benchmarks/{name}", *how, "--out", str(out)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if made.returncode:
        raise Failed((made.stderr.strip().splitlines() or ["no word"])[-1])
    return json.loads(out.read_text())


def reductions(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Each token reduction beside none and resizing, in turns; written down after each model."""
    large = "--model allenai/Molmo-7B-D-0924 --random --max-crops 12 --kept 576 144"
    found: dict[str, Any] = {}
    for name, own in {"molmo_7b_d": large, "molmo_tiny": ""}.items():
        try:
            made = script(folder, "reduction.py", f"{own} --dtype bfloat16")
        except Failed as error:  # the next may work all the same
            found[name] = {"failed": str(error)[:300]}
        else:
            found[name] = {key: made[key] for key in ("graph_failure", "prefills")}
        args.found.write_text(json.dumps(found))
    return found


def quick_rows(folder: Path, overrides: Sequence[str], label: str) -> list[dict[str, Any]]:
    """Rows of a model with random weights from 30 prefills of one question per size, no energy."""
    from vtexp.config.compose import compose_config
    from vtexp.runs.job import load_runner
    from vtexp.runs.plan import make_plan

    few = ("model.weights=random", "dataset.limit=1", "tracking=none", f"sweep.folder={folder}")
    plan = make_plan(compose_config([*on_gpu(*overrides), *few, "sweep.name=quick"]))
    runner, sample = load_runner(plan), plan.samples[0]
    hardware, rows = plan.config.hardware, []
    peak = None if hardware.dtype.is_float8 else hardware.peak_tflops
    for run in plan.runs:
        model = run.arithmetic(plan.checkpoint)
        asked = (sample, run.setting, plan.config.dataset.style)
        with runner.probe() as probe:
            runner.eager_prefill(*asked)
            (counts,) = probe.take()
        runner.capture(*asked)
        times = [runner.timed_prefill(*asked) for _ in range(35)][5:]
        kernels_ms = runner.kernels_ms(*asked)
        median = {name: float(np.median([getattr(t, name) for t in times])) for name in TIMES}
        length = run.prompt_lengths[0]
        prompt = PromptCounts(counts.num_crops, counts.vision_tokens, length, run.tilings[0])
        flops = None if model is None else sum(model.flops(run.with_connected(prompt)).values())
        prefill_ms = median["prefill_ms"]
        how = "CUDA graphs" if times[0].cuda_graph else "eager"
        rows.append(
            {
                "model": label,
                "crops": counts.num_crops,
                "vision_tokens": counts.vision_tokens,
                "prompt_tokens": length,
                **median,
                "prefill_ms_p95": float(np.percentile([t.prefill_ms for t in times], 95)),
                "mfu": None if flops is None or peak is None else mfu(flops, prefill_ms, peak),
                "gpu_busy_ratio": None if kernels_ms is None else kernels_ms / prefill_ms,
                "energy_j": None,
                "reference_ms": None,
                "execution": f"{how}, compiled" if runner.compiled else how,
                "prefills": len(times),
                "warnings": [runner.graph_failure] if runner.graph_failure else [],
            }
        )
    return rows


def other_models(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Models and ways to run them, a few prefills each."""
    return one_by_one(QUICK, folder, args)


def reduced_models(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The same of fewer tokens, experts and blocks in graphs, of families and types of their own.

    A graph whose logits are not those of an eager pass is not used: `execution` and `warnings` say
    so.
    """
    return one_by_one(REDUCED, folder, args)


def one_by_one(
    models: Mapping[str, Sequence[str]], folder: Path, args: argparse.Namespace
) -> dict[str, Any]:
    """Rows of models by their overrides; written down after each."""
    found: dict[str, Any] = {"rows": [], "failed_models": {}}
    for label, overrides in models.items():
        torch._dynamo.reset()
        torch._inductor.config.max_autotune_pointwise = label.endswith("tuned")
        try:
            found["rows"] += quick_rows(folder, overrides, label)
        except Exception as error:  # the next may work all the same
            found["failed_models"][label] = f"{type(error).__name__}: {error}"[:300]
        args.found.write_text(json.dumps(found))
    return found


def default_sweep(folder: Path, _: argparse.Namespace) -> dict[str, Any]:
    """The default sweep on this GPU: time, flags, and answers against the CPU's in float32."""
    seconds = launch(folder / "a", "hardware=local_gpu")
    rows = rows_of(folder / "a", model="molmo_tiny")
    return {"seconds_to_result": seconds, "rows": rows, **against_cpu(folder / "a")}


def float8_tiny(folder: Path, _: argparse.Namespace) -> dict[str, Any]:
    """Accuracy and answers of molmo_tiny in float8."""
    quick = ("measure.min_seconds=0", "measure.max_seconds=0", "measure.energy_seconds=0")
    launch(folder / "a", "hardware=local_gpu", "hardware.dtype=float8", *quick)
    return against_cpu(folder / "a")


def write_predictions(sweep: Path) -> None:
    """Keep what a finished sweep answered, by knob value and question, as PREDICTIONS."""
    found = {}
    for path in sorted(sweep.glob("*/result.json")):
        rows = files.read_jsonl(path.with_name("samples.jsonl"))
        found[files.read_json(path)["knob_value"]] = {
            row["sample_id"]: {"prediction": row["prediction"], "score": row["score"]}
            for row in rows
        }
    text = json.dumps(found, sort_keys=True)
    PREDICTIONS.write_bytes(gzip.compress(text.encode(), mtime=0))


def against_cpu(sweep: Path) -> dict[str, Any]:
    """Per knob value: accuracy here and on the CPU, and the share of answers that differ."""
    expected = json.loads(gzip.decompress(PREDICTIONS.read_bytes()))
    found = {}
    for path in sorted(sweep.glob("*/result.json")):
        result = files.read_json(path)
        rows = files.read_jsonl(path.with_name("samples.jsonl"))
        own = expected[result["knob_value"]]
        differ = [row["prediction"] != own[row["sample_id"]]["prediction"] for row in rows]
        cpu = [own[row["sample_id"]]["score"] for row in rows]
        found[result["knob_value"]] = {
            "accuracy": result["accuracy"],
            "accuracy_cpu_float32": float(np.mean(cpu)),
            "answers": len(rows),
            "differ": float(np.mean(differ)),
        }
    return {"answers": found}


def two_values(*overrides: str) -> Callable[[Path, argparse.Namespace], dict[str, Any]]:
    """A part that sweeps two values of a model with random weights, as a user types it."""

    def part(folder: Path, _: argparse.Namespace) -> dict[str, Any]:
        seconds = launch(folder / "a", *on_gpu(*overrides, "model.weights=random"))
        return {"seconds_to_result": seconds, "rows": rows_of(folder / "a")}

    return part


def answers(folder: Path, _: argparse.Namespace) -> dict[str, Any]:
    """Answers per second by batch size, at 12 crops and 12 tokens; halving when memory ends."""
    from vtexp.config.compose import compose_config
    from vtexp.models.molmo.answering import LENGTH_STEP
    from vtexp.runs.batching import BatchSize
    from vtexp.runs.job import load_runner
    from vtexp.runs.plan import make_plan

    small = ("knob=max_crops", "knob.max_crops=[12]", "dataset.limit=64", "tracking=none")
    named = (f"sweep.folder={folder}", "sweep.name=answers")
    plan = make_plan(compose_config([*on_gpu(*MOLMO_7B, *small), *named]))
    run, style = plan.runs[0], plan.config.dataset.style
    runner = load_runner(plan)
    began = time.perf_counter()
    prepared = [runner.prepare(sample, run.setting, style) for sample in plan.samples]
    runner.wait()
    preparing_ms = 1000 * (time.perf_counter() - began) / len(prepared)
    found: dict[str, Any] = {"preparing_ms_per_sample": preparing_ms, "batches": {}}
    for size in (1, 4, 16, 32):
        batches = [prepared[i : i + size] for i in range(0, 4 if size == 1 else 64, size)]
        shapes = {-(-max(len(own.input_ids) + 11 for own in b) // LENGTH_STEP): b for b in batches}
        for batch in 2 * [*shapes.values()]:  # a shape is captured at its second batch
            runner.answer(batch, 12)
        runner.wait()
        torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        for batch in batches:
            runner.answer(batch, 12)
        runner.wait()
        seconds = time.perf_counter() - began
        found["batches"][size] = {
            "samples_per_second": sum(map(len, batches)) / seconds,
            "memory_gib": torch.cuda.max_memory_allocated() / 2**30,
        }
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    room = torch.cuda.memory_allocated() + 6 * 2**30
    torch.cuda.set_per_process_memory_fraction(min(1.0, room / total))
    batches = BatchSize(64, adjust=True)
    batches.size = 64
    done = sum(len(b) for b, _ in batches.run(prepared, lambda b: runner.answer(list(b), 2)))
    found["out_of_memory"] = {
        "answered": done,
        "of": len(prepared),
        "largest_batch": batches.most,
        "times": batches.out_of_memory_count,
    }
    return found


def repeatability(folder: Path, _: argparse.Namespace) -> dict[str, Any]:
    """Two sweeps in a row: by how much medians differ."""
    once = (*MOLMO_7B, f"knob.sizes=[{SOME_SIZES}]", "measure.energy_seconds=0")
    for name in ("a", "b"):
        launch(folder / name, *on_gpu(*once, "measure.min_seconds=1"))
    first, second = (rows_of(folder / name) for name in ("a", "b"))
    change = [b["prefill_ms"] / a["prefill_ms"] - 1 for a, b in zip(first, second, strict=True)]
    return {"change_of_medians": change}


def processes(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Two ranks, two local workers, a sharded model on one GPU: all runs done, same answers.

    Written down after each.
    """
    quick = ["hardware=local_gpu", "dataset.limit=24", "measure.energy_seconds=0"]
    quick += ["measure.min_seconds=0", "measure.max_seconds=0", "knob.sizes=336x336,560x560"]
    local = ["-m", "hardware.launcher=local"]
    ways = {
        "one": [],
        "ranks": [*local, "hardware.gpus_per_run=2"],
        "workers": [*local, "hardware.max_parallel=2"],
        "sharded": ["hardware.sharded=true"],
    }
    found: dict[str, Any] = {}
    first: dict[tuple[str, str], str] = {}
    for name, overrides in ways.items():
        try:
            # One GPU named twice: each process of a job is given one of the two names.
            visible = "0,0" if "-m" in overrides else "0"
            launch(folder / name, *overrides, *quick, CUDA_VISIBLE_DEVICES=visible)
        except Failed as error:
            found[name] = {"failed": str(error)}
        else:
            answers = predictions(folder / name)
            first = first or answers
            same = sum(first.get(key) == text for key, text in answers.items())
            found[name] = {"answers": len(answers), "as_alone": same}
        args.found.write_text(json.dumps(found))
    return found


def predictions(sweep: Path) -> dict[tuple[str, str], str]:
    """What a finished sweep answered, by knob value and question."""
    found = {}
    for path in sweep.glob("*/result.json"):
        rows = files.read_jsonl(path.with_name("samples.jsonl"))
        value = files.read_json(path)["knob_value"]
        found |= {(value, row["sample_id"]): row["prediction"] for row in rows}
    return found


def _reduced(method: str, max_crops: int) -> tuple[str, ...]:
    """Overrides that keep 144 vision tokens of an image."""
    knob = ("knob=kept_tokens", "knob.kept=[144]", f"knob.max_crops=[{max_crops}]")
    return (*knob, f"reduction={method}")


QWEN = (
    "model=qwen2_5_vl",
    "model.path=Qwen/Qwen2.5-VL-7B-Instruct",
    "knob.sizes=[336x336,784x1008]",
)
INTERNVL = (
    "model=internvl",
    "model.path=OpenGVLab/InternVL3-8B-hf",
    "knob.sizes=[448x448,896x1344]",
)
#: What `other_models` times, in the order of its worth.
QUICK = {
    "molmo_7b_d, graphs": ("model=molmo_7b_d", f"knob.sizes=[{SOME_SIZES}]"),
    "molmo_7b_d, float8": (
        "model=molmo_7b_d", "hardware.dtype=float8", f"knob.sizes=[{SOME_SIZES}]",
    ),
    "molmoe_1b": ("model=molmoe_1b", f"knob.sizes=[{SOME_SIZES}]"),
    "molmo2_8b": ("model=molmo2_8b", "knob.sizes=[378x378,910x910]"),
    "qwen2_5_vl_7b": QWEN,
    "internvl3_8b": INTERNVL,
    "molmo_7b_d": (
        "model=molmo_7b_d", "hardware.cuda_graphs=false", "hardware.compile=false",
        f"knob.sizes=[{SOME_SIZES}]",
    ),
    "molmo_7b_d, float8, tuned": (
        "model=molmo_7b_d", "hardware.dtype=float8", f"knob.sizes=[{SOME_SIZES}]",
    ),
    "molmoe_1b, compiled": (
        "model=molmoe_1b", "hardware.compile=true", f"knob.sizes=[{SOME_SIZES}]",
    ),
}  # fmt: skip

#: What `reduced_models` times, in the order of its worth.
REDUCED = {
    "molmo2_8b, cls_attention": ("model=molmo2_8b", *_reduced("cls_attention", 12)),
    "qwen2_5_vl_7b, cls_attention": (*QWEN[:2], *_reduced("cls_attention", 1024)),
    "internvl3_8b, cls_attention": (*INTERNVL[:2], *_reduced("cls_attention", 12)),
    "molmoe_1b, early_layer, 4 experts, 12 blocks": (
        "model=molmoe_1b", "model.moe_top_k=4", "model.active_blocks=12",
        *_reduced("early_layer", 12),
    ),
    "molmo_7b_d, early_layer, 14 blocks, float8": (
        "model=molmo_7b_d", "hardware.dtype=float8", "model.active_blocks=14",
        *_reduced("early_layer", 12),
    ),
}  # fmt: skip

#: In the order of their worth; seconds that each may take.
PARTS: dict[str, tuple[Callable[[Path, argparse.Namespace], dict[str, Any]], float]] = {
    "sweep_7b": (sweep_7b, 120),
    "beside_reference": (beside_reference, 60),
    "other_models": (other_models, 90),
    "default_sweep": (default_sweep, 70),
    "preprocess": (preprocess, 40),
    "answers": (answers, 60),
    "molmoe_1b": (two_values("model=molmoe_1b", "knob.sizes=[336x336,784x1008]"), 60),
    "molmo2_8b": (two_values("model=molmo2_8b", "knob.sizes=[378x378,910x910]"), 60),
    "reductions": (reductions, 150),
    "experts": (two_values("model=molmoe_1b", "knob=moe_top_k", "knob.top_k=[4,8]"), 90),
    "blocks": (
        two_values("model=molmo_7b_d", "knob=transformer_blocks", "knob.blocks=[14,28]"),
        90,
    ),
    "reduced_models": (reduced_models, 120),
    "float8_tiny": (float8_tiny, 50),
    "repeatability": (repeatability, 90),
    # Last: its workers outlive it where its time ends, and would disturb what is timed after it.
    "processes": (processes, 120),
}


def run_part(name: str, seconds: float, arguments: Sequence[str]) -> dict[str, Any]:
    """What a part found, in a process of its own; `failed` where it found nothing."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        command = [sys.executable, __file__, *arguments, "--parts", name, "--found", str(out)]
        # Its whole group is ended with it: sweeps are processes of it.
        process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
        try:
            _, said = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.communicate()
            found = json.loads(out.read_text()) if out.is_file() else {}
            return found | {"failed": f"not done after {seconds:.0f} s", "seconds": seconds}
        spent = {"seconds": round(time.perf_counter() - began, 1)}
        if out.is_file():
            return json.loads(out.read_text()) | spent
        last = (said.decode(errors="replace").strip().splitlines() or ["no word"])[-1]
        return {"failed": last[:300]} | spent


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    heads = "model | execution | crops | vision tokens | prompt | encoder | connector | LLM | "
    heads += "**prefill, ms** | p95 | preprocess | TTFT | MFU | GPU busy | J | reference, ms"
    lines = [f"| {heads} |", "|" + "---|" * len(heads.split(" | "))]

    def number(value: float | None, digits: int = 1) -> str:
        return "" if value is None else f"{value:.{digits}f}"

    for row in rows:
        share = {k: "" if row[k] is None else percent(row[k]) for k in ("mfu", "gpu_busy_ratio")}
        cells = [row["model"], row["execution"], f"{row['crops']:.4g}"]
        cells += [f"{row['vision_tokens']:.0f}", f"{row['prompt_tokens']:.0f}"]
        cells += [number(row[f"{k}_ms"]) for k in ("vision_encoder", "connector", "llm_prefill")]
        cells += [f"**{row['prefill_ms']:.2f}**", number(row["prefill_ms_p95"], 2)]
        cells += [number(row["preprocess_ms"]), number(row["ttft_ms"]), share["mfu"]]
        cells += [share["gpu_busy_ratio"], number(row["energy_j"]), number(row["reference_ms"])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def collected(parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Rows of all parts, the reference's times beside those of the same crops; and the parts."""
    rows = [row | {"part": name} for name in PARTS for row in parts.get(name, {}).get("rows", [])]
    beside = {row["crops"]: row for row in parts.get("beside_reference", {}).get("crops", [])}
    for row in rows:
        if row["model"] == "molmo_7b_d" and row["crops"] in beside:
            row["reference_ms"] = beside[row["crops"]]["reference_ms"]
    others = {
        name: {key: value for key, value in found.items() if key != "rows"}
        for name, found in parts.items()
    }
    return {"device": torch.cuda.get_device_name(), "rows": rows, "parts": others}


def earlier_parts(path: Path | None) -> dict[str, dict[str, Any]]:
    """Parts of an earlier call on the same kind of GPU, which stay until they are run again."""
    if path is None or not path.is_file():
        return {}
    found = json.loads(path.read_text())
    if found["device"] != torch.cuda.get_device_name():
        return {}
    rows = found["rows"]
    return {
        name: part | {"rows": [row for row in rows if row["part"] == name]}
        for name, part in found["parts"].items()
    }


def main() -> None:
    """Run the parts one after the other while time is left, and write what they found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reference", type=Path, help="checkout of github.com/allenai/molmo")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=420)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--write-predictions", type=Path, metavar="SWEEP", help="and nothing else")
    parser.add_argument("--found", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write_predictions is not None:
        write_predictions(args.write_predictions)
        return
    if not torch.cuda.is_available():
        parser.exit(1, "benchmarks/gpu.py needs a CUDA GPU; this machine has none that works\n")
    if args.found is not None:  # the process of one part
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = PARTS[args.parts[0]][0](Path(folder), args)
            except Failed as error:
                found = {"failed": str(error)[:300]}
        args.found.write_text(json.dumps(found))
        return
    ends = time.monotonic() + args.seconds
    reference = ["--reference", str(args.reference)] if args.reference else []
    parts = earlier_parts(args.out)
    for name in args.parts:
        left = ends - time.monotonic()
        parts[name] = (
            run_part(name, min(PARTS[name][1], left), reference)
            if left > 15
            else {"failed": "no time left"}
        )
        parts[name]["git"] = to_json(surroundings.git_state())
        about = parts[name].get("failed") or "done"
        print(f"{name}: {about} ({parts[name].get('seconds', 0):.0f} s)", flush=True)
        write_results(args.out, collected(parts), "cuda")
        if args.out is not None:
            args.out.with_suffix(".md").write_text(table(collected(parts)["rows"]))
    print(table(collected(parts)["rows"]))


if __name__ == "__main__":
    main()
