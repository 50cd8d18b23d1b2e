"""The last step of a run: what all its ranks did, put together into its records and its result."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vtexp.data.sample import FailedSample, Sample, fingerprint, require_few_failed
from vtexp.errors import DataError, VtexpError
from vtexp.measure.timings import LatencyRow
from vtexp.runs.plan import Plan
from vtexp.runs.planned_run import PlannedRun
from vtexp.runs.ranks import RankResult, rank_folder, read_processes, wait_for_ranks
from vtexp.runs.records import (
    Environment,
    ProcessTiming,
    Result,
    read_environment,
    read_latency,
    read_samples,
    write,
    write_latency,
)
from vtexp.runs.result import by_column, summarise_run
from vtexp.runs.throughput import of_all_ranks
from vtexp.utils import files


def gather(plan: Plan, run: PlannedRun) -> Result:
    """Put what all ranks did together; `result.json` comes last: the run is whole.

    Raises VtexpError where a rank failed, or the records are not of all samples, each once.
    """
    folders = [rank_folder(run.folder, rank) for rank in range(plan.config.hardware.gpus_per_run)]
    ranks = wait_for_ranks(folders)
    broken = _broken(plan, ranks)
    latency_rows, surroundings = _times(run, folders)
    kept = [i for i in range(len(plan.samples)) if i not in broken]
    if not plan.answers:
        timed = {row.sample_id for row in latency_rows}
        kept = [i for i in kept if plan.samples[i].sample_id in timed]
    samples = [plan.samples[i] for i in kept]
    # Of random weights rank 0 has all.
    _merge_answers(run.folder, folders if plan.answers else folders[:1], samples)
    write_latency(run.folder / files.LATENCY, latency_rows)
    write(run.folder / files.ENVIRONMENT, surroundings)
    run = replace(
        run,
        failed=(*run.failed, *broken.values()),
        tilings=tuple(run.tilings[i] for i in kept),
        prompt_lengths=tuple(run.prompt_lengths[i] for i in kept),
    )
    result = summarise_run(
        plan,
        run,
        by_column(read_samples(run.folder / files.SAMPLES)),
        latency_rows,
        surroundings,
        samples_fingerprint=fingerprint(samples),
        batch_size=max(rank.batch_size for rank in ranks),
        answer_times=of_all_ranks([rank.answer_times for rank in ranks]),
        out_of_memory_count=sum(rank.out_of_memory_count for rank in ranks),
        duration_s=max(rank.duration_s for rank in ranks),
    )
    (run.folder / files.FAILURE).unlink(missing_ok=True)
    write(run.folder / files.RESULT, result)
    shutil.rmtree(run.folder / files.RANKS, ignore_errors=True)
    return result


def _merge_answers(run: Path, folders: Sequence[Path], samples: Sequence[Sample]) -> None:
    """Write samples.jsonl of a run from the answers in the folders of its ranks."""
    answers = [folder / files.ANSWERS for folder in folders]
    ids = [sample.sample_id for sample in samples]
    try:
        files.merge_rows(answers, run / files.SAMPLES, "sample_id", ids)
    except DataError:  # they would fail the next try as well
        shutil.rmtree(run / files.RANKS, ignore_errors=True)
        raise


def _broken(plan: Plan, ranks: Sequence[RankResult]) -> dict[int, FailedSample]:
    """Samples by index whose image turned out to be broken, in any rank.

    Raises DataError where they are more than allowed.
    """
    reasons = {int(i): why for rank in ranks for i, why in rank.broken.items()}
    broken = {i: FailedSample(plan.samples[i].sample_id, reasons[i]) for i in sorted(reasons)}
    failed, left = (*broken.values(), *plan.failed), len(plan.samples) - len(broken)
    require_few_failed(failed, left, plan.config.dataset)
    return broken


def _times(run: PlannedRun, folders: Sequence[Path]) -> tuple[list[LatencyRow], Environment]:
    """Timings of all processes of all ranks, and rank 0's environment with how each timed."""
    rows: list[LatencyRow] = []
    processes: list[ProcessTiming] = []
    for folder in folders:
        processes += read_environment(folder).processes
        rows += read_latency(folder / files.LATENCY)
        for times in read_processes(folder).values():
            rows += times.rows
            processes += times.environment.processes
    if len({process.host for process in processes}) > 1:
        raise VtexpError(f"{run.folder}: its ranks were timed on several nodes")
    return rows, replace(read_environment(folders[0]), processes=tuple(processes))
