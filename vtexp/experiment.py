"""One run: latency, accuracy and counts of one knob value, written to the run's folder."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from vtexp import environment, measuring, records
from vtexp.batching import BatchSize
from vtexp.data.base import Sample
from vtexp.errors import CountMismatchError
from vtexp.geometry import Tiling, theoretical_tokens, token_layout
from vtexp.metrics import metric
from vtexp.models.runner import PreparedSample, Runner
from vtexp.planning import Plan, PlannedRun, tiling_summary
from vtexp.probe import Counts
from vtexp.progress import progress
from vtexp.statistics import clustered_mean


def execute(plan: Plan, run: PlannedRun, runner: Runner) -> dict[str, Any]:
    """Measure one run and write its folder; `result.json` comes last and says that it is whole.

    Raises VtexpError for what a user can mend; nothing is left under a final name then but
    `config.yaml` and `environment.json`.
    """
    began = time.monotonic()
    folder = run.folder
    (folder / records.FAILURE).unlink(missing_ok=True)
    records.write_text(folder / records.CONFIG, run.resolved_config(plan.config))
    surroundings = environment.describe(runner.device)
    records.write_json(folder / records.ENVIRONMENT, surroundings)

    load = measuring.OtherLoad()
    latency_rows, timed_samples = _time(plan, run, runner)
    other_cores = load.cores()
    batches = BatchSize(
        plan.config.hardware.batch_size, plan.config.hardware.auto_adjust_batch_size
    )
    if plan.checkpoint.folder is None:  # random weights: their answers mean nothing
        sample_rows = timed_samples
    else:
        sample_rows = _answer(plan, run, runner, batches)

    records.write_jsonl(folder / records.LATENCY, latency_rows)
    records.write_jsonl(folder / records.SAMPLES, sample_rows)
    result = summarise(plan, run, sample_rows, latency_rows)
    vision_tokens = result["measured_vision_tokens"]
    result["warnings"] += measuring.doubts(latency_rows, vision_tokens, other_cores)
    result |= {
        "other_cores_busy": other_cores,
        "batch_size": batches.most,
        "out_of_memory_count": batches.out_of_memory_count,
        "device": surroundings["device"]["name"],
        "duration_s": round(time.monotonic() - began, 2),
    }
    records.write_json(folder / records.RESULT, result)
    return result


def _time(
    plan: Plan, run: PlannedRun, runner: Runner
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of the timed prefills, and one row per timed sample, without an answer."""
    measure, style = plan.config.measure, plan.config.dataset.style
    timed_samples: list[dict[str, Any]] = []

    def check(index: int, counts: Counts, length: int) -> None:
        sample = plan.samples[index]
        counted = check_counts(run, sample, run.tilings[index], counts)
        row = _about(plan, sample) | {"prediction": None, "score": None} | counted
        timed_samples.append(row | {"sequence_length": length, "answer_tokens": 0})

    timed = measuring.time_prefills(runner, plan.samples, run.setting, style, measure, check)
    rows = []
    count = min(measure.latency_samples, len(plan.samples)) * measure.latency_repeats
    with progress(f"{run.label} prefill", count) as advance:
        for row in timed:
            rows.append(row)
            advance(1)
    return rows, timed_samples


def _answer(
    plan: Plan, run: PlannedRun, runner: Runner, batches: BatchSize
) -> list[dict[str, Any]]:
    """Answer every sample; rows in the order of the samples."""
    dataset = plan.config.dataset
    score = metric(dataset.metric).prepare(plan.samples)
    # Like with like: batches of equal tilings have no padding crops, of equal lengths no padding
    # at all. Stable, so deterministic.
    alike = [(t.num_crops, n) for t, n in zip(run.tilings, run.prompt_lengths, strict=True)]
    order = sorted(range(len(plan.samples)), key=alike.__getitem__)
    rows: dict[int, dict[str, Any]] = {}

    with (
        runner.probe() as probe,
        progress(f"{run.label} answers", len(order)) as advance,
    ):

        def process(
            batch: Sequence[int],
        ) -> tuple[list[PreparedSample], list[list[int]], list[Counts]]:
            probe.reset()  # a batch that ran out of memory leaves half a count
            prepared = [runner.prepare(plan.samples[i], run.setting, dataset.style) for i in batch]
            return prepared, runner.answer(prepared, dataset.max_new_tokens), probe.take()

        for batch, (prepared, answers, counts) in batches.run(order, process):
            for i, inputs, ids, counted in zip(batch, prepared, answers, counts, strict=True):
                sample = plan.samples[i]
                prediction = runner.tokenizer.decode(ids)
                rows[i] = {
                    **_about(plan, sample),
                    "prediction": prediction,
                    "score": score(prediction, sample),
                    **check_counts(run, sample, run.tilings[i], counted),
                    "sequence_length": len(inputs.input_ids),
                    "answer_tokens": len(ids),
                }
            advance(len(batch))
    return [rows[i] for i in range(len(rows))]


def _about(plan: Plan, sample: Sample) -> dict[str, Any]:
    wording = plan.checkpoint.tokenizer.form.wording
    return {
        "sample_id": sample.sample_id,
        "image_id": sample.image_id,
        "question_type": sample.question_type,
        **sample.attributes,
        "question": sample.question,
        "options": list(sample.options),
        "style": sample.style,
        "message": wording.message(sample, plan.config.dataset.style),
        "references": list(sample.references),
    }


def check_counts(
    run: PlannedRun, sample: Sample, tiling: Tiling, measured: Counts
) -> dict[str, Any]:
    """Theoretical, measured and actual counts of one sample.

    Raises CountMismatchError where the hooks counted something else than the layout predicts;
    with force_full_tokens, actual is the theoretical count then, and `actual_overridden` is true.
    """
    shown = None if measured.tiling is None else tiling  # some models do not show theirs
    theoretical = Counts(
        tiling.num_crops, theoretical_tokens(tiling.num_crops, run.geometry), shown
    )
    full = run.setting.force_full_tokens
    layout = token_layout(tiling, run.geometry, force_full_tokens=full)
    predicted = Counts(tiling.num_crops, layout.vision_tokens, shown)
    if measured != predicted and not full:
        raise CountMismatchError(
            f"sample {sample.sample_id}: the layout predicts {_text(predicted)}, but the model "
            f"read {_text(measured)}; the run's numbers would be wrong"
        )
    overridden = full and measured != theoretical
    actual = theoretical if overridden else measured
    return {
        **_columns("theoretical", theoretical),
        **_columns("measured", measured),
        **_columns("actual", actual),
        "actual_overridden": overridden,
    }


def _text(counts: Counts) -> str:
    return f"{counts.num_crops} crops ({counts.tiling}) and {counts.vision_tokens} vision tokens"


def _columns(kind: str, counts: Counts) -> dict[str, Any]:
    return {
        f"{kind}_tiling": None if counts.tiling is None else str(counts.tiling),
        f"{kind}_num_crops": counts.num_crops,
        f"{kind}_vision_tokens": counts.vision_tokens,
    }


def summarise(
    plan: Plan,
    run: PlannedRun,
    sample_rows: Sequence[dict[str, Any]],
    latency_rows: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """The result of a run: what was asked first, then counts, accuracy and latency."""
    means = {
        f"{kind}_{count}": fmean(row[f"{kind}_{count}"] for row in sample_rows)
        for kind in ("theoretical", "measured", "actual")
        for count in ("num_crops", "vision_tokens")
    }
    tilings = {
        f"{kind}_tiling": _tilings([row[f"{kind}_tiling"] for row in sample_rows])
        for kind in ("measured", "actual")
    }
    overridden = any(row["actual_overridden"] for row in sample_rows)
    warnings = list(run.warnings)
    if plan.checkpoint.folder is None:
        warnings.append("random weights: counts and latency only, no accuracy")
    if overridden:
        warnings.append(
            "force_full_tokens: the model read other counts than the theoretical ones; actual_* "
            "are the theoretical counts, measured_* what was read"
        )
    return {
        "status": "done",
        **run.columns(plan.config),
        **means,
        **tilings,
        "actual_overridden": overridden,
        **_accuracy(sample_rows, metric(plan.config.dataset.metric).highest),
        "sequence_length": fmean(row["sequence_length"] for row in sample_rows),
        "prefill_vision_tokens": fmean(row["vision_tokens"] for row in latency_rows),
        "latency": measuring.summarise(latency_rows),
        "samples_fingerprint": plan.samples_fingerprint,
        "inputs_fingerprint": run.inputs_fingerprint,
        "verdict": run.verdict.level,
        "warnings": warnings,
    }


def _tilings(found: Sequence[str | None]) -> str | None:
    """Summary of the tilings that the model showed, None where it shows none."""
    shown = [tiling for tiling in found if tiling is not None]
    return tiling_summary(shown) if shown else None


def _accuracy(rows: Sequence[dict[str, Any]], highest: float) -> dict[str, Any]:
    """Mean score with error and interval clustered by image, and the mean per question type.

    Scores are from 0 to `highest`. All None where nothing was answered.
    """
    if rows[0]["score"] is None:
        images = len({row["image_id"] for row in rows})
        names = ("accuracy", "accuracy_standard_error", "accuracy_low", "accuracy_high")
        nothing = dict.fromkeys(names) | {"accuracy_by_question_type": {}}
        return nothing | {"num_samples": len(rows), "num_images": images}
    overall = clustered_mean([r["score"] for r in rows], [r["image_id"] for r in rows], highest)
    low, high = overall.interval or (None, None)
    by_type: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        by_type[row["question_type"]].append(row["score"])
    return {
        "accuracy": overall.mean,
        "accuracy_standard_error": overall.standard_error,
        "accuracy_low": low,
        "accuracy_high": high,
        "num_samples": overall.n,
        "num_images": overall.images,
        "accuracy_by_question_type": {
            kind: {"accuracy": fmean(scores), "n": len(scores)}
            for kind, scores in sorted(by_type.items())
        },
    }
