"""The record of a sample: what was asked and answered, and its counts, which are checked here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from vtexp.budget.geometry import Tiling, theoretical_tokens
from vtexp.data.sample import Sample
from vtexp.errors import CountMismatchError
from vtexp.models.probe import Counts
from vtexp.runs.plan import Plan
from vtexp.runs.planned_run import PlannedRun
from vtexp.runs.records import SampleCounts, SampleRow
from vtexp.runs.result import EARLY_AND_LATE


def sample_row(plan: Plan, sample: Sample, counts: SampleCounts, **answer: Any) -> SampleRow:
    """The record of a sample: as it was asked, its counts, and the fields of its answer."""
    wording = plan.checkpoint.tokenizer.form.wording
    return SampleRow(
        sample_id=sample.sample_id,
        image_id=sample.image_id,
        question_type=sample.question_type,
        attributes=sample.attributes,
        question=sample.question,
        options=tuple(sample.options),
        style=sample.style,
        message=wording.message(sample, plan.config.dataset.style),
        references=tuple(sample.references),
        **asdict(counts),
        **answer,
    )


def check_counts(run: PlannedRun, sample: Sample, tiling: Tiling, measured: Counts) -> SampleCounts:
    """Theoretical, measured and actual counts of one sample.

    Raises CountMismatchError if the hooks counted anything but what the layout predicts; with
    force_full_tokens, actual is the theoretical count then, and `actual_overridden` is true.
    """
    shown = None if measured.tiling is None else tiling  # some models do not show theirs
    theoretical = Counts(
        tiling.num_crops, theoretical_tokens(tiling.num_crops, run.geometry), shown
    )
    full = run.setting.force_full_tokens
    predicted = Counts(tiling.num_crops, run.predicted_tokens(tiling), shown, run.by_block(tiling))
    if measured != predicted and not full:
        raise CountMismatchError(
            f"sample {sample.sample_id}: the layout predicts {_text(predicted)}, but the model "
            f"read {_text(measured)}; the run's numbers would be wrong"
        )
    asked = run.setting.behind_connector
    reduced = asked is not None
    if reduced and measured != predicted:
        raise CountMismatchError(
            f"sample {sample.sample_id}: a reduction to {_text(predicted)} left {_text(measured)}; "
            "the run's numbers would be wrong"
        )
    overridden = full and not reduced and measured != theoretical
    actual = theoretical if overridden else measured
    kinds = {"theoretical": theoretical, "measured": measured, "actual": actual}
    columns = {key: value for kind, own in kinds.items() for key, value in _columns(kind, own)}
    if asked is not None and asked.layer is not None:
        ends = measured.by_block or (int(measured.vision_tokens),)
        columns |= dict(zip(EARLY_AND_LATE, (ends[0], ends[-1]), strict=True))
    return SampleCounts(**columns, actual_overridden=overridden)


def _text(counts: Counts) -> str:
    crops = f"{counts.num_crops} crops ({counts.tiling})"
    blocks = f" (by block: {', '.join(map(str, counts.by_block))})" if counts.by_block else ""
    return f"{crops} and {counts.vision_tokens:.5g} vision tokens{blocks}"


def _columns(kind: str, counts: Counts) -> Iterator[tuple[str, Any]]:
    yield f"{kind}_tiling", None if counts.tiling is None else str(counts.tiling)
    yield f"{kind}_num_crops", counts.num_crops
    yield f"{kind}_vision_tokens", counts.vision_tokens
