"""Sweeps with real plans, configs and images, whose answers and times are made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.helpers.made_records import environment, latency_row, summary, write_samples
from tests.helpers.made_sweeps import accuracy, counts
from vtexp.budget.knobs import tiling_summary
from vtexp.config.compose import compose_config
from vtexp.models.probe import Counts
from vtexp.runs import records
from vtexp.runs.frozen import freeze
from vtexp.runs.plan import Plan, make_plan
from vtexp.runs.planned_run import PlannedRun
from vtexp.runs.records import Result, SampleRow, extended
from vtexp.runs.run import check_counts, sample_row
from vtexp.utils import files

STAGES = {
    "preprocess_ms": 3.0, "transfer_ms": 0.5, "vision_encoder_ms": 20.0, "connector_ms": 2.0,
    "llm_prefill_ms": 15.0, "first_token_ms": 0.1, "prefill_ms": 37.0, "ttft_ms": 40.6,
}  # fmt: skip


def answered_sweep(
    folder: Path, *overrides: str, hostile: Sequence[str] = (), share: float = 0.5
) -> Plan:
    """A finished sweep in a folder; the more tokens, the more is right.

    Of some questions and all predictions, texts are `hostile` ones in turn. `share`: of the
    questions, how many are right with the fewest tokens.
    """
    own = (f"sweep.folder='{folder.parent}'", f"sweep.name='{folder.name}'", "tracking=none")
    plan = make_plan(compose_config([*own, *overrides]))
    freeze(plan)
    difficulty = np.random.default_rng(0).random(len(plan.samples))
    for place, run in enumerate(plan.runs):
        right = difficulty < share + (1 - share) * place / len(plan.runs)
        _answer(plan, run, right, hostile)
    return plan


def _answer(plan: Plan, run: PlannedRun, right: np.ndarray, hostile: Sequence[str]) -> None:
    rows = [_row(plan, run, i, bool(right[i]), hostile) for i in range(len(right))]
    write_samples(run.folder / files.SAMPLES, rows)
    tokens = run.predicted_vision_tokens
    times = {stage: ms * tokens / 288 for stage, ms in STAGES.items()}
    latency = [
        latency_row(
            sample_id=row.sample_id, repeat=repeat, vision_tokens=row.measured_vision_tokens,
            **{stage: ms * (1 + 0.01 * repeat) for stage, ms in times.items()},
        )
        for row in rows[:8]
        for repeat in range(4)
    ]  # fmt: skip
    records.write_latency(run.folder / files.LATENCY, latency)
    records.write(run.folder / files.ENVIRONMENT, environment(git=None))
    records.write(run.folder / files.RESULT, _result(plan, run, rows, times))


def _row(plan: Plan, run: PlannedRun, i: int, right: bool, hostile: Sequence[str]) -> SampleRow:
    sample, tiling = plan.samples[i], run.tilings[i]
    question, said = sample.question, sample.references[0] if right else "nothing"
    kind = sample.question_type
    if hostile:
        said = f"{said} {hostile[i % len(hostile)]}"
        if i % 3 == 0:
            kind = question = hostile[i % len(hostile)]
    answer = {"prediction": said, "score": float(right), "sequence_length": 300, "answer_tokens": 1}
    tokens = run.predicted_tokens(tiling)
    found = Counts(tiling.num_crops, tokens, tiling, run.by_block(tiling))
    asked = replace(sample, question=question, question_type=kind)
    return sample_row(plan, asked, check_counts(run, sample, tiling, found), **answer)


def _result(
    plan: Plan, run: PlannedRun, rows: Sequence[SampleRow], times: dict[str, float]
) -> Result:
    tokens, crops = run.predicted_vision_tokens, run.theoretical_num_crops
    return extended(
        Result, run.asked(plan.config),
        **counts(tokens, crops, tiling_summary(run.tilings)),
        **accuracy([row.score for row in rows], [row.image_id for row in rows]),
        accuracy_by_question_type={}, num_samples=len(rows),
        num_images=len({row.image_id for row in rows}), sequence_length=300.0,
        prefill_vision_tokens=tokens, execution="eager", samples_fingerprint="same",
        inputs_fingerprint=run.inputs_fingerprint, device="a CPU", limit=run.verdict.level,
        memory_peak_mib={"resident": 812.0}, mfu=0.31,
        latency={
            stage: summary(ms, 32, low=0.95 * ms, high=1.05 * ms) for stage, ms in times.items()
        },
    )  # fmt: skip
