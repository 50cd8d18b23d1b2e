"""What a run leaves in its folder: one type for each kind of file, read and written here alone.

Keys on disk are the fields' names. `planned.json`, `failure.json`, `result.json` and
`environment.json` say which FORMAT they are of; `samples.jsonl` and `latency.jsonl` have that of
the result beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from vtexp.data.sample import FailedSample
from vtexp.measure.summary import StageSummary
from vtexp.measure.timings import LatencyRow
from vtexp.stats.times import BetweenProcesses
from vtexp.utils import files
from vtexp.utils.typed import Misfit, flat, from_json, to_json

#: Raised by one whenever a key gets another name or meaning.
FORMAT = 2

Record = TypeVar("Record")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was asked of a run, and what arithmetic says of it; crops and tokens are means.

    `num_crops` is what the knob value stands for: the forced number, or the cap. `reduction_layer`:
    blocks of the language model that read all tokens, where they leave behind some. `moe_top_k`:
    experts that work on each token, None for models without experts; `moe_first_block_top_k`: in
    the first block, where that has another number. `active_blocks`: how many blocks of the language
    model run; `blocks`: their indices, None where all do. Results of older versions have none.
    """

    run_id: str
    run: str
    sweep: str
    knob: str
    knob_value: str
    tiling: str
    num_crops: int
    target_vision_tokens: int
    theoretical_num_crops: float
    theoretical_vision_tokens: float
    force_full_tokens: bool
    fit: str | None
    reduction: str | None = None
    reduction_layer: int | None = None
    moe_top_k: int | None = None
    moe_first_block_top_k: int | None = None
    active_blocks: int | None = None
    blocks: tuple[int, ...] | None = None
    model: str
    weights: str
    dataset: str
    split: str
    hardware: str
    metric: str
    predicted_memory_gb: float | None = None
    num_failed: int = 0
    failed_samples: tuple[FailedSample, ...] = ()

    @property
    def label(self) -> str:
        """What a run is called, such as `image_size=560x336`; `,full` where no token is dropped."""
        return f"{self.knob}={self.value_label}"

    @property
    def value_label(self) -> str:
        """The same among runs of one knob, such as `560x336`."""
        return self.knob_value + (",full" if self.force_full_tokens else "")


@dataclass(frozen=True, kw_only=True)
class Planned(Asked):
    """`planned.json`: with the predicted times; None where unknown."""

    predicted_flops_per_prefill: float | None = None
    predicted_prefill_ms: float | None = None
    predicted_run_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Failure(Asked):
    """`failure.json`: the error in one line, its traceback, and the end of its job's log if any."""

    error: str
    traceback: tuple[str, ...] = ()
    log: str | None = None
    log_tail: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupAccuracy:
    """Mean score of the `n` questions of a group."""

    accuracy: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerTimes:
    """Seconds of the answers to `samples` questions in batches of `batch_size`, in one process.

    Only the largest batches count, without the first of them where there are more: it warms up.
    Where CUDA graphs gave the tokens behind the first, a process counts no batch without a graph.
    `preprocess_s`: decoded images to inputs on the host; `prefill_s`: from there to the first token
    of each answer; `decode_s`: the tokens behind. Decoding of image files is not included. Of
    several ranks, the sums. `vision_tokens`: mean of these questions.
    """

    batch_size: int
    samples: int
    preprocess_s: float
    prefill_s: float
    decode_s: float
    vision_tokens: float


@dataclass(frozen=True, kw_only=True)
class Result(Asked):
    """`result.json`: what came out of a finished run.

    Counts are means over the images, tilings None of models that show none; early and late ones as
    of `SampleCounts`. Accuracies are None
    with random weights; their interval, too, for a single image. Memory in MiB, energy in joules,
    power in watts, time in ms or, by name, seconds. None stands for what was not measured. `limit`
    is what the plan said of the model's context. `same_run_as`: the folder of the run with the same
    inputs whose numbers these are; this one was not made. `timing_warnings` say why the times are
    doubtful; `warnings` hold everything else a reader must know.
    """

    measured_num_crops: float
    measured_vision_tokens: float
    measured_early_vision_tokens: float | None = None
    measured_late_vision_tokens: float | None = None
    measured_tiling: str | None
    actual_num_crops: float
    actual_vision_tokens: float
    actual_tiling: str | None
    actual_overridden: bool
    accuracy: float | None
    accuracy_standard_error: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    num_samples: int
    num_images: int
    accuracy_by_question_type: dict[str, GroupAccuracy]
    sequence_length: float
    prefill_vision_tokens: float
    execution: str
    gpu_busy_ratio: float | None = None
    graph_memory_mib: float | None = None
    latency: dict[str, StageSummary]
    prefill_ms_by_rank: tuple[float, ...] = ()
    prefill_ms_between_processes: BetweenProcesses | None = None
    cold_ttft_ms: float | None = None
    memory_peak_mib: dict[str, float] = field(default_factory=dict)
    memory_by_stage: dict[str, dict[str, float]] = field(default_factory=dict)
    energy_j_per_prefill: float | None = None
    idle_power_w: float | None = None
    flops_per_prefill: float | None = None
    flops: dict[str, float] | None = None
    mfu: float | None = None
    mfu_by_stage: dict[str, float] | None = None
    roofline_ms: float | None = None
    device: str
    samples_fingerprint: str
    inputs_fingerprint: str
    limit: str
    timing_warnings: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    batch_size: int = 1
    answer_times: AnswerTimes | None = None
    out_of_memory_count: int = 0
    duration_s: float | None = None
    same_run_as: str | None = None

    @property
    def num_processes(self) -> int:
        """How many processes timed, one after the other: intervals of times are between these."""
        several = self.prefill_ms_between_processes
        return 1 if several is None else several.n

    def mean(self, stage: str) -> float | None:
        """Mean milliseconds of a stage such as `prefill_ms`; None where it was not timed."""
        found = self.latency.get(stage)
        return None if found is None else found.mean


@dataclass(frozen=True, kw_only=True)
class SampleCounts:
    """Crops and vision tokens of one image: by arithmetic, as hooks counted, and as reported.

    Where tokens leave behind some blocks of the language model, vision tokens are their mean over
    all blocks; early ones are read by the first `reduction_layer` blocks, late ones by the others.
    """

    theoretical_tiling: str | None
    theoretical_num_crops: int
    theoretical_vision_tokens: int
    measured_tiling: str | None
    measured_num_crops: int
    measured_vision_tokens: float
    measured_early_vision_tokens: int | None = None
    measured_late_vision_tokens: int | None = None
    actual_tiling: str | None
    actual_num_crops: int
    actual_vision_tokens: float
    actual_overridden: bool


@dataclass(frozen=True, kw_only=True)
class SampleRow(SampleCounts):
    """One question as it was asked and answered: a row of `samples.jsonl`.

    `prediction` and `score` are None with random weights. `attributes` are what the data set knows
    of the question besides; in the file each is a key of its own behind the question's type.
    """

    sample_id: str
    image_id: str
    question_type: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    question: str
    options: tuple[str, ...] = ()
    style: str | None
    message: str
    references: tuple[str, ...]
    prediction: str | None
    score: float | None
    sequence_length: int
    answer_tokens: int


@dataclass(frozen=True, kw_only=True)
class GitState:
    """Commit of the source tree, and whether tracked files differ from it."""

    commit: str
    changed: bool


@dataclass(frozen=True, kw_only=True)
class Device:
    """What a model ran on; memory and CUDA's version are None of a processor."""

    type: str
    name: str
    memory_gib: float | None = None
    cuda: str | None = None


@dataclass(frozen=True, kw_only=True)
class ProcessTiming:
    """How one process timed: `timing` is `Timing.about` and what the monitor saw meanwhile."""

    rank: int
    process: int
    host: str
    device: Device
    timing: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Environment:
    """`environment.json`: what a run ran on; `git` is None of an installed package.

    `source`: fingerprint of the code; `submitted_source`: of that which submitted the job, None
    where the process that was started makes the runs itself. `usable_cores` and `visible_gpus`:
    those of the process, None in results of older versions. `cpu_quota`: cores' worth of time that
    its control group may use, None without a quota.
    """

    vtexp: str
    git: GitState | None
    source: str
    submitted_source: str | None = None
    started: str
    host: str
    platform: str
    python: str
    packages: dict[str, str | None]
    device: Device
    cpu_count: int | None
    torch_threads: int
    load_average_1min: float
    slurm_job_id: str | None = None
    usable_cores: int | None = None
    cpu_quota: float | None = None
    visible_gpus: int | None = None
    processes: tuple[ProcessTiming, ...] = ()

    def same_code(self, other: Environment) -> bool:
        """Whether answers and times of both were made by the same code."""
        return self._code == other._code

    @property
    def _code(self) -> tuple[str, GitState | None, str]:
        return self.vtexp, self.git, self.source

    def same_machine(self, other: Environment) -> bool:
        """Whether times of both can be taken together."""
        return (self.host, self.device) == (other.host, other.device)


#: What messages call each damaged file.
_WHAT = {
    Planned: "the plan of a run of vtexp",
    Failure: "the failure of a run of vtexp",
    Result: "a result of vtexp",
    Environment: "what a run ran on",
}


def write(path: Path, record: Planned | Failure | Result | Environment) -> None:
    """Write a record as JSON. Raises VtexpError where the disk does not take it."""
    files.write_json(path, {"format": FORMAT} | to_json(record))


def read_planned(folder: Path) -> Planned:
    """`planned.json` of a run. Raises DataError where it is damaged."""
    return _read(folder / files.PLANNED, Planned)


def read_failure(folder: Path) -> Failure:
    """`failure.json` of a run. Raises DataError where it is damaged."""
    return _read(folder / files.FAILURE, Failure)


def read_result(folder: Path) -> Result:
    """`result.json` of a run. Raises DataError where it is damaged."""
    path = folder / files.RESULT
    found = _read(path, Result)
    if found.answer_times is not None and not found.answer_times.samples:
        raise files.damaged(path, f"not {_WHAT[Result]} (answer_times.samples)")
    return found


def read_environment(folder: Path) -> Environment:
    """`environment.json` of a run. Raises DataError where it is damaged."""
    return _read(folder / files.ENVIRONMENT, Environment)


def _read(path: Path, kind: type[Record]) -> Record:
    plain = files.read_json(path)
    what = _WHAT[kind]
    if plain.get("format") != FORMAT:
        found = f"format {plain.get('format')!r:.20}, and this version of vtexp reads {FORMAT}"
        raise files.damaged(path, f"not {what} ({found})")
    try:
        if kind in (Planned, Failure, Result):
            _require_no_negative(plain)
        return from_json(kind, plain)
    except Misfit as error:
        raise files.damaged(path, f"not {what} ({error})") from error


def _require_no_negative(plain: Mapping[str, Any]) -> None:
    """Raises Misfit for a number below zero: counts, scores, times and sizes have none."""
    for key, value in flat(plain, ".").items():
        if isinstance(value, int | float) and value < 0:
            raise Misfit(key)


def sample_to_json(row: SampleRow) -> dict[str, Any]:
    """A row of `samples.jsonl`: identity, attributes, question and answer, counts."""
    plain = to_json(row)
    first = {key: plain.pop(key) for key in ("sample_id", "image_id", "question_type")}
    attributes, counts = plain.pop("attributes"), {key: plain.pop(key) for key in _COUNTS}
    return first | attributes | plain | counts


_COUNTS = tuple(one.name for one in fields(SampleCounts))
_SAMPLE_KEYS = frozenset(one.name for one in fields(SampleRow)) - {"attributes"}


def read_samples(path: Path) -> Iterator[SampleRow]:
    """Rows of a `samples.jsonl`, one after the other. Raises DataError where it is damaged."""
    for plain in files.rows_of(path):
        try:
            yield sample_from_json(plain)
        except Misfit as error:
            raise files.damaged(path, f"not the samples of a run ({error})") from error


def sample_from_json(plain: dict[str, Any]) -> SampleRow:
    """A row of `samples.jsonl`. Raises Misfit, with the name of a key, where it is damaged."""
    own = {key: value for key, value in plain.items() if key not in _SAMPLE_KEYS}
    row = from_json(SampleRow, plain | {"attributes": own})
    _require_no_negative({"score": row.score})
    return row


def write_latency(path: Path, rows: Iterable[LatencyRow]) -> None:
    """Write `latency.jsonl`. Raises VtexpError where the disk does not take it."""
    files.write_jsonl(path, map(to_json, rows))


def read_latency(path: Path) -> Iterator[LatencyRow]:
    """Rows of a `latency.jsonl`. Raises DataError where it is damaged."""
    for plain in files.rows_of(path):
        try:
            row = from_json(LatencyRow, plain)
            _require_no_negative(plain)
            if not row.prefill_ms:
                raise Misfit("prefill_ms")
            yield row
        except Misfit as error:
            raise files.damaged(path, f"not the times of a run ({error})") from error


def flat_values(record: Asked) -> dict[str, Any]:
    """A record's values under the names of `comparison.csv`'s columns.

    Nested keys are joined by `_`, and `latency` itself goes: `prefill_ms_median`. Indices of blocks
    are a text, such as `0 1 4`.
    """
    plain = to_json(record)
    if record.blocks is not None:
        plain["blocks"] = " ".join(map(str, record.blocks))
    return flat({key: value for key, value in plain.items() if key != "latency"}) | flat(
        plain.get("latency", {})
    )


def extended(kind: type[Record], record: Asked, **more: Any) -> Record:
    """A record of a kind with what another one says of the same run, and what is new."""
    shared = {one.name: getattr(record, one.name) for one in fields(Asked)}
    return kind(**shared | more)
